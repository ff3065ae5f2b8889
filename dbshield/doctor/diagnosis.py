"""Everything that the doctor looks at, for whoever asks: the command line and the console say the same.

It only looks. What it cannot look at is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dbshield.config import Config, conninfo
from dbshield.control.agents import Agents
from dbshield.control.emergency import Emergencies
from dbshield.control.vault import Vault
from dbshield.doctor.backups import backup_checks
from dbshield.errors import ConfigError, DbshieldError
from dbshield.guard.doctor import Finding, Severity, not_looked, ordered
from dbshield.guard.doctor_look import Patient, examine, recorded_identifiers
from dbshield.model import AccessLevel
from dbshield.store.database import Opening

Logins = Mapping[str, Sequence[tuple[str, AccessLevel]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found, the worst first; how many questions were answered, and the environments where nobody could be asked.

    `remark` says why agents are not known, where the control database could not tell them.
    """

    environments: tuple[str, ...]
    findings: tuple[Finding, ...]
    answered: int
    unreached: tuple[str, ...]
    remark: str = ""


def diagnose(
    settings: Config, names: Sequence[str], opening: Opening, *, moment: datetime, administrator: str | None = None
) -> Diagnosis:
    """Looks at these environments, which are configured, at `moment`, a time with a zone. `administrator` is the connection
    string, password included, of who looks; without it, who is configured."""
    logins, recorded, remark = _known(settings, opening, moment)
    patients = [_patient(settings, name, administrator, logins, recorded) for name in names]
    examination = examine([patient for patient in patients if isinstance(patient, Patient)])
    without = [patient for patient in patients if isinstance(patient, Finding)]
    examination.findings += without
    examination.unreached += [finding.environment for finding in without]
    examination.findings += _remarks(settings)
    examination.findings += _emergencies(settings, names, opening, moment)
    examination.findings += backup_checks(settings, names, opening)
    return Diagnosis(
        environments=tuple(names),
        findings=tuple(ordered(examination.findings)),
        answered=examination.answered,
        unreached=tuple(sorted(set(examination.unreached))),
        remark=remark,
    )


def _patient(
    settings: Config, name: str, administrator: str | None, logins: Logins | None, recorded: Mapping[str, int]
) -> Patient | Finding:
    """One environment to look at, or why it cannot be: the others are looked at all the same."""
    section = settings.environments[name]
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


def _known(settings: Config, opening: Opening, moment: datetime) -> tuple[Logins | None, Mapping[str, int], str]:
    """The roles that agents log in with and the recorded identities, by environment; or nothing, and why."""
    try:
        with opening() as database:
            agents = Agents(database, settings.environments, lambda: Vault.load(settings.secret_key)).list_agents(now=moment)
            recorded = recorded_identifiers(database)
    except DbshieldError as error:
        return None, {}, f"the control database could not be asked: {error.message}"
    logins: dict[str, list[tuple[str, AccessLevel]]] = {}
    for agent in agents:
        section = settings.environments.get(agent.environment)
        if section is not None:
            logins.setdefault(agent.environment, []).append((agent.role or section.server.user, agent.access))
    return logins, recorded, ""


def _emergencies(settings: Config, names: Sequence[str], opening: Opening, moment: datetime) -> list[Finding]:
    """Who goes around the shield at this moment."""
    try:
        with opening() as database:
            living = Emergencies(database, settings.environments).list_(living=True)
    except DbshieldError:
        return []  # That it could not be asked is said already.
    return [
        Finding(
            check="emergency.living",
            severity=Severity.WARNING,
            environment=one.environment,
            what="somebody goes around the shield"
            if one.state(moment) == "living"
            else "an emergency is over, and its role is there",
            why=f"It was for: {one.reason}" + (f"; it could not be removed: {one.error}" if one.error else ""),
            subjects=(f"{one.person} as {one.role}, until {one.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",),
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
