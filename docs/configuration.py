"""The reference of the configuration, from the fields themselves."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dbshield.config.alerts import EVENTS, AlertsConfig
from dbshield.config.backup import BackupConfig
from dbshield.config.console import ConsoleConfig
from dbshield.config.metrics import MetricsConfig, TracingConfig
from dbshield.config.model import AuditConfig, Config, ControlConfig, EnvironmentConfig, LogConfig, ProxyConfig
from dbshield.config.policy import AgentConfig, EnvironmentOverride, OverrideConfig
from dbshield.config.schedule import ScheduleConfig

INTRODUCTION = """\
# Configuration

Made from the code by `make docs`; do not edit.

`dbshield.toml` is looked for in the working directory, in `~/.config/dbshield` and in `/etc/dbshield`; `--config` and
`$DBSHIELD_CONFIG` name another one. Each setting may also come from the environment, which wins over the file:
`DBSHIELD_PROXY__WORKERS=2`. Paths are relative to the file. `dbshield config check` says what is wrong and what is weaker than it
could be, `dbshield config show` what is in force. A reload (SIGHUP) changes policies and `[audit] statements` at once, for
sessions that stand too; a file that is not valid changes nothing.
"""

POLICY = """\
Patterns of tables are `schema.table`, where `*` stands for any characters and `?` for one. What is not in double quotes is folded
to lower case, as PostgreSQL does it. A name that a statement writes without a schema may be of any: what loosens applies to it
only where the pattern's schema is `*`, what hardens wherever the name's own letters fit.

**Rows.** `max_rows` bounds what one transaction may change: updated and deleted rows, those that COPY brings in, and what
cascades, triggers and functions change too. The server counts, before it commits. Plain INSERT is not bounded.

**Protected tables** are written only by a human's decision (DS210), whatever an agent's access level. A whole schema
(`billing.*`) is protected from statements that name no schema by the server's count (DS222).

**Freezes.** While an environment is frozen, agents write nothing (DS313); reads pass. `frozen_until` ends it by the clock; with
it, `frozen` need not be given. `dbshield environment freeze` and `thaw` do the same at once and for every proxy, without this
file.

**Functions** that the shield does not know, or that may change rows, are held; one that stands in `functions_allowed` passes, and
the rows that it changes are counted. Functions that reach files, programs or other servers are not let through this way.

**observe** lets everything pass and writes down what would have been said. A freeze holds all the same, and so does what stops
writes that cannot be audited (DS701).
"""

OVERRIDES = """\
As many as are needed, each a table of its own. The overrides of an agent's section are asked first, then those of its
environment, in the order in which they are written; the first that has something to say about a finding speaks. Where an
unbounded DELETE or UPDATE, or a function, is let through, the rows that it changes are counted nevertheless.

DS210, DS22x, DS301, DS303, DS304, DS307, DS313, DS4xx, DS7xx and DS9xx are never loosened
(docs/decisions/0010-overrides.md): only `deny` may be said of them.

```toml
[[environments.staging.overrides]]
rule = "DS201"          # DELETE without a bound
verdict = "limit"       # may run, while it changes at most max_rows rows
objects = ["scratch.*"]
agents = ["etl-*"]
```
"""

AGENTS = """\
What is said here replaces the environment's numbers and mode, and adds to its lists.
"""

BACKUP = """\
One plan of backups: what, by which engine, to where. What weakens a backup has to be said by name: `encryption = "none"`,
`same_device = "allowed"`, `same_account = "allowed"`, `same_credentials = "allowed"` (docs/decisions/0030-backup-repository.md).
"""

ALERTS = f"""\
A channel by which people are told what happened, as many as are needed: Slack, Teams, e-mail, webhooks and whatever else apprise
has a URL for (docs/how-to/alerts.md). A change holds from the next start on. The events:

{"".join(f"- `{event}`: {meaning}{chr(10)}" for event, meaning in EVENTS.items())}"""

SCHEDULE = """\
What `dbshield scheduler`, or `dbshield up`, runs by itself, each plan and environment on its own. Expressions are those of cron,
or `@daily` and the like; `dbshield schedule show` says when each is due (docs/how-to/schedule.md).
"""

SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("[control]", ControlConfig, "The database of agents, tokens and approvals. Never the protected one.\n"),
    ("[proxy]", ProxyConfig, "Where agents connect, and the limits on what they may take up.\n"),
    ("[environments.NAME]", EnvironmentConfig, f"One protected cluster, and what agents may do in it.\n\n{POLICY}"),
    ("[[environments.NAME.overrides]]", EnvironmentOverride, OVERRIDES),
    ("[environments.NAME.agents.AGENT]", AgentConfig, AGENTS),
    ("[[environments.NAME.agents.AGENT.overrides]]", OverrideConfig, "As those of the environment.\n"),
    ("[backup.NAME]", BackupConfig, BACKUP),
    ("[alerts.NAME]", AlertsConfig, ALERTS),
    ("[schedule]", ScheduleConfig, SCHEDULE),
    ("[audit]", AuditConfig, "One line for every statement. It cannot be switched off.\n"),
    (
        "[console]",
        ConsoleConfig,
        "The web page: who may reach it, and how long people stay signed in (docs/how-to/console.md).\n",
    ),
    ("[metrics]", MetricsConfig, "Read once, at the start (docs/how-to/monitoring.md).\n"),
    ("[tracing]", TracingConfig, "Read once, at the start (docs/how-to/monitoring.md).\n"),
    ("[log]", LogConfig, "What dbshield says about itself, on standard error.\n"),
)
BELOW = {EnvironmentConfig: {"overrides", "agents"}, AgentConfig: {"overrides"}}
"""Fields that are sections of their own."""


def configuration_page() -> str:
    """The page about every setting."""
    parts = [INTRODUCTION, _table(Config, only={"state"})]
    for head, section, words in SECTIONS:
        parts += [f"## {head}\n", words, _table(section, without=BELOW.get(section, set()))]
    return "\n".join(parts)


def _table(section: type[BaseModel], *, only: set[str] | None = None, without: set[str] | None = None) -> str:
    fields = section.model_fields.items()
    rows = [
        f"| `{name}` | {_default(name, field)} | {field.description} |\n"
        for name, field in sorted(fields, key=lambda item: item[0] not in {"url", "upstream", "destination"})
        if (only is None or name in only) and name not in (without or ())
    ]
    return f"| setting | default | what it is |\n|---|---|---|\n{''.join(rows)}"


def _default(name: str, field: FieldInfo) -> str:
    if name == "state":
        return "`/var/lib/dbshield`, or `~/.local/state/dbshield` for a user"
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value in {None, ""} or isinstance(value, Path) else f"`{json.dumps(value)}`"
