"""The one place where parts are put together: the control database, the proxy's workers, and what `dbshield up` adds to them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from psycopg.conninfo import make_conninfo

from dbshield.config import Config
from dbshield.control.audit import AuditLog
from dbshield.control.audit_shipping import Shipping
from dbshield.control.budget import RowBudget
from dbshield.control.changes import FreezeAudit
from dbshield.control.directory import KEEPALIVE, Directory
from dbshield.control.notes import Notes
from dbshield.control.policies import policy_at
from dbshield.control.served import PROXY, PURPOSE, Place, Served
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, DbshieldError, Refused
from dbshield.model import AccessLevel, AgentLogin
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.approvals import WorkerApprovals
from dbshield.proxy.cancel import CancelKeys
from dbshield.proxy.judges import Judges
from dbshield.proxy.listener import listen
from dbshield.proxy.meter import Meter
from dbshield.proxy.serving import Serving
from dbshield.proxy.sessions import Sessions
from dbshield.proxy.state import WorkerState
from dbshield.proxy.supervisor import CANNOT_BEGIN, Supervisor
from dbshield.proxy.tls import server_context
from dbshield.proxy.tracing import Tracing, require
from dbshield.proxy.worker import Worker
from dbshield.session.refusal import RULE_PAGES
from dbshield.store.database import Database
from dbshield.store.frozen import Freeze
from dbshield.telemetry.board import Board
from dbshield.telemetry.counts import Counts

DESCRIPTORS_PER_CONNECTION: Final = 2
"""A client's socket and its server's."""
OTHER_DESCRIPTORS: Final = 64

GC_THRESHOLDS: Final = (20_000, 50, 100)
"""Allocations before the youngest generation is looked at; the audit's entries alone would reach Python's 700 at once."""


class Proxy:
    """The proxy of one machine: listening sockets, and workers that share them. `load` reads the configuration anew; `boards` are
    where the workers show what they count, one each, or none; `file` is what was read, for the audit."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        control_dsn: str,
        boards: Sequence[Board] = (),
        *,
        file: Path | None = None,
    ) -> None:
        self._config = config
        self._boards = boards
        self._load = load
        self._file = file
        self._control_dsn = control_dsn
        self._log: Any = structlog.get_logger("dbshield.proxy")

    def run(self) -> int:
        """Serve until a signal ends it; the exit code. Raises ConfigError or StoreError before anything listens."""
        database = Database(self._control_dsn)
        try:
            database.require_current()
        finally:
            database.close()
        require(self._config.tracing)
        vault = Vault.load(self._config.secret_key)
        _allow_descriptors(self._config.proxy.max_connections)
        # Until there is a loop that reloads: what is told meanwhile must not be lost, since the file has been read already.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        addresses = self._config.proxy.addresses
        sockets = [listen(address) for address in addresses]

        def close() -> None:
            for sock in sockets:
                sock.close()

        try:
            for address in addresses:
                self._log.info("listening", part="proxy", address=str(address), workers=self._config.proxy.workers)
            supervisor = Supervisor(
                self._config.proxy.workers,
                lambda number: self._work(number, sockets, vault),
                self._log,
                on_stop=close,
                on_reload=self._read_again,
            )
            return supervisor.run()
        finally:
            close()
            for address in addresses:
                if address.is_socket:
                    Path(address.socket_path).unlink(missing_ok=True)

    def _read_again(self) -> None:
        """For workers that are started from now on: what the others reload, under the same conditions. They say why not."""
        with contextlib.suppress(ConfigError):
            config = self._load()
            if config.proxy.tls_certificate and config.proxy.tls_key:
                server_context(config.proxy.tls_certificate, config.proxy.tls_key)
            self._config = config

    def _work(self, number: int, sockets: Sequence[socket.socket], vault: Vault) -> int:
        _warm_up()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(number, sockets, vault))
        except DbshieldError as error:
            self._log.error("the proxy cannot go on", why=error.message, hint=error.hint)
            return CANNOT_BEGIN
        return 0

    async def _serve(self, number: int, sockets: Sequence[socket.socket], vault: Vault) -> None:
        config = self._config
        proxy = config.proxy
        RULE_PAGES.address = config.console.address
        directory = Directory(
            control_dsn=self._control_dsn,
            environments=config.environments,
            vault=vault,
            grace=config.control.logins_from_memory_minutes * 60,
        )
        shipping = Shipping(control_dsn=self._control_dsn, folder=config.state / "audit", config=config.audit)
        audit = AuditLog(config.audit_file, shipping, statements=config.audit.texts)
        FreezeAudit(directory, audit)
        state = WorkerState(
            config=config,
            tls=server_context(proxy.tls_certificate, proxy.tls_key) if proxy.tls_certificate and proxy.tls_key else None,
            directory=directory,
            audit=audit,
            budget=RowBudget(control_dsn=self._control_dsn),
            judges=Judges(
                lambda policy, functions: make_judge(state.config, policy, functions),
                lambda login: shipping.applied(
                    policy_of(state.config, login, directory.frozen(login.environment, login.agent), datetime.now(UTC))
                ),
                lambda: state.sessions,
            ),
            sessions=Sessions(limit=proxy.max_connections, limit_per_agent=proxy.max_connections_per_agent),
            cancel_keys=CancelKeys(number, config.state / "run"),
            approvals=WorkerApprovals(self._control_dsn),
            notes=Notes(self._control_dsn),
            serving=Serving(
                Served(Database(make_conninfo(self._control_dsn, **KEEPALIVE)), Place.here(self._file, config.state), PROXY),
                audit,
                self._log,
                config,
                vault.derive(PURPOSE),
            ),
            log=self._log.bind(worker=number) if proxy.workers > 1 else self._log,
            meter=Meter(Counts(self._boards[number], pid=os.getpid()), shipping) if self._boards else Meter(),
            tracing=Tracing(config.tracing, statements=config.audit.texts),
            mock_secret=vault.derive("salts of users that do not exist"),
        )
        shipping.on_change(state.judges.follow)
        if self._boards:
            audit.counted = state.meter.statements
        try:
            await Worker(state, sockets, self._load).run()
        finally:
            await state.tracing.stop()


def make_judge(config: Config, policy: Policy, functions: FunctionCatalogue) -> Judge:
    """The judge for agents with this policy."""
    return Judge(
        policy=policy,
        functions=functions,
        max_statement_bytes=config.proxy.max_statement_bytes,
        full=policy.in_full,
    )


def policy_of(config: Config, login: AgentLogin, freeze: Freeze | None, now: datetime) -> Policy:
    """The policy that holds for an agent at `now`, a time with a zone; `freeze` is what was frozen besides the configuration.

    Raises Refused where the environment is configured no more.
    """
    environment = config.environments.get(login.environment)
    if environment is None:
        raise Refused(
            f"the environment {login.environment} is not configured any more",
            sqlstate="57P01",
            hint="Ask whoever runs dbshield which environment to use.",
        )
    policy = policy_at(environment, agent=login.agent, access=login.access, freeze=freeze, now=now)
    return replace(policy, in_full=config.audit.in_full)


def _warm_up() -> None:
    """What the first statement would pay otherwise: the readers' modules and tables. They stay for ever, so the garbage
    collector need not look at them again, and what a session leaves behind is seldom a cycle."""
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
    judge.judge(b"update t set a = lower(c) where b = 2")
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _allow_descriptors(connections: int) -> None:
    """Raise this process' own limit as far as it may be; the rest is the administrator's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * DESCRIPTORS_PER_CONNECTION + OTHER_DESCRIPTORS
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
