"""The configuration as it is kept: what can be compared later, and that no secret is in it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dbshield.config import Config
from dbshield.control.picture import KEY, Picture, overlaid, picture_of, policy_changes, read, setting_changes

TOKEN = "dbs_staging_abcdefgh2345_" + "a" * 32


def config(password: str = "hunter2", **more: Any) -> Config:
    upstream = f"postgresql://app:{password}@db.example.com/shop?sslmode=verify-full"
    environment = {"upstream": upstream, "functions_allowed": ["shop.close_month"], **more.pop("environment", {})}
    return Config.model_validate({"environments": {"staging": environment}, **more})


def kept(picture: Picture) -> Picture:
    return read(picture.text(), picture.key)


def test_what_comes_back_is_what_was_kept() -> None:
    picture = picture_of(config(environment={"max_rows": 7}), b"key")
    assert kept(picture) == dataclasses.replace(picture, defaults=frozenset())
    assert policy_changes(kept(picture), picture) == {}
    assert setting_changes(kept(picture), picture) == {}


def test_a_change_is_told_from_what_was_kept_as_a_reload_tells_it() -> None:
    old = kept(picture_of(config(environment={"max_rows": 7, "token_ttl_days": 3}), b"key"))
    new = picture_of(config("hunter3", environment={"max_rows": 9}, proxy={"workers": 2}), b"key")
    assert policy_changes(old, new) == {"staging": {"max_rows": (7, 9)}}
    assert setting_changes(old, new) == {
        "environments.staging.token_ttl_days": (3, 30),
        "environments.staging.upstream": None,
        "proxy.workers": (1, 2),
    }
    assert setting_changes(old, new, ("proxy",)) == {"proxy.workers": (1, 2)}


def test_no_secret_is_kept_and_none_can_be_tried() -> None:
    text = picture_of(config(control={"url": "postgresql://dbshield:hunter2@control/dbshield"}), b"key").text()
    assert "hunter" not in text
    assert "example.com" not in text, "a text is a digest"
    other = picture_of(config(), b"another key")
    assert other.settings["environments.staging.upstream"] != json.loads(text)["settings"]["environments.staging.upstream"]
    assert picture_of(config(), None).settings["environments.staging.upstream"] == {"text": None}


def test_the_digest_of_a_text_belongs_to_its_setting() -> None:
    """Or it could be seen that two settings have the same password."""
    upstream = "postgresql://app:hunter2@db.example.com/shop"
    both = Config.model_validate({"environments": {name: {"upstream": upstream} for name in ("staging", "production")}})
    settings = picture_of(both, b"key").settings
    assert settings["environments.staging.upstream"] != settings["environments.production.upstream"]


def test_a_token_in_the_wrong_place_is_cut_and_still_the_same_next_time() -> None:
    picture = picture_of(config(environment={"overrides": [{"rule": "DS201", "verdict": "deny", "agents": ["a"]}]}), b"key")
    policies = {"staging": {**picture.policies["staging"], "protected": [TOKEN]}}
    written = dataclasses.replace(picture, policies=policies)
    assert TOKEN not in written.text()
    assert policy_changes(kept(written), kept(written)) == {}


def test_under_another_key_texts_cannot_be_compared_and_that_is_told() -> None:
    old, new = picture_of(config(), b"key"), picture_of(config("hunter3", proxy={"workers": 2}), b"another key")
    assert setting_changes(old, new) == {KEY: None, "proxy.workers": (1, 2)}
    without = picture_of(config("hunter3", proxy={"workers": 2}), None)
    assert setting_changes(old, without) == {"proxy.workers": (1, 2)}
    assert setting_changes(without, without) == {}


def test_what_a_newer_version_brings_along_was_changed_by_nobody() -> None:
    new = picture_of(config(environment={"max_rows_per_hour": 5}, proxy={"login_failures": 3}), b"key")
    policies = dict(new.policies["staging"])
    settings = dict(new.settings)
    for key in ("mode", "max_rows_per_hour"):
        del policies[key]
    for key in ("proxy.login_failures", "proxy.max_connections", "environments.staging.approval_wait"):
        del settings[key]
    old = kept(dataclasses.replace(new, policies={"staging": policies}, settings=settings))
    assert policy_changes(old, new) == {"staging": {"max_rows_per_hour": (None, 5)}}
    assert setting_changes(old, new) == {"proxy.login_failures": (None, 3)}


def test_an_environment_that_is_new_is_told_with_its_defaults() -> None:
    old = kept(picture_of(Config(), b"key"))
    new = picture_of(config(), b"key")
    assert policy_changes(old, new)["staging"]["mode"] == (None, "enforce")
    assert setting_changes(old, new)["environments.staging.approvals_needed"] == (None, 1)
    assert policy_changes(new, old)["staging"]["mode"] == ("enforce", None)


def test_what_another_part_has_told_since_is_laid_over() -> None:
    below = picture_of(config(proxy={"workers": 2}, schedule={"overdue_minutes": 5}), b"key")
    above = picture_of(config(proxy={"workers": 3}, schedule={"overdue_minutes": 6}), b"key")
    both = overlaid(below, above, ("schedule", "backup"))
    assert setting_changes(below, both) == {"schedule.overdue_minutes": (5, 6)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"policies": {}, "settings": []}', '{"policies": {"a": 1}, "settings": {}}'])
def test_what_is_no_picture_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (JSON's own among them)
        read(text, "")
