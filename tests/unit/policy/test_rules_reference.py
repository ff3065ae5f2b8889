"""The reference of the rules is what the rules say."""

from __future__ import annotations

from docs.build import pages


def test_no_generated_page_is_stale() -> None:
    for path, text in pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: run `make docs`"
