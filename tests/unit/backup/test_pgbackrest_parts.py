"""What dbshield reads of pgBackRest's configuration and of what it says, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dbshield.backup import pgbackrest, pgbackrest_config
from dbshield.backup.damage import Absent
from dbshield.backup.pgbackrest import Stanza
from dbshield.config import BackupConfig
from dbshield.errors import ConfigError

SAID: dict[str, Any] = {
    "annotation": {"dbshield": "20260501t120001z-abcdefgh"},
    "archive": {"start": "000000020000000000000003", "stop": "000000020000000000000004"},
    "error": False,
    "info": {"delta": 8457, "repository": {"delta": 512, "size": 3081968}, "size": 22992540},
    "label": "20261122-105828F_20261122-105832I",
    "lsn": {"start": "0/3000028", "stop": "0/4000050"},
    "prior": "20261122-105828F",
    "reference": ["20261122-105828F"],
    "type": "incr",
}
"""One backup in the JSON of pgBackRest 2.45's info, shortened."""


def plan(**given: Any) -> BackupConfig:
    wanted = {"destination": "file:///backups", "encryption": "none", "engine": "pgbackrest", "stanza": "main"}
    return BackupConfig.model_validate({**wanted, **given})


def test_a_backup_of_info_is_read() -> None:
    found = pgbackrest._backed(SAID)
    assert (found.label, found.snapshot, found.timeline) == (SAID["label"], "20260501t120001z-abcdefgh", 2)
    assert (found.bytes, found.stored, found.references) == (22992540, 512, ("20261122-105828F",))
    # One that somebody else made, a full one, on an older pgBackRest.
    other = pgbackrest._backed({**SAID, "annotation": None, "prior": None, "reference": None, "type": "full"})
    assert (other.snapshot, other.prior, other.references) == ("", None, ())
    stanza = Stanza(encrypted=True, system="1", version="15", archive="15-1", backups=(found, other))
    assert stanza.of("20260501t120001z-abcdefgh") == (found,)
    assert stanza.of("20260501t120001z-zzzzzzzz") == ()
    with pytest.raises(Absent, match="has no 20200101-000000F"):
        stanza.labelled("20200101-000000F")


@pytest.mark.parametrize(
    "change",
    [
        {"archive": {"start": "../../etc/passwd", "stop": "000000020000000000000004"}},
        {"lsn": {"start": "here", "stop": "0/4000050"}},
        {"archive": None},
        {"info": {}},
    ],
)
def test_what_is_not_understood_is_nothing(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        pgbackrest._backed({**SAID, **change})


def test_where_things_are_is_read_as_pgbackrest_does(tmp_path: Path) -> None:
    file = tmp_path / "pgbackrest.conf"
    file.write_text(
        "[global]\nrepo1-path=/srv/one\nrepo2-type=s3\nrepo2-path=/two\nrepo3-host=elsewhere\n# repo1-path=/no\n"
        "[main]\npg1-path=/data\n[global:backup]\nrepo4-path=/command\n[other:backup]\nrepo1-path=/other\n"
    )
    here = plan(pgbackrest_config=file)
    found = pgbackrest_config.place(here, {})
    assert (found.repository, found.elsewhere, found.data) == (Path("/srv/one"), False, Path("/data"))
    assert pgbackrest_config.place(here, {"PGBACKREST_REPO1_PATH": "/env"}).repository == Path("/env")
    assert pgbackrest_config.place(plan(pgbackrest_config=file, stanza="other"), {}).repository == Path("/other")
    for number in (2, 3):
        away = pgbackrest_config.place(plan(pgbackrest_config=file, pgbackrest_repository=number), {})
        assert (away.repository, away.elsewhere) == (None, True)
    assert pgbackrest_config.place(plan(pgbackrest_config=file, pgbackrest_repository=4), {}).repository == Path("/command")
    default = pgbackrest_config.place(plan(pgbackrest_config=file, pgbackrest_repository=5), {})
    assert default.repository == Path("/var/lib/pgbackrest")


def test_a_configuration_that_cannot_be_read_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "pgbackrest.conf"
    file.write_text("repo1-cipher-pass=open sesame\n")
    with pytest.raises(ConfigError) as caught:
        pgbackrest_config.place(plan(pgbackrest_config=file), {})
    assert "sesame" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stanza": ""}, "needs a stanza"),
        ({"engine": "logical"}, "stanza is for the engine pgbackrest"),
        ({"stanza": "--config=/etc/passwd"}, "is no name of a stanza"),
        ({"pgbackrest_type": "most"}, "full"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan(**given)
