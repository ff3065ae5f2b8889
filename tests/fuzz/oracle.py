"""What a text writes, told from PostgreSQL's own tree and nothing of dbshield: which nodes that change something are in it.

`EXPLAIN` that only plans and `PREPARE` run nothing, so what stands below them is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import postgast
from postgast.native import lib

ROW_WRITES = frozenset({"UpdateStmt", "DeleteStmt", "MergeStmt", "upsert", "copy from"})
"""What changes rows that exist, or brings in any number of them."""

READING = frozenset(
    """
    SelectStmt ExplainStmt PrepareStmt ExecuteStmt DeclareCursorStmt FetchStmt CopyStmt VariableSetStmt VariableShowStmt
    TransactionStmt NotifyStmt DiscardStmt LockStmt MergeStmt
    """.split()  # noqa: SIM905
)
"""Statements that may pass at the access level `read`, where nothing else in them writes."""

WRITING = READING | {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "VacuumStmt"}

DESTROYING = frozenset({"DropStmt", "TruncateStmt"})
"""May pass for temporary tables only."""

NEVER = frozenset({"DropOwnedStmt", "GrantStmt", "RuleStmt", "CreatePublicationStmt", "AlterPublicationStmt", "CallStmt"})


def tree(text: str) -> list[dict[str, Any]] | None:
    """The statements of a text, one tagged node each; None where the grammar does not accept it."""
    result = lib.pg_query_parse(text.encode())
    try:
        return None if result.error else [item["stmt"] for item in json.loads(result.parse_tree)["stmts"] if "stmt" in item]
    finally:
        lib.pg_query_free_parse_result(result)


def writes(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node below `node` that changes rows when the statement runs, by its type, with its fields."""
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
            continue
        if not isinstance(item, dict):
            continue
        for key, value in item.items():
            if key == "PrepareStmt" or (key == "ExplainStmt" and not analyzes(value)):
                continue
            if key in {"InsertStmt", "UpdateStmt", "DeleteStmt"}:
                yield key, value
            elif key == "MergeStmt":
                actions = {clause["MergeWhenClause"]["commandType"] for clause in value["mergeWhenClauses"]} - {"CMD_NOTHING"}
                if actions:
                    yield "InsertStmt" if actions == {"CMD_INSERT"} else key, value
            if key == "InsertStmt" and value.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE":
                yield "upsert", value
            elif key == "CopyStmt" and value.get("is_from"):
                yield "copy from", value
            elif key == "intoClause":
                yield "SELECT INTO", value
            stack.append(value)


def analyzes(explain: dict[str, Any]) -> bool:
    """Whether EXPLAIN runs its query: the last of its options with that name decides (src/backend/commands/explain_state.c)."""
    runs = False
    for item in explain.get("options", ()):
        if item["DefElem"]["defname"] == "analyze":
            argument = item["DefElem"].get("arg", {}).get("String", {}).get("sval", "true")
            runs = argument in {"true", "on"}
    return runs


def tokens(text: str) -> list[tuple[int, str]]:
    """The tokens of a text with the values of its constants left out, and without comments."""
    data = text.encode()
    found = []
    for token in postgast.scan(text).tokens:
        if token.token in {275, 276}:
            continue
        word = data[token.start : token.end].decode()
        constant = token.token in {260, 261, 262, 263, 264, 266} or word.lower() in {"true", "false", "null"}
        found.append((-1, "") if constant else (token.token, word))
    return found
