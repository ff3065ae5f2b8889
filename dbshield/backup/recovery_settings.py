"""Settings that recovery wants to be as high as they were on the server whose WAL it replays.

The control file of the data folder has them: from the base backup, and then from each change of them in the WAL, which recovery
writes there before it compares. So where it pauses or ends because one is too low, the control file says how high it must be, and
the server is started again with that; it goes on where it was.

Source: PostgreSQL manual, "Hot Standby", administrator's overview; xlog.c (xlog_redo, XLOG_PARAMETER_CHANGE); xlogrecovery.c
(RecoveryRequiresIntParameter).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from dbshield.cluster import Binaries
from dbshield.cluster.account import Account
from dbshield.errors import BackupError

LABELS: Mapping[str, str] = {
    "max_connections": "max_connections setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_worker_processes": "max_worker_processes setting",
}
"""By name what pg_controldata calls it, in every version since 13."""


def wanted(data: Path, binaries: Binaries, account: Account) -> Mapping[str, int]:
    """What the control file of a data folder says of each. Raises BackupError where it cannot be read."""
    done = subprocess.run(
        [binaries.program("pg_controldata"), "-D", data],
        capture_output=True, text=True, errors="replace", check=False, **account.process(),
    )  # fmt: skip
    said = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    try:
        return {name: int(said[label]) for name, label in LABELS.items()}
    except (KeyError, ValueError) as error:
        why = done.stderr.strip() or "it does not say what recovery needs"
        raise BackupError(f"pg_controldata of {data}: {why}", hint="Look at this machine.") from error


def too_low(needed: Mapping[str, int], settings: Mapping[str, str]) -> Mapping[str, int]:
    """Of what is needed, what the settings have less of; those that they do not name are left out."""
    return {name: value for name, value in needed.items() if name in settings and int(settings[name]) < value}


def require_given(needed: Mapping[str, int], given: Mapping[str, str]) -> None:
    """Raises BackupError where somebody has asked for less than recovery needs."""
    try:
        found = too_low(needed, given)
    except ValueError as error:
        raise BackupError(
            "a --setting that recovery looks at is no number", hint=f"These are whole numbers: {', '.join(LABELS)}."
        ) from error
    for name, value in found.items():
        raise BackupError(
            f"recovery needs {name} = {value}, as the server had it, and --setting {name}={given[name]} is lower",
            hint=f"Leave it out, or write --setting {name}={value}.",
        )


def raised(settings: Mapping[str, str], needed: Mapping[str, int]) -> dict[str, str]:
    """The settings with these as high as they are needed."""
    return {**settings, **{name: str(max(value, int(settings.get(name, 0)))) for name, value in needed.items()}}


def words(needed: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in needed.items())
