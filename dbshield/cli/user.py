"""`dbshield user`: the humans who decide, their second factor, and what they need for the console."""

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
from dbshield.config.secret import read_secret
from dbshield.control.passwords import check_password
from dbshield.control.people import Enrolment, People, Person, Vouch
from dbshield.control.person_roles import Role
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, Refused

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
    role: Annotated[
        Role | None,
        typer.Option("--role", help="What they may do; without it, the first person is an admin, and others are approvers."),
    ] = None,
    vouch: VouchOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a person, and show the secret for their authenticator app, this once; its first code confirms it.

    A viewer looks, an approver decides on held statements too, an admin freezes and revokes too. From the second person on,
    somebody who is enrolled, with the same role or a higher one, vouches with a code: it is that code which is asked for, or read
    by --code-stdin or --code-env. Where nobody can be asked for the first code, `dbshield user confirm` takes it.

    \b
    Examples:
      dbshield user add ann
      dbshield user add bob --vouch ann --role viewer
    """
    with open_people(read_settings(config)) as people:
        voucher = _vouch(people, vouch, stdin=code_stdin, variable=code_env)
        made = people.add(name, by=person(), now=now(), vouch=voucher, role=role)
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
    rows = [
        (
            one.name,
            one.role.value,
            one.state(moment),
            one.enrolled_at or "-",
            "yes" if one.has_password else "-",
            one.created_by,
            one.vouched_by or "-",
        )
        for one in listed
    ]
    heads = ("person", "role", "state", "since", "password", "added by", "vouched by")
    table(heads, rows, empty="There is nobody; `dbshield user add NAME` adds one.")


@app.command()
def role(
    name: PersonArgument,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="viewer, approver or admin.")],
    *,
    vouch: VouchOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a person another role, and sign them out of the console. What a viewer had approved counts no longer.

    Somebody who is enrolled vouches with a code, and has at least the role that the person has or gets.

    \b
    Example:
      dbshield user role bob admin --vouch ann
    """
    with open_people(read_settings(config)) as people:
        voucher = _vouch(people, vouch, stdin=code_stdin, variable=code_env)
        people.set_role(name, role, by=person(), now=now(), vouch=voucher)
    if json:
        answer({"person": name, "role": role.value})
    else:
        say(f"{name} has the role {role.value}.")


@app.command()
def password(
    name: PersonArgument,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, and after it the code.")
    ] = False,
    password_env: Annotated[
        str, typer.Option("--password-env", metavar="VARIABLE", help="The environment variable with the password.")
    ] = "",
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a person a password for the console, with a code of their own, and sign them out wherever they are signed in.

    \b
    Examples:
      dbshield user password ann
      pass show dbshield | dbshield user password ann --password-stdin --code-env CODE
    """
    settings = read_settings(config)
    secret = _read_password(name, stdin=password_stdin, variable=password_env)
    check_password(secret, name)
    with open_people(settings) as people:
        code = read_code(name, stdin=code_stdin or (password_stdin and not code_env), variable=code_env)
        people.set_password(name, secret, code, by=person(), now=now())
    if json:
        answer({"person": name, "password": True})
    else:
        say(f"{name} signs in to the console with this password, and a code.")


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


def _read_password(name: str, *, stdin: bool, variable: str) -> str:
    """A new password: typed twice, or from where the options say. ConfigError where there is nobody to ask."""
    if stdin and variable:
        raise ConfigError("--password-stdin and --password-env are both given", hint="Keep one.")
    if variable:
        return read_secret("--password-env", file=None, variable=variable) or ""
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not can_ask():
        raise ConfigError("nobody is here to be asked for a password", hint="Say --password-stdin or --password-env VARIABLE.")
    return str(typer.prompt(f"New password of {name}", hide_input=True, confirmation_prompt=True, err=True))


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
        "role": one.role.value,
        "state": one.state(now()),
        "password": one.has_password,
        "enrolled_at": one.enrolled_at,
        "locked_until": one.locked_until,
        "created_at": one.created_at,
        "created_by": one.created_by,
        "vouched_by": one.vouched_by,
    }
