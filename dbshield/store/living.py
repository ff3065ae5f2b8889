"""What a proxy has to know of every agent, in one query: one snapshot, so that a token never meets another agent's salt. And what
proxies write back: the cluster that an environment was first seen to be, and when a token was used."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from dbshield.store.schema import SCHEMA

EXPIRED_KEPT_DAYS = 7
"""A token that expired lately is still known, so that its holder reads "expired" and not "wrong password". Who checks a proof
looks at `expires_at` in any case, since time passes between two loads."""

LIVING_AGENTS = f"""
    select a.id, a.environment, a.name, a.access, a.salt, a.iterations, a.role, a.sealed_password,
           t.id as token_id, t.stored_key, t.server_key, extract(epoch from t.expires_at)::float8 as expires_at,
           t.access as token_access, t.databases, t.networks, t.hours
    from {SCHEMA}.agents a
    left join {SCHEMA}.tokens t
           on t.agent = a.id and t.revoked_at is null and t.expires_at > now() - make_interval(days => {EXPIRED_KEPT_DAYS})
    where a.removed_at is null
    order by a.environment, a.name, t.id
"""  # noqa: S608  (constants of ours)

PINNED_CLUSTERS = f"select name, system_identifier from {SCHEMA}.environments where system_identifier is not null"  # noqa: S608
"""Which cluster each environment was seen to be."""

PIN_FIRST_USE = f"""
    update {SCHEMA}.environments set system_identifier = %s, pinned_at = to_timestamp(%s), pinned_by = %s
    where name = %s and system_identifier is null
"""  # noqa: S608
"""Only where nothing is pinned: what a human or another proxy pinned stays."""

NOTE_USES = f"""
    insert into {SCHEMA}.token_uses as kept (token, used_at, used_from)
    select token, to_timestamp(used_at), used_from
    from unnest(%s::text[], %s::float8[], %s::text[]) as given (token, used_at, used_from)
    where exists (select from {SCHEMA}.tokens where id = token)
    order by token
    on conflict (token) do update set used_at = excluded.used_at, used_from = excluded.used_from
    where kept.used_at < excluded.used_at
"""  # noqa: S608
"""In the order of the key, so that two processes never wait for each other."""


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
    token_access: str | None = None
    databases: list[str] | None = None
    networks: list[str] | None = None
    hours: str | None = None
