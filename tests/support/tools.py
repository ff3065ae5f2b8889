"""Programs that some tests drive and that a machine may lack: a browser, a load balancer, another backup tool.

A test names what it needs with ``pytest.mark.needs("haproxy")``. Where the program is missing the test is left out and the
run's head says so; where ``DBSHIELD_REQUIRE_TOOLS`` names the program, as in CI, a missing one ends the run instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

REQUIRE = "DBSHIELD_REQUIRE_TOOLS"
_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")


def find(name: str) -> Path | None:
    """The program's path, also where Debian puts daemons, which an ordinary user's PATH leaves out."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_FOLDERS))
    return None if path is None else Path(path)


def missing_required() -> list[str]:
    return [name for name in os.environ.get(REQUIRE, "").split(",") if name and find(name) is None]
