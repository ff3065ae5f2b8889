"""What a login needs of an agent, made of the rows that the control database gives (see `dbshield.store.living`)."""

from __future__ import annotations

from dataclasses import replace

from dbshield.config import EnvironmentConfig
from dbshield.control.vault import Vault, password_identity
from dbshield.model import AccessLevel, AgentLogin, TokenScope, TokenVerifier, Upstream
from dbshield.store.living import LivingRow


class Upstreams:
    """The protected server of one environment, as each of its agents reaches it; the shared password is read once a load."""

    def __init__(self, environment: EnvironmentConfig, vault: Vault) -> None:
        self._environment = environment
        self._server = environment.server
        self._vault = vault
        self._shared: Upstream | None = None

    def of(self, row: LivingRow) -> Upstream:
        """Raises DbshieldError where the password cannot be read."""
        if row.role is not None:
            sealed = row.sealed_password
            password = self._vault.unseal(sealed, identity=password_identity(row.id)) if sealed is not None else None
            return replace(self._server, user=row.role, password=password)
        if self._shared is None:
            self._shared = replace(self._server, password=self._environment.password())
        return self._shared


def tokens_in(rows: list[LivingRow]) -> tuple[TokenVerifier, ...]:
    """The tokens in the rows of one agent."""
    return tuple(
        TokenVerifier(
            token_id=row.token_id,
            stored_key=row.stored_key,
            server_key=row.server_key,
            expires_at=row.expires_at,
            scope=TokenScope(
                access=AccessLevel(row.token_access) if row.token_access is not None else None,
                databases=tuple(row.databases or ()),
                networks=tuple(row.networks or ()),
                hours=row.hours or "",
            ),
        )
        for row in rows
        if row.token_id is not None and row.stored_key is not None and row.server_key is not None and row.expires_at is not None
    )


def login_of(row: LivingRow, tokens: tuple[TokenVerifier, ...], environment: EnvironmentConfig, upstream: Upstream) -> AgentLogin:
    return AgentLogin(
        agent=row.name,
        environment=row.environment,
        access=AccessLevel(row.access),
        databases=environment.databases,
        salt=row.salt,
        iterations=row.iterations,
        tokens=tokens,
        upstream=upstream,
    )
