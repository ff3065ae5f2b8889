"""`python -m bench.console`: how fast the console's pages answer when there is a lot to show.

A control database of its own with a million entries of the audit and 500 approvals that wait; `dbshield console` as users run it;
one person who is signed in. Each page is asked for several times, one after the other; what counts is the median. Exit code 1
where a page takes longer than the goal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pyotp

from bench.console_rows import fill
from bench.machine import stand
from dbshield.cluster import Cluster
from dbshield.control.people import People
from dbshield.control.second_factor import STEP_SECONDS
from dbshield.control.vault import Vault
from dbshield.store.database import Database

GOAL_MS: Final = 300.0
TIMES: Final = 7
DATABASE: Final = "control"
PERSON, PASSWORD = "bench", "a long one for one run only"
STARTING: Final = 60.0
"""Seconds that the console has until it answers."""
COMMAND: Final = (sys.executable, "-c", "import sys; from dbshield.cli import main; sys.exit(main())")
ALIVE: Final = "/sign-in"


def pages(entries: int) -> Sequence[tuple[str, str]]:
    """What is asked for, and its address."""
    return (
        ("Now", "/"),
        ("Approvals", "/approvals"),
        ("Agents", "/agents"),
        ("An agent", "/agents/production/agent-1"),
        ("Audit", "/audit"),
        ("Audit, in the middle", f"/audit?before={entries // 2}"),
        ("Audit of an agent", "/audit?environment=production&agent=agent-7"),
        ("Audit, one verdict", "/audit?verdict=deny"),
        ("Audit, one rule", "/audit?rule=DS201"),
        ("Audit, a text", "/audit?text=customer_id"),
        ("Audit, a text that is nowhere", "/audit?text=nobody+wrote+this"),
        ("Audit, a kind that is nowhere", "/audit?kind=nothing"),
        ("An entry", f"/audit/{entries // 2}"),
        ("Backups", "/backups"),
        ("Drills", "/backups/drills"),
        ("A drill", "/backups/drills/37"),
        ("Policy", "/policy?environment=production&agent=agent-1"),
        ("Doctor", "/doctor"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbshield-bench-")))
        folder.chmod(0o711)
        cluster = Cluster(folder / "cluster")
        cluster.start()
        stack.callback(cluster.stop, "immediate")
        began = time.monotonic()
        secret = _prepare(cluster, folder, options.entries, options.approvals)
        print(
            f"{options.entries:,} entries and {options.approvals} approvals in {time.monotonic() - began:.0f} s", file=sys.stderr
        )
        base = _start(stack, cluster, folder, options.port)
        client = stack.enter_context(httpx.Client(base_url=base, headers={"Origin": base}, timeout=60))
        load = os.getloadavg()[0]
        _sign_in(client, secret)
        measured = [(name, path, _timed(client, path)) for name, path in pages(options.entries)]
    return _report(measured, options, load)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the audit")
    parser.add_argument("--approvals", type=int, default=500, help="approvals that wait")
    parser.add_argument("--port", type=int, default=17433, help="where the console listens meanwhile")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _prepare(cluster: Cluster, folder: Path, entries: int, approvals: int) -> str:
    """The control database and one person; the secret of their second factor."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {DATABASE}")
    database = Database(cluster.dsn(DATABASE))
    try:
        database.migrate()
        with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as owner:
            fill(owner, entries=entries, approvals=approvals)
        (folder / "state").mkdir()
        people = People(database, Vault.create(folder / "state" / "secret.key"))
        now = datetime.now(UTC)
        secret = people.add(PERSON, by="bench", now=now).secret
        step = int(now.timestamp()) // STEP_SECONDS
        totp = pyotp.TOTP(secret)
        people.confirm(PERSON, totp.generate_otp(step - 1), now=now)
        people.set_password(PERSON, PASSWORD, totp.generate_otp(step), by="bench", now=now)
    finally:
        database.close()
    return secret


def _start(stack: ExitStack, cluster: Cluster, folder: Path, port: int) -> str:
    """Starts the console; its address."""
    here = json.dumps(f"host={cluster.socket_folder} port={cluster.port} user=postgres dbname=postgres")
    config = folder / "dbshield.toml"
    config.write_text(
        f"state = {json.dumps(str(folder / 'state'))}\n[control]\nurl = {json.dumps(cluster.dsn(DATABASE))}\n"
        f'[log]\nlevel = "warning"\n[console]\nlisten = "127.0.0.1:{port}"\n[environments.staging]\nupstream = {here}\n'
        f"[environments.production]\nupstream = {here}\n"
    )
    process = subprocess.Popen([*COMMAND, "console", "--config", str(config)], stdin=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    base = f"http://127.0.0.1:{port}"
    end = time.monotonic() + STARTING
    while True:
        try:
            httpx.get(f"{base}{ALIVE}").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > end or process.poll() is not None:
                raise
            time.sleep(0.1)
        else:
            return base


def _timed(client: httpx.Client, path: str) -> list[float]:
    """Milliseconds of each answer, from the request to the last byte."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = client.get(path)
        taken.append((time.perf_counter() - began) * 1000)
        if answer.status_code != httpx.codes.OK:
            raise SystemExit(f"{path}: {answer.status_code}\n{answer.text[:2000]}")
    return taken


def _sign_in(client: httpx.Client, secret: str) -> None:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(ALIVE).text)
    assert found is not None, "the form has a token"
    # A code works once, and the last two were used up by making the person.
    code = pyotp.TOTP(secret).generate_otp(int(time.time()) // STEP_SECONDS + 1)
    form = {"csrf": found[1], "name": PERSON, "password": PASSWORD, "code": code, "next": "/"}
    answer = client.post(ALIVE, data=form)
    if answer.status_code != httpx.codes.SEE_OTHER:
        raise SystemExit(f"nobody could sign in: {answer.status_code}\n{answer.text[:2000]}")


def _report(measured: Sequence[tuple[str, str, list[float]]], options: argparse.Namespace, load: float) -> int:
    rows = [(name, path, statistics.median(taken), max(taken)) for name, path, taken in measured]
    slow = [name for name, _, median, _ in rows if median > GOAL_MS]
    if options.json:
        said = [
            {"page": name, "path": path, "median_ms": round(median, 1), "slowest_ms": round(most, 1)}
            for name, path, median, most in rows
        ]
        print(json.dumps({"goal_ms": GOAL_MS, "entries": options.entries, "approvals": options.approvals, "pages": said}))
        return 1 if slow else 0
    print(f"{stand(load)}\n\n{options.entries:,} entries of the audit, {options.approvals} approvals that wait\n")
    print("| page | median ms | slowest ms | goal |\n|---|---:|---:|---|")
    for name, _, median, most in rows:
        print(f"| {name} | {median:.0f} | {most:.0f} | {'reached' if median <= GOAL_MS else 'MISSED'} |")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
