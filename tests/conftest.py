"""Servers and databases for the tests that need them.

The servers of a run belong to the process that pytest was started as (see support/servers.py); a test that needs none pays
nothing. Databases come from pytest-postgresql, cloned from a template that is seeded once a server.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor
from support import servers, tools
from support.memory import is_in_memory

from dbshield.errors import ClusterError

# A run is to tell of the change that it runs on: Hypothesis' own profile for CI shows the same examples each time, and lets none
# fail for being slow, which says how busy the machine is. `make fuzz` looks for new ones.
settings.register_profile("fuzz", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fuzz" if os.environ.get("DBSHIELD_FUZZ") else "ci")

_run = pytest.StashKey[contextlib.ExitStack]()


@pytest.hookimpl(tryfirst=True)  # before pytest decides on the folder of `tmp_path`
def pytest_configure(config: pytest.Config) -> None:
    """The first process of the run owns its folder; a required server that is missing ends the run."""
    try:
        servers.majors()
    except ClusterError as error:
        raise pytest.UsageError(f"{error} ({error.hint})") from error
    if missing := tools.missing_required():
        raise pytest.UsageError(f"{tools.REQUIRE} names what this machine has not: {', '.join(missing)}")
    if hasattr(config, "workerinput"):
        return
    stack = contextlib.ExitStack()
    folder = stack.enter_context(servers.run_folder())
    if is_in_memory(folder) and not config.option.basetemp:
        config.option.basetemp = str(folder.parent / "p")  # sockets lie below it as well
    config.stash[_run] = stack


def pytest_unconfigure(config: pytest.Config) -> None:
    if _run in config.stash:
        config.stash[_run].close()


def pytest_report_header() -> str | None:
    absent = [name for name in ("chromium", "haproxy", "pgbackrest") if tools.find(name) is None]
    return f"tests of {', '.join(absent)} are left out: not on this machine" if absent else None


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """A command that a test runs in this process configures logging for all of it; the next test may look for what is told."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            item.add_marker(pytest.mark.skipif(tools.find(name) is None, reason=f"{name} is not on this machine"))


@pytest.hookimpl(tryfirst=True)  # before the expression of -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked `one_server` runs on one of the servers each time, by its name, and on the others in the long run: what it
    shows is more of dbshield than of PostgreSQL, and starting what it needs takes seconds. With `by="module"`, where all tests of
    a module share what takes seconds, they run on the same one."""
    majors = servers.majors()
    for item in items:
        marker = item.get_closest_marker("one_server")
        if marker is None or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        whole = marker.kwargs.get("by") == "module"
        # The parameter of whichever fixture it is that starts the server.
        for major in (value for value in item.callspec.params.values() if value in majors and f"pg{value}" in item.nodeid):
            name = item.nodeid.split("::")[0] if whole else item.nodeid.replace(f"pg{major}", "")
            if major != majors[zlib.crc32(name.encode()) % len(majors)]:
                item.add_marker(pytest.mark.long)


def _executor(server: servers.Server) -> NoopExecutor:
    return NoopExecutor(
        host=str(server.cluster.socket_folder),
        port=server.cluster.port,
        user="postgres",
        options="",
        dbname=servers.TEMPLATE.removesuffix("_tmpl"),
        maintenance_dbname="postgres",
    )


@pytest.fixture(scope="session", params=servers.majors(), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> servers.Server:
    """Each server in turn, shared by all tests: change nothing outside of a database of your own."""
    return servers.shared_server(request.param)


@pytest.fixture(scope="session")
def server18() -> servers.Server:
    """PostgreSQL 18, the embedded one: always there, no TLS."""
    return servers.shared_server(18)


@pytest.fixture(scope="session")
def postgresql_server(server18: servers.Server) -> NoopExecutor:
    """PostgreSQL 18 as pytest-postgresql knows a server."""
    return _executor(server18)


postgresql_proc = factories.postgresql_noproc(depends_on="postgresql_server", dbname="tests")
postgresql = factories.postgresql("postgresql_proc")


@pytest.fixture
def database(server: servers.Server, worker_id: str) -> Iterator[str]:
    """The name of a fresh, seeded database on each server in turn, dropped after the test."""
    base = _executor(server)
    janitor = DatabaseJanitor(
        user=base.user,
        host=base.host,
        port=base.port,
        dbname=f"test_{worker_id}",
        template_dbname=base.template_dbname,
    )
    janitor.drop()
    with janitor:
        yield janitor.dbname
