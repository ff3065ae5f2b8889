"""Other ways to write a text of SQL: each changes the text and nothing that PostgreSQL's grammar reads of it.

A spelling is kept only when both texts have the same tree, so one that a word does not bear (a quoted keyword that is a type,
say) is dropped and not guessed at. PostgreSQL manual, 4.1 Lexical Structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import postgast

from dbshield.sqltext import native

NO_KEYWORD = 0
C_COMMENT, SQL_COMMENT, IDENT, SCONST, PARAM = 276, 275, 258, 261, 267
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLAIN_STRING = re.compile(r"'(?:[^'\n\\]|'')*'")
DOLLAR_STRING = re.compile(r"(\$[A-Za-z_]*\$)(.*)\1", re.DOTALL)
WHERE_FROM = re.compile(rb',?"(?:stmt_len|[a-z_]*(?:location|list_start|list_end))":-?[0-9]+')
"""Where in the text a node stood: all that two spellings may differ in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A token and the white space before it. Comments of the text are part of that space."""

    gap: str
    text: str
    number: int
    keyword: bool


def pieces(text: str) -> tuple[list[Piece], str]:
    """The tokens of a text, and what stands behind the last one."""
    raw = text.encode()
    found: list[Piece] = []
    position = 0
    for token in postgast.scan(text).tokens:
        if token.token in {C_COMMENT, SQL_COMMENT}:
            continue
        found.append(
            Piece(
                gap=raw[position : token.start].decode(),
                text=raw[token.start : token.end].decode(),
                number=token.token,
                keyword=token.keyword_kind != NO_KEYWORD,
            )
        )
        position = token.end
    return found, raw[position:].decode()


def tree(text: str) -> bytes:
    """What PostgreSQL's grammar reads of a text, without where it stood. GrammarError where it reads nothing."""
    return WHERE_FROM.sub(b"", native.parse(text.encode())).replace(b"{,", b"{")


def _words(change: Callable[[str], str]) -> Callable[[str], str]:
    """Change keywords and names without quotes, which PostgreSQL folds to lower case."""

    def spell(text: str) -> str:
        found, rest = pieces(text)
        folded = (piece.keyword or (piece.number == IDENT and PLAIN_NAME.fullmatch(piece.text)) for piece in found)
        return "".join(p.gap + (change(p.text) if fold else p.text) for p, fold in zip(found, folded, strict=True)) + rest

    return spell


def _mixed(word: str) -> str:
    return "".join(letter.upper() if index % 2 else letter.lower() for index, letter in enumerate(word))


def _gaps(gap: str, *, everywhere: bool = False) -> Callable[[str], str]:
    """Put `gap` in place of white space, or also where none was."""

    def spell(text: str) -> str:
        found, rest = pieces(text)
        return "".join((gap if p.gap.isspace() else p.gap + gap if everywhere else p.gap) + p.text for p in found) + rest

    return spell


def _tokens(number: int, change: Callable[[str], str]) -> Callable[[str], str]:
    """Change tokens of one kind, each only where the text stays the same to the grammar."""

    def spell(text: str) -> str:
        found, rest = pieces(text)
        wanted = tree(text)
        texts = [piece.text for piece in found]
        for index, piece in enumerate(found):
            if piece.number != number or piece.keyword or change(piece.text) == piece.text:
                continue
            texts[index] = change(piece.text)
            if not _reads(joined(found, texts, rest), wanted):
                texts[index] = piece.text
        return joined(found, texts, rest)

    return spell


def joined(found: Sequence[Piece], texts: Sequence[str], rest: str) -> str:
    """The text of tokens that have other texts now."""
    return "".join(piece.gap + text for piece, text in zip(found, texts, strict=True)) + rest


def _reads(text: str, wanted: bytes) -> bool:
    try:
        return tree(text) == wanted
    except native.GrammarError:
        return False


def _quoted(name: str) -> str:
    return f'"{name.lower()}"' if PLAIN_NAME.fullmatch(name) else name


def _escaped_name(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        return name
    return ' U&"' + "".join(f"\\{ord(c):04X}" if i % 2 == 0 else c for i, c in enumerate(name.lower())) + '"'


def _value(literal: str) -> str | None:
    """What a plain or dollar-quoted string says; None for the other kinds."""
    if PLAIN_STRING.fullmatch(literal):
        return literal[1:-1].replace("''", "'")
    dollars = DOLLAR_STRING.fullmatch(literal)
    return dollars.group(2) if dollars else None


def _literal(spell: Callable[[str], str]) -> Callable[[str], str]:
    def change(literal: str) -> str:
        value = _value(literal)
        return literal if value is None else " " + spell(value)

    return change


def _e_string(value: str) -> str:
    special = {"'": "\\'", "\\": "\\\\"}
    letters = (
        f"\\x{ord(c):02x}" if i % 2 == 0 and c.isascii() and c.isalpha() else special.get(c, c) for i, c in enumerate(value)
    )
    return "E'" + "".join(letters) + "'"


def _unicode_string(value: str) -> str:
    special = {"'": "''", "\\": "\\\\"}
    letters = (f"\\{ord(c):04x}" if i % 2 and c.isascii() and c.isalpha() else special.get(c, c) for i, c in enumerate(value))
    return "U&'" + "".join(letters) + "'"


def _dollar_string(value: str) -> str:
    return f"$mutant${value}$mutant$"


def plain_string(value: str) -> str:
    """A literal of a value."""
    return "'" + value.replace("'", "''") + "'"


def _undollared(literal: str) -> str:
    return literal if literal.startswith("'") else _literal(plain_string)(literal)


def _around(before: str, after: str) -> Callable[[str], str]:
    return lambda text: before + text + after


SPELLINGS: dict[str, Callable[[str], str]] = {
    "upper-case": _words(str.upper),
    "lower-case": _words(str.lower),
    "mixed-case": _words(_mixed),
    "tabs": _gaps("\t\t"),
    "newlines": _gaps("\n"),
    "carriage-returns": _gaps("\r\n"),
    "form-feeds": _gaps(" \f\f "),
    "padded": _around("\n\t ;; ", " ;\n ;\f"),
    "space-everywhere": _gaps("  \n", everywhere=True),
    "comments": _gaps("/**/", everywhere=True),
    "nested-comments": _gaps(" /* where /* id = 1; */ -- */ ", everywhere=True),
    "line-comments": _gaps(" -- where id = 1; select\n", everywhere=True),
    "line-comments-cr": _gaps(" --'\r", everywhere=True),
    "comment-around": _around("/* select 1; */ -- select 1\n", " -- where id = 1"),
    "quoted-names": _tokens(IDENT, _quoted),
    "escaped-names": _tokens(IDENT, _escaped_name),
    "escape-strings": _tokens(SCONST, _literal(_e_string)),
    "unicode-strings": _tokens(SCONST, _literal(_unicode_string)),
    "dollar-strings": _tokens(SCONST, _literal(_dollar_string)),
    "plain-strings": _tokens(SCONST, _undollared),
}
"""From a text to a text; what is not the same to the grammar is dropped by `spelled`."""


def spelled(text: str, name: str) -> str | None:
    """The text in another spelling; None where it has none that is different and means the same."""
    try:
        changed = SPELLINGS[name](text)
        return changed if changed != text and tree(changed) == tree(text) else None
    except (native.GrammarError, postgast.PgQueryError):
        return None
