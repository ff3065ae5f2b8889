"""Which nodes of PostgreSQL's tree do nothing of their own, and which of their fields are deliberately not walked.

The grammar makes only what is named here, in the handlers of `collector`, or in the handlers of a statement. A test puts a probe
into every field that libpg_query's own description of its tree has, and fails where neither the walk nor this table meets it.
"""

from __future__ import annotations

from collections.abc import Mapping

PLAIN = frozenset(
    [
        "A_ArrayExpr",
        "A_Const",
        "A_Indices",
        "A_Star",
        "AccessPriv",
        "Alias",
        "AlterTableCmd",
        "ATAlterConstraint",
        "BitString",
        "Boolean",
        "BooleanTest",
        "BoolExpr",
        "CaseExpr",
        "CaseWhen",
        "CoalesceExpr",
        "CollateClause",
        "ColumnDef",
        "Constraint",
        "CreateOpClassItem",
        "CTECycleClause",
        "CTESearchClause",
        "CurrentOfExpr",
        "DefElem",
        "Float",
        "FunctionParameter",
        "GroupingFunc",
        "GroupingSet",
        "IndexElem",
        "InferClause",
        "Integer",
        "IntoClause",
        "JoinExpr",
        "JsonAggConstructor",
        "JsonArgument",
        "JsonArrayAgg",
        "JsonArrayConstructor",
        "JsonArrayQueryConstructor",
        "JsonBehavior",
        "JsonFormat",
        "JsonFuncExpr",
        "JsonIsPredicate",
        "JsonKeyValue",
        "JsonObjectAgg",
        "JsonObjectConstructor",
        "JsonOutput",
        "JsonParseExpr",
        "JsonReturning",
        "JsonScalarExpr",
        "JsonSerializeExpr",
        "JsonTable",
        "JsonTableColumn",
        "JsonTablePathSpec",
        "JsonValueExpr",
        "List",
        "LockingClause",
        "MergeSupportFunc",
        "MergeWhenClause",
        "MinMaxExpr",
        "MultiAssignRef",
        "NamedArgExpr",
        "NullTest",
        "ObjectWithArgs",
        "OnConflictClause",
        "ParamRef",
        "PartitionBoundSpec",
        "PartitionCmd",
        "PartitionElem",
        "PartitionSpec",
        "PublicationObjSpec",
        "RangeFunction",
        "RangeSubselect",
        "RangeTableFunc",
        "RangeTableFuncCol",
        "RangeTableSample",
        "ReplicaIdentityStmt",
        "ResTarget",
        "ReturningClause",
        "ReturningOption",
        "RoleSpec",
        "RowExpr",
        "SetToDefault",
        "SortBy",
        "SQLValueFunction",
        "StatsElem",
        "String",
        "SubLink",
        "TableLikeClause",
        "TriggerTransition",
        "TypeCast",
        "VacuumRelation",
        "WindowDef",
        "XmlExpr",
        "XmlSerialize",
    ]
)
"""Node types that do nothing of their own; what hangs on them is walked."""

BY_HANDLER = "the handler walks it"
OWN_RELATION = "the tables that the statement names, which the handler gives"
BODY = "what a function does when it is called, which the reader of bodies gives"

UNWALKED: Mapping[str, Mapping[str, str]] = {
    "ConstraintsSetStmt": {"constraints": "names of constraints, in the form of tables"},
    "CreateFunctionStmt": {"options": BODY, "sql_body": BODY},
    "AlterFunctionStmt": {"actions": BODY},
    "DoStmt": {"args": BODY},
    "ExplainStmt": {"query": BY_HANDLER},
    "GrantStmt": {"objects": OWN_RELATION},
    "LockStmt": {"relations": OWN_RELATION},
    "TruncateStmt": {"relations": OWN_RELATION},
}
"""Fields of statements that are not walked, each with the reason. Everything else of a statement is."""

NOTHING_LEFT_OUT: Mapping[str, str] = {}
