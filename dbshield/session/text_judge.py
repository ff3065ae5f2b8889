"""What a session asks of the policy; `dbshield.policy.judge.Judge` is one who answers."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from dbshield.model import Judgement
from dbshield.policy.policy import Policy


class TextJudge(Protocol):
    """Judges texts, calls by number, and what was judged before."""

    @property
    def policy(self) -> Policy: ...

    @property
    def full(self) -> bool: ...

    def judge(self, text: bytes) -> Judgement: ...

    def judge_length(self, length: int) -> Judgement: ...

    def confirms(self, judgement: Judgement, before: object) -> bool: ...

    def only_reads(self, judgement: Judgement) -> bool: ...

    def note(self, made: Set[str]) -> None: ...

    def judge_function(self, oid: int, arguments: Sequence[bytes | None], formats: Sequence[int]) -> Judgement: ...
