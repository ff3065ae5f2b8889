"""sql/tests: what psql shows of each file, in a guarded database, is what is written down beside it, on every version.

`DBSHIELD_GOLDEN=write pytest tests/integration/test_guard_golden.py` writes it down anew.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import servers
from support.servers import Server

from dbshield.guard.install import Options, install

FOLDER = Path(__file__).parents[2] / "sql" / "tests"
PSQL_TIMEOUT = 60.0


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def golden_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"golden-{request.param}") as server:
        yield server


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.sql")), ids=lambda file: file.stem)
def test_the_output_is_the_expected_one(golden_server: Server, file: Path) -> None:
    golden_server.clone("golden")
    with golden_server.connect("golden") as admin:
        install(admin, Options(environment="test"))
        admin.execute("grant dbshield_agents to agent_read, agent_write, agent_migrate")
    done = subprocess.run(
        ["psql", "-X", "-a", "-q", "-v", "VERBOSITY=terse", "-f", file.name, golden_server.dsn("golden")],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=PSQL_TIMEOUT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    golden_server.drop("golden")
    # psql's line numbers, and the object ids in a fact.
    said = re.sub(r"(?m)^psql:\S+?:\d+: ", "", done.stdout)
    said = re.sub(r"\b\d{5,}\b", "OID", said)
    said = re.sub(r"\b[0-9a-f]{32}\b", "MD5", said)
    expected = file.with_suffix(".out")
    if os.environ.get("DBSHIELD_GOLDEN") == "write":
        expected.write_text(said)
    assert said == expected.read_text()
