"""The proxy's way to real servers: every authentication that it speaks, every sslmode, and what each refuses.

A server of its own, because the lines of its pg_hba.conf are what is tested; the other tests share theirs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.pki import Authority

from dbshield.cluster import Cluster
from dbshield.cluster.account import server_account
from dbshield.errors import ConfigError, Refused
from dbshield.model import Upstream
from dbshield.proxy import upstream
from dbshield.session.parameters import FORCED

PASSWORD = "pass word'\\"
HBA = (
    "host all trusted 127.0.0.1/32 trust",
    "host all scram 127.0.0.1/32 scram-sha-256",
    "host all md5 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "host all refused 127.0.0.1/32 reject",
)
TLS_HBA = ("hostssl all encrypted 127.0.0.1/32 scram-sha-256", "hostnossl all encrypted 127.0.0.1/32 reject")
PLACES = itertools.count()
"""Numbers, so that the folder of a server's certificate is a new one where the module's tests come in two portions."""
TLS_MAJORS = [major for major in servers.majors() if major == 15]
"""Only Debian's server has OpenSSL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A server and the CA of its certificate, and another CA that it does not belong to."""

    cluster: Cluster
    ca: Path
    stranger: Path

    def as_role(self, role: str, *, sslmode: str = "disable", **changes: str | None) -> Upstream:
        there = Upstream(
            host=self.cluster.host, port=self.cluster.port, user=role, password=PASSWORD, sslmode=sslmode, sslrootcert=""
        )
        return replace(there, **changes)  # type: ignore[arg-type]

    def log_in(self, there: Upstream, *, database: str = "postgres") -> tuple[str, str | None]:
        """The role and the TLS version that the server sees, by a login that is then ended."""

        return asyncio.run(_log_in(there, database))


async def _log_in(there: Upstream, database: str = "postgres") -> tuple[str, str | None]:
    try:
        server = await upstream.connect(there, database=database, settings=FORCED)
        question = "select current_user, (select version from pg_stat_ssl where pid = pg_backend_pid())"
        [(role, version)] = await upstream.query(server, question)
        server.transport.abort()
    finally:
        # A transport that was aborted is closed in the next turns of the loop.
        for _ in range(5):
            await asyncio.sleep(0)
    assert role is not None
    return role, version


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Place]:
    yield from _place(request.param, tmp_path_factory.mktemp("pki"), f"logins-{request.param}-{worker_id}")


def _place(major: int, pki: Path, name: str) -> Iterator[Place]:
    name = f"{name}-{next(PLACES)}"
    strangers, home = pki / "strangers", servers.here() / f"{name}-pki"
    strangers.mkdir()
    home.mkdir()
    home.chmod(0o711)
    authority = Authority(home)
    certificate = authority.server("server")
    for path in (certificate.key, certificate.certificate):
        server_account().own(path, 0o600)
    tls = {"ssl": "on", "ssl_cert_file": str(certificate.certificate), "ssl_key_file": str(certificate.key)}
    cluster = Cluster(
        servers.here() / name,
        binaries=servers.SOURCES[major](),
        listen=True,
        settings=servers.SETTINGS | (tls if major in TLS_MAJORS else {}),
        hba=HBA + (TLS_HBA if major in TLS_MAJORS else ()),
    )
    cluster.start(tethered=True)
    try:
        with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
            for role in ("trusted", "scram", "clear", "refused", "encrypted", "md5"):
                admin.execute(f"set password_encryption = '{'md5' if role == 'md5' else 'scram-sha-256'}'")
                statement = sql.SQL("create role {} login password {}")
                admin.execute(statement.format(sql.Identifier(role), sql.Literal(PASSWORD)))
        yield Place(cluster=cluster, ca=authority.ca, stranger=Authority(strangers).ca)
    finally:
        cluster.remove()


@pytest.mark.parametrize("role", ["trusted", "scram", "md5"])
def test_a_role_logs_in(place: Place, role: str) -> None:
    assert place.log_in(place.as_role(role))[0] == role


def test_the_superuser_by_the_unix_socket(place: Place) -> None:
    there = Upstream(host=str(place.cluster.socket_folder), port=place.cluster.port, user="postgres")
    assert place.log_in(there) == ("postgres", None)


def test_a_password_never_goes_in_clear_text_without_tls(place: Place) -> None:
    with pytest.raises(Refused, match="clear text") as refused:
        place.log_in(place.as_role("clear"))
    assert refused.value.sqlstate == "28000"
    assert PASSWORD not in f"{refused.value.message}{refused.value.hint}{refused.value.detail}"


@pytest.mark.parametrize("role", ["scram", "md5"])
def test_a_wrong_password_is_told_in_the_servers_words(place: Place, role: str) -> None:
    with pytest.raises(Refused, match="password authentication failed") as refused:
        place.log_in(place.as_role(role, password="wrong"))
    assert refused.value.sqlstate == "28P01"


@pytest.mark.parametrize("role", ["scram", "md5"])
def test_a_missing_password_is_named(place: Place, role: str) -> None:
    with pytest.raises(Refused, match="password"):
        place.log_in(place.as_role(role, password=None))


def test_a_rejected_role(place: Place) -> None:
    with pytest.raises(Refused, match=r"pg_hba\.conf rejects") as refused:
        place.log_in(place.as_role("refused"))
    assert refused.value.sqlstate == "28000"


def test_a_database_that_is_not_there(place: Place) -> None:
    with pytest.raises(Refused, match="does not exist") as refused:
        place.log_in(place.as_role("scram"), database="nowhere")
    assert refused.value.sqlstate == "3D000"


def test_nobody_listens(place: Place) -> None:
    with pytest.raises(Refused, match="cannot reach") as refused:
        place.log_in(place.as_role("scram", host="/nowhere"))
    assert refused.value.sqlstate == "08001"


@pytest.mark.parametrize("place", TLS_MAJORS, indirect=True, ids=lambda major: f"pg{major}")
class TestTls:
    @pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
    @pytest.mark.parametrize("role", ["encrypted", "clear"], ids=["scram-sha-256-plus", "clear text"])
    def test_every_mode_that_encrypts(self, place: Place, role: str, sslmode: str) -> None:
        ca = str(place.ca) if sslmode.startswith("verify") else ""
        seen, version = place.log_in(place.as_role(role, sslmode=sslmode, sslrootcert=ca))
        assert (seen, version) in {(role, "TLSv1.3"), (role, "TLSv1.2")}

    def test_disable_sends_nothing_through_tls(self, place: Place) -> None:
        assert place.log_in(place.as_role("scram")) == ("scram", None)

    @pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full", "require"])
    def test_a_certificate_of_another_authority(self, place: Place, sslmode: str) -> None:
        """`require` with a root certificate verifies too, as in libpq."""
        with pytest.raises(Refused, match="TLS failed") as refused:
            place.log_in(place.as_role("encrypted", sslmode=sslmode, sslrootcert=str(place.stranger)))
        assert refused.value.sqlstate == "08001"

    def test_a_certificate_for_another_name(self, place: Place) -> None:
        """127.1 is the same address under a name that the certificate does not have."""
        there = place.as_role("encrypted", sslmode="verify-full", sslrootcert=str(place.ca), host="127.1")
        with pytest.raises(Refused, match="TLS failed") as refused:
            place.log_in(there)
        assert refused.value.sqlstate == "08001"

    def test_a_root_certificate_that_is_not_there(self, place: Place) -> None:
        with pytest.raises(ConfigError, match="sslrootcert"):
            place.log_in(place.as_role("encrypted", sslmode="verify-full", sslrootcert="/nowhere.pem"))


@pytest.mark.parametrize("sslmode", ["require", "verify-full"])
def test_a_server_without_tls_is_refused(server18: servers.Server, sslmode: str) -> None:
    there = Upstream(host=server18.cluster.host, port=server18.cluster.port, user="agent_read", password="x", sslmode=sslmode)
    with pytest.raises(Refused, match="offers none") as refused:
        asyncio.run(_log_in(there))
    assert refused.value.sqlstate == "08001"
