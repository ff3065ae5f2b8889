"""An executor that dies in the middle of its work, as a process of its own.

Each is the fork of one that has imported the executor and waits, so that none takes a second of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from dbshield.config import EnvironmentConfig
from dbshield.control.executor import Executor
from dbshield.store.database import Database

TIMEOUT = 60.0
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["dbshield.control.executor"])


def killed_at(step: str, *, control: str, environment: str, executor: str, folder: Path) -> None:
    """Let an executor of this environment do what there is to do until it has come to this step, and no further."""
    process = FORKS.Process(target=_work, args=(step, control, environment, executor, folder))
    process.start()
    process.join(TIMEOUT)
    code = process.exitcode
    process.kill()
    process.join()
    process.close()
    assert code == -signal.SIGKILL, f"the executor ended with {code} and was to be killed at {step!r}"


def _work(step: str, control: str, environment: str, upstream: str, folder: Path) -> None:
    def at(here: str) -> None:
        if here == step:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = EnvironmentConfig(upstream="host=/tmp user=agent_write dbname=x", executor=upstream)
    executor = Executor(Database(control), control, {environment: settings}, folder, at=at)
    with executor.alive():
        executor.work()
