"""What a client reads when a statement is refused: an ErrorResponse that a person and a language model can act on.

MESSAGE names the rule and what was stopped, DETAIL is for machines (`rule=DS201 ...`), HINT says what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from dbshield.model import Allow, Deny, Finding, Hold, Judgement, Limit
from dbshield.policy.rules.base import MAX_TEXT, short
from dbshield.wire.backend import ErrorResponse

INSUFFICIENT_PRIVILEGE = "42501"
INVALID_STATEMENT_NAME = "26000"
"""What drivers answer by preparing the statement again."""
SQLSTATES = {"DS225": INVALID_STATEMENT_NAME}
"""By rule, where it is not INSUFFICIENT_PRIVILEGE."""
WHILE_RUNNING = frozenset({"DS220", "DS221", "DS222", "DS223"})
"""Rules of the row counter: the statement did run, and its transaction has failed."""
MAX_RULES = 24
"""Rules that DETAIL names, so that it stays within MAX_TEXT."""
DESTROYS_OBJECTS = "DS1"
BEYOND_ACCESS = "DS301"


@dataclass(slots=True)
class RulePages:
    """Where people read about rules: `address` is the site of the console, empty where nobody said how to reach it."""

    address: str = ""

    def of(self, rule: str) -> str:
        return f"{self.address}/rules/{rule}" if self.address else ""


RULE_PAGES: Final = RulePages()
"""One for the whole process, as the console's address is one for the whole installation. Set by whoever starts sessions."""


def refusal(judgement: Judgement, advice: str = "") -> bytes:
    """The ErrorResponse for a judgement that stops its statement. `advice` is one sentence more, behind the hint.

    Of several findings the hardest speaks; DETAIL names its rule first, and then those of the others.
    """
    match judgement.verdict:
        case Deny():
            what = "refused this statement; nothing was executed"
            if any(finding.rule in WHILE_RUNNING for finding in judgement.findings):
                what = "stopped this transaction; nothing of it is kept"
        case Hold():
            what = "holds this statement for a human; nothing was executed"
        case Limit(max_rows=max_rows):
            what = f"refused this statement; this session cannot count up to {max_rows} rows"
        case Allow():
            raise ValueError("an allowed statement has no refusal")
        case never:
            assert_never(never)
    finding = spoken(judgement)
    return ErrorResponse.of(
        "ERROR",
        SQLSTATES.get(finding.rule if finding else "", INSUFFICIENT_PRIVILEGE),
        short(f"dbshield {what}: {finding.message}" if finding else f"dbshield {what}"),
        detail=with_page(f"{rules(judgement)} verdict={judgement.verdict.word}", judgement),
        hint=" ".join(filter(None, (finding.hint if finding else "", advice))),
    ).encode()


def rules(judgement: Judgement) -> str:
    """The rules that spoke, as DETAIL begins."""
    first = spoken(judgement)
    named = dict.fromkeys(finding.rule for finding in ((first,) if first else ()) + judgement.findings)
    return f"rule={','.join([*named][:MAX_RULES]) or 'DS900'} name={first.name if first else 'unnamed'}"


def with_page(detail: str, judgement: Judgement) -> str:
    """A DETAIL with the page of the rule at its end, where there is one and room for it."""
    first = spoken(judgement)
    page = f"{detail} page={RULE_PAGES.of(first.rule)}" if first and RULE_PAGES.address else detail
    return page if len(page) <= MAX_TEXT else detail


def spoken(judgement: Judgement) -> Finding | None:
    """The finding that the agent reads: the first of the hardest.

    Where objects would be destroyed that is said, and not that another access level is needed: it would be held there too, and
    an agent that asks for more rights to destroy has learned the wrong thing.
    """
    destroys = next((finding for finding in judgement.findings if finding.rule.startswith(DESTROYS_OBJECTS)), None)
    hardest = next((finding for finding in judgement.findings if finding.verdict == judgement.verdict), None)
    return destroys if destroys and hardest and hardest.rule == BEYOND_ACCESS else hardest
