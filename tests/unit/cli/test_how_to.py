"""What the how-to pages say is what the commands do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbshield.cli.cases import KEYS
from dbshield.cli.main import run

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"


def test_the_cases_of_the_page_are_as_expected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = (HOW_TO / "policy-in-ci.md").read_text(encoding="utf-8")
    (cases,) = re.findall(r"```jsonl\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "cases.jsonl").write_text(cases, encoding="utf-8")
    assert run(["policy", "test", str(tmp_path / "cases.jsonl")]) == 0
    assert capfd.readouterr().out == "5 cases, 0 not as expected\n"
    assert {key for row in re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE) for key in re.findall(r"`(\w+)`", row)} == KEYS


def test_the_answer_of_the_page_is_the_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = (HOW_TO / "policy-in-ci.md").read_text(encoding="utf-8")
    (cases,) = re.findall(r"```jsonl\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "policy-cases.jsonl").write_text(cases, encoding="utf-8")
    (tmp_path / "dbshield.toml").write_text(
        '[environments.production]\nupstream = "postgresql://a@127.0.0.1/shop"\nprotected = ["*.orders"]\n', encoding="utf-8"
    )
    words = ["policy", "test", str(tmp_path / "policy-cases.jsonl"), "--environment", "production"]
    assert run([*words, "--config", str(tmp_path / "dbshield.toml")]) == 1
    told = capfd.readouterr().out.replace(f"{tmp_path}/", "")
    expected = page.split("--config dbshield.toml\n", 1)[1].split("```", 1)[0]
    assert [line.split() for line in told.splitlines()] == [line.split() for line in expected.splitlines()]
