"""Whether a proxy of this machine has the credentials that a plan writes to S3 with: then who takes over the proxy has them.

What can be known from here, and is compared with the plan's own:
- The environment of each proxy that runs here, as far as our account may look into it (`/proc/<pid>/environ`).
- The shared files of AWS (`~/.aws/credentials`) in the homes of the accounts that proxies run as, of the account that owns
  dbshield's state folder, and of our own: a proxy without an environment of its own would use them, and an agent finds them.
- The machine's own role, which every process here may ask for: where the plan names no credentials and a proxy runs here.

What cannot be known is said in docs/how-to/backups.md: proxies and agents on other machines and in other containers, what lies in
files of other accounts, who else has the key, and whether two keys lead to one role.

Source: AWS SDKs and Tools reference guide, "Standardized credential providers"; proc(5).
"""

from __future__ import annotations

import configparser
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbshield.backup.objects import credentials
from dbshield.config import BackupConfig

MACHINE = "machine"
"""The identity of who names none: the role that the machine's own metadata service gives."""
PROXIES = ("proxy", "up")
"""Commands that serve agents."""
SHARED = "AWS_SHARED_CREDENTIALS_FILE"
CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A process that serves agents. `variables` are nothing where its environment is closed to us."""

    pid: int
    uid: int
    variables: Mapping[str, str]


def shared_with(plan: BackupConfig, state: Path) -> str:
    """Where a proxy of this machine has the plan's identity, in words without it; nothing where that is not seen. ConfigError."""
    given = credentials(plan.credentials_file) if plan.credentials_file else {}
    mine = identity({**os.environ, **{name.upper(): value for name, value in given.items()}}, _home(os.geteuid()))
    running = list(proxies())
    for proxy in running:
        if mine == MACHINE:
            return f"those of the machine itself, which the proxy that runs here (process {proxy.pid}) may ask for as well"
        if proxy.variables and identity(proxy.variables, _home(proxy.uid)) == mine:
            return f"those in the environment of the proxy that runs here (process {proxy.pid})"
    owners = {os.geteuid(), *(proxy.uid for proxy in running), *([state.stat().st_uid] if state.exists() else ())}
    homes = [home / ".aws" / "credentials" for uid in sorted(owners) if (home := _home(uid)) is not None]
    named = [Path(proxy.variables[SHARED]) for proxy in running if SHARED in proxy.variables]
    for path in (*homes, *named):
        if mine in keys_in(path).values():
            return f"those in {path}, where a proxy and an agent of that account find them"
    return ""


def identity(variables: Mapping[str, str], home: Path | None) -> str:
    """Who a process with these variables is for S3: a word to compare, with no secret in it."""
    if key := variables.get("AWS_ACCESS_KEY_ID"):
        return f"key {key}"
    if variables.get("AWS_WEB_IDENTITY_TOKEN_FILE") and (role := variables.get("AWS_ROLE_ARN")):
        return f"role {role}"
    file = Path(variables[SHARED]) if SHARED in variables else home / ".aws" / "credentials" if home is not None else None
    if file is not None and (found := keys_in(file).get(variables.get("AWS_PROFILE", "default"))):
        return found
    for name in CONTAINER:
        if name in variables:
            return f"container {variables[name]}"
    return MACHINE


def keys_in(path: Path) -> Mapping[str, str]:
    """The identities of a shared file by profile; nothing where it is not there, is closed to us, or is none."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(path.read_text("utf-8", "replace"))
    except (OSError, configparser.Error):
        return {}
    found = {name: parser[name].get("aws_access_key_id", "") for name in parser.sections()}
    return {name: f"key {key}" for name, key in found.items() if key}


def proxies() -> Iterator[Proxy]:
    """The proxies that run on this machine, as far as /proc shows them."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if serves((folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")):
                yield Proxy(pid=int(folder.name), uid=folder.stat().st_uid, variables=_environment(folder))
        except OSError:  # It has ended.
            continue


def serves(arguments: list[str]) -> bool:
    """Whether a command line is that of a proxy: dbshield as a program or a module of Python's, then the command."""
    for place, argument in enumerate(arguments[:4]):
        if "dbshield" in argument.rpartition("/")[2]:
            return next((each for each in arguments[place + 1 :] if not each.startswith("-")), "") in PROXIES
    return False


def _environment(folder: Path) -> Mapping[str, str]:
    try:
        texts = (folder / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    except OSError:  # Another account's.
        return {}
    return dict(text.split("=", 1) for text in texts if "=" in text)


def _home(uid: int) -> Path | None:
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return None
