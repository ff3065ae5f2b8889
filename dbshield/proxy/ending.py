"""Ends the sessions whose token is good no more: revoked, expired, narrowed, outside its hours, or of an agent that was removed
or lowered; and those in a database that the configuration names no more.

Called at every change that the directory hears of, and twice a second for what the clock alone changes; it reads memory, so an
expiry ends sessions while the control database is away too. A session whose environment is not configured any more is ended by
`Judges.follow`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final, Protocol

from dbshield.control import scopes
from dbshield.errors import DbshieldError, Refused
from dbshield.model import AccessLevel, TokenVerifier
from dbshield.proxy.sessions import Session

ENDED: Final = "57P01"
"""admin_shutdown: the session is over by somebody's decision, and a driver's pool may connect anew."""


class Memory(Protocol):
    """What a `Directory` remembers, whether the control database is there or not."""

    def serves(self, environment: str) -> bool: ...

    def databases(self, environment: str) -> Collection[str]: ...

    def token(self, token_id: str) -> TokenVerifier | None: ...

    def access(self, user: str) -> AccessLevel | None: ...


def end_untrusted(sessions: Iterable[Session], directory: Memory, now: datetime) -> None:
    """End every session that would not be let in now. `now` has a zone. Never raises."""
    for session in list(sessions):
        try:
            check_standing(session, directory, now)
        except DbshieldError as error:
            session.pair.end(error.message, error, sqlstate=ENDED)
        except Exception as error:  # noqa: BLE001 - a bug must end the session, not leave it to whoever was revoked
            session.pair.end(f"bug in looking after a token: {error!r}", _over("the token cannot be checked"), sqlstate=ENDED)


def check_standing(session: Session, directory: Memory, now: datetime) -> None:
    """Raises Refused where the token of a session that stands is good no more."""
    login = session.login
    if not directory.serves(login.environment):
        return
    if session.database not in directory.databases(login.environment):
        raise _over(f"the environment {login.environment} has no database {session.database!a} any more", hint="Reconnect.")
    access = directory.access(login.user)
    token = directory.token(session.token_id)
    if access is None:
        raise _over(f"the agent {login.user} was removed")
    if token is None:
        raise _over(f"token {session.token_id} was revoked")
    if token.expires_at <= now.timestamp():
        raise _over(f"token {session.token_id} expired")
    if scopes.ORDER.index(access) < scopes.ORDER.index(login.access):
        raise _over(f"the agent {login.user} may do less than when this session began", hint="Reconnect.")
    narrow = token.scope.access
    if narrow is not None and scopes.ORDER.index(narrow) < scopes.ORDER.index(login.access):
        raise _over(f"token {session.token_id} may do less than when this session began", hint="Reconnect.")
    if token.scope.databases and session.database not in token.scope.databases:
        raise _over(f"token {session.token_id} is not for the database {session.database!a} any more")
    try:
        scopes.check_hours(token.scope, token_id=session.token_id, now=now)
    except Refused as error:
        raise _over(error.message, hint=error.hint) from error


def _over(message: str, hint: str = "Ask for a new one: dbshield token issue.") -> Refused:
    return Refused(f"{message}, so this session is over", sqlstate=ENDED, hint=hint)
