"""The command line called within this process, in an empty folder, and what it said."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from dbshield.cli.main import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


CommandLine = Callable[..., Result]


@contextmanager
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting comes from the environment, and the logging is afterwards as it was."""
    for name in list(os.environ):
        if name.startswith("DBSHIELD_") and "TEST" not in name:
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


def command_line(capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Runs a command in a folder; its exit code and what it said."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))

    def call(*words: str) -> Result:
        capfd.readouterr()
        code = run(words)
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Result(code=code, out=said.out, err=said.err)

    return call
