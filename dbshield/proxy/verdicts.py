"""Which rule a verdict is due to."""

from __future__ import annotations

from dbshield.model import Finding, Judgement


def decisive(judgement: Judgement) -> Finding | None:
    """The first finding as hard as the verdict; the first of all where the policy only observes, and none where no rule spoke."""
    first = judgement.findings[0] if judgement.findings else None
    return next((one for one in judgement.findings if type(one.verdict) is type(judgement.verdict)), first)
