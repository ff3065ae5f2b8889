"""From an accepted socket to a session that stands: encryption, the agent's token, the server, and then the relay.

Until the token proves right nothing is sent to any server.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import assert_never, cast

from dbshield.control import scopes
from dbshield.control.audit import AuditedSession
from dbshield.control.budget import Share
from dbshield.errors import ConfigError, DbshieldError, ProtocolError, Refused
from dbshield.model import AccessLevel, AgentLogin
from dbshield.policy.judge import Judge
from dbshield.proxy import identity, listener, rotation, upstream
from dbshield.proxy.client import Client
from dbshield.proxy.ending import check_standing
from dbshield.proxy.fatal import SERVER_CLOSED, SERVER_GONE, fatal, server_gone
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.pair import Pair, WhenDurable
from dbshield.proxy.sessions import TOO_MANY_CONNECTIONS, Place, Session
from dbshield.proxy.state import WorkerState
from dbshield.proxy.throttle import Proceed, TooMany
from dbshield.proxy.timing import TimedSession
from dbshield.proxy.tracing import TracedSession
from dbshield.proxy.waiting import Waiting, can_ask
from dbshield.session.actions import Authenticated, Cancel, Fail, Lookup, Send
from dbshield.session.counting import RowCounter
from dbshield.session.login import ClientLogin
from dbshield.session.parameters import check_taken, printable
from dbshield.session.recorded import RecordingRelay
from dbshield.session.relay import Relay
from dbshield.wire.authentication import AuthenticationOk
from dbshield.wire.backend import BackendKeyData, ParameterStatus, ReadyForQuery, TransactionStatus

LOGIN_TIMED_OUT = "08006"
CANNOT_CONNECT_NOW = "57P03"
LONG_KEYS_SINCE = (3, 2)
"""The protocol version whose cancel keys may be longer than four bytes."""


class _Gone(Exception):
    """The connection has been dealt with and is to be closed."""


async def serve(sock: socket.socket, state: WorkerState) -> None:
    """Log one client in and start its relay. Never raises; every failure is logged and ends the connection."""
    client = Client(name="", source="", local=False)
    inbox = Inbox()
    transport: asyncio.Transport | None = None
    try:
        client = listener.peer_of(sock)
        async with asyncio.timeout(state.config.proxy.login_timeout):
            client = await listener.announced(sock, client, state.config.proxy.balancers)
            transport = await listener.accept(sock, state.tls, inbox)
            await _Login(state, transport, inbox, client).run()
    except _Gone:
        pass
    except TimeoutError:
        _refuse(transport, Refused("the login took too long", sqlstate=LOGIN_TIMED_OUT, hint="Reconnect."))
        state.log.info("login timed out", client=client.name)
    except asyncio.CancelledError:
        state.log.info("the client went away during its login", client=client.name)
    except (ConnectionError, OSError) as error:
        state.log.debug("connection lost during a login", client=client.name, why=str(error))
    except DbshieldError as error:
        _refuse(transport, error)
        _tell_refused(state, client, "", error.message)
    except Exception:
        _refuse(transport, Refused("the login failed inside dbshield", sqlstate="XX000"))
        state.log.exception("bug in a login", client=client.name)
    else:
        return
    if transport is not None:
        transport.close()
    sock.close()


def _refuse(transport: asyncio.Transport | None, error: DbshieldError) -> None:
    if transport is not None and not transport.is_closing():
        transport.write(fatal(error))


def _tell_refused(
    state: WorkerState, client: Client, user: str, why: str, *, token_id: str = "", throttled: bool = False
) -> None:
    """Of a login that failed, in the log and the audit."""
    state.log.warning("login failed", client=client.name, user=user, why=why)
    state.login_refused(
        time.time(), source=client.source, client=client.name, user=user, why=why, token_id=token_id, throttled=throttled
    )


class _Login:
    """One login on a transport that is encrypted, or is not going to be."""

    def __init__(self, state: WorkerState, transport: asyncio.Transport, inbox: Inbox, client: Client) -> None:
        self.state = state
        self.transport = transport
        self.inbox = inbox
        self.client = client
        self.user = ""
        self.timed: TimedSession | None = None
        self.traced: TracedSession | None = None
        self.machine = ClientLogin(
            nonce=secrets.token_urlsafe(24),
            mock_secret=state.mock_secret,
            encrypted=client.local or transport.get_extra_info("ssl_object") is not None,
            tls_required=state.config.proxy.tls_required,
        )

    async def run(self) -> None:
        """Returns when the relay has taken over. Raises what ends the connection."""
        who = await self._authenticate()
        try:
            await self._enter(self._scoped(who))
        except DbshieldError as error:
            _refuse(self.transport, error)
            _tell_refused(self.state, self.client, self.user, error.message, token_id=who.token_id)
            raise _Gone from error

    async def _enter(self, who: Authenticated) -> None:
        self._stop_when_the_client_goes()
        self._require_audit()
        place = self.state.sessions.admit(who.login)
        try:
            await self._open(who, place)
        except BaseException:
            place.release()
            raise
        self.state.notes.used(who.token_id, self.client.source, time.time())

    def _scoped(self, who: Authenticated) -> Authenticated:
        """The agent as its token makes it. Raises Refused where the token is not for this database, place or hour."""
        (scope,) = (token.scope for token in who.login.tokens if token.token_id == who.token_id)
        scopes.check_use(scope, token_id=who.token_id, source=self.client.address, database=who.database, now=datetime.now(UTC))
        return replace(who, login=scopes.narrowed(who.login, scope))

    def _stop_when_the_client_goes(self) -> None:
        """From here on the server is waited for. Not before: a client may send a cancel request and close at once."""
        if self.inbox.lost:
            raise ConnectionResetError("the client went away")
        task = asyncio.current_task()
        assert task is not None
        self.inbox.on_lost = partial(_cancel_login, task)

    def _require_audit(self) -> None:
        """What was recorded is written now, so that no session begins on a disk that takes nothing."""
        self.state.audit.flush()
        if not self.state.audit.healthy:
            raise Refused(
                "the audit cannot be written, so no session may begin",
                sqlstate=CANNOT_CONNECT_NOW,
                hint="Tell whoever runs dbshield: its log says what is wrong with the audit's file or disk.",
            )

    async def _authenticate(self) -> Authenticated:
        while True:
            actions = self.machine.receive(await self.inbox.receive(), now=time.time())
            while actions:
                action = actions.pop(0)
                match action:
                    case Send(data=data):
                        self.transport.write(data)
                    case Lookup(user=user):
                        self.user = printable(user)
                        await self._throttled()
                        actions += self.machine.found(self.state.directory.find(user), now=time.time())
                    case Cancel(process_id=process_id, secret_key=key):
                        await self.state.cancel_keys.cancel(process_id, key)
                        raise _Gone
                    case Fail(data=data, reason=reason, guessed=guessed, token_id=token_id):
                        if guessed:
                            self.state.throttle.failed(self.client.source, self.user, time.monotonic())
                        self.transport.write(data)
                        _tell_refused(self.state, self.client, self.user, reason, token_id=token_id)
                        raise _Gone
                    case Authenticated():
                        self.state.throttle.succeeded(self.client.source, self.user, time.monotonic())
                        return action
                    case never:
                        assert_never(never)

    async def _throttled(self) -> None:
        """Waits, or raises Refused, where too many wrong tokens came before this login; whether there is such an agent or not."""
        match self.state.throttle.judge(self.client.source, self.user, time.monotonic()):
            case Proceed(wait=wait):
                if wait:
                    await asyncio.sleep(wait)
            case TooMany(retry_after=seconds, why=why):
                _refuse(
                    self.transport,
                    Refused(
                        why, sqlstate=TOO_MANY_CONNECTIONS, hint=f"Try again in {math.ceil(seconds)} seconds, with the token."
                    ),
                )
                _tell_refused(self.state, self.client, self.user, f"throttled: {why}", throttled=True)
                raise _Gone
            case never:
                assert_never(never)

    async def _open(self, who: Authenticated, place: Place) -> None:
        """Reach the server as the agent's role, tell the client that it is in, and let the bytes flow."""
        state = self.state
        try:
            server = await rotation.connect(state.directory.find, who.login, database=who.database, settings=who.settings)
        except (DbshieldError, OSError):
            state.meter.upstream_failed(who.login.environment, "login")
            raise
        try:
            state.identities.check(who.login.environment, await identity.ask(server))
            judge = await state.judges.judge(who.login, who.database, server)
            check_taken(who.settings, judge.functions.taken)
            self._warn_of_superuser(who.login, server)
            session, key = self._session(who, server, judge, place)
            try:
                self._require_audit()
                # The server may have taken its time, and whoever was revoked meanwhile was no session yet that could be ended.
                check_standing(session, state.directory, datetime.now(UTC))
            except Refused as error:
                session.pair.end(error.message)
                raise
        except BaseException:
            server.transport.abort()
            raise
        self.transport.write(
            AuthenticationOk().encode()
            + b"".join(ParameterStatus(name=name, value=value).encode() for name, value in server.parameters.items())
            + BackendKeyData(process_id=session.number, secret_key=key).encode()
            + b"".join(server.notices)
            + ReadyForQuery(status=TransactionStatus.IDLE).encode()
        )
        self._join(session.pair, server)

    def _warn_of_superuser(self, login: AgentLogin, server: upstream.Server) -> None:
        """A superuser passes by every right that the server knows; once for each agent is enough to say so."""
        if server.parameters.get("is_superuser") == "on" and login.user not in self.state.warned:
            self.state.warned.add(login.user)
            self.state.log.warning(
                "the agent's database role is a superuser: the server itself would stop nothing",
                agent=login.user,
                role=login.upstream.user,
                hint="Give the agent a role of its own that holds only the rights that it needs.",
            )

    def _session(self, who: Authenticated, server: upstream.Server, judge: Judge, place: Place) -> tuple[Session, bytes]:
        """The session, and the secret of its cancel key. What it holds is given back when it ends."""
        state = self.state
        share = state.budget.share(who.login.environment, who.login.agent, who.database)
        relay = share.session = self._relay(who, judge, share)

        async def cancel() -> None:
            if waiting.active:
                waiting.cancel()
            elif relay.busy or relay.keeps:
                # On its way to a human the server is asked a question of ours, which may wait for a lock too.
                await _cancel(who.login, server, state)

        number, key = state.cancel_keys.register(cancel, long=who.protocol >= LONG_KEYS_SINCE)
        audited = self._audited(who, number)
        leave = state.watchers.join(who.login, who.database)

        def changed(now: float, rows: Mapping[str, int]) -> None:
            audited.rows(now, rows)
            state.meter.changed(who.login, rows)
            state.budget.spend(who.login.environment, who.login.agent, who.database, rows)

        def ended(reason: str) -> None:
            if untold := relay.untold:
                changed(time.time(), untold)
            leave()
            share.leave()
            waiting.gone()
            if reason == SERVER_CLOSED:
                state.meter.upstream_failed(who.login.environment, "session")
            if relay.busy and not relay.terminated and not server.transport.is_closing():
                # Nobody waits for it any more, and a server at work does not look at its connection until it has an answer.
                state.spawn(_cancel(who.login, server, state))
            if traced is not None:
                traced.answered(reason=reason)
            state.cancel_keys.forget(number)
            state.sessions.remove(number)
            place.release()
            audited.ended(time.time(), reason)
            state.log.debug("session ended", agent=who.login.user, session=number, why=reason)

        record, when_durable = audited.statement, cast(WhenDurable, state.audit.when_durable)
        self.timed = state.meter.session()
        if self.timed is not None:
            when_durable = self.timed.when_durable(when_durable)
        traced = state.tracing.session(who.login, who.database, number)
        if traced is not None:
            record, when_durable = traced.record(record), traced.when_durable(when_durable)
        pair = Pair(relay, record, changed, ended, when_durable)
        pair.traced = self.traced = traced
        pair.waiting = waiting = self._waiting(who, pair, number)
        session = Session(
            number=number,
            login=who.login,
            database=who.database,
            client=self.client.name,
            token_id=who.token_id,
            pair=pair,
        )
        state.sessions.add(session)
        state.meter.began(who.login)
        return session, key

    def _relay(self, who: Authenticated, judge: Judge, share: Share) -> Relay:
        state, config = self.state, self.state.config
        counter = partial(_counter, share)
        return (RecordingRelay if judge.full else Relay)(
            judge=judge,
            marker=f"dbshield_{secrets.token_hex(8)}",
            counter=counter() if _counts(who.login, judge) else None,
            spare=counter,
            # As configured when it asks. Not by way of this login, which would keep the client's connection as long as the relay.
            asks=lambda: can_ask(state.config.environments.get(who.login.environment)),
            max_message=config.proxy.max_message_bytes,
            max_statement=config.proxy.max_statement_bytes,
        )

    def _audited(self, who: Authenticated, number: int) -> AuditedSession:
        return self.state.audit.connected(
            time.time(),
            agent=who.login.agent,
            environment=who.login.environment,
            database=who.database,
            session=number,
            client=self.client.name,
            token_id=who.token_id,
            application_name=who.settings.get("application_name", ""),
        )

    def _waiting(self, who: Authenticated, pair: Pair, number: int) -> Waiting:
        state = self.state
        return Waiting(
            approvals=state.approvals,
            pair=pair,
            login=who.login,
            database=who.database,
            session=number,
            application=who.settings.get("application_name", ""),
            settings=lambda: state.config.environments.get(who.login.environment),
            spawn=state.spawn,
            log=state.log,
        )

    def _join(self, pair: Pair, server: upstream.Server) -> None:
        """From here on the relay has both transports; what came early goes through it first."""
        self.inbox.on_lost = None
        pair.join(self.transport, server.transport, max_pending=self.state.config.proxy.max_pending_bytes)
        for watcher in (self.timed, self.traced):
            if watcher is not None:
                watcher.attach(pair)
        for end, early in (
            (self.transport, self.machine.trailing + self.inbox.take()),
            (server.transport, server.inbox.take()),
        ):
            if early:
                cast(asyncio.Protocol, end.get_protocol()).data_received(early)
        if self.inbox.lost:
            pair.end("the client went away during its login")
        elif server.inbox.lost:
            pair.end(SERVER_CLOSED, server_gone(), sqlstate=SERVER_GONE)


def _counts(login: AgentLogin, judge: Judge) -> bool:
    """Whether a session is likely to change rows: a reader does so only by a function."""
    return login.access is not AccessLevel.READ or judge.policy.lets_hidden_writes_through or judge.functions.reaches


def _counter(share: Share) -> RowCounter:
    """What counts the rows of a session."""
    return RowCounter(f"dbshield_{secrets.token_hex(8)}", share.remaining)


def _cancel_login(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _cancel(login: AgentLogin, server: upstream.Server, state: WorkerState) -> None:
    try:
        async with asyncio.timeout(state.config.proxy.login_timeout):
            await upstream.cancel(login.upstream, server.process_id, server.secret_key)
    except (TimeoutError, Refused, ProtocolError, ConfigError) as error:
        state.log.warning("a cancel request did not reach the server", agent=login.user, why=str(error))
