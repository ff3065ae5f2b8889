"""DS9xx: texts that cannot be judged, each under a name of its own. What is not understood is stopped."""

from __future__ import annotations

from typing import ClassVar

from dbshield.model import Effect, Finding, Operation
from dbshield.policy.rules.base import ASK, DENY, Context, Rule
from dbshield.sqltext.statement import Trouble


class TextRule(Rule):
    """A rule about a whole text; the judge asks for it by its trouble."""

    verdict = DENY
    trouble: ClassVar[Trouble]

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return None


class SyntaxFault(TextRule):
    """PostgreSQL's grammar does not accept the text.

    Stopped:
        SELEC 1
        SELECT 'unterminated
    Allowed:
        SELECT 1
    """

    id = "DS901"
    name = "unreadable.syntax"
    trouble = Trouble.SYNTAX
    hint = "Correct the statement and send it again."


class NotListed(Rule):
    """What a statement does is on no list: the grammar is newer than the policy, or nobody has thought about it yet.

    Stopped:
        SECURITY LABEL ON TABLE t IS 'x'
        ALTER VIEW shop.v SET (security_barrier = false)
        ALTER TABLE t SET (fillfactor = 70, autovacuum_enabled = off)
        CREATE TABLE t OF shop.parcel
    Allowed:
        CREATE TABLE t (id integer)
        ALTER TABLE t SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)
        ALTER INDEX i RESET (fastupdate)
    """

    id = "DS902"
    name = "unreadable.not-listed"
    hint = f"Find another statement for it, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        """Spoken by the judge where no other rule spoke about an effect that is not on the allow-list."""
        return self.finding(effect, verdict=DENY if effect.operation is Operation.UNKNOWN else None)


class Disagreement(TextRule):
    """The two readers see different kinds, written objects or bounds, so nobody knows what the statement does.

    A test with a reader that is made to err shows it; no text is known that brings it about.
    """

    id = "DS903"
    name = "unreadable.disagreement"
    trouble = Trouble.DISAGREEMENT
    hint = "Write the statement in a simpler form: one write a statement, plain conditions."


class SecondReader(TextRule):
    """A write that only one reader can read is not let through.

    Texts that bring it about depend on the version of the second reader; a test shows it with a reader that is made to fail.
    """

    id = "DS904"
    name = "unreadable.second-reader"
    trouble = Trouble.SECOND_READER
    hint = "Write the statement in a simpler form: one write a statement, plain conditions."


class TooLong(TextRule):
    """The text is longer than what is read at once (1 MiB unless configured)."""

    id = "DS905"
    name = "unreadable.too-long"
    trouble = Trouble.TOO_LONG
    hint = "Send bulk data as parameters or with COPY … FROM STDIN, or in several statements."


class TooDeep(TextRule):
    """The statement nests deeper than what is walked; PostgreSQL's own parser gives up a little later."""

    id = "DS906"
    name = "unreadable.too-deep"
    trouble = Trouble.TOO_DEEP
    hint = "Nest less: use WITH, or IN and ANY instead of long chains."


class Characters(TextRule):
    """Not UTF-8, a NUL, or a character between the tokens that looks like white space and is a letter to PostgreSQL.

    Stopped:
        DELETE FROM orders a\\u00a0WHERE\\u00a0id = 1
        SELECT 1\\u3000AS x
        SELECT zero\\u200bwidth FROM t
    Allowed:
        SELECT 'a\\u00a0b'
        SELECT \\u6b8b\\u9ad8 FROM t
    """

    id = "DS907"
    name = "unreadable.characters"
    trouble = Trouble.CHARACTERS
    hint = "Use plain spaces between the words, and UTF-8."


class ReaderFailed(TextRule):
    """A reader met something that it was not written for. That is a fault of dbshield; the statement is stopped all the same."""

    id = "DS908"
    name = "unreadable.reader-failed"
    trouble = Trouble.READER_FAILED
    hint = "Write the statement in another form, and report it to whoever runs dbshield."


class FunctionMessage(TextRule):
    """A FunctionCall message names a function by number that the catalogue does not know."""

    id = "DS909"
    name = "unreadable.function-message"
    trouble = Trouble.UNKNOWN
    hint = "Call the function by name in a SELECT."
