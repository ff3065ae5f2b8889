"""The credentials of a store in S3, and those that a proxy of this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbshield.backup.destination import require_own_credentials
from dbshield.backup.store_identity import MACHINE, identity, keys_in, proxies, serves
from dbshield.config import BackupConfig
from dbshield.errors import Refused

KEY = "AKIAOFTHEBACKUP00000"
FILE = f"[default]\naws_access_key_id = AKIAANOTHER000000000\n[shop]\naws_access_key_id={KEY}\naws_secret_access_key=hunter2\n"


@pytest.fixture(autouse=True)
def nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


def plan(folder: Path, **given: str) -> BackupConfig:
    file = folder / "credentials"
    file.write_text(f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY=hunter2\n")
    file.chmod(0o600)
    return BackupConfig.model_validate(
        {"destination": "s3://bucket/prefix", "encryption": "none", "credentials_file": str(file), **given}
    )


@contextmanager
def a_proxy(folder: Path, variables: Mapping[str, str]) -> Iterator[int]:
    """A process with the command line and the environment of a proxy, which waits until it is told to end."""
    (folder / "proxy").write_text("echo ready; read -r line\n")
    with subprocess.Popen(
        ["dbshield", "proxy", "--config", "x"],
        executable="/bin/sh",
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def test_what_a_running_proxy_has_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with a_proxy(tmp_path, {"AWS_ACCESS_KEY_ID": "AKIAANOTHER000000000"}) as pid:
        assert pid in {each.pid for each in proxies()}
        require_own_credentials(plan(tmp_path), state)
    with a_proxy(tmp_path, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "hunter2"}) as pid:
        with pytest.raises(Refused, match=rf"in the environment of the proxy that runs here \(process {pid}\)") as caught:
            require_own_credentials(plan(tmp_path), state)
        assert 'same_credentials = "allowed"' in caught.value.hint
        assert not {KEY, "hunter2"} & set(caught.value.message.split())
        require_own_credentials(plan(tmp_path, same_credentials="allowed"), state)
        require_own_credentials(plan(tmp_path, destination="gs://bucket"), state)
    shared = tmp_path / "shared"
    shared.write_text(FILE)
    # Any profile: the proxy may choose another one.
    with a_proxy(tmp_path, {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}), pytest.raises(Refused, match=f"those in {shared}"):
        require_own_credentials(plan(tmp_path), state)
    require_own_credentials(plan(tmp_path), state)


def test_the_machines_own_role_is_every_process(tmp_path: Path) -> None:
    bare = BackupConfig(destination="s3://bucket/prefix", encryption="none")
    with a_proxy(tmp_path, {"HOME": "/nonexistent"}), pytest.raises(Refused, match="those of the machine itself"):
        require_own_credentials(bare, tmp_path)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, MACHINE),
        ({"AWS_ACCESS_KEY_ID": "A", "AWS_PROFILE": "shop"}, "key A"),
        ({"AWS_PROFILE": "shop"}, f"key {KEY}"),
        ({"AWS_PROFILE": "none"}, MACHINE),
        ({"AWS_ROLE_ARN": "arn:x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, "role arn:x"),
        ({"AWS_ROLE_ARN": "arn:x"}, MACHINE),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}, "container /v2/x"),
    ],
)
def test_who_a_process_is(variables: dict[str, str], found: str, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(FILE.replace("[default]", "[other]"))
    assert identity(variables, tmp_path) == found
    assert keys_in(tmp_path / "nothing") == keys_in(Path(sys.executable)) == {}


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("/opt/dbshield/bin/python /opt/dbshield/bin/dbshield proxy --config /etc/dbshield.toml", True),
        ("python -m dbshield up", True),
        ("dbshield --verbose up", True),
        ("dbshield token list", False),
        ("dbshield backup --plan up", False),
        ("/opt/dbshield/bin/python -m http.server proxy", False),
        ("", False),
    ],
)
def test_what_a_proxys_command_line_is(line: str, is_one: bool) -> None:
    assert serves(line.split(" ")) is is_one
