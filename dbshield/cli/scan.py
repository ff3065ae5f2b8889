"""`dbshield scan`: the credentials that lie in a workspace, and which of them go around the proxy. It never prints a secret."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import read_settings
from dbshield.cli.output import answer, remark, say, table
from dbshield.config import Config, conninfo
from dbshield.errors import ConfigError
from dbshield.scan.attempt import Attempt, attempt, identifier, resolve
from dbshield.scan.found import Found, Power
from dbshield.scan.reach import WAYS, Protected, Reach, Surroundings, Way, reach, unresolved
from dbshield.scan.text import find
from dbshield.scan.walk import Skipped, walk

ELSEWHERE_SHOWN = 20
"""Of credentials that lead elsewhere; tests and examples are full of them, and --json has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One credential with its place, where it leads, and what came of trying it."""

    path: Path
    found: Found
    reach: Reach
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What credentials are compared with. `passwords` have what to call them; `identifiers` are the clusters of environments,
    asked for only where credentials are tried."""

    around: Surroundings
    passwords: Mapping[str, str] = field(repr=False)
    identifiers: Mapping[int, str]


def scan(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders that an agent can read.")],
    *,
    try_: Annotated[
        bool, typer.Option("--try", help="Log in with what was found, and say what it may do. Nothing is changed.")
    ] = False,
    any_: Annotated[
        bool, typer.Option("--any", help="Exit with 1 for every credential, wherever it leads: for a pre-commit hook.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Look for database credentials and provider tokens in files, ignored ones too, and say which go around the proxy.

    A secret is never printed: a fingerprint, the same for the same secret, stands for it. Exit code 1 where one reaches a
    protected environment around the proxy (with --any: where there is one at all).

    \b
    Examples:
      dbshield scan .
      dbshield scan ~ --try --json
    """
    settings = read_settings(config)
    known = _known(settings, trying=try_)
    if not settings.environments:
        remark("remark: no environment is configured, so nothing can be told to reach one")
    told: list[Told] = []
    skipped: list[Skipped] = []
    files = 0
    for file in walk(paths):
        if isinstance(file, Skipped):
            skipped.append(file)
            continue
        files += 1
        told += _look(file.path, file.text, known, trying=try_)
    told.sort(key=lambda one: WAYS.index(one.reach.way))
    if json:
        answer(_answer(told, skipped, files, settings))
    else:
        _show(told, skipped, files)
    if any(one.reach.way is Way.AROUND or any_ for one in told):
        raise typer.Exit(1)


def _known(settings: Config, *, trying: bool) -> Known:
    environments, passwords, identifiers = [], {}, {}
    for name, section in settings.environments.items():
        try:
            password = section.password()
        except ConfigError as error:
            remark(f"remark: {name}: its password is not known here, so it is not looked for: {error.message}")
            password = None
        server = section.server
        environments.append(
            Protected(
                environment=name,
                host=server.host,
                port=server.port,
                databases=section.databases,
                user=server.user,
                password=password,
            )
        )
        if password is not None:
            passwords[password] = f"password of {name}"
        if trying and (number := identifier(conninfo.with_password(section.upstream, password))) is not None:
            identifiers[number] = name
    listening = {(address.host or address.folder, address.port) for address in settings.proxy.addresses}
    advertised = settings.proxy.client_address
    listening.add((advertised.host or advertised.folder, advertised.port))
    around = Surroundings(environments=environments, proxies=sorted(listening), resolve=resolve if trying else unresolved)
    return Known(around=around, passwords=passwords, identifiers=identifiers)


def _look(path: Path, text: str, known: Known, *, trying: bool) -> Iterator[Told]:
    for found in find(text, path.name, known.passwords):
        leads = reach(found, known.around)
        tried = attempt(found) if trying and found.power is Power.DATABASE and leads.way is not Way.PROXY else None
        if tried is not None and tried.system_identifier is not None and tried.system_identifier in known.identifiers:
            environment = known.identifiers[tried.system_identifier]
            leads = Reach(way=Way.AROUND, environment=environment, why="it logs in to its cluster")
        if found.certain or leads.way is not Way.ELSEWHERE:
            yield Told(path=path, found=found, reach=leads, attempt=tried)


def _answer(told: Sequence[Told], skipped: Sequence[Skipped], files: int, settings: Config) -> dict[str, Any]:
    return {
        "environments": list(settings.environments),
        "files": files,
        "findings": [
            {
                "file": str(one.path),
                "line": one.found.line,
                "what": one.found.what,
                "power": one.found.power.value,
                "fingerprint": one.found.fingerprint,
                "target": str(one.found.target) if one.found.target is not None else None,
                "way": one.reach.way.value,
                "environment": one.reach.environment or None,
                "why": one.reach.why or None,
                "tried": None if one.attempt is None else _attempted(one.attempt),
            }
            for one in told
        ],
        "skipped": [{"file": str(one.path), "reason": one.reason} for one in skipped],
    }


def _attempted(tried: Attempt) -> dict[str, Any]:
    if not tried.connected:
        return {"connected": False, "failure": tried.failure}
    return {"connected": True, "role": tried.role, "rights": tried.rights}


def _show(told: Sequence[Told], skipped: Sequence[Skipped], files: int) -> None:
    near = [one for one in told if one.reach.way is not Way.ELSEWHERE]
    far = [one for one in told if one.reach.way is Way.ELSEWHERE]
    rows = [
        (
            one.reach.way,
            one.reach.environment or "-",
            f"{one.path}:{one.found.line}",
            one.found.what,
            one.found.target if one.found.target is not None else "-",
            one.found.fingerprint,
            "; ".join(filter(None, (one.reach.why, _rights(one.attempt)))) or "-",
        )
        for one in (*near, *far[:ELSEWHERE_SHOWN])
    ]
    columns = ("way", "environment", "place", "what", "leads to", "fingerprint", "because")
    table(columns, rows, empty="No credentials were found.")
    if len(far) > ELSEWHERE_SHOWN:
        say(f"and {len(far) - ELSEWHERE_SHOWN} more that lead elsewhere, which --json has")
    around = sum(one.reach.way is Way.AROUND for one in told)
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in skipped).most_common())
    say(
        f"{files} files read, {len(told)} credentials, {around} around the proxy"
        + (f"; {len(skipped)} not read ({reasons})" if skipped else "")
    )
    if around:
        remark("Take those away from where agents work and change the passwords: what lay around may have been read.")


def _rights(tried: Attempt | None) -> str:
    if tried is None:
        return ""
    return f"as {tried.role}: {', '.join(tried.rights)}" if tried.connected else f"tried: {tried.failure}"
