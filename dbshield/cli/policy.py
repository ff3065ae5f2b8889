"""`dbshield policy`: what holds for an agent, and whether a policy says what a team expects of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbshield.cli.cases import LINE, Case, judged, read_cases, rules_of, said
from dbshield.cli.common import ConfigOption, JsonOption, find_environment, load_with_trial
from dbshield.cli.judging import PolicyAgentOption, written_policy
from dbshield.cli.output import answer, date, remark, say, table
from dbshield.config import Config, EnvironmentConfig
from dbshield.control import effective
from dbshield.control.policies import policy_at
from dbshield.errors import DbshieldError
from dbshield.model import AccessLevel, Judgement
from dbshield.policy.policy import Policy

if TYPE_CHECKING:
    from dbshield.store.frozen import Freeze

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Show what holds for an agent, and test it."
)

OptionalAccess = Annotated[
    AccessLevel | None,
    typer.Option("--access", "-a", help="The agent's access level; without it, the one that it has, or else migrate."),
]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", "-e", metavar="NAME", help="The environment; without it, dbshield's defaults.")
]


@app.callback()
def group() -> None:
    """Show what holds for an agent, and test it."""


@app.command()
def show(
    environment: EnvironmentOption = None,
    agent: PolicyAgentOption = None,
    access: OptionalAccess = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the policy that holds: limits, protected tables, whether it is frozen, every rule with its verdict and its source.

    What is weaker than by default is said last. Whether somebody froze the environment, and which access level the agent has, is
    asked of the control database; where that is away, the answer goes without.

    \b
    Examples:
      dbshield policy show
      dbshield policy show --environment production --agent claude --json
    """
    settings = load_with_trial(config) if environment is not None or config is not None else None
    found = find_environment(settings, environment) if settings is not None and environment is not None else None
    freeze = None
    if settings is not None and environment is not None:
        freeze, level = _asked(settings, environment, agent)
        access = access or level
    access = access or AccessLevel.MIGRATE
    if found is None:
        policy = written_policy(settings, environment=environment, agent=agent, access=access)
    else:
        policy = policy_at(found, agent=agent or "", access=access, freeze=freeze, now=datetime.now(UTC))
    if json:
        answer({"environment": environment, "agent": agent, **_tree(found, agent, policy, freeze)})
    else:
        say(", ".join(filter(None, (environment or "dbshield's defaults", agent, f"access level {access}"))))
        _tell(found, agent, policy, freeze)


def _asked(settings: Config, environment: str, agent: str | None) -> tuple[Freeze | None, AccessLevel | None]:
    """What the control database knows: the freeze that holds longest, and the agent's access level."""
    from dbshield.cli.options import agents_in, open_database  # noqa: PLC0415  (half a second that `policy test` does not need)
    from dbshield.control.freezes import Freezes  # noqa: PLC0415
    from dbshield.store.frozen import longest  # noqa: PLC0415

    moment = datetime.now(UTC)
    try:
        with open_database(settings) as database:
            known = Freezes(database, settings.environments)
            freezes = [*known.in_force(moment).get(environment, ())]
            if agent is not None:
                freezes += known.agents_in_force(moment).get(f"{agent}.{environment}", ())
            agents = agents_in(database, settings).list_agents(now=moment, environment=environment)
    except DbshieldError as error:
        remark(f"not asked whether somebody froze it: {error.message}")
        return None, None
    level = next((one.access for one in agents if one.name == agent), None)
    if agent is not None and level is None:
        remark(f"there is no agent {agent} in {environment}")
    return (longest(freezes) if freezes else None), level


def _frozen(environment: EnvironmentConfig | None, policy: Policy, freeze: Freeze | None) -> dict[str, Any] | None:
    """Why it is frozen, by whom, until when and where that is written; nothing where it is not."""
    if not policy.frozen:
        return None
    if freeze is not None:
        return {
            "frozen": True,
            "reason": freeze.reason,
            "by": freeze.frozen_by,
            "until": freeze.until,
            "from": "control database",
        }
    until = environment.frozen_until if environment is not None else None
    return {"reason": "", "by": None, "until": until, "from": "environment"}


def _tree(environment: EnvironmentConfig | None, agent: str | None, policy: Policy, freeze: Freeze | None) -> dict[str, Any]:
    """The policy for machines."""
    rules: dict[str, dict[str, Any]] = {}
    for one in effective.verdicts(policy):
        rule = rules.setdefault(one.rule, {"rule": one.rule, "name": one.name, "default": one.default, "verdicts": []})
        rule["verdicts"].append({"verdict": one.verdict, "objects": one.objects, "from": one.source})
    values = [*effective.settings(environment, agent, policy)]
    return {
        "access": policy.access,
        **{one.name: {"value": one.value, "from": one.source} for one in values if one.name in effective.NUMBERS},
        **{name: [{"value": one.value, "from": one.source} for one in values if one.name == name] for name in effective.LISTS},
        "frozen": _frozen(environment, policy, freeze),
        "rules": [*rules.values()],
        "warnings": [*effective.warnings(policy)],
    }


def _tell(environment: EnvironmentConfig | None, agent: str | None, policy: Policy, freeze: Freeze | None) -> None:
    say()
    rows: list[tuple[object, ...]] = [(one.name, one.value, one.source) for one in effective.settings(environment, agent, policy)]
    frozen = _frozen(environment, policy, freeze)
    table(("SETTING", "VALUE", "FROM"), [*rows, ("frozen", *_frozen_words(frozen))], empty="")
    say()
    table(
        ("RULE", "NAME", "VERDICT", "FOR", "FROM"),
        [
            (one.rule, one.name, one.verdict, ", ".join(one.objects) or "-", f"{one.source}{', weaker' * one.weakened}")
            for one in effective.verdicts(policy)
        ],
        empty="",
    )
    for number, sentence in enumerate(effective.warnings(policy)):
        if not number:
            say()
        say(f"weaker: {sentence}")


def _frozen_words(frozen: dict[str, Any] | None) -> tuple[str, str]:
    if frozen is None:
        return "no", "-"
    words = f"until {date(frozen['until'])}" if frozen["until"] is not None else "until somebody lifts it"
    return f"{words}: {frozen['reason']}" if frozen["reason"] else words, frozen["from"]


@app.command("test")
def run_cases(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES…", help="Files of JSON lines; `-` is standard input.")],
    *,
    environment: EnvironmentOption = None,
    agent: PolicyAgentOption = None,
    access: Annotated[
        AccessLevel, typer.Option("--access", "-a", help="Of cases that name none themselves.")
    ] = AccessLevel.MIGRATE,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Test that texts get the verdicts that you expect, without a database: for CI, next to dbshield.toml.

    Each line is a case: "id", "sql" and "expect" (allow, limit, hold or deny), and where it matters "rule" (an id or a family
    that has to speak), "access", "environment", "agent" and "why". In an environment that only observes, the verdict is the one
    that would be carried out. Freezes are left out, since they come and go.

    Exit code 0: all are as expected. 1: some are not. 2: a file cannot be read or a case is not one.

    \b
    Examples:
      dbshield policy test cases.jsonl --environment production
      echo '{"id": 1, "sql": "delete from orders", "expect": "hold", "rule": "DS201"}' | dbshield policy test -
    """
    read = [case for path in cases for case in read_cases(path, (environment, agent, access))]
    if not read:
        raise DbshieldError("there are no cases in it", hint=f"Each line is {LINE}.")
    named = config is not None or any(case.whose[0] is not None for case in read)
    failed = [
        (case, judgement)
        for case, judgement in judged(read, load_with_trial(config) if named else None)
        if not case.holds(judgement)
    ]
    if json:
        answer({"cases": len(read), "failed": [_failure(case, judgement) for case, judgement in failed]})
    else:
        if failed:
            rows = [
                (case.id, case.where, _expected(case), said(judgement), ", ".join(rules_of(judgement)) or "-")
                for case, judgement in failed
            ]
            table(("CASE", "WHERE", "EXPECTED", "VERDICT", "RULES"), rows, empty="")
        say(f"{len(read)} case{'' if len(read) == 1 else 's'}, {len(failed)} not as expected")
    raise typer.Exit(1 if failed else 0)


def _expected(case: Case) -> str:
    return f"{case.expect}, {case.rule}" if case.rule else case.expect


def _failure(case: Case, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": case.id,
        "where": case.where,
        "sql": case.sql,
        "expect": case.expect,
        "rule": case.rule or None,
        "verdict": said(judgement),
        "rules": rules_of(judgement),
    }
