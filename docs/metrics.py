"""The page about the numbers for a monitoring, made from `dbshield.metrics`."""

from __future__ import annotations

from dbshield.metrics import METRICS, Source

INTRODUCTION = """\
# Metrics

Made from the code by `make docs`; do not edit.

What dbshield tells Prometheus. `proxy`: the workers of this proxy know it, so sum over proxies. `control`: it is read from
the control database, so every proxy tells the same, and it is absent while that is away. A moment is told as seconds since
1970: its age is `time()` less it.

| metric | kind | labels | from | what it is |
|---|---|---|---|---|
"""


def metrics_page() -> str:
    """A table, one metric a line."""
    lines = (
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {'control' if metric.source is Source.CONTROL else 'proxy'} | {metric.help} |\n"
        for metric in METRICS
    )
    return INTRODUCTION + "".join(lines)
