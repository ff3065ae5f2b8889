"""What `dbshield init` makes, each step only where it is not there yet, so that it may be repeated after an upgrade."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dbshield.config import Config
from dbshield.control.agents import register_environments
from dbshield.control.vault import Vault
from dbshield.errors import StoreError
from dbshield.store.database import Database


def make_state(config: Config) -> bool:
    """The state folder, for its owner alone; whether it is new.

    Root lends the embedded server to another account, which must pass through to its own folder: others may enter there, and
    still see nothing and read nothing.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        if config.state.is_dir():
            if config.state.stat().st_mode & stat.S_IWOTH:
                raise StoreError(f"anybody may write in the state folder {config.state}", hint=f"chmod o-w {config.state}")
            return False
        config.state.mkdir(parents=True, mode=mode)
        # Whatever the umask was.
        config.state.chmod(mode)
    except OSError as error:
        raise StoreError(
            f"the state folder {config.state} cannot be made: {error.strerror}",
            hint="Set state to a folder that you may write to.",
        ) from error
    return True


def make_key(path: Path) -> bool:
    """The key that seals passwords; whether it is new. An existing one is read, so that a bad one is noticed now."""
    if path.exists():
        Vault.load(path)
        return False
    try:
        Vault.create(path)
    except OSError as error:
        raise StoreError(f"the key file {path} cannot be made: {error.strerror}", hint="Look at who may write there.") from error
    return True


def make_tables(config: Config, dsn: str) -> tuple[str | None, tuple[str, ...]]:
    """The control database's tables and environments: the revision there was before, and the environments that are new."""
    database = Database(dsn)
    try:
        before = database.migrate()
        return before.current, register_environments(database, list(config.environments))
    finally:
        database.close()
