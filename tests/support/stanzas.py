"""A stanza of pgBackRest: one server's backups in a repository, run as the server's account."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from dbshield.cluster import Cluster
from dbshield.cluster.account import server_account

PASSPHRASE = "not in any argument"


class Stanza:
    """A stanza of one server, whose repository is encrypted; the passphrase is in no file of pgBackRest's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account = server_account()
        self.repository = folder / "repository"
        self.config = folder / "pgbackrest.conf"
        for path in (self.repository, folder / "log", folder / "lock"):
            path.mkdir()
            self.account.own(path, 0o750)
        # archive_command runs as the server does, without our environment.
        self.secret = folder / "passphrase.conf"
        self.secret.write_text(f"[global]\nrepo1-cipher-pass={PASSPHRASE}\n")
        self.account.own(self.secret, 0o600)

    def archive_command(self) -> str:
        included = f"--config-include-path={self.folder / 'included'}"
        return f"pgbackrest --config={self.config} {included} --stanza=main archive-push %p"

    def write(self, cluster: Cluster) -> None:
        (self.folder / "included").mkdir()
        self.secret.rename(self.folder / "included" / "passphrase.conf")
        (self.folder / "included").chmod(0o755)
        self.config.write_text(
            f"[global]\nrepo1-path={self.repository}\nrepo1-cipher-type=aes-256-cbc\nrepo1-retention-full=9999999\n"
            f"repo1-retention-archive=1\nlog-path={self.folder}/log\nlock-path={self.folder}/lock\n"
            f"[main]\npg1-path={cluster.data}\npg1-socket-path={cluster.socket_folder}\npg1-port={cluster.port}\n"
            f"pg1-user=postgres\n"
        )
        self.config.chmod(0o644)

    def run(self, *words: str, config: Path | None = None) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": "/"}
        if config is None:
            environment["PGBACKREST_REPO1_CIPHER_PASS"] = PASSPHRASE
        lent = {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        account: dict[str, Any] = lent if self.account.lent else {}
        done = subprocess.run(
            ["pgbackrest", f"--config={config or self.config}", "--stanza=main", "--log-level-console=off", *words],
            env=environment, cwd="/", capture_output=True, text=True, check=False, **account,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def backups(self) -> list[dict[str, Any]]:
        (told,) = json.loads(self.run("info", "--output=json"))
        return list(told["backup"])
