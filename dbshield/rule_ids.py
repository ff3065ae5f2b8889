"""Which rules there are, for those who may not know the rules themselves, and what an override may make of each.

The rules live in `policy/`, above the configuration; this table is what the configuration is checked against, and a test holds
the two together. Why some rules are never loosened stands in docs/decisions/0010-overrides.md.
"""

from __future__ import annotations

import difflib
import re

DEFAULTS: dict[str, str] = {
    "DS101": "hold",
    "DS102": "deny",
    "DS103": "deny",
    "DS104": "hold",
    "DS105": "hold",
    "DS106": "hold",
    "DS107": "hold",
    "DS108": "hold",
    "DS109": "hold",
    "DS110": "hold",
    "DS111": "hold",
    "DS201": "hold",
    "DS202": "hold",
    "DS203": "hold",
    "DS210": "hold",
    "DS220": "deny",
    "DS221": "deny",
    "DS222": "deny",
    "DS223": "deny",
    "DS224": "deny",
    "DS225": "deny",
    "DS226": "deny",
    "DS301": "deny",
    "DS302": "deny",
    "DS303": "deny",
    "DS304": "deny",
    "DS305": "deny",
    "DS306": "deny",
    "DS307": "deny",
    "DS308": "hold",
    "DS309": "deny",
    "DS310": "deny",
    "DS311": "deny",
    "DS312": "hold",
    "DS313": "deny",
    "DS401": "deny",
    "DS402": "deny",
    "DS403": "hold",
    "DS404": "deny",
    "DS405": "deny",
    "DS501": "hold",
    "DS502": "hold",
    "DS503": "deny",
    "DS504": "hold",
    "DS505": "deny",
    "DS601": "hold",
    "DS602": "hold",
    "DS603": "hold",
    "DS604": "deny",
    "DS605": "hold",
    "DS606": "hold",
    "DS607": "hold",
    "DS608": "hold",
    "DS609": "hold",
    "DS610": "hold",
    "DS611": "hold",
    "DS701": "deny",
    "DS901": "deny",
    "DS902": "hold",
    "DS903": "deny",
    "DS904": "deny",
    "DS905": "deny",
    "DS906": "deny",
    "DS907": "deny",
    "DS908": "deny",
    "DS909": "deny",
}
"""Every rule with its verdict where nothing is overridden."""

FAMILIES = tuple(sorted({f"{rule[:3]}xx" for rule in DEFAULTS}))
"""All rules of a kind: `DS1xx` is every rule whose id begins with DS1."""

NEVER_LOOSENED = ("DS210", "DS22", "DS301", "DS303", "DS304", "DS307", "DS313", "DS4", "DS7", "DS9")
"""Beginnings of the ids of rules that an override can only harden."""

COUNTABLE = ("DS201", "DS202", "DS601", "DS603", "DS604", "DS605", "DS606")
"""Beginnings of the ids of rules about what changes rows; only these can be overridden to `limit`, because nothing else can
be counted."""

VERDICTS = ("allow", "limit", "hold", "deny")
"""From the softest to the hardest."""


def members(rule: str) -> tuple[str, ...]:
    """The rules that an id or a family stands for; none where it is not known."""
    if rule in DEFAULTS:
        return (rule,)
    return tuple(known for known in DEFAULTS if known.startswith(rule[:3])) if rule in FAMILIES else ()


def objection(rule: str, verdict: str) -> str:
    """Why a configuration may not override `rule` to `verdict`; empty where it may."""
    concerned = members(rule)
    if not concerned:
        close = difflib.get_close_matches(rule, [*DEFAULTS, *FAMILIES], n=3, cutoff=0.5)
        known = (
            f"did you mean {' or '.join(sorted(close))}?"
            if close
            else f"rules have ids such as DS201, families are {', '.join(FAMILIES)}"
        )
        return f'"{rule}" is no rule; {known}'
    if verdict == "limit" and not any(one.startswith(COUNTABLE) for one in concerned):
        return f'{rule} stops what changes no rows that could be counted, so "limit" says nothing of it; one of allow, hold, deny'
    if verdict != "deny" and all(one.startswith(NEVER_LOOSENED) for one in concerned):
        return f'{rule} is never loosened, only "deny" may be said of it: {_reason(rule)}'
    return ""


def weakened(rule: str, verdict: str) -> tuple[str, ...]:
    """The rules that an override makes softer than they are by default."""
    rank = VERDICTS.index(verdict)
    return tuple(
        one
        for one in members(rule)
        if rank < VERDICTS.index(DEFAULTS[one])
        and not one.startswith(NEVER_LOOSENED)
        and (verdict != "limit" or one.startswith(COUNTABLE))
    )


def _reason(rule: str) -> str:
    """Why a rule that is never loosened is not."""
    reasons = {
        r"DS9": "what cannot be read has neither objects nor bounds",
        r"DS4": "a guard that agents may weaken guards nothing",
        r"DS30[347]": "the server must read the same text as the shield",
        r"DS301": "give the agent another access level",
        r"DS210": "take the table out of `protected`",
        r"DS22[45]": "what was counted or judged would no longer hold",
        r"DS22": "raise max_rows or max_rows_per_hour",
        r"DS7": "what is not written down did not happen under anybody's eyes",
        r"DS313": "thaw the environment or the agent",
    }
    return next(reason for pattern, reason in reasons.items() if re.match(pattern, rule))
