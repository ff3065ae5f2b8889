"""docs/how-to/disaster.md, run as it is written: a database whose volume is gone comes back by the page's commands.

The page's folders, keys and names stand for this test's; what a reader has to look at, such as what a command finds, is looked
at here. A logical snapshot of the guarded database is all that is left of it; the second restore has no control database either.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.backups import ONE_ACCOUNT
from support.clusters import WITH_WAL, a_cluster
from support.commands import run_command
from support.control import empty_database
from support.ports import free_port
from support.servers import Server

from dbshield.cluster import Binaries, Cluster, temporary_folder
from dbshield.cluster.account import server_account
from docs.blocks import Written, commands, mentions

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "disaster.md").read_text("utf-8")
PATIENCE = 180.0
ROWS = 500


def written(program: str) -> list[Written]:
    """Every call of `program` on the page, in a block or in a sentence, in the order of the page."""
    return sorted([*commands(PAGE, program), *mentions(PAGE, program)], key=lambda call: call.line)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in reach of the account that PostgreSQL runs as."""
    folder = temporary_folder("disaster-test-")
    yield folder
    shutil.rmtree(folder)


class Shop:
    """The team of the page: its database, its `dbshield.toml`, and what it keeps elsewhere."""

    def __init__(self, place: Path, elsewhere: Path, control: str) -> None:
        self.place = place
        self.control = control
        self.destination = elsewhere / "backups"
        self.identity = elsewhere / "identity.txt"
        self.checkpoint = elsewhere / "checkpoint.json"
        self.instead = {
            "/srv/restored/17": str(place / "restored"),
            "/media/key/identity.txt": str(self.identity),
            "NAME": "claude",
        }
        self.page = [call.words for call in written("dbshield")]
        self.sealed_for = ""
        self.port = free_port()

    @property
    def new_server(self) -> str:
        """The restored server, by its socket in the folder that PostgreSQL takes by itself."""
        return make_conninfo("", host="/tmp", port=self.port, user="postgres", dbname="shop")

    def configure(self, upstream: str) -> None:
        plan = [f'encrypt_to = ["{self.sealed_for}"]' if self.sealed_for else 'encryption = "none"']
        lines = [
            f'state = "{self.place / "state"}"',
            "[control]",
            f'url = "{self.control}"',
            "[environments.production]",
            f'upstream = "{upstream}"',
            f'administrator = "{upstream}"',
            "[backup.nightly]",
            'environment = "production"',
            f'destination = "file://{self.destination}"',
            'same_device = "allowed"',
            *(['same_account = "allowed"'] if ONE_ACCOUNT else []),
            'databases = ["shop"]',
            f'identity_file = "{self.identity}"',
            *plan,
        ]
        (self.place / "dbshield.toml").write_text("\n".join(lines) + "\n")

    def runs(self, *words: str, control: str = "", state: str = "", fine: tuple[int, ...] = (0,)) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
        kept |= {"DBSHIELD_CONTROL__URL": control} if control else {}
        kept |= {"DBSHIELD_STATE": state} if state else {}
        done = run_command(words, cwd=self.place, env=kept | {"COLUMNS": "200"}, timeout=PATIENCE)
        assert done.returncode in fine, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def does(
        self, *begin: str, more: tuple[str, ...] = (), control: str = "", state: str = "", fine: tuple[int, ...] = (0,)
    ) -> str:
        """The page's next command, which begins so; what it printed. `more` are words that stand for a reader's answers."""
        words = self.page.pop(0)
        assert words[: len(begin)] == begin, f"the page goes on with {words}"
        return self.runs(*[self.instead.get(word, word) for word in words], *more, control=control, state=state, fine=fine)


@pytest.fixture
def shop(server18: Server, place: Path, tmp_path: Path) -> Iterator[Shop]:
    with empty_database(server18) as control:
        yield Shop(place, tmp_path, control)


def live(shop: Shop, cluster: Cluster) -> None:
    """What there was before: a guarded database with an agent, a snapshot that a drill has proven, and a checkpoint elsewhere."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute("create role shop_app login password 'only the applications know it'")
        admin.execute("create database shop")
    with psycopg.connect(cluster.dsn("shop"), autocommit=True) as admin:
        admin.execute("create table orders (id integer primary key, total numeric not null)")
        admin.execute("insert into orders select i, i from generate_series(1, %s) i", [ROWS])
        admin.execute("grant select, insert, update on orders to shop_app")
    upstream = make_conninfo("", host=str(cluster.socket_folder), port=cluster.port, user="postgres", dbname="shop")
    shop.configure(upstream)
    shop.runs("init")
    made = json.loads(shop.runs("backup", "key", "--identity", str(shop.identity), "--json"))
    shop.sealed_for = made["recipient"]
    shop.instead["dbshield-backup-public-1:Zk2…"] = made["public_key"]
    shop.configure(upstream)
    shop.runs("guard", "install", "--environment", "production", "--dsn", upstream)
    shop.runs("environment", "pin", "production", "--yes")
    shop.runs("agent", "create", "claude", "--environment", "production", "--access", "write")
    snapshot = json.loads(shop.runs("backup", "--plan", "nightly", "--json"))["snapshot"]
    shop.instead["20260501t030000z"] = snapshot.partition("-")[0]
    shop.checkpoint.write_text(shop.runs("audit", "checkpoint", "--json"))
    shop.instead["FILE"] = str(shop.checkpoint)


def lose(cluster: Cluster) -> None:
    """The provider deletes the volume under the running server."""
    assert cluster.running
    cluster.kill()
    shutil.rmtree(cluster.data)


def pg_ctl(binaries: Binaries, port: int, *words: str) -> None:
    """As the account that owns the restored folder, and on another port than PostgreSQL's own, which may be taken here."""
    account = server_account().process()
    account["env"] = account["env"] | {"PGPORT": str(port)}
    done = subprocess.run(
        [binaries.program("pg_ctl"), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=PATIENCE,
        **account,
    )
    assert done.returncode == 0, words


def test_the_database_comes_back_by_what_the_page_says(shop: Shop) -> None:
    with a_cluster(18, WITH_WAL) as cluster:
        cluster.start(tethered=True, throwaway=True)
        live(shop, cluster)
        lose(cluster)

        assert "production is frozen" in shop.does("environment", "freeze")
        assert shop.instead["20260501t030000z"] in shop.does("backup", "list")
        shop.does("backup", "verify")
        shop.does("restore", "--to-folder")
        restored = shop.place / "restored"
        # The other way, where the control database went with the rest: into a folder beside it, from another state folder.
        shop.instead["/srv/restored/17"] = str(shop.place / "second")
        shop.does("restore", "--public-key", control="host=/nonexistent dbname=control", state=str(shop.place / "new"))
        assert (shop.place / "second" / "PG_VERSION").read_text() == "18\n"
        shop.instead["/srv/restored/17"] = str(restored)

        (start,) = written("pg_ctl")
        pg_ctl(cluster.binaries, shop.port, *[shop.instead.get(word, word) for word in start.words])
        try:
            _people_go_in(shop)
        finally:
            pg_ctl(cluster.binaries, shop.port, "-D", str(restored), "-m", "immediate", "stop")
    assert [words[0] for words in shop.page] == ["scan"], "a command of the page was left out"


def _people_go_in(shop: Shop) -> None:
    """Sections 4 to 6."""
    with psycopg.connect(shop.new_server, autocommit=True) as admin:
        assert admin.execute("select count(*), sum(total) from orders").fetchone() == (ROWS, ROWS * (ROWS + 1) // 2)
        assert admin.execute("select has_table_privilege('shop_app', 'orders', 'update')").fetchone() == (True,)
    shop.instead["postgresql://postgres@new.example.com/shop"] = shop.new_server
    verify = shop.page[0]
    assert "another cluster" in shop.does("guard", "verify", fine=(1,))
    shop.does("guard", "install")
    shop.page.insert(0, verify)
    shop.does("guard", "verify")
    shop.configure(shop.new_server)
    shop.does("environment", "pin", more=("--yes",))
    shop.does("doctor", fine=(0, 1))
    shop.does("agent", "rotate")
    assert "thawed" in shop.does("environment", "thaw")
    shop.does("backup", "--plan")
    assert "passed" in shop.does("restore-drill")
    shop.does("audit", "verify")
    kinds = [json.loads(line)["entry"]["event"] for line in shop.does("audit", "export").splitlines()]
    assert {"environment-frozen", "environment-thawed"} <= set(kinds)
    # Last, what docs/how-to/rotate-secrets.md says of the key that signs: snapshots of the one before are trusted still.
    (shop.place / "state" / "backup.key").rename(shop.place / "state" / "backup.key.old")
    shop.runs("backup", "key")
    shop.runs("backup", "verify", shop.instead["20260501t030000z"])
