"""How the demo looks: colours and a spinner on a terminal, plain lines in a pipe, nothing at all where JSON is asked for."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dbshield.cli.demo.proof import Contents, Refusal
from dbshield.cli.demo.story import TABLES, Attack, Work
from dbshield.control.preview import preview_lines

if TYPE_CHECKING:
    from dbshield.cli.demo.play import Outcome

MARK_WIDTH = 9
TITLE_WIDTH = 31
FIELD_WIDTH = 6
SECRET = re.compile(r"(dbs_[a-z0-9-]+_[^_@]{4})[^@]*@")


class Show:
    """Prints the story as it happens."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(highlight=False, quiet=silent)
        self._began = time.monotonic()

    def _print(self, text: str = "") -> None:
        # A pipe gets whole lines, whatever their length, so that they can be searched.
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def title(self) -> None:
        self._print("[bold]dbshield demo[/]  an AI agent meets a database that it cannot destroy\n")

    def note(self, text: str) -> None:
        self._print(f"\n{escape(text)}")

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows what happens while it does, and how long it took; the text may be put into better words at the end."""
        final = text

        def finish(better: str) -> None:
            nonlocal final
            final = better

        began = time.monotonic()
        with self._console.status(text):
            yield finish
        self._print(f"  [green]✓[/] {escape(final)}  [dim]{time.monotonic() - began:.1f} s[/]")

    def commands(self, commands: list[str], dsn: str) -> None:
        self.typed(*commands)
        self._print("      The agent's connection string is now")
        without_secret = SECRET.sub(r"\1…@", dsn)
        self._print(f"      [cyan]{escape(without_secret)}[/]")

    def typed(self, *commands: str) -> None:
        """Commands as one would type them."""
        for command in commands:
            self._print(f"      [dim]$[/] {escape(command)}")

    def waits(self, statement: str, notice: str, preview: Mapping[str, Any]) -> None:
        """A statement that waits for a human: what the agent is told meanwhile, and what the human is shown."""
        self._columns(("[yellow]■ waits[/]", MARK_WIDTH), (f"[yellow]{escape(statement)}[/]", 0))
        self._columns(("", MARK_WIDTH), ("[dim]NOTICE[/]", FIELD_WIDTH), (escape(notice), 0))
        for line in preview_lines(preview):
            self._columns(("", MARK_WIDTH), ("[dim]SHOWN[/]", FIELD_WIDTH), (escape(" ".join(line.split())), 0))

    def act(self, title: str, how: str) -> None:
        self._print(f"\n[bold]{escape(title)}[/]  [dim]{escape(how)}[/]")

    def _columns(self, *columns: tuple[str, int]) -> None:
        """Texts with their widths on one line; what is too long for the terminal goes on below its own column."""
        if not self._console.is_terminal:
            self._print("  " + " ".join(f"{Text.from_markup(text).plain:{width}}" for text, width in columns).rstrip())
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=1)
        for _, width in columns:
            grid.add_column(width=width or None, overflow="fold")
        grid.add_row("", *(text for text, _ in columns))
        self._console.print(grid)

    def worked(self, work: Work, problem: str) -> None:
        mark = "[red]✗ failed[/]" if problem else "[green]✓ passed[/]"
        self._columns((mark, MARK_WIDTH), (escape(work.title), TITLE_WIDTH), (f"[dim]{escape(work.shown)}[/]", 0))
        if problem:
            self._columns(("", MARK_WIDTH), (f"[red]{escape(problem)}[/]", 0))

    def tried(self, attack: Attack, refusal: Refusal | None, cost: int, *, held: bool) -> None:
        mark = "[green]■ stopped[/]" if held else "[bold red]✗ NOT STOPPED[/]"
        lost = f"without dbshield: {cost:,} rows lost or overwritten"
        self._columns((mark, MARK_WIDTH), (f"[bold]{escape(attack.title)}[/]", TITLE_WIDTH), (f"[dim]{lost}[/]", 0))
        self._columns(("", MARK_WIDTH), (f"[yellow]{escape(attack.text)}[/]", 0))
        if refusal is None:
            self._columns(("", MARK_WIDTH), ("[red]the server ran it[/]", 0))
            return
        for name, text in (("ERROR", refusal.message), ("DETAIL", refusal.detail), ("HINT", refusal.hint)):
            self._columns(("", MARK_WIDTH), (f"[dim]{name}[/]", FIELD_WIDTH), (escape(text), 0))

    def mistake(self, text: str, rows: int, tried: str, refusal: Refusal | None) -> None:
        """What the policy let pass, and what it did not."""
        self._columns(("[green]✓ passed[/]", MARK_WIDTH), (f"[yellow]{escape(text)}[/]", 0))
        self._columns(("", MARK_WIDTH), (f"[dim]a mistake, and small enough to pass: {rows:,} rows are gone[/]", 0))
        stopped = refusal is not None and refusal.by_dbshield
        mark = "[green]■ stopped[/]" if stopped else "[bold red]✗ NOT STOPPED[/]"
        self._columns((mark, MARK_WIDTH), (f"[yellow]{escape(tried)}[/]", 0))
        if refusal is not None:
            self._columns(("", MARK_WIDTH), ("[dim]ERROR[/]", FIELD_WIDTH), (escape(refusal.message), 0))

    def proof(
        self,
        before: Contents,
        after: Contents,
        *,
        title: str = "The data",
        how: str = "read straight from the server, before and after",
    ) -> None:
        self.act(title, how)
        if not self._console.is_terminal:
            for table in TABLES:
                self._print(
                    f"  {table:10} {before.count(table):>6,} rows before, {after.count(table):>6,} after; "
                    f"content {before.fingerprint(table)} before, {after.fingerprint(table)} after"
                )
            return
        grid = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for name in ("table", "rows before", "rows after", "content before", "content after", ""):
            grid.add_column(name, justify="right" if name.startswith("rows") else "left")
        for table in TABLES:
            same = before.fingerprint(table) == after.fingerprint(table)
            grid.add_row(
                table,
                f"{before.count(table):,}",
                f"{after.count(table):,}",
                before.fingerprint(table),
                after.fingerprint(table),
                "[green]identical[/]" if same else "[bold red]DIFFERENT[/]",
            )
        self._console.print(grid)

    def end(self, outcome: Outcome, seconds: float) -> None:
        passed = sum(not done.problem for done in outcome.done)
        stopped = sum(tried.held for tried in outcome.tried)
        counts = f"{passed} of {len(outcome.done)} pieces of work passed, {stopped} of {len(outcome.tried)} attempts were stopped"
        if outcome.held:
            undone = f"what a human let happen was taken back ({outcome.decided.gone:,} rows)"
            rescued = f"a deleted volume came back in {outcome.rescued.seconds:.1f} s, no row was lost."
            self._print(f"\n[bold green]All of it held:[/] {counts}, {undone}, {rescued} [dim]{seconds:.1f} s, cleaned up.[/]")
            self._print("Protect a database of your own: [bold]dbshield up[/]")
        else:
            lost = outcome.lost + outcome.decided.missing + outcome.rescued.missing
            self._print(f"\n[bold red]It did not hold:[/] {counts}, {lost:,} rows were lost.")
