"""What pages say of statements and numbers is so."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from dbshield.cli.main import run
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from docs.blocks import blocks

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs"
JUDGE = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
PASSING, STOPPED = (
    [line for line in block.text.splitlines() if line]
    for block in blocks((PAGES / "how-to" / "migrations.md").read_text("utf-8"))
    if block.language == "sql"
)


@pytest.mark.parametrize("statement", PASSING)
def test_what_the_page_on_migrations_lets_pass_passes(statement: str) -> None:
    assert JUDGE.judge(statement.encode()).verdict.word in {"allow", "limit"}


@pytest.mark.parametrize("statement", STOPPED)
def test_what_it_stops_is_stopped(statement: str) -> None:
    assert JUDGE.judge(statement.encode()).verdict.word in {"hold", "deny"}


def test_the_page_on_policies_shows_what_check_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (shown,) = (
        block.text for block in blocks((PAGES / "how-to" / "policy.md").read_text("utf-8")) if block.text.startswith("$ echo")
    )
    command, _, expected = shown.partition("\n")
    text = re.fullmatch(r'\$ echo "(.*)" \| dbshield check', command)
    assert text is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text[1].encode())))
    assert run(["check"]) == 1
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for line, there in zip(expected.splitlines(), printed, strict=False):
        assert there.startswith(line.rstrip("… ")), f"{line}\n{there}"


def test_the_threat_model_counts_the_cases_right() -> None:
    page = (PAGES / "explanation" / "threat-model.md").read_text("utf-8")
    lines = {name: len((ROOT / f"tests/cases/{name}.jsonl").read_text("utf-8").splitlines()) for name in ("attacks", "own")}
    assert f"{sum(lines.values())} attacks" in page
    for name, words in (("harmless", "harmless cases"), ("ordinary", "statements of ordinary clients")):
        count = len((ROOT / f"tests/cases/{name}.jsonl").read_text("utf-8").splitlines())
        assert f"{count} {words}" in page
