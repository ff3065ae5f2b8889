"""`dbshield top`: what agents do right now, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import now, open_database, read_settings
from dbshield.cli.output import STYLES, answer, say, table, visible
from dbshield.config import Config
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import ID_LENGTH, ID_PREFIX
from dbshield.errors import ConfigError, StoreError
from dbshield.monitoring.reading import VERDICTS, Sample, Top, compare, fetch

if TYPE_CHECKING:
    from rich.console import Group

HELD_SHOWN: Final = 10
ID_WIDTH: Final = len(ID_PREFIX) + ID_LENGTH
STATEMENT_SHOWN: Final = 100
"""Characters of a held statement."""
COLUMNS: Final = ("agent", "sessions", "stmt/s", *VERDICTS)


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print it, and end; so in a pipe, too.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="The metrics of a proxy elsewhere; several are added up.", show_default=False),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what agents do now: statements a second, verdicts, what is held, and what the proxy costs. Needs [metrics] listen.

    Example: dbshield top --url http://proxy1:9632/metrics --url http://proxy2:9632/metrics
    """
    settings = read_settings(config)
    urls = url or [_url(settings)]
    if once or json or not sys.stdout.isatty():
        seen = _between(urls, _fetch(urls), interval)[0]
        held, count = _held(settings, limit=None if json else HELD_SHOWN)
        if json:
            answer(_tree(seen, held, known=count is not None))
        else:
            _plain(seen, held, count)
        return
    try:
        _live(settings, urls, interval)
    except KeyboardInterrupt:
        return


def _url(settings: Config) -> str:
    address = settings.metrics.address
    if address is None:
        raise ConfigError(
            "no metrics are told, so there is nothing to look at",
            hint='Set listen = "127.0.0.1:9632" in [metrics] and start the proxy again, or name another proxy by --url.',
        )
    reached = replace(address, host="::1" if ":" in address.host else "127.0.0.1") if address.is_wildcard else address
    return f"http://{reached}/metrics"


def _fetch(urls: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(sample for url in urls for sample in fetch(url))


def _between(urls: Sequence[str], before: tuple[Sample, ...], interval: float) -> tuple[Top, tuple[Sample, ...]]:
    """What happens from now on for an interval."""
    began = time.monotonic()
    time.sleep(interval)
    after = _fetch(urls)
    return compare(before, after, time.monotonic() - began), after


def _held(settings: Config, *, limit: int | None) -> tuple[list[Approval], int | None]:
    """The oldest that wait for a human, and how many do; nothing where that is not known."""
    moment, waiting = now(), [State.WAITING]
    try:
        with open_database(settings) as database:
            approvals = Approvals(database)
            return approvals.list_(now=moment, states=waiting, limit=limit), approvals.count(now=moment, states=waiting)
    except StoreError:
        return [], None


def _tree(seen: Top, held: Sequence[Approval], *, known: bool) -> dict[str, Any]:
    waiting = [
        {
            "id": one.id,
            "environment": one.environment,
            "agent": one.agent,
            "statement": one.normal,
            "requested_at": one.requested_at,
        }
        for one in held
    ]
    return asdict(seen) | {"held": waiting if known else None}


def _lines(seen: Top, count: int | None) -> list[tuple[str, str]]:
    """The head: a word, and what is said of it."""
    latency = f"{_time(seen.latency[0])} median, {_time(seen.latency[1])} at 99 %" if seen.latency else "nothing measured"
    lag = f"{seen.audit_behind} entries, {seen.audit_lag:.0f} s behind" if seen.audit_behind else "up to date"
    away = [name for name, up in seen.upstreams.items() if not up]
    return [
        ("statements", f"{seen.per_second:,.1f}/s  " + "  ".join(f"{word} {seen.verdicts[word]:,.1f}" for word in VERDICTS)),
        ("held", f"{'unknown' if count is None else f'{count:,}'} wait for a human, {seen.held_sessions} sessions with them"),
        ("added", f"{latency}; a write waits {_time(seen.durable_wait) if seen.durable_wait is not None else '-'} for the audit"),
        ("verdicts", "-" if seen.cache_hits is None else f"{seen.cache_hits:.1%} from the cache"),
        ("audit", lag),
        ("workers", f"{seen.workers[0]} of {seen.workers[1]}"),
        ("control", "answers" if seen.control_database else "away"),
        ("servers", f"away: {', '.join(map(visible, away))}" if away else "answer"),
    ]


def _rows(seen: Top) -> list[list[str]]:
    ordered = sorted(seen.rows, key=lambda row: (-row.per_second, row.environment, row.agent))
    return [
        [f"{visible(row.agent)}.{visible(row.environment)}", str(row.connections), f"{row.per_second:,.1f}"]
        + [f"{row.verdicts[word]:,.1f}" for word in VERDICTS]
        for row in ordered
    ]


def _waiting(held: Sequence[Approval]) -> list[list[str]]:
    moment = now()
    return [
        [
            one.id,
            f"{one.agent}.{one.environment}",
            f"{(moment - one.requested_at).total_seconds():.0f} s",
            _short(one.normal),
        ]
        for one in held
    ]


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= STATEMENT_SHOWN else f"{line[: STATEMENT_SHOWN - 1]}…"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _plain(seen: Top, held: Sequence[Approval], count: int | None) -> None:
    for word, text in _lines(seen, count):
        say(f"{word + ':':<12}{text}")
    say()
    table(COLUMNS, _rows(seen), empty="No agent is connected.")
    if held:
        say()
        table(("approval", "agent", "waits", "statement"), _waiting(held), empty="")


def _live(settings: Config, urls: Sequence[str], interval: float) -> None:
    """Draws until Ctrl-C. A proxy that is away is said, and looked for again."""
    from rich.live import Live  # noqa: PLC0415  (a tenth of a second that a pipe does not need)
    from rich.text import Text  # noqa: PLC0415

    with Live(Text("looking…"), screen=True, auto_refresh=False) as live:
        before: tuple[Sample, ...] | None = None
        while True:
            try:
                if before is None:
                    before = _fetch(urls)
                seen, before = _between(urls, before, interval)
            except StoreError as error:
                before = None
                live.update(Text(f"{error.message}\n{error.hint}", style=STYLES["no"]), refresh=True)
                time.sleep(interval)
                continue
            live.update(_drawn(seen, *_held(settings, limit=HELD_SHOWN)), refresh=True)


def _drawn(seen: Top, held: Sequence[Approval], count: int | None) -> Group:
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    head = Table.grid(padding=(0, 2))
    for word, text in _lines(seen, count):
        bad = text.startswith("away") or (word == "workers" and seen.workers[0] < seen.workers[1])
        waits = word == "held" and bool(held)
        head.add_row(Text(word, style="bold"), Text(text, style=STYLES["no"] if bad else STYLES["hold"] if waits else ""))
    agents = _grid(COLUMNS, _rows(seen), styles=[STYLES.get(column, "") for column in COLUMNS])
    parts: list[Any] = [head]
    if held:
        # In front of the agents: what does not fit on the screen is cut at its end.
        parts += [Text(), _grid(("approval", "agent", "waits", "statement"), _waiting(held), styles=["bold", "", "", ""])]
    parts += [Text(), agents]
    return Group(*parts)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str]) -> Any:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    make: Callable[..., Any] = Text
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        # An id is typed again, so it stays whole.
        width = ID_WIDTH if column == "approval" else None
        right = place > 0 and column not in {"statement", "agent"}
        drawn.add_column(column, justify="right" if right else "left", min_width=width, no_wrap=width is not None)
    for row in rows:
        # In its colour where something happened.
        drawn.add_row(*(make(cell, style="" if cell == "0.0" else style) for cell, style in zip(row, styles, strict=True)))
    return drawn
