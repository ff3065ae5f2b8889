"""Names of environments and agents.

A login's user is `agent.environment` and a token is `dbs_<environment>_<id>_<secret>`, so neither name may hold a dot or an
underscore. Both stay below PostgreSQL's 63 bytes for an identifier (NAMEDATALEN) when put together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NAME_PATTERN = r"[a-z][a-z0-9-]{0,30}"
NAME_FORM = "a lower-case letter, then up to 30 of a-z, 0-9 and -"
_NAME = re.compile(NAME_PATTERN)


def check_name(name: str) -> str:
    """The name itself; raises ValueError with the form that names have."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f'"{name}" is not a name: {NAME_FORM}')
    return name


def near(word: str, known: Iterable[str]) -> str:
    """The known word that `word` was probably meant to be, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""
