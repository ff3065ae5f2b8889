"""The first reader looks into every field of every node that PostgreSQL's grammar can make.

libpg_query describes its tree in protobuf messages, and grammar.sql holds every node that a text can become. Into each field
of each node of those trees that can hold another node, one after another, goes a probe: a call, and a DELETE. The probe must be
among the effects, or the reader must have refused the tree, or the field stands in a table with the reason why not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dbshield.sqltext import native
from dbshield.sqltext.collector import HANDLERS as IN_QUERIES
from dbshield.sqltext.postgres import HANDLERS, QUERIES, read_tree
from dbshield.sqltext.postgres_fields import BY_HANDLER, PLAIN, UNWALKED

MESSAGES = import_module("postgast.pg_query_pb2").DESCRIPTOR.message_types_by_name
SAMPLES = [
    line for line in (Path(__file__).parent / "grammar.sql").read_text().splitlines() if line and not line.startswith("--")
]
PROBES: tuple[dict[str, Any], ...] = (
    {"FuncCall": {"funcname": [{"String": {"sval": "shield_probe"}}]}},
    {"DeleteStmt": {"relation": {"relname": "shield_probe"}}},
)

NOT_MADE = "only the server's analysis makes it"
NAMES = "the grammar puts names there, nothing else"

NODES_NEVER_MADE = frozenset(
    [
        "Aggref",
        "AlternativeSubPlan",
        "ArrayCoerceExpr",
        "ArrayExpr",
        "CallContext",
        "CaseTestExpr",
        "CoerceToDomain",
        "CoerceToDomainValue",
        "CoerceViaIO",
        "CollateExpr",
        "ConvertRowtypeExpr",
        "DistinctExpr",
        "FieldSelect",
        "FieldStore",
        "FromExpr",
        "FuncExpr",
        "InferenceElem",
        "InlineCodeBlock",
        "IntList",
        "JsonConstructorExpr",
        "JsonExpr",
        "JsonTablePath",
        "JsonTablePathScan",
        "JsonTableSiblingJoin",
        "MergeAction",
        "NextValueExpr",
        "NullIfExpr",
        "OidList",
        "OnConflictExpr",
        "OpExpr",
        "PLAssignStmt",
        "Param",
        "PartitionRangeDatum",
        "Query",
        "RTEPermissionInfo",
        "RangeTblEntry",
        "RangeTblFunction",
        "RangeTblRef",
        "RawStmt",
        "RelabelType",
        "ReturningExpr",
        "RowCompareExpr",
        "RowMarkClause",
        "ScalarArrayOpExpr",
        "SetOperationStmt",
        "SortGroupClause",
        "SubPlan",
        "SubscriptingRef",
        "TableFunc",
        "TableSampleClause",
        "TargetEntry",
        "Var",
        "WindowClause",
        "WindowFunc",
        "WindowFuncRunCondition",
        "WithCheckOption",
    ]
)
"""Nodes of the server's analysis and planner, which no text becomes."""

FIELDS_NEVER_MADE = {
    ("AlterOwnerStmt", "relation"): "ALTER TABLE … OWNER is an AlterTableStmt",
    ("CallStmt", "funcexpr"): NOT_MADE,
    ("ColumnDef", "identitySequence"): NOT_MADE,
    ("IntoClause", "viewQuery"): NOT_MADE,
    ("JsonParseExpr", "output"): "JSON() takes no RETURNING",
    ("JsonScalarExpr", "output"): "JSON_SCALAR() takes no RETURNING",
}
"""Fields of a type of their own that no text fills."""

UNSEEN = {
    ("A_Expr", "name"): "an operator, which is told by its name",
    ("Alias", "colnames"): NAMES,
    ("ColumnRef", "fields"): NAMES,
    ("FuncCall", "funcname"): "the function itself, which is told as a call",
    ("IntoClause", "colNames"): NAMES,
    ("LockingClause", "lockedRels"): "names of what FROM names",
    ("SortBy", "useOp"): "an operator, which is told by its name",
    ("SubLink", "operName"): "an operator, which is told by its name",
    ("TypeName", "names"): "a type, which is told by its name",
}
"""Fields inside expressions and queries that are not walked, each with the reason."""


LEFT_OUT = UNSEEN.keys() | {
    (node, field) for node, fields in UNWALKED.items() for field, reason in fields.items() if reason is not BY_HANDLER
}


class Occurrence(NamedTuple):
    """One message in a tree: its description, its fields, and whether it stands below a field that is left out."""

    message: Any
    body: dict[str, Any]
    left_out: bool


def occurrences(message: Any, body: dict[str, Any], left_out: bool = False) -> Iterator[Occurrence]:
    yield Occurrence(message, body, left_out)
    fields = {field.json_name: field for field in message.fields}
    for key, value in body.items():
        inner = fields[key].message_type
        below = left_out or (message.name, key) in LEFT_OUT
        for item in value if isinstance(value, list) else [value]:
            if inner is None or not item:
                continue
            if inner.name == "Node":
                ((tag, content),) = item.items()
                yield from occurrences(MESSAGES[tag], content, below)
            else:
                yield from occurrences(inner, item, below)


def trees(text: str) -> Iterator[tuple[dict[str, Any], list[Occurrence]]]:
    for statement in json.loads(native.parse(text.encode()))["stmts"]:
        ((tag, body),) = statement["stmt"].items()
        yield statement["stmt"], list(occurrences(MESSAGES[tag], body))


ALL = [(text, tree, found) for text in SAMPLES for tree, found in trees(text)]


def met(tree: dict[str, Any]) -> bool:
    """True when the reader tells the probe, or refuses the tree."""
    try:
        return any("shield_probe" in (effect.name.name, effect.name.schema) for effect in read_tree(tree).effects)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return True


def unseen(tree: dict[str, Any], found: list[Occurrence]) -> Iterator[tuple[str, str]]:
    """The fields of one tree in which a probe goes unseen."""
    for message, body, left_out in found:
        if left_out:
            continue
        for field in message.fields:
            if field.message_type is None or field.message_type.name != "Node":
                continue
            key, kept = field.json_name, body.get(field.json_name)
            for probe in PROBES:
                body[key] = [*(kept or ()), probe] if field.is_repeated else probe
                if not met(tree):
                    yield message.name, key
            if kept is None:
                del body[key]
            else:
                body[key] = kept


def test_the_samples_hold_every_node_that_can_be_made() -> None:
    seen = {message.name for _, _, found in ALL for message, _, _ in found}
    nodes = {field.message_type.name for field in MESSAGES["Node"].fields}
    assert nodes - seen == NODES_NEVER_MADE


def test_the_samples_fill_every_field_that_holds_a_message() -> None:
    seen = {(message.name, key) for _, _, found in ALL for message, body, _ in found for key, value in body.items() if value}
    for message in {message.name: message for _, _, found in ALL for message, _, _ in found}.values():
        for field in message.fields:
            if field.message_type is not None and field.message_type.name != "Node":
                assert ((message.name, field.json_name) in seen) is ((message.name, field.json_name) not in FIELDS_NEVER_MADE)


def test_a_node_that_is_never_made_is_unknown() -> None:
    known = PLAIN | IN_QUERIES.keys() | HANDLERS.keys() | QUERIES.keys()
    assert not NODES_NEVER_MADE & known


def test_a_probe_in_any_field_is_seen_or_refused() -> None:
    missed = {field: text for text, tree, found in ALL for field in unseen(tree, found)}
    assert {field: text for field, text in missed.items() if field not in LEFT_OUT} == {}
    assert missed.keys() >= UNSEEN.keys(), "a field that is seen needs no reason"


@pytest.mark.parametrize(("node", "field"), [(node, field) for node, fields in UNWALKED.items() for field in fields])
def test_the_table_of_fields_left_out_names_what_there_is(node: str, field: str) -> None:
    assert field in {known.json_name for known in MESSAGES[node].fields}
    assert UNWALKED[node][field]
