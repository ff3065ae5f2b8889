"""The first steps of a job's process: it ends with the scheduler that started it, and then becomes `dbshield` itself.

Source: prctl(2), PR_SET_PDEATHSIG; the signal stays set across execve.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
START: Final = ("-P", "-c", "from dbshield.schedule.child import main; main()")
"""Arguments of Python that lead here; the scheduler's process id and the words after `dbshield` follow."""
BECOMES: Final = ("-P", "-c", "import sys; from dbshield.cli import main; sys.argv[0] = 'dbshield'; sys.exit(main())")


def main() -> NoReturn:
    """Never returns: it is another program then, or the scheduler is gone already."""
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os._exit(128 + signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, *BECOMES, *words])  # noqa: S606  (no shell is wanted)
