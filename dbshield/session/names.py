"""What the session believes of the names that prepared statements have on the server.

A Parse may fail, and behind an error the server skips everything up to the next Sync. So a name that was just parsed is
believed only until the client's next Sync: within that cycle an error would keep a Bind from running, too. Afterwards a name is
believed when it never stood for anything else that does more than read, or when the server has answered that cycle without an
error, as clients wait for that parse in one cycle and bind in the next (lib/pq, pg8000, asyncpg without its cache). Every other
name is doubtful: what it stands for is judged as any statement that SQL prepared, so it is counted, and wherever writing is
stopped it is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dbshield.errors import Refused
from dbshield.model import Allow, Hold, Judgement, Operation
from dbshield.policy.made import Names, inserted_in, makes
from dbshield.policy.rules.limits import STALE

if TYPE_CHECKING:
    from dbshield.session.held import Prepared
    from dbshield.session.text_judge import TextJudge

MAX_NAMES: Final = 10_000
"""Names of prepared statements that a session remembers; the oldest is forgotten, which costs only its text in the audit."""
NAME_BYTES: Final = 63
"""Bytes of a statement's name that the server looks at: NAMEDATALEN - 1 (StorePreparedStatement in prepare.c)."""
TEXT_BYTES: Final = 4 << 10
"""Longer texts are not kept: they are seldom prepared, and a session must not make memory grow with them."""
TEXTS_BYTES: Final = 512 << 10
"""No more of them is kept in all. A change of the policy or the database has every one judged again at once, which takes three
seconds a megabyte, and nobody else is served meanwhile: 10,000 texts of 4 KiB took two minutes."""


class StatementNames(dict[bytes, Judgement]):
    """The judgement of each name's newest Parse. `fresh` has the names of this cycle, `bound` its uncounted portals, `asked` the
    names of the cycle that the server is answering now, where it has no other to answer. `texts` has what was parsed, where it is
    short enough to be judged again under another policy, `held` the names of statements that a human
    is to be asked for when they are bound: on the server they stand for an empty statement. No name is in both. `inserts`
    has the names of relations that statements insert into, or did, `makes` those of relations that a statement of a doubtful name
    may make."""

    __slots__ = ("_texts_bytes", "asked", "bound", "doubtful", "fresh", "held", "inserts", "makes", "texts")

    def __init__(self) -> None:
        super().__init__()
        self.fresh: set[bytes] = set()
        self.asked: set[bytes] = set()
        self.bound: set[bytes] = set()
        self.doubtful: set[bytes] = set()
        self.held: dict[bytes, Prepared] = {}
        self.texts: dict[bytes, bytes] = {}
        self._texts_bytes = 0
        self.inserts = Names()
        self.makes = Names()

    def parsed(self, name: bytes, judgement: Judgement, text: bytes) -> None:
        """A Parse gave a name to a statement."""
        known = self.get(name)
        self._keep(name, text)
        if known is not judgement:
            if known is not None:
                self.doubt(name, known)
            elif self.held:
                self.held.pop(name, None)
            self[name] = judgement
            if judgement.writes:
                self.inserts.add(inserted_in(judgement))
            if len(self) > MAX_NAMES:
                self.closed(next(iter(self)))
        if self.doubtful:  # while no name is doubtful, none need be told from it
            self.fresh.add(name)

    def _keep(self, name: bytes, text: bytes) -> None:
        room = TEXTS_BYTES - self._texts_bytes + len(self.texts.get(name, b""))
        kept = text if len(text) <= min(TEXT_BYTES, room) else b""
        self._texts_bytes = TEXTS_BYTES - room + len(kept)
        self.texts[name] = kept

    def hold(self, name: bytes, prepared: Prepared) -> None:
        """A Parse gave a name to a statement that is held."""
        self.closed(name)
        self.held[name] = prepared

    def closed(self, name: bytes) -> None:
        """A Close took a name back, if the server came to it."""
        self.held.pop(name, None)
        self._texts_bytes -= len(self.texts.pop(name, b""))
        known = self.pop(name, None)
        if known is not None:
            self.doubt(name, known)

    def doubt(self, name: bytes, known: Judgement) -> None:
        """The server may still know this name for what was judged so."""
        if type(known.verdict) is not Allow or any(effect.operation is not Operation.READ for effect in known.effects):
            self._add(name)
            self.makes.add(makes(known))

    def prepared(self, names: Iterable[str]) -> None:
        """SQL gave these names, each of which a Parse may have had."""
        for name in names:
            # As an identifier a name is cut between characters (truncate_identifier in scansup.c).
            self._add(name.encode()[:NAME_BYTES].decode("utf-8", "ignore").encode())

    def believed(self, name: bytes) -> Judgement | None:
        """The judgement of what a Bind of this name runs; None where that is doubtful or not known."""
        name = name[:NAME_BYTES]
        return None if name in self.doubtful and name not in self.fresh else self.get(name)

    def judge_again(self, judge: TextJudge, before: TextJudge) -> None:
        """Judge anew what does more than read, or may now. A statement whose text was too long to be kept must be prepared again,
        unless `judge` confirms what the one before said. It may learn here of a relation that is made, and have this called again
        before it is over."""
        for name, judgement in [*self.items()]:
            reads = type(judgement.verdict) is Allow and all(effect.operation is Operation.READ for effect in judgement.effects)
            if reads and judge.only_reads(judgement):
                continue
            text = self.texts.get(name)
            if text:
                self[name] = judge.judge(text)
            elif reads or not judge.confirms(judgement, before):
                self.makes.add(makes(judgement))
                self[name] = STALE
        for name, prepared in [*self.held.items()]:
            judgement = judge.judge(prepared.text)
            if name not in self.held:
                continue
            if type(judgement.verdict) is Hold:
                self.held[name] = replace(prepared, judgement=judgement)
            else:
                # The server has an empty statement under this name, which would run and do nothing.
                del self.held[name]
                self[name] = STALE

    def settle(self, *, alone: bool = False) -> None:
        """A Sync: from here on the server may have skipped what came before it. `alone` where it has no other Sync to
        answer, so that the next answer tells whether it did."""
        self.asked = {name for name in self.fresh if name in self} if alone else set()
        self.fresh.clear()
        self.bound.clear()

    def failed(self) -> None:
        """The server has answered with an error, and skipped what came behind."""
        self.asked = set()

    def answered(self) -> None:
        """The server has come to the Sync without an error: the names of that cycle stand for what was parsed last, unless
        more was sent meanwhile that casts doubt on them."""
        self.doubtful -= self.asked
        self.asked = set()

    def _add(self, name: bytes) -> None:
        if len(self.doubtful) >= MAX_NAMES and name not in self.doubtful:
            raise Refused("too many names of statements were given anew", sqlstate="54000", hint="Give each statement one name.")
        self.doubtful.add(name)
        # What has the name now was not parsed.
        self.fresh.discard(name)
        self.asked.discard(name)
