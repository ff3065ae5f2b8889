"""How the server itself counts the rows that a statement changes, and fails the transaction when they are too many.

Before a counted statement the session has the server remember, behind it the session has the server compare, what its own
statistics tell of the transaction (`pg_stat_get_xact_tuples_*`, PostgreSQL manual, "The Cumulative Statistics System"). They
hold every row version that this transaction has updated, deleted or inserted, by whatever way: cascades, triggers, functions,
partitions, data-modifying CTEs, DO blocks. The comparing query raises an error over the limit, in the statement's own
transaction; so nothing is ever undone by the proxy, nothing waits for it, and no answer of the server has to be believed before
it is too late (docs/decisions/0007-rows-counted-by-the-server.md).

What is remembered lives in two settings that are local to the transaction. No agent can write a setting that begins with
`dbshield.`, and a savepoint that is rolled back takes with it both the rows and what was remembered since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dbshield.model import Counted
from dbshield.policy.policy import Policy
from dbshield.session.counting_queries import statements
from dbshield.sqltext.normal import without_comments
from dbshield.sqltext.split import split
from dbshield.wire.frontend import Bind, Close, Describe, Execute, Query, Target

UNTOLD: Final = "(untold)"
"""The name (no table's, since it has no dot) of the rows that a session may have changed without waiting for the answer."""

ELSEWHERE: Final = "(elsewhere)"
"""The name (no table's) under which stands what is left of every table that has no name there."""

_COMMITS: Final = re.compile(rb"\s*+(?:commit|end)\b", re.IGNORECASE)

NO_END: Final = (1 << 63) - 1
"""More rows than there can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for every counted statement of a session. `max_rows_per_hour` is for each table, 0 for no such limit;
    `protected` has LIKE patterns of `schema.table`."""

    max_rows_per_hour: int = 0
    protected: tuple[str, ...] = ()

    @classmethod
    def of(cls, policy: Policy) -> Limits:
        """What a policy sets for the sessions under it."""
        return cls(
            max_rows_per_hour=policy.max_rows_per_hour,
            protected=tuple(pattern.like for pattern in policy.protected),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """What the comparing query objected to: `kind` is rows, protected, hour or uncounted; `what` the number or the table."""

    kind: str
    what: str = ""


class RowCounter:
    """The counting queries of one session.

    `name` is an identifier that nobody can guess. `limits` is exchanged when the policy is. `remaining` tells how many rows of a
    table the agent may still change of those that it is given for an hour, for tables of which it has changed any; it is given
    those of an hour, those of a transaction, and those that this session may yet change in transactions before.
    """

    def __init__(self, name: str, remaining: Callable[[int, int, int], Mapping[str, int]] | None = None) -> None:
        self._limits = Limits()
        # By the rows of a statement, where nothing of an hour's rows is used up.
        self._run_after: dict[int, bytes] = {}
        self._text_after: dict[int, bytes] = {}
        self.remaining = remaining
        names = {word: f"{name}_{word}" for word in ("before", "early", "copies", "after", "protected")}
        self.name = name.encode("ascii")
        self.before_column, self.early_column, self.after_column = (
            names[word].encode() + b"\0" for word in ("before", "early", "after")
        )
        self.token = f"{name}: ".encode("ascii")
        self.prepare = Query(query=statements(**names, token=self.token.decode()).encode()).encode()
        """The message that makes the queries ready; its answer is nobody's business but ours."""
        self._names = names
        self.early = _run(names["early"], ())
        """The messages that go before a Parse or Bind that is counted."""
        self._run_before = {inserts: _run(names["copies" if inserts else "before"], ()) for inserts in (False, True)}

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._run_after.clear()
        self._text_after.clear()

    def before(self, *, inserts: bool) -> bytes:
        """The messages that go before a counted Execute."""
        return self._run_before[inserts]

    def after(self, max_rows: int, *, pending: int = 0) -> bytes:
        """The messages that go behind it. `pending` rows may be changed before, in other transactions of the session."""
        left = self._left(max_rows, pending)
        run = self._run_after.get(max_rows) if not left else None
        if run is None:
            name, values = self._comparison(max_rows, left)
            run = _run(name, tuple(value.encode() for value in values))
            if not left:
                self._run_after[max_rows] = run
        return run

    def wrap(self, text: bytes, counted: Sequence[Counted], max_rows: int, *, statements: int, pending: int = 0) -> Wrapped:
        """The text of a Query, which has so many statements, with the counting queries around each counted one. `pending` rows
        may be changed before, in other transactions of the session, and as many as one may in each that the text commits."""
        bounds = split(text) if statements > 1 else [(0, len(text))]
        pieces: list[bytes] = []
        kept: list[tuple[int, int]] = []
        done = written = committed = seen = 0

        def add(piece: bytes) -> None:
            nonlocal written
            pieces.append(piece)
            written += _characters(piece)

        def keep(end: int) -> None:
            nonlocal done
            kept.append((written, _characters(text[:done])))
            add(text[done:end])
            done = end

        for each in counted:
            start, end = bounds[each.statement]
            committed += sum(_commits(text[slice(*between)]) for between in bounds[seen : each.statement])
            seen = each.statement + 1
            keep(start)
            add(f"execute {self._names['copies' if each.inserts else 'before']};".encode())
            keep(end)
            add(self._text_behind(max_rows, pending + committed * max_rows))
        keep(len(text))
        return Wrapped(text=b"".join(pieces), kept=tuple(kept), commits=committed)

    def overrun(self, error: bytes) -> Overrun | None:
        """What the error of a counting query says; None when the ErrorResponse is about something else."""
        found = error.find(self.token)
        if found >= 0:
            words = error[found + len(self.token) : error.find(b"\0", found)].decode("utf-8", "replace").rstrip('"»”“')
            kind, _, what = words.partition(" ")
            return Overrun(kind=kind, what=what)
        return Overrun(kind="uncounted") if self.name in error else None

    def _text_behind(self, max_rows: int, pending: int) -> bytes:
        """What stands behind a counted statement in a text."""
        left = self._left(max_rows, pending)
        behind = self._text_after.get(max_rows) if not left else None
        if behind is None:
            name, values = self._comparison(max_rows, left)
            listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
            behind = f"\n;execute {name}({listed});".encode()
            if not left:
                self._text_after[max_rows] = behind
        return behind

    def _left(self, max_rows: int, pending: int) -> Mapping[str, int]:
        """The rows that may still be changed within the hour, of the tables where that is fewer than in any other."""
        hourly = self._limits.max_rows_per_hour
        return self.remaining(hourly, max_rows, pending) if hourly and self.remaining else {}

    def _comparison(self, max_rows: int, left: Mapping[str, int]) -> tuple[str, tuple[str, ...]]:
        """The query behind a statement, and its values."""
        limits = self._limits
        hourly = limits.max_rows_per_hour
        # They may have been of any table, so they bound all of them.
        most, elsewhere = min(max_rows, left.get(UNTOLD, max_rows)), left.get(ELSEWHERE, hourly or NO_END)
        values = (str(most), str(elsewhere), json.dumps(dict(left)))
        if limits.protected:
            return self._names["protected"], (*values, _array(limits.protected))
        return self._names["after"], values


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """The text of a Query with ours in it; `kept` tells where each piece of the client's begins in it and in the client's own
    text, in characters. `commits` counts the COMMIT before its last counted statement."""

    text: bytes
    kept: tuple[tuple[int, int], ...]
    commits: int = 0

    def position(self, position: int) -> int:
        """Where the client wrote what the server found at `position`; both count characters from 1."""
        new, old = max((piece for piece in self.kept if piece[0] < position), default=(0, 0))
        return position - new + old


def _commits(statement: bytes) -> bool:
    return _COMMITS.match(without_comments(statement)) is not None


def _characters(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace"))


def changed_rows(row: bytes) -> dict[str, int]:
    """The rows by table from the payload of the comparing query's DataRow (two bytes, a length of four, the JSON)."""
    return {str(name): int(rows) for name, rows in json.loads(row[6:].decode()).items()}


@lru_cache(maxsize=1024)
def _run(name: str, values: tuple[bytes, ...]) -> bytes:
    """Run a prepared query of ours between the client's messages. The description comes first, because its answer is what tells
    ours from the client's; the portal is closed, because an open transaction would keep it."""
    target = name.encode()
    return b"".join(
        message.encode()
        for message in (
            Describe(target=Target.STATEMENT, name=target),
            Bind(portal=target, statement=target, parameters=values),
            Execute(portal=target),
            Close(target=Target.PORTAL, name=target),
        )
    )


def _array(texts: Sequence[str]) -> str:
    """PostgreSQL's spelling of an array of texts."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
