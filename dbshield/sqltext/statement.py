"""What a reader says of one text: its statements and their effects, and why it could not say more.

A reader never guesses. What it cannot read it raises as Unreadable, or names in an effect whose operation is UNKNOWN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from dbshield.errors import DbshieldError
from dbshield.model import Effect


@unique
class Trouble(StrEnum):
    """Why a text cannot be read. The list is closed; each member has one rule in the catalogue."""

    SYNTAX = "syntax"
    DISAGREEMENT = "disagreement"
    SECOND_READER = "second reader"
    TOO_LONG = "too long"
    TOO_DEEP = "too deep"
    CHARACTERS = "characters"
    UNKNOWN = "unknown"
    READER_FAILED = "reader failed"


class Unreadable(DbshieldError):
    """The text cannot be judged; `trouble` says why."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement.

    `kind` is its command word (`select`, `create table`). `attributes` are names that may mean a function without looking like a
    call: names after a dot (a function of the row), bare operators (`+`), types that are not PostgreSQL's own (`mood::`), and
    syntax that an older server takes for a function (`json_value()`). `literal` is true when a constant decided anything here.
    `bodies` are the pieces of SQL in the body of a DO or of a created function, with what each does; their effects are among
    `effects` too.
    """

    kind: str
    effects: tuple[Effect, ...]
    attributes: frozenset[str] = frozenset()
    literal: bool = False
    bodies: tuple[tuple[bytes, tuple[Statement, ...]], ...] = ()
