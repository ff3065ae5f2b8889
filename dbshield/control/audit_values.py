"""The values of a statement as an entry of the audit has them, and as people read them. Pure: no I/O, no clock.

    "parameters": ["text as sent", null, {"binary": "0000002a", "type": 23}, {"text": "the beginn", "bytes": 5000}]

A value in the text format stands there as it was sent, one in the binary format in hexadecimal digits with the OID of its type,
where the client named one. `bytes` is the length of a value that was cut. `parameters_left_out` is how many are not shown at all,
null where that is not known. Only `[audit] statements = "full"` has any of this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dbshield.control.tokens import hidden
from dbshield.model import VALUE_BYTES, VALUE_MARGIN, BoundValue, BoundValues


def fields(values: BoundValues) -> str:
    """A piece of JSON without braces, ASCII alone."""
    said = json.dumps([_said(value) for value in values.values], separators=(",", ":"))
    left_out = f',"parameters_left_out":{json.dumps(values.left_out)}' if values.left_out != 0 else ""
    return f'"parameters":{said}{left_out}'


def _said(value: BoundValue) -> Any:
    if value.value is None:
        return None
    # A token may stand in either format; as Latin-1 every byte is a character.
    safe = hidden(value.value.decode("latin-1")).encode("latin-1")
    cut = value.size > min(len(value.value), VALUE_BYTES)
    length = {"bytes": value.size} if cut else {}
    # Where not all of it is here, it may end in half of a token.
    whole = len(safe) if len(value.value) == value.size else max(0, len(safe) - VALUE_MARGIN)
    begin = safe[: min(whole, VALUE_BYTES)]
    text = None if value.format else _text(begin, cut=cut)
    if text is not None:
        return {"text": text, **length} if cut else text
    return {"binary": begin.hex(), **({"type": value.type} if value.type else {}), **length}


def _text(value: bytes, *, cut: bool) -> str | None:
    """The text, None where it is none that a server would take. Where it was cut, the last character may be torn."""
    if b"\0" in value:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return value[: error.start].decode("utf-8") if cut and error.start > len(value) - 4 else None


def lines(said: Mapping[str, Any]) -> Iterator[str]:
    """What an entry has of values, for people: `$1 = 'text'`, one each."""
    found = said.get("parameters")
    for number, value in enumerate(found if isinstance(found, list) else (), 1):
        yield f"${number} = {_shown(value)}"
    if "parameters_left_out" in said:
        count = said["parameters_left_out"]
        yield f"and {count} more" if count is not None else "and more"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case str():
            return _quoted(value)
        case {"text": str(text), "bytes": int(size)}:
            return f"{_quoted(text)}… of {size} bytes"
        case {"binary": str(digits)}:
            kind = f" of type {value['type']}" if "type" in value else ""
            more = f"… of {value['bytes']} bytes" if "bytes" in value else ""
            return f"'\\x{digits}'{kind}{more}"
        case _:
            return json.dumps(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
