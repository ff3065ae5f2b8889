"""Writes the reference pages that are made from the code: `python -m docs.build`, or `--check` to see whether they are stale."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from dbshield.model import AccessLevel
from dbshield.policy.allowed import LEVELS
from dbshield.policy.catalogue import RULES
from dbshield.policy.extension_lists import HARMLESS_EXTENSIONS
from dbshield.policy.function_lists import DENIED, EXTENSIONS_ALLOWED, VOLATILE_ALLOWED
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.rules.base import Rule
from dbshield.policy.rules.examples import examples
from dbshield.policy.setting_lists import EXTENSION_PREFIXES, EXTENSIONS_HARMLESS, HARMLESS, HARMLESS_BEGINNINGS, REFUSED
from dbshield.policy.settings import LOOKED_AT
from dbshield.rule_ids import VERDICTS, objection
from docs.command_line import command_line_page
from docs.configuration import configuration_page
from docs.error_codes import errors_page
from docs.events import events_page
from docs.metrics import metrics_page
from docs.rights import rights_page

REFERENCE = Path(__file__).parent / "reference"

FAMILIES = {
    "DS1": "Destroys objects",
    "DS2": "Destroys rows",
    "DS3": "Escapes control",
    "DS4": "Tampers with a guard",
    "DS5": "Hurts availability",
    "DS6": "Hides what it does",
    "DS7": "Cannot be audited",
    "DS9": "Cannot be read",
}

INTRODUCTION = """\
# Rules

Made from the code by `make docs`; do not edit.

Each rule is one reason to stop a statement. `hold` means that a human decides; `deny` means that no agent runs it. What no rule
stops passes only if it stands on the allow-list: reads at every access level; rows from `write` on; additive changes of the
schema at `migrate`. Where rows change, they are counted while the statement runs (DS220 to DS223).

An example is judged for the access level `migrate`, or for the one in brackets before it. What a rule allows, another may stop.

Under each rule stands what its own examples get at each access level, by all rules together: at `read` and `write` DS301 denies
what is beyond the level, whatever else is said. Then what a configuration may make of it:

```toml
[[environments.staging.overrides]]
rule = "DS201"           # or a family: "DS2xx"
verdict = "limit"        # allow, limit, hold or deny
objects = ["scratch.*"]  # only for these; without it for all
agents = ["etl-*"]       # only for these; without it for all
```

`limit` lets a statement pass while the rows that it changes are counted, and is there only for rules about rows. Which override
speaks when several match stands in the [configuration](configuration.md).
"""


def rules_page() -> str:
    """The page about every rule, and the lists that the rules look things up in."""
    parts = [INTRODUCTION]
    for family, title in FAMILIES.items():
        parts.append(f"## {title} ({family}xx)\n")
        parts += [_rule(rule) for rule in RULES if rule.id.startswith(family)]
    parts.append("## Settings that an agent may change\n")
    parts.append(_list({**HARMLESS, **{f"{name}*": reason for name, reason in HARMLESS_BEGINNINGS.items()}}))
    parts.append("These are looked at more closely:\n")
    parts.append(_list({name: reason for name, (_, reason) in LOOKED_AT.items()}))
    parts.append("A setting with a dot in its name is an application's and passes, unless an extension or dbshield has taken the")
    parts.append("word before the dot: `pg_…`, what the server's own extensions are called, and\n")
    parts.append(f"{', '.join(f'`{word}`' for word in sorted(EXTENSION_PREFIXES))}.\n")
    parts.append("Of those, these pass all the same:\n")
    parts.append(_list(EXTENSIONS_HARMLESS))
    parts.append("## Settings that are refused by name\n")
    parts.append("So is every other that is not listed above.\n")
    parts.append(_list(REFUSED))
    parts.append("## Volatile functions that pass\n")
    parts.append(_list({f"{name}` from `{level}": reason for name, (level, reason) in VOLATILE_ALLOWED.items()}))
    parts.append("Of extensions, where they are written in C:\n")
    parts.append(_list(EXTENSIONS_ALLOWED))
    parts.append("## Extensions that a migration may create\n")
    parts.append(_list(HARMLESS_EXTENSIONS))
    parts.append("## Functions that never pass\n")
    parts.append(_list(DENIED))
    return "\n".join(parts)


def _rule(rule: Rule) -> str:
    shown = examples(type(rule))
    lines = [f"### {rule.id} {rule.name}\n", f"{shown.summary}\n", _verdicts(rule), f"Override: {_override(rule.id)}.\n"]
    if rule.hint:
        lines.append(f"> {rule.hint}\n")
    for title, statements in (("Stopped", shown.stopped), ("Allowed", shown.allowed)):
        if statements:
            lines.append(f"{title}:\n\n```sql")
            lines += [f"{'' if level is LEVELS[-1] else f'[{level}] '}{_visible(text)}" for level, text in statements]
            lines.append("```\n")
    return "\n".join(lines)


def _verdicts(rule: Rule) -> str:
    """What the examples of a rule get at each access level, as a table."""
    cells = " | ".join(" or ".join(f"`{word}`" for word in _words(rule, access)) or "passes" for access in LEVELS)
    return f"| {' | '.join(LEVELS)} |\n|{'---|' * len(LEVELS)}\n| {cells} |\n"


def _words(rule: Rule, access: AccessLevel) -> list[str]:
    """The verdicts of the examples that are about this level, or of all where none is about a level; none where it passes."""
    if access in rule.passes:
        return []
    stopped = examples(type(rule)).stopped
    own = [text for level, text in stopped if level is access] if rule.passes else [text for _, text in stopped]
    judge = Judge(policy=Policy(access=access, **rule.given), functions=FunctionCatalogue.builtin())
    return sorted({judge.judge(text.encode()).verdict.word for text in own}) or [rule.verdict.word]


def _override(rule: str) -> str:
    """What an override may make of a rule."""
    words = [word for word in VERDICTS if not objection(rule, word)]
    if words == ["deny"] or not words:
        reason = objection(rule, "hold").rpartition(": ")[2]
        return f"never loosened ({reason})"
    return ", ".join(f"`{word}`" for word in words)


def _visible(text: str) -> str:
    """Characters that cannot be seen, as escapes."""
    return "".join(character if character.isascii() or character.isalpha() else f"\\u{ord(character):04x}" for character in text)


def _list(entries: Mapping[str, str]) -> str:
    return "".join(f"- `{name}`: {reason}\n" for name, reason in sorted(entries.items()))


def pages() -> dict[Path, str]:
    """Every generated page: where it stands and what is in it."""
    return {
        REFERENCE / "rules.md": rules_page(),
        REFERENCE / "configuration.md": configuration_page(),
        REFERENCE / "rights.md": rights_page(),
        REFERENCE / "command-line.md": command_line_page(),
        REFERENCE / "audit-events.md": events_page(),
        REFERENCE / "metrics.md": metrics_page(),
        REFERENCE / "error-codes.md": errors_page(),
    }


def main(arguments: list[str]) -> int:
    """Write the pages; with `--check` only say which are stale (exit code 1)."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in arguments:
        sys.stderr.write("".join(f"{path} is stale: run `make docs`\n" for path in stale))
        return 1 if stale else 0
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
