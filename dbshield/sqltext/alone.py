"""Whether a statement can be run by somebody else than the session that sent it, and whether it answers with rows.

A human's decision is carried out on a connection of dbshield's own. What depends on the session that sent it (its cursors, its
prepared statements, its temporary objects, its transaction, the data of its COPY) means something else there or nothing at all.
Statements are an allow-list by node type; what is not named runs nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, unique
from typing import Any, Final

from dbshield.model import Effect, Flag
from dbshield.sqltext.normal import check_characters
from dbshield.sqltext.postgres import _tree
from dbshield.sqltext.statement import Unreadable


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
    if _inner(body) in _OF_THE_SESSION:
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
