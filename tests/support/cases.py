"""The cases and their own tools (tests/cases), which import one another by bare names."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from support.servers import CASES

sys.path.append(str(CASES))
live: Any = importlib.import_module("live")
oracle: Any = importlib.import_module("oracle")
validate: Any = importlib.import_module("validate")


def load(name: str) -> list[dict[str, Any]]:
    """The cases of one file, in its order."""
    return [json.loads(line) for line in (CASES / name).read_text().splitlines() if line.strip()]
