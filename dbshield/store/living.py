"""What a proxy has to know of every agent, in one query: one snapshot, so that a token never meets another agent's salt."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from dbshield.store.schema import SCHEMA

EXPIRED_KEPT_DAYS = 7
"""A token that expired lately is still known, so that its holder reads "expired" and not "wrong password". Who checks a proof
looks at `expires_at` in any case, since time passes between two loads."""

LIVING_AGENTS = f"""
    select a.id, a.environment, a.name, a.access, a.salt, a.iterations, a.role, a.sealed_password,
           t.id as token_id, t.stored_key, t.server_key, extract(epoch from t.expires_at)::float8 as expires_at
    from {SCHEMA}.agents a
    left join {SCHEMA}.tokens t
           on t.agent = a.id and t.revoked_at is null and t.expires_at > now() - make_interval(days => {EXPIRED_KEPT_DAYS})
    where a.removed_at is null
    order by a.environment, a.name, t.id
"""  # noqa: S608  (constants of ours)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivingRow:
    """One token of one agent; the token's fields are empty for an agent without one."""

    id: UUID
    environment: str
    name: str
    access: str
    salt: bytes = field(repr=False)
    iterations: int
    role: str | None
    sealed_password: bytes | None = field(repr=False)
    token_id: str | None
    stored_key: bytes | None = field(repr=False)
    server_key: bytes | None = field(repr=False)
    expires_at: float | None
