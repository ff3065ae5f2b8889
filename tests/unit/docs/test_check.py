"""What `make docs` finds: links that lead nowhere, commands that are none, settings that nobody knows. There are none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import blocks, check, tree

ROOT = Path(__file__).parents[3]


def test_nothing_on_any_page_is_wrong() -> None:
    assert [str(each) for each in check.problems()] == []


def test_every_page_is_looked_at() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in blocks.pages(ROOT)}
    assert {"README.md", "docs/for-agents.md", "docs/how-to/guard.md", "docs/reference/rules.md"} <= found


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("backup --plan nightly", ""),
        ("backup list --json", ""),
        ("approvals deny apr-k3x7w2mq --reason 'still needed'", ""),
        ("token issue claude --environment=production --ttl 12h", ""),
        ("check --access LEVEL FILE", ""),
        ("guard", "dbshield guard needs one of: "),
        ("backups", 'there is no command "backups"; backup?'),
        ("backup lst", 'dbshield backup has no command "lst"; list?'),
        ("audit search --agnet claude", "dbshield audit search has no option --agnet; --agent?"),
        ("audit search --agent", "--agent needs a value"),
        ("agent create claude --access write", "dbshield agent create needs --environment"),
        ("approvals show", "dbshield approvals show needs ID"),
        ("approvals show apr-1 apr-2", 'dbshield approvals show takes no "apr-2"'),
        ("check --access owner", "--access is one of read, write, migrate, not owner"),
    ],
)
def test_a_command_is_judged_as_the_command_line_does(command: str, wrong: str) -> None:
    [written] = blocks.commands(f"```sh\ndbshield {command}\n```\n", "dbshield")
    said = tree.objections(written.words)
    assert [line.startswith(wrong) for line in said] == ([True] if wrong else [])


@pytest.mark.parametrize(
    "text",
    [
        "$ dbshield backup list",
        "dbshield backup list  # what there is",
        "PGPASSWORD=… .venv/bin/dbshield backup list > list.txt",
        "echo x | dbshield backup list",
        "- run: dbshield backup list",
        "ExecStart=/usr/bin/dbshield backup list",
        "0 3 * * * /usr/bin/dbshield backup list",
        "dbshield backup \\\n    list",
    ],
)
def test_a_command_is_found_wherever_a_block_has_one(text: str) -> None:
    assert [written.words for written in blocks.commands(f"```\n{text}\n```\n", "dbshield")] == [("backup", "list")]


def test_output_is_no_command() -> None:
    page = "```\n$ dbshield audit verify\ndbshield audits nothing\n```\n```text\ndbshield audits nothing\n```\n"
    assert [written.words for written in blocks.commands(page, "dbshield")] == [("audit", "verify")]


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("[here](how-to/guard.md#install-it)", ""),
        ("[here](how-to/gurad.md)", "how-to/gurad.md is not there"),
        ("[here](how-to/guard.md#instal-it)", "how-to/guard.md#instal-it: there is no such heading"),
        ("[here](../README.md)", "../README.md is not a page of the site; name it between backticks"),
        ("see `dbshield agnet list`", 'there is no command "agnet"; agent?'),
        ("see `python -m bench --onyl connect`", "python -m bench --onyl connect does not parse"),
        ("see `make dcos`", "make dcos: there is no such target"),
        ("`tests/unit/docs/test_check.py::test_output_is_no_command`", ""),
        ("`tests/unit/docs/test_check.py::test_nobody`", "tests/unit/docs/test_check.py has no test_nobody"),
        ("`tests/unit/docs/test_chekc.py`", "tests/unit/docs/test_chekc.py is not there"),
        ("```toml\n[backup.nightly]\nkeep_lats = 3\n```", "backup.nightly.keep_lats: Extra inputs are not permitted"),
        ("```toml\n[proxy]\nworkers = 0\n```", "proxy.workers: Input should be greater than or equal to 1"),
        ("```toml\n[proxy\n```", "this is not TOML: "),
        ('`[audit] when_away = "read"` and `[backup.nightly] keep_last`', ""),
        ("`[audit] when_awya`", "[audit] when_awya: there is no such setting"),
    ],
)
def test_what_cannot_be_so_is_named_with_its_line(page: str, wrong: str) -> None:
    path = ROOT / "docs" / "page.md"
    text = f"# Title\n\n{page}\n"
    said = [
        *check.links(path, text, ROOT),
        *check.commands(text),
        *check.targets(text, ROOT),
        *check.settings(text),
        *check.keys(text),
        *check.files(text, ROOT),
    ]
    assert [(line, message.startswith(wrong)) for line, message in said] == ([(3, True)] if wrong else [])
