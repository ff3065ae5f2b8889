"""`dbshield key`: exchange the key that seals stored secrets."""

from __future__ import annotations

from typing import Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import now, open_database, person, read_settings
from dbshield.cli.output import answer, say
from dbshield.config import Config
from dbshield.control import key_file, key_rotation
from dbshield.control.audit_read import public_key
from dbshield.control.key_file import KeyRing, key_name
from dbshield.control.key_rotation import STEPS, Standing
from dbshield.control.vault import Vault

app = typer.Typer(
    name="key",
    no_args_is_help=True,
    help="""Exchange the key that seals role passwords and second factors, and signs checkpoints of the audit.

    Prepare, copy the file to every machine, rotate, copy it again, restart, retire, copy it once more. Nothing stands still
    meanwhile.
    """,
)


@app.command("show")
def show(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say which keys there are, what is sealed with them, and what comes next. Exit code 1 where the file opens not all.

    \b
    Example:
      dbshield key show
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        standing = key_rotation.look(database, settings.secret_key)
    _show(settings, standing, json=json)
    if standing.step == "foreign":
        raise typer.Exit(1)


@app.command("prepare")
def prepare(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Put a next key into the key file, which opens and does not seal yet. Copy the file to every machine that has one then.

    \b
    Example:
      dbshield key prepare
    """
    settings = read_settings(config)
    key_rotation.prepare(settings.secret_key)
    with open_database(settings) as database:
        _show(settings, key_rotation.look(database, settings.secret_key), json=json)


@app.command("rotate")
def rotate(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Seal every stored secret with the next key, in one transaction; the old one opens still. Proxies that run notice.

    \b
    Example:
      dbshield key rotate
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        count = key_rotation.rotate(database, settings.secret_key, now=now(), by=person())
        standing = key_rotation.look(database, settings.secret_key)
    if not json:
        say(f"{count} stored secrets are sealed anew.")
    _show(settings, standing, json=json)


@app.command("retire")
def retire(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Take old keys out of the key file. Refused while anything is sealed with one.

    Checkpoints of the audit that an old key signed are checked with `audit verify --public-key` from then on;
    `audit search --kind key-retired` has it.

    \b
    Example:
      dbshield key retire
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        names = key_rotation.retire(database, settings.secret_key, now=now(), by=person())
        standing = key_rotation.look(database, settings.secret_key)
    if not json:
        say(f"Out of the file: {', '.join(names)}. Copy it to every machine." if names else "There is no old key in the file.")
    _show(settings, standing, json=json)


def _show(settings: Config, standing: Standing, *, json: bool) -> None:
    ring = key_file.read(settings.secret_key)
    keys = [_fields(word, key, standing) for word, key in _named(ring)]
    strange = sum(count for name, count in standing.secrets.items() if name not in {key_name(key) for key in ring.every})
    if json:
        answer({"file": str(settings.secret_key), "step": standing.step, "keys": keys, "sealed_with_others": strange})
        return
    say(str(settings.secret_key))
    for each in keys:
        say(f"  {each['key']}  {each['state']:<8} seals {each['secrets']} secrets, public key {each['public_key']}")
    if strange:
        say(f"  {strange} secrets are sealed with keys that are not in it")
    say(f"{standing.step}: {STEPS[standing.step]}.")


def _named(ring: KeyRing) -> list[tuple[str, bytes]]:
    following = [("next", ring.following)] if ring.following is not None else []
    return [("current", ring.current), *following, *(("old", key) for key in ring.older)]


def _fields(state: str, key: bytes, standing: Standing) -> dict[str, Any]:
    name = key_name(key)
    return {"key": name.hex(), "state": state, "secrets": standing.secrets.get(name, 0), "public_key": public_key(Vault(key))}
