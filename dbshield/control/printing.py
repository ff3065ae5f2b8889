"""A held statement as a human reads it.

Law: what is printed is what would run. The exact text is always shown, by `visible_lines` of `dbshield.visible`.
The readable form is made by sqlglot from what PostgreSQL's grammar prints, and is shown only if that grammar then reads it as the
same text again: sqlglot takes some statements for others, and a human decides on what they see.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final
from uuid import UUID

from dbshield.control.asking import Parameter
from dbshield.errors import DbshieldError
from dbshield.sqltext import native, postgres
from dbshield.sqltext.statement import Unreadable
from dbshield.visible import visible, visible_lines

PRETTY_MOST: Final = 16 << 10
"""Characters; longer texts are shown as they are, since sqlglot would take seconds."""
VALUE_MOST: Final = 400
"""Characters of a parameter that a command prints; `--json` and the console have them all."""
SETTINGS_SHOWN: Final = ("search_path", "datestyle", "intervalstyle", "timezone")
"""Of the settings that a statement is run under, those by which names and dates are read: shown always."""
SETTINGS_PLAIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "array_nulls": "on",
        "bytea_output": "hex",
        "check_function_bodies": "on",
        "default_table_access_method": "heap",
        "default_tablespace": "",
        "transform_null_equals": "off",
        "xmlbinary": "base64",
        "xmloption": "content",
    }
)
"""Those that PostgreSQL has so everywhere: shown where they are otherwise, since a text means something else then. With
`transform_null_equals` on, `x = NULL` finds every row that `x IS NULL` does."""

NUMBERS: Final[Mapping[int, str]] = MappingProxyType({16: "!?", 20: "!q", 21: "!h", 23: "!i", 26: "!I", 700: "!f", 701: "!d"})
"""How bool, int8, int2, int4, oid, float4 and float8 are sent (their oids are fixed, see pg_type.dat)."""
TEXTS: Final = frozenset({18, 19, 25, 114, 142, 705, 1042, 1043})
"""char, name, text, json, xml, unknown, bpchar, varchar: the binary form is the text."""
UUID_OID: Final = 2950


def readable(statement: str) -> str | None:
    """The statement laid out over lines, without its comments; None where that cannot be had without a doubt."""
    if len(statement) > PRETTY_MOST or "\0" in statement:
        return None
    try:
        # refuses what is so deep that printing it would end the process
        postgres.read(statement.encode())
        canonical = native.deparse(native.parse_protobuf(statement.encode()))
        laid_out = _laid_out(canonical.decode())
        same = native.deparse(native.parse_protobuf(laid_out.encode())) == canonical
    except (DbshieldError, native.GrammarError, ValueError, RecursionError):
        return None
    return laid_out if same else None


def print_parameter(parameter: Parameter, *, most: int | None = VALUE_MOST) -> str:
    """`7 (int4)`; bytes in hexadecimal where the type is not known. No more than `most` characters of a value."""
    if parameter.value is None:
        return f"NULL{_type(parameter)}"
    if parameter.format == 0:
        text = repr(parameter.value.decode("utf-8", "backslashreplace"))
    else:
        text = _decoded(parameter) or f"0x{parameter.value.hex()}"
    shown = visible(text, tabs=True)
    if most is not None and len(shown) > most:
        shown = f"{shown[:most]}… ({len(parameter.value)} bytes)"
    return shown + _type(parameter)


def print_parameters(parameters: Sequence[Parameter] | None, *, most: int | None = VALUE_MOST) -> list[str]:
    """One line a parameter; none for a simple query."""
    return [f"${number} = {print_parameter(each, most=most)}" for number, each in enumerate(parameters or (), start=1)]


def print_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """By name what people have to know of the settings that a statement is run under, each as `visible_lines` would show it."""
    shown = [name for name in SETTINGS_SHOWN if name in settings]
    shown += [name for name, plain in SETTINGS_PLAIN.items() if settings.get(name, plain) != plain]
    return {name: " ".join(visible_lines(settings[name])) for name in shown}


def _laid_out(canonical: str) -> str:
    from sqlglot import exp  # noqa: PLC0415  (a fifth of a second that most commands do not need)

    from dbshield.sqltext import glot  # noqa: PLC0415

    try:
        # the second reader's own way in, which stops texts that sqlglot would read for hours
        trees = glot._parse(canonical)
        if any(isinstance(tree, exp.Command) for tree in trees):
            return canonical
        return ";\n".join(tree.sql(dialect="postgres", pretty=True, comments=False) for tree in trees)
    except (*glot.FAILURES, Unreadable):
        return canonical


def _type(parameter: Parameter) -> str:
    if parameter.type == 0:
        return ""
    from psycopg import adapters  # noqa: PLC0415  (loaded where a control database is; not for what is pure here)

    found = adapters.types.get(parameter.type)
    return f" ({found.name if found is not None else f'type {parameter.type}'})"


def _decoded(parameter: Parameter) -> str | None:
    """A binary value of the commonest types; None for any other, and for bytes of another length than the type's.

    Not by the driver's loaders: those of psycopg 3.3 read an integer's bytes without asking how many there are.
    """
    value = parameter.value or b""
    if parameter.type in TEXTS:
        return repr(value.decode("utf-8", "backslashreplace"))
    if parameter.type == UUID_OID and len(value) == 16:
        return str(UUID(bytes=value))
    form = NUMBERS.get(parameter.type)
    if form is None or struct.calcsize(form) != len(value):
        return None
    return str(struct.unpack(form, value)[0])
