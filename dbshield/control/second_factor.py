"""The second factor of a person: a time-based one-time password (TOTP, RFC 6238) of 6 digits and 30 seconds.

Laws:
- A code works once: the time step that it belongs to moves forward in the transaction of what it was given for, with the row
  locked. One step of clock difference is allowed either way (RFC 6238, section 5.2).
- After `WRONG_MOST` wrong codes within `WRONG_WINDOW` nothing works for `LOCKED`: five guesses of 3 in a million each.
"""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from typing import Any, Final

import pyotp
from sqlalchemy import Connection, Row, select, update

from dbshield.control.vault import Vault
from dbshield.errors import Refused
from dbshield.store.schema import people

STEP_SECONDS: Final = 30
SKEW_STEPS: Final = 1
DIGITS: Final = 6
WRONG_MOST: Final = 5
WRONG_WINDOW: Final = timedelta(minutes=10)
LOCKED: Final = timedelta(minutes=15)

UNDEFINED_OBJECT: Final = "42704"
WRONG_CODE: Final = "28P01"
"""invalid_password"""


def totp_identity(name: str) -> str:
    """What a person's secret is sealed for."""
    return f"people/{name}/totp"


def living_people() -> Any:
    """The rows of those who are there, to be narrowed."""
    return select(people).where(people.c.removed_at.is_(None))


def nobody(name: str) -> Refused:
    """Why what is asked of a person who is not there is not done."""
    return Refused(
        f"there is no person {name}", sqlstate=UNDEFINED_OBJECT, hint="`dbshield user list` shows those that there are."
    )


class SecondFactor:
    """Takes codes. The secrets are sealed in the vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def verify(self, connection: Connection, name: str, code: str, *, now: datetime, confirming: bool = False) -> Refused | None:
        """Takes a code of a person within the caller's transaction, which must be committed either way: a wrong code has to be
        counted. Returns why it does not hold, or None. The row stays locked until the end of the transaction."""
        row = connection.execute(living_people().where(people.c.name == name).with_for_update()).one_or_none()
        if row is None:
            return nobody(name)
        if row.enrolled_at is None and not confirming:
            return Refused(
                f"{name} has not shown a first code yet",
                sqlstate=WRONG_CODE,
                hint=f"`dbshield user confirm {name}` takes it, once the secret is in an authenticator app.",
            )
        if row.locked_until is not None and now < row.locked_until:
            return _locked(name, row.locked_until)
        step = self._step_of(row, code, now)
        if step is None:
            return self._count_wrong(connection, row, now)
        if step <= row.last_step:
            return Refused(
                f"this code of {name} was used before", sqlstate=WRONG_CODE, hint="Wait for the next one: half a minute."
            )
        fresh = {"last_step": step, "wrong_codes": 0, "wrong_since": None, "locked_until": None}
        connection.execute(update(people).where(people.c.name == name).values(**fresh))
        return None

    def _step_of(self, row: Row[Any], code: str, now: datetime) -> int | None:
        """The newest time step whose code this is. Every step is compared, in constant time."""
        totp = pyotp.TOTP(self._vault.unseal(bytes(row.sealed_totp), identity=totp_identity(row.name)), digits=DIGITS)
        present = int(now.timestamp()) // STEP_SECONDS
        given = "".join(code.split()).encode("utf-8", "surrogatepass")
        found = None
        for step in range(present - SKEW_STEPS, present + SKEW_STEPS + 1):
            if hmac.compare_digest(totp.generate_otp(step).encode("ascii"), given):
                found = step
        return found

    @staticmethod
    def _count_wrong(connection: Connection, row: Row[Any], now: datetime) -> Refused:
        recent = row.wrong_since is not None and now - row.wrong_since < WRONG_WINDOW
        wrong = row.wrong_codes + 1 if recent else 1
        values: dict[str, Any] = {"wrong_codes": wrong, "wrong_since": row.wrong_since if recent else now}
        if wrong >= WRONG_MOST:
            values = {"wrong_codes": 0, "wrong_since": None, "locked_until": now + LOCKED}
        connection.execute(update(people).where(people.c.name == row.name).values(**values))
        if wrong >= WRONG_MOST:
            return _locked(row.name, now + LOCKED)
        return Refused(
            f"the code is not the one of {row.name}",
            sqlstate=WRONG_CODE,
            hint=f"Look at the authenticator app and at this machine's clock; {WRONG_MOST - wrong} tries are left.",
        )


def _locked(name: str, until: datetime) -> Refused:
    return Refused(
        f"{name} gave {WRONG_MOST} wrong codes and is locked until {until:%Y-%m-%d %H:%M} UTC",
        sqlstate=WRONG_CODE,
        hint="Wait, or let somebody else decide.",
    )
