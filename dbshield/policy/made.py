"""Relations that agents have made or changed, and that the catalogue, as it was last read, does not show as they are now.

A new relation may take over another one's default, trigger or CHECK (LIKE, INHERITS, PARTITION OF, a view), and an INSERT there
runs it. Whether one does, only the catalogue tells, and only when the transaction is over. So until the catalogue was read
again an INSERT into a relation of such a name is counted (policy/firing.py has what the catalogue tells), and so is a SELECT from
it where the database has functions that a new view could call (policy/reaching.py). Names stand for themselves, whatever the
schema: a temporary relation comes before one of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

from dbshield.model import Allow, Effect, Judgement, Limit, ObjectKind, Operation

ANY: Final = ""
"""In place of a name: which relation it is, nobody could tell, so it may be any."""
MOST: Final = 1_000
"""Names that are known one by one; from there on it may be any."""
RELATIONS: Final = frozenset({ObjectKind.TABLE, ObjectKind.VIEW})
"""What rows are inserted into."""
FOREIGN: Final = "foreign table"
MEMBERS: Final = frozenset({ObjectKind.COLUMN, ObjectKind.POLICY, ObjectKind.RULE, ObjectKind.TRIGGER})
"""What stands on a relation, and concerns an INSERT by way of a view, a parent or a partition as well."""
RENAMED: Final = frozenset(
    {ObjectKind.TABLE, ObjectKind.VIEW, ObjectKind.MATERIALIZED_VIEW, ObjectKind.INDEX, ObjectKind.SEQUENCE}
)
"""With what words before its name a relation can be renamed; the effect does not carry the new name."""
OF_MEMBERS: Final = ("trig", "rule")
"""What an ALTER TABLE about these has in its detail: `enable trig`, `enable always rule`."""
USES: Final = frozenset({Operation.INSERT, Operation.READ})
CHANGES: Final = frozenset({Operation.CREATE, Operation.REPLACE, Operation.ALTER})


def made_in(effects: Iterable[Effect]) -> frozenset[str]:
    """The names of the relations that `effects` make or change, ANY among them where not all are told."""
    names: set[str] = set()
    for effect in effects:
        if effect.operation in CHANGES and effect.detail != "comment":
            names.update(_names(effect))
    return frozenset(names)


def _names(effect: Effect) -> Iterable[str]:
    name, kind, detail = effect.name.name, effect.kind, effect.detail
    if kind in MEMBERS:
        return () if kind is ObjectKind.COLUMN and detail == "rename" else (ANY,)
    if effect.operation is Operation.ALTER:
        if detail == "attach partition" or (detail == "rename" and kind in RENAMED):
            return (name, ANY)
        if kind in RELATIONS and any(word in detail for word in OF_MEMBERS):
            return (ANY,)
    return (name,) if kind in RELATIONS or (kind is ObjectKind.OTHER and detail == FOREIGN) else ()


def makes(judgement: Judgement) -> frozenset[str]:
    """The names of the relations that a text makes or changes which goes through."""
    return made_in(judgement.effects) if isinstance(judgement.verdict, (Allow, Limit)) else frozenset()


def inserted_in(judgement: Judgement) -> frozenset[str]:
    """The names of the relations that a text inserts into."""
    return frozenset(effect.name.name for effect in judgement.effects if effect.operation is Operation.INSERT)


def used_in(judgement: Judgement) -> frozenset[str]:
    """The names of the relations that a text inserts into or reads."""
    return frozenset(effect.name.name for effect in judgement.effects if effect.operation in USES)


def meet(some: Set[str], others: Set[str]) -> bool:
    """Whether a name may be among both."""
    return bool(some and others) and (ANY in some or ANY in others or not some.isdisjoint(others))


class Names:
    """Names of relations; when they come to be more than MOST it may be any."""

    __slots__ = ("names",)

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: set[str] = set(names)

    def __contains__(self, name: object) -> bool:
        """Whether a relation of this name may be one of them."""
        return name in self.names or ANY in self.names

    def add(self, names: Set[str]) -> frozenset[str]:
        """Those among `names` that were none of them before."""
        new = frozenset(names - self.names)
        if new and len(self.names) + len(new) > MOST:
            new = frozenset({ANY} - self.names)
        self.names |= new
        return new


class Made(Names):
    """The names of what is made in one database, which its judges share.

    A name is forgotten when the catalogue tells what there is to tell. Nobody says when a transaction is over, so that takes
    readings of the catalogue: one at which the sessions that have something open are written down, those until each of them was
    seen with nothing open, and one that began after that. A name that was made anew meanwhile stays.
    """

    __slots__ = ("_over", "_retiring", "_waiting", "_young")

    def __init__(self) -> None:
        super().__init__()
        self._young: set[str] = set()
        self._retiring: set[str] = set()
        self._waiting: set[int] = set()
        self._over = False

    def add(self, names: Set[str]) -> frozenset[str]:
        """A text that makes or changes these goes through; those among them that were not known for it."""
        new = super().add(names)
        # Where it may be any, a name that is not there by itself is there by that.
        self._young |= names if self.names.issuperset(names) else {ANY}
        return new

    def settle(self, busy: Set[int], prepared: Set[str]) -> frozenset[str]:
        """The catalogue was read, and the reading began after the one before was taken in. `busy` are the sessions that have
        something open now, `prepared` the names that statements make which are ready to be executed again. The names that are
        forgotten: the catalogue tells of them now."""
        if not self._retiring:
            super().add(prepared)
            # Of what does not stand there by itself it is told only that it may be any.
            self._retiring = self.names - prepared - (set() if self.names.issuperset(prepared) else {ANY})
            self._young.clear()
            self._waiting, self._over = set(busy), False
        self._waiting &= busy
        if self._waiting or not self._over:
            self._over = not self._waiting
            return frozenset()
        forgotten = frozenset(self._retiring - self._young)
        self.names -= forgotten
        self._retiring = set()
        return forgotten
