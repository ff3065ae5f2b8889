"""Statements that have one effect on one object, as a table: node type, kind, operation, what it acts on, detail, name field."""

from __future__ import annotations

from collections.abc import Callable

from dbshield.model import ObjectKind, ObjectName, Operation
from dbshield.sqltext.collector import Collector, object_name, relation_name
from dbshield.sqltext.postgres_nodes import Node
from dbshield.sqltext.postgres_schema import dotted

SIMPLE: dict[str, tuple[str, Operation, ObjectKind, str, str]] = {
    "AlterCollationStmt": ("alter collation", Operation.ALTER, ObjectKind.OTHER, "collation", "collname"),
    "AlterDatabaseRefreshCollStmt": ("alter database", Operation.ALTER, ObjectKind.DATABASE, "", "dbname"),
    "AlterDatabaseSetStmt": ("alter database", Operation.ALTER, ObjectKind.DATABASE, "set", "dbname"),
    "AlterDatabaseStmt": ("alter database", Operation.ALTER, ObjectKind.DATABASE, "", "dbname"),
    "AlterDefaultPrivilegesStmt": ("alter default privileges", Operation.GRANT, ObjectKind.OTHER, "default privileges", ""),
    "AlterDomainStmt": ("alter domain", Operation.ALTER, ObjectKind.TYPE, "domain", "typeName"),
    "AlterEventTrigStmt": ("alter event trigger", Operation.ALTER, ObjectKind.OTHER, "event trigger", "trigname"),
    "AlterExtensionContentsStmt": ("alter extension", Operation.ALTER, ObjectKind.EXTENSION, "", "extname"),
    "AlterExtensionStmt": ("alter extension", Operation.ALTER, ObjectKind.EXTENSION, "", "extname"),
    "AlterFdwStmt": ("alter foreign data wrapper", Operation.ALTER, ObjectKind.OTHER, "foreign data wrapper", "fdwname"),
    "AlterForeignServerStmt": ("alter server", Operation.ALTER, ObjectKind.OTHER, "foreign server", "servername"),
    "AlterFunctionStmt": ("alter function", Operation.ALTER, ObjectKind.FUNCTION, "", "func"),
    "AlterObjectDependsStmt": ("alter depends", Operation.ALTER, ObjectKind.OTHER, "depends", "object"),
    "AlterOpFamilyStmt": ("alter operator family", Operation.ALTER, ObjectKind.OTHER, "operator family", "opfamilyname"),
    "AlterOperatorStmt": ("alter operator", Operation.ALTER, ObjectKind.OTHER, "operator", "opername"),
    "AlterPolicyStmt": ("alter policy", Operation.ALTER, ObjectKind.POLICY, "", "policy_name"),
    "AlterPublicationStmt": ("alter publication", Operation.ALTER, ObjectKind.OTHER, "publication", "pubname"),
    "AlterRoleSetStmt": ("alter role", Operation.ALTER, ObjectKind.ROLE, "set", "role"),
    "AlterRoleStmt": ("alter role", Operation.ALTER, ObjectKind.ROLE, "", "role"),
    "AlterStatsStmt": ("alter statistics", Operation.ALTER, ObjectKind.OTHER, "statistics", "defnames"),
    "AlterSubscriptionStmt": ("alter subscription", Operation.ALTER, ObjectKind.OTHER, "subscription", "subname"),
    "AlterSystemStmt": ("alter system", Operation.ALTER, ObjectKind.SETTING, "system", ""),
    "AlterTableMoveAllStmt": ("alter table", Operation.ALTER, ObjectKind.TABLE, "move all", "orig_tablespacename"),
    "AlterTableSpaceOptionsStmt": ("alter tablespace", Operation.ALTER, ObjectKind.OTHER, "tablespace", "tablespacename"),
    "AlterTSConfigurationStmt": ("alter text search", Operation.ALTER, ObjectKind.OTHER, "text search", "cfgname"),
    "AlterTSDictionaryStmt": ("alter text search", Operation.ALTER, ObjectKind.OTHER, "text search", "dictname"),
    "AlterTypeStmt": ("alter type", Operation.ALTER, ObjectKind.TYPE, "", "typeName"),
    "AlterUserMappingStmt": ("alter user mapping", Operation.ALTER, ObjectKind.OTHER, "user mapping", "servername"),
    "CheckPointStmt": ("checkpoint", Operation.MAINTAIN, ObjectKind.OTHER, "checkpoint", ""),
    "ClusterStmt": ("cluster", Operation.MAINTAIN, ObjectKind.TABLE, "cluster", "relation"),
    "CompositeTypeStmt": ("create type", Operation.CREATE, ObjectKind.TYPE, "", "typevar"),
    "ConstraintsSetStmt": ("set constraints", Operation.TRANSACTION, ObjectKind.CONSTRAINT, "set constraints", ""),
    "CreateAmStmt": ("create access method", Operation.CREATE, ObjectKind.OTHER, "access method", "amname"),
    "CreateCastStmt": ("create cast", Operation.CREATE, ObjectKind.OTHER, "cast", ""),
    "CreateConversionStmt": ("create conversion", Operation.CREATE, ObjectKind.OTHER, "conversion", "conversion_name"),
    "CreateDomainStmt": ("create domain", Operation.CREATE, ObjectKind.TYPE, "", "domainname"),
    "CreateEnumStmt": ("create type", Operation.CREATE, ObjectKind.TYPE, "", "typeName"),
    "CreateEventTrigStmt": ("create event trigger", Operation.CREATE, ObjectKind.OTHER, "event trigger", "trigname"),
    "CreateExtensionStmt": ("create extension", Operation.CREATE, ObjectKind.EXTENSION, "", "extname"),
    "CreateFdwStmt": ("create foreign data wrapper", Operation.CREATE, ObjectKind.OTHER, "foreign data wrapper", "fdwname"),
    "CreateForeignServerStmt": ("create server", Operation.CREATE, ObjectKind.OTHER, "foreign server", "servername"),
    "CreateOpClassStmt": ("create operator class", Operation.CREATE, ObjectKind.OTHER, "operator class", "opclassname"),
    "CreateOpFamilyStmt": ("create operator family", Operation.CREATE, ObjectKind.OTHER, "operator family", "opfamilyname"),
    "CreatePLangStmt": ("create language", Operation.CREATE, ObjectKind.OTHER, "language", "plname"),
    "CreatePublicationStmt": ("create publication", Operation.CREATE, ObjectKind.OTHER, "publication", "pubname"),
    "CreateRangeStmt": ("create type", Operation.CREATE, ObjectKind.TYPE, "range", "typeName"),
    "CreateRoleStmt": ("create role", Operation.CREATE, ObjectKind.ROLE, "", "role"),
    "CreateStatsStmt": ("create statistics", Operation.CREATE, ObjectKind.OTHER, "statistics", "defnames"),
    "CreateSubscriptionStmt": ("create subscription", Operation.CREATE, ObjectKind.OTHER, "subscription", "subname"),
    "CreateTableSpaceStmt": ("create tablespace", Operation.CREATE, ObjectKind.OTHER, "tablespace", "tablespacename"),
    "CreateTransformStmt": ("create transform", Operation.CREATE, ObjectKind.OTHER, "transform", ""),
    "CreateUserMappingStmt": ("create user mapping", Operation.CREATE, ObjectKind.OTHER, "user mapping", "servername"),
    "CreatedbStmt": ("create database", Operation.CREATE, ObjectKind.DATABASE, "", "dbname"),
    "DropSubscriptionStmt": ("drop subscription", Operation.DROP, ObjectKind.OTHER, "subscription", "subname"),
    "DropTableSpaceStmt": ("drop tablespace", Operation.DROP, ObjectKind.OTHER, "tablespace", "tablespacename"),
    "DropUserMappingStmt": ("drop user mapping", Operation.DROP, ObjectKind.OTHER, "user mapping", "servername"),
    "DropdbStmt": ("drop database", Operation.DROP, ObjectKind.DATABASE, "", "dbname"),
    "ImportForeignSchemaStmt": ("import foreign schema", Operation.CREATE, ObjectKind.OTHER, "foreign schema", "local_schema"),
    "ListenStmt": ("listen", Operation.NOTIFY, ObjectKind.SESSION, "listen", "conditionname"),
    "LoadStmt": ("load", Operation.FILE, ObjectKind.OTHER, "load", ""),
    "NotifyStmt": ("notify", Operation.NOTIFY, ObjectKind.SESSION, "notify", "conditionname"),
    "ReassignOwnedStmt": ("reassign owned", Operation.GRANT, ObjectKind.ROLE, "reassign owned", ""),
    "SecLabelStmt": ("security label", Operation.ALTER, ObjectKind.OTHER, "security label", "object"),
    "UnlistenStmt": ("unlisten", Operation.NOTIFY, ObjectKind.SESSION, "unlisten", "conditionname"),
}
"""The name field may be empty: the statement names nothing that a rule asks for."""


def _name(value: object) -> ObjectName:
    """The name in a field of any of the forms that the grammar gives it."""
    if isinstance(value, str):
        return ObjectName(name=value)
    if isinstance(value, dict) and "relname" in value:
        return relation_name(value)
    if isinstance(value, dict) and "roletype" in value:
        return ObjectName(name=value.get("rolename", "current_user"))
    return object_name(dotted(value))


def _handler(word: str, operation: Operation, kind: ObjectKind, detail: str, field: str) -> Callable[[Collector, Node], str]:
    def handler(collector: Collector, body: Node) -> str:
        collector.add(operation, kind, _name(body.get(field, "")), frozenset(), detail)
        return word

    return handler


HANDLERS = {node: _handler(*row) for node, row in SIMPLE.items()}
