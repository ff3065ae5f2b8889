"""What PostgreSQL's own PL/pgSQL parser (in libpg_query) sees in a body, held against what `bodies_plpgsql` cut out of it.

The parser tells its statements and its SQL as JSON; it leaves out variables that stand alone, and knows neither the tables nor
the types of any database. So it is given the body with every declared type replaced by one that it knows, and a head of our
own with the same parameters. A body counts as read only where both see the same statements and the same pieces of SQL.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from postgast.native import lib

from dbshield.sqltext import native
from dbshield.sqltext.blocks import Body, Unread, tokens_of
from dbshield.sqltext.postgres_nodes import Node, names

COUNTED = ("stmt_", "if_elsif", "case_when")
"""The parser's nodes that are statements, or branches of one."""

OTHER_NODES = frozenset(
    {
        "condition",
        "diag_item",
        "exception",
        "exception_block",
        "function",
        "promise",
        "raise_option",
        "rec",
        "recfield",
        "row",
        "type",
        "var",
    }
)
"""Its other nodes, which are nothing but what their parts are."""

REPEATED = frozenset({"target", "var"})
"""Fields that show a variable again, which stands among the declarations as well."""

CASE_VARIABLE = b'"__Case__Variable_'
"""The parser reads `CASE x WHEN 1, 2` as `"__Case__Variable_1__" IN (1, 2)`."""

DO = "do "
"""The head of a DO block."""


def check(body: Body, head: str) -> None:
    """Raise Unread unless the parser sees in `body` what was cut out of it; `head` is what stands before its string."""
    if any(len(sql) > native.MAX_UNCOUNTED_BYTES for fragment in body.fragments for sql in fragment.sql):
        raise Unread
    statements, pieces = _seen(_parse(f"{head}{_quoted(_with_known_types(body))}"))
    cut = Counter(fragment.key for fragment in body.fragments)
    told = Counter(fragment.key for fragment in body.fragments if not fragment.plain)
    if statements != body.statements or pieces - cut or told - pieces:
        raise Unread


def routine_head(node: Node, dotted: frozenset[bytes]) -> str:
    """The head of a function or procedure with the parameters of `node`, a CreateFunctionStmt, in types that the parser knows."""
    given: list[str] = []
    columns: list[str] = []
    for item in node.get("parameters", ()):
        parameter = item["FunctionParameter"]
        mode = MODES.get(parameter.get("mode", ""))
        if mode is None:
            raise Unread
        type_ = names(parameter["argType"]["names"])[-1]
        known = _known_type(parameter.get("name", ""), type_, dotted)
        (columns if mode == "table" else given).append(f"{'' if mode == 'table' else mode} {_identifier(parameter)} {known}")
    if node.get("is_procedure"):
        return f"create procedure f({','.join(given)}) language plpgsql as "
    returned = ""
    if columns:
        returned = f"returns table ({','.join(columns)})"
    elif "returnType" in node:
        type_ = names(node["returnType"]["names"])[-1]
        if type_ == "trigger":  # The parser prints a trigger's own variables so that no JSON comes of it.
            return f"create function f({TRIGGER_VARIABLES}) returns text language plpgsql as "
        known = "void" if type_ == "void" else "text"
        if not any(" out " in f" {item}" or "inout " in item for item in given) or node["returnType"].get("setof"):
            returned = f"returns {'setof ' if node['returnType'].get('setof') else ''}{known}"
    return f"create function f({','.join(given)}) {returned} language plpgsql as "


TRIGGER_VARIABLES = '"new" record, "old" record, ' + ", ".join(
    f"tg_{name} text"
    for name in ("argv", "level", "name", "nargs", "op", "relid", "relname", "table_name", "table_schema", "when")
)
"""What every trigger function has (PostgreSQL manual, 43.10 Trigger Functions)."""

MODES = {
    "FUNC_PARAM_DEFAULT": "in",
    "FUNC_PARAM_IN": "in",
    "FUNC_PARAM_INOUT": "inout",
    "FUNC_PARAM_OUT": "out",
    "FUNC_PARAM_TABLE": "table",
    "FUNC_PARAM_VARIADIC": "in",
}


def _identifier(parameter: Node) -> str:
    name = parameter.get("name", "")
    return '"' + name.replace('"', '""') + '"' if name else ""


def _known_type(name: str, type_: str, dotted: frozenset[bytes]) -> str:
    """A type with which the parser takes a variable in the way that it is used."""
    if type_ == "refcursor":
        return type_
    spellings = {name.encode(), b'"' + name.encode() + b'"'}
    return "record" if type_ == "record" or spellings & dotted else "text"


def _with_known_types(body: Body) -> str:
    pieces: list[bytes] = []
    position = 0
    for start, end, name in body.types:
        words = body.text[start:end].lower()
        known = "record" if words.endswith(b"rowtype") else _known_type(name.decode(), words.decode(), body.dotted)
        pieces += (body.text[position:start], known.encode())
        position = end
    pieces.append(body.text[position:])
    return b"".join(pieces).decode()


def _quoted(text: str) -> str:
    """`text` between dollar signs with a tag that does not occur in it."""
    tag = "$body$"
    while tag in text or text.endswith("$"):
        if text.endswith("$"):
            raise Unread
        tag = f"{tag[:-1]}x$"
    return f"{tag}{text}{tag}"


def _parse(text: str) -> Any:
    result = lib.pg_query_parse_plpgsql(text.encode())
    try:
        if result.error:
            raise Unread
        return json.loads(result.plpgsql_funcs)
    except (ValueError, RecursionError) as error:
        raise Unread from error
    finally:
        lib.pg_query_free_plpgsql_parse_result(result)


def _seen(tree: Any) -> tuple[Counter[str], Counter[tuple[bytes, ...]]]:
    """The statements and the pieces of SQL in the parser's tree."""
    if not isinstance(tree, list) or len(tree) != 1:
        raise Unread
    statements: Counter[str] = Counter()
    pieces: Counter[tuple[bytes, ...]] = Counter()
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            for key, value in node.items():
                name = key.removeprefix("PLpgSQL_")
                if name == key:
                    if key not in REPEATED:
                        stack.append(value)
                elif name == "expr":
                    pieces[_piece(value["query"])] += 1
                elif name.startswith(COUNTED):
                    # What the parser adds itself (a last RETURN, a block around the whole) has no line.
                    statements[name] += "lineno" in value
                    stack.append(value)
                elif name in OTHER_NODES:
                    stack.append(value)
                else:
                    raise Unread
    return +statements, pieces


def _piece(query: str) -> tuple[bytes, ...]:
    text = query.encode()
    tokens: Iterable[bytes] = (text[start:end] for start, end in tokens_of(text))
    piece = tuple(tokens)
    return piece[3:-1] if piece and piece[0].startswith(CASE_VARIABLE) else piece
