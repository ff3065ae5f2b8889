"""`dbshield user`: the humans who decide, and their second factor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dbshield.cli.codes import CodeEnvOption, CodeStdinOption, ask_code, can_ask, read_code
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import now, open_database, person, read_settings
from dbshield.cli.output import answer, remark, say, table
from dbshield.config import Config
from dbshield.control.people import Enrolment, People, Person, Vouch
from dbshield.control.vault import Vault
from dbshield.errors import Refused

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Add, list and remove the people who decide."
)

FIRST_CODES = 3
"""How often a wrong first code may be typed before the command gives up."""

PersonArgument = Annotated[str, typer.Argument(metavar="NAME", help="The person; best their login name.")]
VouchOption = Annotated[
    str | None,
    typer.Option("--vouch", metavar="PERSON", help="Who vouches with a code of theirs; without it, the person at the keyboard."),
]


@app.callback()
def group() -> None:
    """Add, list and remove the people who decide on held statements, with a second factor each."""


@app.command()
def add(
    name: PersonArgument,
    *,
    vouch: VouchOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a person, and show the secret for their authenticator app, this once; its first code confirms it.

    From the second person on, somebody who is enrolled vouches with a code of theirs: it is that code which is asked for, or read
    by --code-stdin or --code-env. Where nobody can be asked for the first code, `dbshield user confirm` takes it.

    \b
    Examples:
      dbshield user add ann
      dbshield user add bob --vouch ann
    """
    with open_people(read_settings(config)) as people:
        voucher = _vouch(people, vouch, stdin=code_stdin, variable=code_env)
        made = people.add(name, by=person(), now=now(), vouch=voucher)
        _hand_over(people, made, json=json)


@app.command()
def reset(
    name: PersonArgument,
    *,
    vouch: VouchOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a person a new secret, for a phone that was lost. What they approved and has not begun no longer counts.

    Somebody who is enrolled vouches with a code, as for `add`.

    \b
    Example:
      dbshield user reset bob --vouch ann
    """
    with open_people(read_settings(config)) as people:
        voucher = _vouch(people, vouch, stdin=code_stdin, variable=code_env)
        made = people.reset(name, by=person(), now=now(), vouch=voucher)
        _hand_over(people, made, json=json)


@app.command()
def confirm(
    name: PersonArgument,
    *,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take the first code of a new secret: from then on the person decides.

    \b
    Example:
      dbshield user confirm bob
    """
    with open_people(read_settings(config)) as people:
        code = read_code(name, stdin=code_stdin, variable=code_env)
        confirmed = people.confirm(name, code, by=person(), now=now())
    if json:
        answer(_entry(confirmed))
    else:
        say(f"{name} is enrolled and may decide.")


@app.command("list")
def list_(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the people who decide.

    \b
    Example:
      dbshield user list --json
    """
    with open_people(read_settings(config)) as people:
        listed = people.list_()
    if json:
        answer([_entry(one) for one in listed])
        return
    moment = now()
    rows = [(one.name, one.state(moment), one.enrolled_at or "-", one.created_by, one.vouched_by or "-") for one in listed]
    table(
        ("person", "state", "since", "added by", "vouched by"), rows, empty="There is nobody; `dbshield user add NAME` adds one."
    )


@app.command()
def remove(
    name: PersonArgument,
    *,
    vouch: VouchOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove a person. What they approved and has not begun no longer counts.

    Somebody who is enrolled vouches with a code, as for `add`; it may be the person who goes.

    \b
    Example:
      dbshield user remove bob --vouch ann
    """
    with open_people(read_settings(config)) as people:
        voucher = _vouch(people, vouch, stdin=code_stdin, variable=code_env)
        people.remove(name, by=person(), now=now(), vouch=voucher)
    if json:
        answer({"person": name, "removed": True})
    else:
        say(f"{name} no longer decides, and what {name} approved and has not begun no longer counts.")


@contextmanager
def open_people(settings: Config) -> Iterator[People]:
    """The people in the control database."""
    with open_database(settings) as database:
        yield People(database, Vault.load(settings.secret_key))


def _vouch(people: People, name: str | None, *, stdin: bool, variable: str) -> Vouch | None:
    """Who vouches, with their code; nobody where nobody is enrolled yet."""
    enrolled = [one.name for one in people.list_() if one.enrolled_at is not None]
    if name is None and not enrolled:
        return None
    voucher = name if name is not None else person()
    if voucher not in enrolled:
        raise Refused(
            f"{voucher} is not enrolled and cannot vouch",
            hint=f"Say --vouch and one of: {', '.join(enrolled) or '(nobody yet)'}.",
        )
    return Vouch(person=voucher, code=read_code(voucher, stdin=stdin, variable=variable))


def _hand_over(people: People, made: Enrolment, *, json: bool) -> None:
    """The only moment at which a secret is seen; on a terminal, the first code is asked for at once."""
    if json:
        answer({"person": made.person, "uri": made.uri, "secret": made.secret, "confirmed": False})
        return
    if sys.stdout.isatty():
        import segno  # noqa: PLC0415  (for this command alone)

        segno.make(made.uri, error="m").terminal(out=sys.stdout, compact=True)
        say(f"The secret of {made.person} for an authenticator app, shown this once; by hand: {made.secret}")
    else:
        say(made.uri)
    if not (sys.stdout.isatty() and can_ask()):
        remark(f"{made.person} decides once `dbshield user confirm {made.person}` has taken a first code.")
        return
    for left in reversed(range(FIRST_CODES)):
        try:
            people.confirm(made.person, ask_code(made.person), by=person(), now=now())
        except Refused as error:
            if not left:
                raise
            remark(f"{error.message}. {error.hint}")
        else:
            say(f"{made.person} is enrolled and may decide.")
            return


def _entry(one: Person) -> dict[str, Any]:
    return {
        "person": one.name,
        "state": one.state(now()),
        "enrolled_at": one.enrolled_at,
        "locked_until": one.locked_until,
        "created_at": one.created_at,
        "created_by": one.created_by,
        "vouched_by": one.vouched_by,
    }
