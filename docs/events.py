"""The page about the kinds of entries of the audit, made from `dbshield.control.audit_kinds`."""

from __future__ import annotations

from dbshield.control.audit_kinds import KINDS

INTRODUCTION = """\
# Audit events

Made from the code by `make docs`; do not edit.

An entry of the audit is one line of JSON with `ts`, `event` (its kind) and the fields of the kind. `dbshield audit search
--kind approval-decided --json` prints those of one kind. Several workers of a proxy write `frozen` and `thawed` each, with
the same number of the freeze. `verdict` is `allow`, `limit`, `hold` or `deny` of a statement, `approve` or `deny` of a
decision, `passed`, `failed` or `error` of a drill. What people are told of is chosen from
[events](configuration.md#alertsname), which are fewer. How the audit is read and proved: [how-to](../how-to/audit.md).

| kind | says | fields |
|---|---|---|
"""


def events_page() -> str:
    """A table, one kind a line."""
    lines = (
        f"| `{kind.name}` | {kind.meaning} | {', '.join(f'`{field}`' for field in kind.fields.split())} |\n"
        for kind in KINDS.values()
    )
    return INTRODUCTION + "".join(lines)
