"""Where a drill happens: a folder for its throwaway cluster, which nothing outlives but what is kept as evidence.

A drill that is killed leaves a server that is tethered to it, so that goes by itself, and a folder whose lock nobody holds: the
next drill ends what may still run in it, and removes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dbshield.backup import tablespaces
from dbshield.backup.work import Work, work_folder
from dbshield.cluster import Cluster
from dbshield.cluster.account import server_account
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, ClusterError

CLUSTER = "cluster"
HINT = "Set drill_folder in [backup.NAME] to one outside of private folders."
ENTER = 0o711
"""Others may pass through to a name that they know, and list nothing; the cluster's own folder admits its account alone."""


def drill_base(config: Config, plan: BackupConfig | None) -> Path:
    """The folder that drills happen in. Raises BackupError where it is not ours alone."""
    if plan is not None and plan.drill_folder is not None:
        return plan.drill_folder
    account = server_account()
    if account.may("-x", config.state):
        return config.state / "drills"
    # Root's own folders are closed to the account that root lends to servers.
    base = Path(tempfile.gettempdir()) / f"dbshield-drills-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise BackupError(f"{base} belongs to somebody else", hint="Set drill_folder in [backup.NAME].")
    return base


@contextlib.contextmanager
def drill_place(base: Path, *, hint: str = HINT) -> Iterator[Work]:
    """A folder for one cluster, gone afterwards. Raises BackupError where it cannot be made or the server could not use it."""
    account = server_account()
    with work_folder(base, before=_end) as work:
        if account.lent:
            base.chmod(ENTER)
            work.folder.chmod(ENTER)
            if not account.may("-x", work.folder):
                raise BackupError(
                    f"the account {account.name}, which runs servers, cannot get into {work.folder}",
                    hint=hint,
                )
        try:
            yield work
        finally:
            _end(work.folder)


def cluster_folder(work: Work) -> Path:
    """The folder for the cluster, made for the account that runs it."""
    path = work.folder / CLUSTER
    path.mkdir(mode=0o700)
    server_account().own(path, 0o700)
    return path / "server"


def keep(cluster: Path, base: Path, name: str) -> Path | None:
    """Put the folder of a cluster whose server was stopped aside, where no sweep finds it; where it is then."""
    if not cluster.is_dir():
        return None
    kept = base / f"kept-{name}"
    cluster.rename(kept)
    tablespaces.settle(kept / "data")
    return kept


def _end(folder: Path) -> None:
    """End what runs below a folder that is about to be removed."""
    with contextlib.suppress(ClusterError):
        Cluster(folder / CLUSTER / "server").remove()
