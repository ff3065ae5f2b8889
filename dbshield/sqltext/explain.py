"""What each reader sees in a text, side by side, for people who ask why a verdict is what it is.

It decides nothing: whether the readers agree is asked of `agreement`, as the judge does. The second reader is asked here about
statements too that the judge lets pass on the first one alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dbshield.model import Effect, Flag, ObjectKind, ObjectName, Operation
from dbshield.sqltext import agreement, glot, native, normal
from dbshield.sqltext.glot import Reading
from dbshield.sqltext.postgres import read
from dbshield.sqltext.split import split
from dbshield.sqltext.statement import Statement, Trouble, Unreadable

DEFINES = {
    "create": Operation.CREATE,
    "alter": Operation.ALTER,
    "drop": Operation.DROP,
    "truncatetable": Operation.TRUNCATE,
    "copy": Operation.INSERT,
}
"""sqlglot's trees of statements that name objects."""
KINDS = {kind.value: kind for kind in ObjectKind}
TOO_DEEP = "the statement is too deep for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One statement as both readers see it.

    `kind` is the first reader's command word, `second_kind` what sqlglot has a tree of (`command` where it keeps the words as
    they are, empty where it fails). `asked` is whether the judge asks the second reader at all. `fault` says why the second
    reader fails, or where the two differ; with `asked` it means that the statement is stopped.
    """

    kind: str
    effects: tuple[Effect, ...]
    second_kind: str
    second_effects: tuple[Effect, ...]
    asked: bool
    fault: str

    @property
    def agrees(self) -> bool:
        return not self.fault


def explain(text: bytes, *, most: int | None = None) -> tuple[Explained, ...]:
    """The statements of `text`, the first `most` of them. The text is no longer than the judge reads. Raises Unreadable where the
    first reader does not read it."""
    normal.check_characters(text)
    statements = read(text)
    try:
        places = split(text)
    except native.GrammarError as error:
        raise Unreadable(Trouble.SYNTAX, error.message) from error
    if len(places) != len(statements):
        raise Unreadable(Trouble.DISAGREEMENT, f"{len(places)} statements in one form, {len(statements)} in the other")
    return tuple(
        _explain(text[start:end], statement) for (start, end), statement in [*zip(places, statements, strict=True)][:most]
    )


def _explain(text: bytes, statement: Statement) -> Explained:
    asked = agreement.needs_second_reader(statement)
    second: Reading | None = None
    fault = ""
    try:
        second = glot.read(_shown_to_second(text, statement))
        if asked:
            agreement.agree(text, (statement,))
    except (Unreadable, native.GrammarError) as error:
        fault = error.message
    except RecursionError:
        fault = TOO_DEEP
    return Explained(
        kind=statement.kind,
        effects=statement.effects,
        second_kind=second.kind if second else "",
        second_effects=tuple(_effects(second)) if second else (),
        asked=asked,
        fault=fault,
    )


def _shown_to_second(text: bytes, statement: Statement) -> str:
    """The canonical text that the second reader is given: that of the query inside, where a statement carries one that writes."""
    tree = native.parse_protobuf(text)
    if statement.kind in agreement.WRAPPERS and any(effect.operation in agreement.ROW_WRITES for effect in statement.effects):
        tree = agreement._inner(tree, agreement.QUERY_FIELD[agreement.WRAPPERS[statement.kind]])
    if statement.kind == "insert" and len(tree) > agreement.LONG_TREE:
        tree = agreement._fewer_rows(tree)
    return native.deparse(tree).decode()


def _effects(reading: Reading) -> Iterator[Effect]:
    for written in sorted(reading.written):
        yield Effect(
            operation=written.operation,
            kind=ObjectKind.TABLE,
            name=ObjectName(schema=written.schema, name=written.table),
            flags=frozenset({Flag.BOUNDED}) if written.bounded else frozenset(),
        )
    operation = DEFINES.get(reading.kind)
    if operation is not None:
        named = reading.object_kind if reading.kind in {"create", "alter", "drop"} else ObjectKind.TABLE.value
        kind = KINDS.get(named, ObjectKind.OTHER)
        for schema, name in sorted(reading.names):
            yield Effect(operation=operation, kind=kind, name=ObjectName(schema=schema, name=name))
