"""What a human is asked for: one exact statement of one agent, and the digest that binds a decision to it.

Laws:
- The digest covers the environment, the agent, the database, the statement and its parameters, each with its length in front, so
  that no two of them give the same bytes. Who changes one byte of any asks for something else.
- It covers nothing that dbshield computes (effects, findings, preview): those help to decide, and are no part of what is run.

Reads no clock and no database; randomness comes from `secrets`, for ids alone.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from dbshield.errors import StoreError
from dbshield.model import AccessLevel, Effect, Finding, Operation

ID_PREFIX: Final = "apr-"
ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
"""Base 32 of RFC 4648, in lower case."""
ID_LENGTH: Final = 8
"""40 bits: an id is read aloud and typed, and is no secret."""
_DOMAIN: Final = b"dbshield approval 2\n"

DESTROYS: Final = frozenset({Operation.DELETE, Operation.TRUNCATE, Operation.DROP})
"""What a denial takes for one and the same: whoever was denied DELETE FROM orders does not get DROP TABLE orders instead."""
HARMLESS: Final = frozenset({Operation.READ, Operation.LOCK, Operation.TRANSACTION, Operation.CURSOR})
"""What a statement does besides what it was denied for; remembered, these would stop what nobody denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of Bind: its type's oid as Parse named it (0: the server chose), its format (0 text, 1 binary), its bytes."""

    type: int
    format: int
    value: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One held statement. `parameters` is None for a simple query; `findings` and `effects` are the judgement's. `settings` are
    those of the session that decide what the text means (see `dbshield.session.terms`); empty, those of the agent's role."""

    environment: str
    agent: str
    agent_id: UUID | None = None
    access: AccessLevel
    database: str
    session: int | None = None
    application: str = ""
    statement: str = field(repr=False)
    parameters: tuple[Parameter, ...] | None = field(default=None, repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    normal: str = ""
    effects: tuple[Effect, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def digest(self) -> bytes:
        """32 bytes, see `digest`."""
        return digest(
            environment=self.environment,
            agent=self.agent,
            database=self.database,
            statement=self.statement,
            parameters=self.parameters,
            settings=self.settings,
        )


def digest(
    *,
    environment: str,
    agent: str,
    database: str,
    statement: str,
    parameters: Sequence[Parameter] | None,
    settings: Mapping[str, str],
) -> bytes:
    """SHA-256 over everything that a decision is bound to."""
    hashed = hashlib.sha256(_DOMAIN)
    for text in (environment, agent, database, statement):
        # surrogatepass: whatever text there is has one digest; nothing is refused here
        hashed.update(_with_length(text.encode("utf-8", "surrogatepass")))
    if parameters is None:
        hashed.update(b"\x00")
    else:
        hashed.update(b"\x01" + len(parameters).to_bytes(4, "big"))
        for parameter in parameters:
            hashed.update(parameter.type.to_bytes(4, "big") + parameter.format.to_bytes(2, "big"))
            hashed.update(b"\x00" if parameter.value is None else b"\x01" + _with_length(parameter.value))
    hashed.update(len(settings).to_bytes(4, "big"))
    for name, value in sorted(settings.items()):
        hashed.update(_with_length(name.encode("utf-8", "surrogatepass")) + _with_length(value.encode("utf-8", "surrogatepass")))
    return hashed.digest()


def new_id() -> str:
    """A random id, such as apr-k3x7w2mq with letters of base 32."""
    return ID_PREFIX + "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


def store_parameters(parameters: Sequence[Parameter] | None) -> list[dict[str, Any]] | None:
    """As the table keeps them."""
    if parameters is None:
        return None
    return [
        {
            "type": parameter.type,
            "format": parameter.format,
            "value": None if parameter.value is None else base64.b64encode(parameter.value).decode("ascii"),
        }
        for parameter in parameters
    ]


def read_parameters(stored: object) -> tuple[Parameter, ...] | None:
    """As they were stored. StoreError where the table holds something else, which then was not written by dbshield."""
    if stored is None:
        return None
    try:
        if not isinstance(stored, list):
            raise TypeError("no list")  # noqa: TRY301  (one answer to every form that is none)
        return tuple(
            Parameter(
                type=_number(item["type"], 1 << 32),
                format=_number(item["format"], 2),
                value=None if item["value"] is None else base64.b64decode(item["value"], validate=True),
            )
            for item in stored
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError("the parameters of an approval have a form that this dbshield does not know") from error


def store_findings(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """As the table keeps them: why a human is asked, in words."""
    return [
        {"rule": finding.rule, "name": finding.name, "message": finding.message, "hint": finding.hint} for finding in findings
    ]


def remembered(ask: Ask) -> list[str]:
    """What a denial of this is remembered by: the effects that a rule spoke about, or every one that changes something where no
    rule named an effect."""
    spoken = [finding.effect for finding in ask.findings if finding.effect is not None]
    found = {key for effect in _changing(spoken) or _changing(ask.effects) for key in _stored_keys(effect)}
    return sorted(found)


def denial_keys(effects: Iterable[Effect]) -> list[str]:
    """What to look for among the denied effects before a statement with these effects is asked for."""
    return sorted({key for effect in _changing(effects) for key in _asked_keys(effect)})


def _changing(effects: Iterable[Effect]) -> list[Effect]:
    return [effect for effect in effects if effect.operation not in HARMLESS]


def _stored_keys(effect: Effect) -> Iterator[str]:
    """A name with its schema is also remembered as one of whatever schema, for a statement that leaves the schema out."""
    yield _key(effect, str(effect.name))
    if effect.name.schema:
        yield _key(effect, f"*.{effect.name.name}")


def _asked_keys(effect: Effect) -> Iterator[str]:
    name = effect.name
    yield _key(effect, str(name))
    yield _key(effect, name.name if name.schema else f"*.{name.name}")


def _key(effect: Effect, name: str) -> str:
    family = "destroy" if effect.operation in DESTROYS else effect.operation.value
    return f"{family} {effect.kind} {name}"


def _number(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise ValueError("no number of this place")
    return value


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data
