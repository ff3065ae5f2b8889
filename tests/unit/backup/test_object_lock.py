"""Object Lock as a plan asks for it; that it locks is shown against a store (tests/integration/test_backup_object_lock.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dbshield.backup.repository import open_store
from dbshield.config import BackupConfig
from dbshield.errors import ConfigError


def plan(**given: Any) -> BackupConfig:
    return BackupConfig(**{"destination": "s3://bucket/prefix", "encryption": "none", "region": "us-east-1", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"object_lock": "governance"}, "object_lock needs object_lock_days"),
        ({"object_lock_days": 7}, "object_lock_days is given without object_lock"),
        ({"object_lock": "compliance", "object_lock_days": 7, "destination": "file:///srv/backups"}, "begins with s3://"),
        ({"object_lock": "compliance", "object_lock_days": 7, "destination": "gs://bucket"}, "begins with s3://"),
        ({"object_lock": "always", "object_lock_days": 7}, "object_lock"),
        ({"incremental": True}, 'incremental is for the engine "physical"'),
        ({"incremental": True, "engine": "physical", "full_every": 0}, "full_every"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan(**given)


def test_without_boto3_nothing_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match="object_lock needs boto3") as caught:
        open_store(plan(object_lock="governance", object_lock_days=7))
    assert "dbshield[objectlock]" in caught.value.hint
    assert open_store(plan()).place == "s3://bucket/prefix"
