"""What the figures were measured on and with: without it a table says little."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.database import CONTROL_SETTINGS, SCALE, SETTINGS

QUIET = 0.05
"""The share of the machine that others may take before the report warns; our own choice."""


def header(
    arguments: Sequence[str], versions: Sequence[str], *, seconds: int, rounds: int, load: float, commit_ms: float | None
) -> list[str]:
    """Lines for the top of the report; without `commit_ms`, milliseconds of a commit in the control database, there are only the
    guard's rows, on a server of their own."""
    settings = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
    control = " ".join(f"{name}={value}" for name, value in CONTROL_SETTINGS.items())
    lines = [
        f"command   python -m bench {' '.join(arguments)}".rstrip(),
        *stand(load).splitlines(),
        f"versions  {'; '.join(versions)}; Python {platform.python_version()}, uvloop {uvloop.__version__}",
        f"server    {settings}; pgbench scale {SCALE}, unlogged tables",
        f"control   {control}; a server of its own, on the same disk, where a commit took {commit_ms or 0:.2f} ms before",
        "way       TCP on loopback on both hops, no TLS, SCRAM-SHA-256 on both; dbshield with one worker, policy and audit on",
        f"method    {rounds} round{'s' if rounds > 1 else ''}, contenders interleaved in each, {seconds} s a pgbench run;"
        " medians; ratios are medians of each round's own",
    ]
    return [line for line in lines if commit_ms is not None or not line.startswith(("server", "control", "way", "method"))]


def stand(load: float) -> str:
    """The lines about when and on what; `load` as it was before."""
    return (
        f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n"
        f"machine   {os.cpu_count()} cores, {_cpu_name()}, {platform.system()} {platform.release()}, load {load:.1f} before;"
        " whatever is measured shares it"
    )


def noise(share: float) -> str:
    """The line about other programs; a quiet machine has a percent or two."""
    advice = "" if share < QUIET else ": the rates are not to be trusted, the ratios a little, the CPU ratios most"
    return f"noise     other programs took {share:.0%} of all CPU time meanwhile{advice}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def load() -> float:
    """The one-minute load before anything of ours ran: over 1 says that somebody else measures with us."""
    return os.getloadavg()[0]
