"""Other ways to write and to send a case: pure functions from a case to cases that do the same.

A *spelling* (spellings.py) changes the text and nothing that it means. A *sending* changes the protocol. A *wrapping* lets
other statements carry the case's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

from dbshield.sqltext import native
from support.cases import Case, Step
from support.spellings import PARAM, SPELLINGS, joined, pieces, plain_string, spelled

TRANSACTION = re.compile(
    r"\s*(?:begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction|set\s+(?:local|transaction))\b", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A case told in another way. Step `decisive` is the one that must fail for its capability to be unused."""

    name: str
    steps: tuple[Step, ...]
    decisive: int

    def of(self, case: Case) -> Case:
        """The case with these steps."""
        return {**case, "steps": list(self.steps)}


def _spell(name: str) -> Callable[[Case], Iterator[Mutant]]:
    def mutate(case: Case) -> Iterator[Mutant]:
        changed = [{**s, "sql": spelled(s["sql"], name) or s["sql"]} if "sql" in s else s for s in case["steps"]]
        if changed != case["steps"]:
            yield _mutant(name, changed)

    return mutate


# -- sendings


def _mutant(name: str, steps: Sequence[Step], *, after: int = 0) -> Mutant:
    return Mutant(name=name, steps=tuple(steps), decisive=len(steps) - 1 - after)


def statements(text: str) -> int:
    """How many statements a text has; 0 where the grammar reads none."""
    try:
        return native.parse(text.encode()).count(b'"stmt":')
    except native.GrammarError:
        return 0


def _plain(step: Step) -> bool:
    """One statement in a Query message."""
    return "sql" in step and "params" not in step and statements(step["sql"]) == 1


def _is_copy(step: Step) -> bool:
    return b'"CopyStmt"' in native.parse(step["sql"].encode())


def _sent(name: str, change: Callable[[Step, int], Step | None]) -> Callable[[Case], Iterator[Mutant]]:
    def mutate(case: Case) -> Iterator[Mutant]:
        changed = [change(step, index) or step for index, step in enumerate(case["steps"])]
        if changed != case["steps"]:
            yield _mutant(name, changed)

    return mutate


def _extended(step: Step, index: int) -> Step | None:
    return {**step, "params": []} if _plain(step) else None


def _named(step: Step, index: int) -> Step | None:
    parsed = "sql" in step and statements(step["sql"]) == 1
    return {"params": [], **step, "name": f"mutant_{index}"} if parsed else None


def _pipelined(step: Step, index: int) -> Step | None:
    return {"pipeline": ["select 1", step["sql"], "select 2"]} if _plain(step) and not _is_copy(step) else None


def _simple(step: Step, index: int) -> Step | None:
    """A Query message, with the parameters written as literals."""
    if "params" not in step or not step["params"]:
        return {"sql": step["sql"]} if "params" in step else None
    found, rest = pieces(step["sql"])
    values = ["null" if value is None else " " + plain_string(value) for value in step["params"]]
    texts = [values[int(piece.text[1:]) - 1] if piece.number == PARAM else piece.text for piece in found]
    return {"sql": joined(found, texts, rest)}


SENDINGS: dict[str, Callable[[Case], Iterator[Mutant]]] = {
    "extended": _sent("extended", _extended),
    "named": _sent("named", _named),
    "simple": _sent("simple", _simple),
}
"""The same text by another road."""


# -- wrappings


def _each(name: str, wrap: Callable[[str, int], Sequence[str] | None]) -> Callable[[Case], Iterator[Mutant]]:
    """Let other texts carry every statement of the case that they can carry."""

    def mutate(case: Case) -> Iterator[Mutant]:
        changed: list[Step] = []
        for index, step in enumerate(case["steps"]):
            texts = wrap(step["sql"].strip().rstrip("; \n"), index) if _plain(step) else None
            readable = texts is not None and all(map(statements, texts))
            changed += [{"sql": text} for text in texts] if texts is not None and readable else [step]
        if changed != case["steps"]:
            yield _mutant(name, changed)

    return mutate


def _whole(name: str, before: Sequence[str], after: Sequence[str]) -> Callable[[Case], Iterator[Mutant]]:
    """Put the whole case between other statements; only where it has no transaction of its own."""

    def mutate(case: Case) -> Iterator[Mutant]:
        if not _has_transaction(case) and "options" not in case["steps"][0]:
            steps = [*({"sql": text} for text in before), *case["steps"], *({"sql": text} for text in after)]
            yield _mutant(name, steps, after=len(after))

    return mutate


def _has_transaction(case: Case) -> bool:
    return any(TRANSACTION.match(text) for step in case["steps"] for text in step.get("sql", "").split(";"))


def _own_transaction(case: Case) -> Iterator[Mutant]:
    """Each statement commits by itself; where the case has a transaction that would be another case, of small transactions."""
    if not _has_transaction(case):
        yield from _each("own-transaction", lambda text, _: (f"begin; {text}\n; commit",))(case)


def _begins(text: str, *words: str) -> bool:
    found, _ = pieces(text)
    return bool(found) and found[0].text.lower() in words


DML = ("insert", "update", "delete", "merge")


def _returning(text: str) -> str:
    found, _ = pieces(text)
    return text if any(piece.keyword and piece.text.lower() == "returning" for piece in found) else f"{text}\nreturning 1"


def _do(text: str, index: int) -> Sequence[str] | None:
    if _begins(text, "select", "with", "values", "table", "("):
        text = f"perform * from ({text}\n) wrapped"
    return None if TRANSACTION.match(text) else (f"do $wrapped$ begin {text}\n; end $wrapped$",)


def _caught(text: str, index: int) -> Sequence[str] | None:
    plain = _do(text, index)
    return plain and [plain[0].replace("; end $wrapped$", "; exception when others then null; end $wrapped$")]


def _cte(text: str, index: int) -> Sequence[str] | None:
    return (f"with x as ({_returning(text)}\n) select * from x",) if _begins(text, *DML) else None


def _copy(text: str, index: int) -> Sequence[str] | None:
    return (f"copy ({_returning(text) if _begins(text, *DML) else text}\n) to stdout",)


WRAPPINGS: dict[str, Callable[[Case], Iterator[Mutant]]] = {
    "transaction": _whole("transaction", ["begin"], ["commit"]),
    "savepoint": _whole("savepoint", ["begin", "savepoint s"], ["release s", "commit"]),
    "one-text": _each("one-text", lambda text, _: (f"select 1; {text}\n; select 2",)),
    "own-transaction": _own_transaction,
    "prepare": _each("prepare", lambda text, i: (f"prepare p{i} as {text}", f"execute p{i}")),
    "explain": _each("explain", lambda text, _: (f"explain analyze {text}",)),
    "explain-options": _each("explain-options", lambda text, _: (f"explain (costs off, analyse true, timing off) {text}",)),
    "cte": _each("cte", _cte),
    "copy": _each("copy", _copy),
    "do": _each("do", _do),
    "do-caught": _each("do-caught", _caught),
    "create-table-as": _each("create-table-as", lambda text, i: (f"create temp table kept{i} as {text}",)),
    "cursor": _each("cursor", lambda text, i: (f"declare c{i} cursor with hold for {text}", f"fetch all from c{i}")),
    "pipeline": _sent("pipeline", _pipelined),
}
"""The same statements with others around them. Nothing here is claimed to be valid: what is not is refused by PostgreSQL."""

MUTATIONS: dict[str, Callable[[Case], Iterator[Mutant]]] = {
    **{name: _spell(name) for name in SPELLINGS},
    **SENDINGS,
    **WRAPPINGS,
}


def mutants(case: Case, names: Sequence[str] = tuple(MUTATIONS)) -> Iterator[Mutant]:
    """The case in every way of these mutations that it can be told in."""
    for name in names:
        yield from MUTATIONS[name](case)


def sample(case: Case, count: int, names: Sequence[str] = tuple(MUTATIONS)) -> list[Mutant]:
    """At most `count` mutants of the case: always the same ones, and other ones for each case."""
    found = list(mutants(case, names))
    return sorted(found, key=lambda mutant: crc32(f"{case['id']} {mutant.name}".encode()))[:count]
