"""The configuration as one tree of frozen values, validated where it enters and nowhere else.

Each field's description is what the commented file and the reference print. Secrets never stand here: a section names the file
or the environment variable that holds one, and a password written into a URL is taken out of everything that is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from dbshield.config import conninfo
from dbshield.config.address import ListenAddress, is_somebody
from dbshield.config.alerts import AlertsConfig
from dbshield.config.approvals import ApprovalsConfig
from dbshield.config.backup import BackupConfig
from dbshield.config.base import Name, OptionalPath, Section, Texts, UserPath, WithPassword
from dbshield.config.console import ConsoleConfig
from dbshield.config.executor import ExecutorConfig
from dbshield.config.metrics import MetricsConfig, TracingConfig
from dbshield.config.policy import PolicyConfig
from dbshield.config.refusals import RefusalsConfig
from dbshield.config.roles import RolesConfig
from dbshield.config.schedule import ScheduleConfig
from dbshield.config.secret import read_secret
from dbshield.errors import ConfigError
from dbshield.model import Upstream

SYSTEM_STATE = Path("/var/lib/dbshield")
"""State of a service, after the Filesystem Hierarchy Standard (/var/lib)."""


def _default_state() -> Path:
    if os.geteuid() == 0:
        return SYSTEM_STATE
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "dbshield"


class ControlConfig(WithPassword):
    """[control]: the database of agents, tokens, approvals and the catalogue of backups. Never the protected one."""

    url: str = Field(
        default="",
        repr=False,
        description="PostgreSQL by URL or key=value text; empty: dbshield runs one of its own in the state folder",
    )
    key_file: OptionalPath = Field(
        default=None, description="key that seals stored passwords; empty: secret.key in the state folder"
    )
    logins_from_memory_minutes: float = Field(
        default=15,
        ge=0,
        le=7 * 24 * 60,
        description="minutes for which agents log in by what is in memory while this database is away; 0: none does",
    )

    @field_validator("url")
    @classmethod
    def _readable(cls, url: str) -> str:
        if url:
            conninfo.parse(url)
        return url

    @property
    def embedded(self) -> bool:
        return not self.url

    def dsn(self) -> str:
        """What libpq connects with, password included: for connecting, never for showing. ConfigError when embedded."""
        if self.embedded:
            raise ConfigError("[control] url is empty, so the control database is the embedded one and has no URL")
        password = read_secret("[control] password", file=self.password_file, variable=self.password_env)
        return conninfo.with_password(self.url, password)


class ProxyConfig(Section):
    """[proxy]: where agents connect, and the limits on what they may take up."""

    listen: Texts = Field(default=("127.0.0.1:6432",), description="host:port, [::1]:port or unix:/folder:port", min_length=1)
    advertise: str = Field(default="", description="host:port that connection strings name; empty: the first of listen")
    balancers: Texts = Field(
        default=(),
        description="addresses or networks of load balancers, which have to say in a PROXY header for whom they connect; "
        "empty: nobody's is believed",
    )
    workers: int = Field(default=1, ge=1, le=256, description="processes that share the port")
    tls_certificate: OptionalPath = Field(default=None, description="PEM file: the certificate and its chain")
    tls_key: OptionalPath = Field(default=None, description="PEM file: the certificate's key")
    tls_required: bool = Field(default=False, description="refuse clients that do not ask for TLS")
    allow_plaintext: bool = Field(default=False, description="listen beyond this machine although there is no TLS")
    login_timeout: float = Field(
        default=15.0, gt=0, description="seconds for a login, from the first byte to the server's answer"
    )
    login_failures: int = Field(
        default=20, ge=1, description="wrong tokens from one address for one agent, after which more are refused at once"
    )
    login_failure_window: float = Field(default=60.0, gt=0, le=86400, description="seconds in which wrong tokens are counted")
    idle_timeout: float = Field(default=0.0, ge=0, description="seconds after which an idle connection is closed; 0: never")
    max_connections: int = Field(default=2000, ge=1, description="client connections in one worker")
    max_connections_per_agent: int = Field(default=500, ge=1, description="client connections of one agent in one worker")
    max_message_bytes: int = Field(default=1 << 30, ge=1 << 16, le=(1 << 31) - 1, description="longest message of the protocol")
    max_statement_bytes: int = Field(
        default=1 << 20, ge=1 << 10, le=1 << 28, description="longest statement that is read and judged"
    )
    drain_timeout: float = Field(default=30.0, ge=0, description="seconds that running statements get at shutdown")
    max_pending_bytes: int = Field(
        default=1 << 20, ge=1 << 12, description="bytes kept for a peer that reads slowly, per direction"
    )

    @field_validator("listen")
    @classmethod
    def _addresses(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        for text in listen:
            ListenAddress.parse(text)
        return listen

    @field_validator("advertise")
    @classmethod
    def _advertised(cls, advertise: str) -> str:
        if advertise and ListenAddress.parse(advertise).is_wildcard:
            raise ValueError(f'"{advertise}" is no address that a client can connect to')
        return advertise

    @field_validator("balancers")
    @classmethod
    def _few(cls, balancers: tuple[str, ...]) -> tuple[str, ...]:
        for each in balancers:
            if not is_somebody(each):
                # Who may write the header says from where an agent comes.
                raise ValueError(f'balancers has "{each}", which is no address of a load balancer, and no network of them')
        return balancers

    @model_validator(mode="after")
    def _tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together; one of them is missing")
        if self.tls_required and not self.tls:
            raise ValueError("tls_required needs tls_certificate and tls_key")
        exposed = [str(address) for address in self.addresses if not address.is_local]
        if exposed and not self.tls and not self.allow_plaintext:
            raise ValueError(
                f"listen has {exposed[0]}, which others reach, and there is no TLS: data would cross the network in clear; "
                "give tls_certificate and tls_key, or say allow_plaintext = true"
            )
        return self

    @property
    def tls(self) -> bool:
        return self.tls_certificate is not None

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        return tuple(ListenAddress.parse(text) for text in self.listen)

    @property
    def client_address(self) -> ListenAddress:
        """The address that a connection string names."""
        return ListenAddress.parse(self.advertise) if self.advertise else self.addresses[0]


class EnvironmentConfig(PolicyConfig, RefusalsConfig, ApprovalsConfig, ExecutorConfig, RolesConfig, WithPassword):
    """[environments.NAME]: one protected cluster."""

    upstream: str = Field(repr=False, description="the protected server: postgresql://USER@HOST:PORT/DATABASE or key=value text")
    databases: Texts = Field(default=(), description="databases that agents may enter; empty: the one in upstream")
    token_ttl_days: float = Field(default=30, gt=0, description="days that a token lives when nothing else is said")
    token_ttl_max_days: float = Field(default=90, gt=0, le=3650, description="days that a token may live at most")
    token_stale_days: float = Field(default=14, gt=0, description="days without use after which a live token is listed as stale")

    @field_validator("upstream")
    @classmethod
    def _reachable(cls, upstream: str) -> str:
        conninfo.to_upstream(upstream)
        return upstream

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.token_ttl_days > self.token_ttl_max_days:
            raise ValueError(f"token_ttl_days is {self.token_ttl_days:g}, beyond token_ttl_max_days, {self.token_ttl_max_days:g}")
        if not self.databases:
            # Frozen for everybody else; this is still construction.
            object.__setattr__(self, "databases", (conninfo.database(self.upstream),))
        return self

    @property
    def server(self) -> Upstream:
        """The protected server, without a password: for showing, and to be completed with one."""
        return conninfo.to_upstream(self.upstream)

    def password(self) -> str | None:
        """The password of the role in `upstream`. Raises ConfigError where the file or variable is not there."""
        stored = read_secret("password", file=self.password_file, variable=self.password_env)
        return stored if stored is not None else conninfo.password(self.upstream)


class AuditConfig(Section):
    """[audit]: every connection, statement and decision, in the control database and in a file. It cannot be switched off."""

    file: str = Field(default="", description='file of JSON lines; empty: audit.jsonl in the state folder; "-": standard output')
    statements: Literal["redacted", "none", "full"] = Field(
        default="redacted",
        description="redacted: statements without their constants; none: what they do, not how; "
        "full: as they were sent, with the values bound to them. A reload changes it at once; values are shown in sessions that "
        "begin after it",
    )
    retention_days: int = Field(default=400, ge=1, le=36_500, description="days that the control database keeps entries at least")
    when_away: Literal["read", "stop", "spool"] = Field(
        default="read",
        description="while the control database is away: read: agents read and write nothing; stop: sessions end; "
        "spool: agents write too, once the entry is on this machine's disk",
    )
    spool_max_bytes: int = Field(
        default=256 << 20, ge=1 << 16, description="bytes of entries that a worker keeps on disk meanwhile; then sessions end"
    )

    @property
    def texts(self) -> bool:
        """Whether the texts of statements are shown."""
        return self.statements != "none"

    @property
    def in_full(self) -> bool:
        """Whether they are shown as they were sent."""
        return self.statements == "full"


class LogConfig(Section):
    """[log]: what dbshield says about itself, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is said")
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: for people on a terminal, JSON lines elsewhere"
    )


class Config(Section):
    """All settings of one dbshield."""

    state: UserPath = Field(default_factory=_default_state, description="folder of keys, sockets and embedded clusters")
    control: ControlConfig = ControlConfig()
    proxy: ProxyConfig = ProxyConfig()
    environments: Mapping[Name, EnvironmentConfig] = {}
    backup: Mapping[Name, BackupConfig] = {}
    schedule: ScheduleConfig = ScheduleConfig()
    alerts: Mapping[Name, AlertsConfig] = {}
    audit: AuditConfig = AuditConfig()
    console: ConsoleConfig = ConsoleConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _known_environments(self) -> Self:
        for name, plan in self.backup.items():
            if (plan.environment or name) not in self.environments:
                raise ValueError(f"[backup.{name}] backs up the environment {plan.environment or name}, which is not configured")
        for name, channel in self.alerts.items():
            if unknown := [one for one in channel.environments if one not in self.environments]:
                raise ValueError(f"[alerts.{name}] is about the environment {unknown[0]}, which is not configured")
        return self

    @property
    def secret_key(self) -> Path:
        """The key file that seals stored passwords."""
        return self.control.key_file or self.state / "secret.key"

    @property
    def audit_file(self) -> Path | None:
        """The audit's file; nothing for standard output."""
        if self.audit.file == "-":
            return None
        return Path(self.audit.file).expanduser() if self.audit.file else self.state / "audit.jsonl"

    def remarks(self) -> tuple[str, ...]:
        """What is allowed and yet worth a second look, a sentence each, with its key in front."""
        remarks: list[str] = []
        if conninfo.password(self.control.url) is not None:
            remarks.append("[control] url holds a password in clear; use password_file or password_env")
        if self.proxy.tls and not self.proxy.tls_required and not all(address.is_local for address in self.proxy.addresses):
            remarks.append("[proxy] tls_required is off: a client that does not ask for TLS sends its data in clear")
        for name, environment in self.environments.items():
            key = f"[environments.{name}]"
            if conninfo.password(environment.upstream) is not None:
                remarks.append(f"{key} upstream holds a password in clear; use password_file or password_env")
            server = environment.server
            if not conninfo.is_local(server) and server.sslmode not in {"verify-ca", "verify-full"}:
                remarks.append(
                    f"{key} upstream has sslmode={server.sslmode}: whoever sits between can read along; use verify-full"
                )
            remarks += [f"{key} {remark}" for remark in environment.policy_remarks()]
        remarks += [f"[backup.{name}] {remark}" for name, plan in self.backup.items() for remark in plan.backup_remarks()]
        return tuple(remarks)
