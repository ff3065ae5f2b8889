"""Whether a statement did what the human was shown. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from dbshield.control.running import Answer
from dbshield.control.witness import Losses
from dbshield.errors import Refused

NOT_AS_SHOWN: Final = "40001"
"""serialization_failure: the world moved on between the decision and the execution."""


def compare(preview: Mapping[str, Any] | None, answer: Answer, losses: Losses, *, tolerance: float) -> None:
    """Refused where the rows differ by more than `tolerance` (a share of those shown) or an object goes that was not shown.

    Where no preview was made, or it could not count, a human decided on the statement alone, and there is nothing to compare.
    """
    if preview is None:
        return
    rows = preview.get("rows")
    if rows is not None and answer.rows is not None:
        allowed = math.floor(rows * tolerance)
        if abs(answer.rows - rows) > allowed:
            raise Refused(
                f"the statement changes {answer.rows} rows, and {rows} were shown to the human who approved it",
                sqlstate=NOT_AS_SHOWN,
                hint="Nothing was changed. Ask again, so that a human sees what it would do now.",
            )
    shown = preview.get("objects")
    if shown is None:
        return
    more = [name for name in losses.objects() if name not in shown]
    if more:
        raise Refused(
            f"the statement destroys what was not shown to the human who approved it: {', '.join(more[:5])}",
            sqlstate=NOT_AS_SHOWN,
            hint="Nothing was changed. Ask again, so that a human sees what it would do now.",
        )
