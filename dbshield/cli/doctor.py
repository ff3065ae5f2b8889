"""`dbshield doctor`: what is wrong with how the protected databases are set up, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption, find_environment
from dbshield.cli.doctor_backups import backup_checks
from dbshield.cli.options import AnyEnvironmentOption, agents_in, now, open_database, read_settings
from dbshield.cli.output import answer, date, headline, remark, say, visible
from dbshield.config import Config, conninfo
from dbshield.config.secret import read_secret
from dbshield.control.emergency import Emergencies
from dbshield.errors import ConfigError, DbshieldError
from dbshield.guard.doctor import ORDER, Finding, Severity, not_looked, ordered
from dbshield.guard.doctor_look import Examination, Patient, examine, recorded_identifiers
from dbshield.model import AccessLevel

SHOWN = 4
"""Subjects and commands of one finding on the screen; all of them are in --json."""
INDENT = 2

Logins = Mapping[str, Sequence[tuple[str, AccessLevel]]]


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
    names = [environment] if environment is not None else list(settings.environments)
    if not names:
        raise ConfigError("there is no environment to look at", hint="Add [environments.NAME] to dbshield.toml.")
    administrator = _administrator(environment, dsn, password_env, password_file)
    logins, recorded = _known(settings)
    patients = [_patient(settings, name, administrator, logins, recorded) for name in names]
    examination = examine([patient for patient in patients if isinstance(patient, Patient)])
    without = [patient for patient in patients if isinstance(patient, Finding)]
    examination.findings += without
    examination.unreached += [finding.environment for finding in without]
    examination.findings += _remarks(settings)
    examination.findings += _emergencies(settings, names)
    examination.findings += backup_checks(settings, names)
    findings = ordered(examination.findings)
    if json:
        answer(_answer(findings, examination, names))
    else:
        _show(findings, examination, names)
    if any(finding.severity is Severity.CRITICAL for finding in findings):
        raise typer.Exit(1)
    if examination.unreached:
        raise typer.Exit(2)


def _patient(
    settings: Config, name: str, administrator: str | None, logins: Logins | None, recorded: Mapping[str, int]
) -> Patient | Finding:
    """One environment to look at, or why it cannot be: the others are looked at all the same."""
    section = find_environment(settings, name)
    try:
        if administrator is None and section.administrator:
            administrator = conninfo.with_password(section.administrator, section.administrator_password())
    except ConfigError as error:
        return not_looked("look.connect", name, f"no password: {error.message}", mend=error.hint or "mend dbshield.toml")
    try:
        password = section.password()
    except ConfigError as error:
        if administrator is None:
            return not_looked("look.connect", name, f"no password: {error.message}", mend=error.hint or "mend dbshield.toml")
        password = None
    return Patient(
        environment=name,
        server=section.server,
        databases=section.databases,
        dsn=administrator or conninfo.with_password(section.upstream, password),
        password=password,
        logins=None if logins is None else logins.get(name, ()),
        recorded=recorded.get(name),
    )


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


def _known(settings: Config) -> tuple[Logins | None, Mapping[str, int]]:
    """The roles that agents log in with, by environment, and the recorded identities; None where nobody could be asked."""
    try:
        with open_database(settings) as database:
            agents = agents_in(database, settings).list_agents(now=now())
            recorded = recorded_identifiers(database)
    except DbshieldError as error:
        remark(f"remark: the control database could not be asked: {error.message}")
        return None, {}
    logins: dict[str, list[tuple[str, AccessLevel]]] = {}
    for agent in agents:
        section = settings.environments.get(agent.environment)
        if section is not None:
            logins.setdefault(agent.environment, []).append((agent.role or section.server.user, agent.access))
    return logins, recorded


def _emergencies(settings: Config, names: Sequence[str]) -> list[Finding]:
    """Who goes around the shield at this moment."""
    try:
        with open_database(settings) as database:
            living = Emergencies(database, settings.environments).list_(living=True)
    except DbshieldError:
        return []  # That it could not be asked is said already.
    moment = now()
    return [
        Finding(
            check="emergency.living",
            severity=Severity.WARNING,
            environment=one.environment,
            what="somebody goes around the shield"
            if one.state(moment) == "living"
            else "an emergency is over, and its role is there",
            why=f"It was for: {one.reason}" + (f"; it could not be removed: {one.error}" if one.error else ""),
            subjects=(f"{one.person} as {one.role}, until {date(one.expires_at)}",),
            mends=(f"dbshield break-glass --end {one.id}",),
        )
        for one in living
        if one.environment in names
    ]


def _remarks(settings: Config) -> list[Finding]:
    remarks = settings.remarks()
    if not remarks:
        return []
    return [
        Finding(
            check="configuration.remarks",
            severity=Severity.WARNING,
            environment="",
            what="dbshield.toml allows what is worth a second look",
            why="Each of these is weaker than the default, or shows something that others may see.",
            subjects=tuple(remarks),
            mends=("change dbshield.toml; `dbshield config show` says what holds",),
        )
    ]


def _answer(findings: Sequence[Finding], examination: Examination, names: Sequence[str]) -> dict[str, Any]:
    counted = Counter(finding.severity for finding in findings)
    return {
        "environments": names,
        "unreached": sorted(set(examination.unreached)),
        "answered": examination.answered,
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
            for finding in findings
        ],
    }


def _show(findings: Sequence[Finding], examination: Examination, names: Sequence[str]) -> None:
    for finding in findings:
        place = "/".join(filter(None, (finding.environment, finding.database)))
        headline(finding.severity.value, visible(f"  {finding.check}" + (f"  {place}" if place else "")))
        subjects = f": {_some(finding.subjects, '; ')}" if finding.subjects else ""
        say(f"{' ' * INDENT}{visible(finding.what)}{subjects}")
        say(f"{' ' * INDENT}why:  {finding.why}")
        for mend in finding.mends[:SHOWN]:
            say(f"{' ' * INDENT}mend: {visible(mend)}")
        if len(finding.mends) > SHOWN:
            say(f"{' ' * INDENT}      and {len(finding.mends) - SHOWN} more, which --json has")
    counted = Counter(finding.severity for finding in findings)
    told = ", ".join(f"{counted[severity]} {severity}" for severity in ORDER)
    say(f"{told}; {examination.answered} questions answered in {', '.join(names)}")


def _some(texts: Sequence[str], between: str) -> str:
    shown = between.join(visible(text) for text in texts[:SHOWN])
    return shown + (f"{between}and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")
