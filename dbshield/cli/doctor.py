"""`dbshield doctor`: what is wrong with how the protected databases are set up, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption, find_environment
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, read_settings
from dbshield.cli.output import answer, headline, remark, say, visible
from dbshield.config import conninfo
from dbshield.config.secret import read_secret
from dbshield.doctor.diagnosis import Diagnosis, diagnose
from dbshield.errors import ConfigError
from dbshield.guard.doctor import ORDER, Severity

SHOWN = 4
"""Subjects and commands of one finding on the screen; all of them are in --json."""
INDENT = 2


def doctor(
    *,
    environment: AnyEnvironmentOption = None,
    dsn: Annotated[
        str | None,
        typer.Option("--dsn", metavar="DSN", help="Look as this administrator, without a password in it; needs -e."),
    ] = None,
    password_env: Annotated[
        str, typer.Option("--password-env", metavar="VARIABLE", help="Where the password for --dsn is.")
    ] = "",
    password_file: Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="The same in a file.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Look at the protected databases and say what is wrong, the worst first, with the command that mends it.

    It looks as the administrator who is named in dbshield.toml or by --dsn, who sees everything, else as the role in upstream;
    what that role may not read is named. Nothing is changed.
    Exit code 1 where something critical was found, 2 where a database could not be looked at.

    \b
    Examples:
      dbshield doctor
      dbshield doctor -e production --dsn postgresql://postgres@db.example.com/shop --password-env ADMIN_PASSWORD --json
    """
    settings = read_settings(config)
    if environment is not None:
        find_environment(settings, environment)
    names = [environment] if environment is not None else list(settings.environments)
    if not names:
        raise ConfigError("there is no environment to look at", hint="Add [environments.NAME] to dbshield.toml.")
    administrator = _administrator(environment, dsn, password_env, password_file)
    found = diagnose(settings, names, lambda: open_database(settings), moment=now(), administrator=administrator)
    if found.remark:
        remark(f"remark: {found.remark}")
    if json:
        answer(_answer(found))
    else:
        _show(found)
    if any(finding.severity is Severity.CRITICAL for finding in found.findings):
        raise typer.Exit(1)
    if found.unreached:
        raise typer.Exit(2)


def _administrator(environment: str | None, dsn: str | None, variable: str, file: Path | None) -> str | None:
    """The connection string that was named, with its password put in; on the command line others would see it."""
    if variable and file is not None:
        raise ConfigError("--password-env and --password-file are both given", hint="Keep one.")
    if dsn is None:
        if variable or file is not None:
            raise ConfigError("a password was given without --dsn", hint="Give the connection string as well.")
        return None
    if environment is None:
        raise ConfigError("--dsn was given without --environment", hint="Say whose administrator it is.")
    try:
        written = conninfo.password(dsn)
    except ValueError as error:
        raise ConfigError(f"--dsn {error}") from None
    if written is not None:
        raise ConfigError("--dsn has a password in it", hint="Take it out, and give it with --password-env or --password-file.")
    return conninfo.with_password(dsn, read_secret("--password", file=file, variable=variable))


def _answer(found: Diagnosis) -> dict[str, Any]:
    counted = Counter(finding.severity for finding in found.findings)
    return {
        "environments": found.environments,
        "unreached": found.unreached,
        "answered": found.answered,
        "counts": {severity.value: counted[severity] for severity in ORDER},
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity.value,
                "environment": finding.environment or None,
                "database": finding.database or None,
                "what": finding.what,
                "why": finding.why,
                "subjects": finding.subjects,
                "mends": finding.mends,
            }
            for finding in found.findings
        ],
    }


def _show(found: Diagnosis) -> None:
    for finding in found.findings:
        place = "/".join(filter(None, (finding.environment, finding.database)))
        headline(finding.severity.value, visible(f"  {finding.check}" + (f"  {place}" if place else "")))
        subjects = f": {_some(finding.subjects, '; ')}" if finding.subjects else ""
        say(f"{' ' * INDENT}{visible(finding.what)}{subjects}")
        say(f"{' ' * INDENT}why:  {finding.why}")
        for mend in finding.mends[:SHOWN]:
            say(f"{' ' * INDENT}mend: {visible(mend)}")
        if len(finding.mends) > SHOWN:
            say(f"{' ' * INDENT}      and {len(finding.mends) - SHOWN} more, which --json has")
    counted = Counter(finding.severity for finding in found.findings)
    told = ", ".join(f"{counted[severity]} {severity}" for severity in ORDER)
    say(f"{told}; {found.answered} questions answered in {', '.join(found.environments)}")


def _some(texts: Sequence[str], between: str) -> str:
    shown = between.join(visible(text) for text in texts[:SHOWN])
    return shown + (f"{between}and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")
