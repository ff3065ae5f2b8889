"""Writes the reference pages that are made from the code: `python -m docs.build`, or `--check` to see whether they are stale."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from dbshield.policy.allowed import LEVELS
from dbshield.policy.catalogue import RULES
from dbshield.policy.function_lists import DENIED, EXTENSIONS_ALLOWED, VOLATILE_ALLOWED
from dbshield.policy.rules.base import Rule
from dbshield.policy.rules.examples import examples
from dbshield.policy.setting_lists import EXTENSION_PREFIXES, EXTENSIONS_HARMLESS, HARMLESS, HARMLESS_BEGINNINGS, REFUSED
from dbshield.policy.settings import LOOKED_AT
from docs.configuration import configuration_page

REFERENCE = Path(__file__).parent / "reference"

FAMILIES = {
    "DS1": "Destroys objects",
    "DS2": "Destroys rows",
    "DS3": "Escapes control",
    "DS4": "Tampers with a guard",
    "DS5": "Hurts availability",
    "DS6": "Hides what it does",
    "DS9": "Cannot be read",
}

INTRODUCTION = """\
# Rules

Made from the code by `make docs`; do not edit.

Each rule is one reason to stop a statement. `hold` means that a human decides; `deny` means that nobody runs it through the
shield. What no rule stops passes only if it stands on the allow-list: reads at every access level; rows from `write` on;
additive changes of the schema at `migrate`.

An example is judged for the access level `migrate`, or for the one in brackets before it. What a rule allows, another may stop.
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
    parts.append("## Functions that never pass\n")
    parts.append(_list(DENIED))
    return "\n".join(parts)


def _rule(rule: Rule) -> str:
    shown = examples(type(rule))
    lines = [f"### {rule.id} {rule.name}\n", f"{shown.summary}\n", f"Verdict: `{rule.verdict.word}`. {rule.hint}".strip() + "\n"]
    for title, statements in (("Stopped", shown.stopped), ("Allowed", shown.allowed)):
        if statements:
            lines.append(f"{title}:\n\n```sql")
            lines += [f"{'' if level is LEVELS[-1] else f'[{level}] '}{_visible(text)}" for level, text in statements]
            lines.append("```\n")
    return "\n".join(lines)


def _visible(text: str) -> str:
    """Characters that cannot be seen, as escapes."""
    return "".join(character if character.isascii() or character.isalpha() else f"\\u{ord(character):04x}" for character in text)


def _list(entries: Mapping[str, str]) -> str:
    return "".join(f"- `{name}`: {reason}\n" for name, reason in sorted(entries.items()))


def pages() -> dict[Path, str]:
    """Every generated page: where it stands and what is in it."""
    return {REFERENCE / "rules.md": rules_page(), REFERENCE / "configuration.md": configuration_page()}


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
