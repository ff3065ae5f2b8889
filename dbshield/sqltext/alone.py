"""Whether a statement can be run by somebody else than the session that sent it, and whether it answers with rows.

A human's decision is carried out on a connection of dbshield's own. What depends on the session that sent it (its cursors, its
prepared statements, its temporary objects, its transaction, the data of its COPY, who it is) means something else there or
nothing at all.
Statements are an allow-list by node type; what is not named runs nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum, unique
from typing import Any, Final

from dbshield.model import Effect, Flag
from dbshield.sqltext.normal import check_characters
from dbshield.sqltext.postgres import _tree
from dbshield.sqltext.statement import Unreadable

WHO: Final = frozenset({"SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_USER", "SVFOP_USER", "SVFOP_SESSION_USER"})
WHOM: Final = frozenset({"ROLESPEC_CURRENT_ROLE", "ROLESPEC_CURRENT_USER", "ROLESPEC_SESSION_USER"})
SESSION_FUNCTIONS: Final = frozenset(
    {
        *("currval", "current_query", "current_setting", "current_user", "getpgusername", "inet_client_addr", "inet_client_port"),
        *("lastval", "pg_backend_pid", "pg_current_xact_id", "pg_current_xact_id_if_assigned", "pg_has_role"),
        *("pg_is_other_temp_schema", "pg_listening_channels", "pg_my_temp_schema", "row_security_active", "set_config"),
        *("session_user", "system_user", "txid_current", "txid_current_if_assigned"),
    }
)
"""What a session knows of itself; has_…_privilege belong to these."""
_WORDS: Final = re.compile(
    rf"\b({'|'.join(sorted({*SESSION_FUNCTIONS, 'current_role', 'has_[a-z_]+_privilege'}))})\b", re.IGNORECASE
)
"""The same in the body of a DO, which is a string here. One too many costs a question."""


@unique
class Answer(Enum):
    """What a statement that runs elsewhere answers with."""

    TAG = "a command tag alone"
    ROWS = "rows, or possibly rows"


WITH_TAG: Final = frozenset(
    {
        *("AlterCollationStmt", "AlterDatabaseSetStmt", "AlterDatabaseStmt", "AlterDefaultPrivilegesStmt", "AlterDomainStmt"),
        *("AlterEnumStmt", "AlterExtensionContentsStmt", "AlterExtensionStmt", "AlterFunctionStmt", "AlterObjectDependsStmt"),
        *("AlterObjectSchemaStmt", "AlterOperatorStmt", "AlterOpFamilyStmt", "AlterOwnerStmt", "AlterPolicyStmt"),
        *("AlterPublicationStmt", "AlterRoleSetStmt", "AlterRoleStmt", "AlterSeqStmt", "AlterStatsStmt", "AlterTableMoveAllStmt"),
        *("AlterTableStmt", "AlterTypeStmt", "ClusterStmt", "CommentStmt", "CompositeTypeStmt", "CreateCastStmt"),
        *("CreateConversionStmt", "CreateDomainStmt", "CreateEnumStmt", "CreateExtensionStmt", "CreateFunctionStmt"),
        *("CreateOpClassStmt", "CreateOpFamilyStmt", "CreatePolicyStmt", "CreateRangeStmt", "CreateRoleStmt"),
        *("CreateSchemaStmt", "CreateSeqStmt", "CreateStatsStmt", "CreateStmt", "CreateTableAsStmt", "CreateTransformStmt"),
        *("CreateTrigStmt", "DefineStmt", "DoStmt", "DropOwnedStmt", "DropRoleStmt", "DropStmt", "GrantRoleStmt", "GrantStmt"),
        *("IndexStmt", "ReassignOwnedStmt", "RefreshMatViewStmt", "ReindexStmt", "RenameStmt", "RuleStmt", "TruncateStmt"),
        *("VacuumStmt", "ViewStmt"),
    }
)
WITH_RETURNING: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
"""Rows come back where there is a RETURNING."""
WITH_ROWS: Final = frozenset({"SelectStmt", "CallStmt", "ExplainStmt"})
_OF_THE_SESSION: Final = frozenset({"ExecuteStmt", "DeclareCursorStmt"})
"""What EXPLAIN and CREATE TABLE AS may have inside that only the session knows."""


def answer(text: bytes, effects: Iterable[Effect]) -> Answer | None:
    """What the one statement of `text`, which was judged to have these effects, answers with; None where it is not one statement
    or only the session that sent it could run it."""
    if any(Flag.TEMPORARY in effect.flags for effect in effects):
        return None
    try:
        check_characters(text)
        statements = [item["stmt"] for item in _tree(text) if "stmt" in item]
    except (Unreadable, RecursionError):
        return None
    if len(statements) != 1:
        return None
    ((tag, body),) = statements[0].items()
    if _inner(body) in _OF_THE_SESSION or _asks_the_session(statements[0]):
        return None
    if tag in WITH_TAG:
        return Answer.TAG
    if tag in WITH_RETURNING:
        return Answer.ROWS if any(name.startswith("returning") for name in body) else Answer.TAG
    return Answer.ROWS if tag in WITH_ROWS else None


def _inner(body: dict[str, Any]) -> str:
    """The node type of the statement inside an EXPLAIN or CREATE TABLE AS."""
    query = body.get("query")
    return next(iter(query), "") if isinstance(query, dict) else ""


def _asks_the_session(statement: dict[str, Any]) -> bool:
    """Whether it depends on who runs it, or on what only its session knows of itself."""
    return any(_names_the_session(tag, body) for tag, body in _nodes(statement))


def _names_the_session(tag: str, body: dict[str, Any]) -> bool:
    if body.get("roletype") in WHOM:
        return True
    match tag:
        case "SQLValueFunction":
            return body.get("op") in WHO
        case "FuncCall":
            name = str(body["funcname"][-1]["String"]["sval"])
            return name in SESSION_FUNCTIONS or (name.startswith("has_") and name.endswith("_privilege"))
        case "DoStmt":
            return _WORDS.search(str(body)) is not None
        case _:
            return False


def _nodes(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object below with the key that it stands under: a node's type, or the field where only one type can stand."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += node.values()
            yield from ((key, value) for key, value in node.items() if isinstance(value, dict))
