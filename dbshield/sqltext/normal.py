"""Texts without what does not matter: without comments (for the cache), without constants (for the cache and for logs).

The shape of a text is libpg_query's normal form of it. Two texts with the same shape have the same tokens except for the values
of their constants, under two conditions that `shape` keeps. The text has no `$`: so every `$1` in the form is a constant that was
blanked, never a parameter or the rest of a name that the form was glued to (`ELSE'x'` becomes `ELSE$1`). And the text is valid
UTF-8 without odd characters, which `check_characters` saw to.
"""

from __future__ import annotations

import re

from dbshield.sqltext import native
from dbshield.sqltext.statement import Trouble, Unreadable

ODD = re.compile(
    "[\u0085\u00a0\u00ad\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)
"""White space outside ASCII, and what cannot be seen (Unicode's default-ignorable code points)."""

IDENTIFIER, STRING_TOKENS = 258, frozenset({259, 261, 262, 263, 264, 275, 276})
"""Token numbers: IDENT; and what may hold any character (UIDENT, SCONST, USCONST, BCONST, XCONST and the two comments)."""

CONSTANT_TOKENS = frozenset({260, 261, 262, 263, 264, 266})
"""Token numbers of constants: FCONST, SCONST, USCONST, BCONST, XCONST, ICONST."""

COMMENT_TOKENS = frozenset({275, 276})

_NAME = r'(?:[^\W\d][\w$]*|"[^"]*")'
_CUSTOM = re.compile(
    rf"((?:^|;)\s*(?:alter\b[^;]*?\s)?set\s+(?:session\s+|local\s+)?{_NAME}(?:\s*\.\s*{_NAME})+\s*(?:=|to\b)\s*)[^;]+",
    re.IGNORECASE,
)
"""The value of a setting with a dot in its name: an application's own. Without quotes it is a constant all the same (PostgreSQL
manual, "SET"), and as likely a secret as one in quotes. The values of the server's settings are words that people have to see."""


def check_characters(text: bytes) -> None:
    """Raise Unreadable for what PostgreSQL and a reader could see differently: NUL, invalid UTF-8, odd white space; and for what
    the lexer would be busy with for too long."""
    if b"\0" in text:
        raise Unreadable(Trouble.CHARACTERS, "a NUL in the text")
    if native.is_laborious(text):
        raise Unreadable(Trouble.TOO_DEEP, "too many operator characters in a row")
    if text.isascii():
        return
    try:
        characters = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(Trouble.CHARACTERS, f"not UTF-8 at byte {error.start}") from error
    if ODD.search(characters):
        _check_odd(text, characters)


def _check_odd(text: bytes, characters: str) -> None:
    """Odd characters may stand in strings, quoted names and comments only."""
    try:
        tokens = native.scan(characters)
    except native.GrammarError as error:
        raise Unreadable(Trouble.CHARACTERS, f"white space outside ASCII, and {error.message}") from error
    allowed = bytearray(len(text))
    for token in tokens:
        if token.token in STRING_TOKENS or (token.token == IDENTIFIER and text[token.start : token.start + 1] == b'"'):
            allowed[token.start : token.end] = b"\1" * (token.end - token.start)
    position = 0
    for character in characters:
        size = len(character.encode())
        if ODD.match(character) and not allowed[position]:
            raise Unreadable(Trouble.CHARACTERS, f"U+{ord(character):04X} between the words, at byte {position}")
        position += size


def blanked_comments(text: bytes) -> bytes:
    """`text` with spaces in place of every comment, of the same length. Raises GrammarError where the lexer sees no tokens.

    What the server reads. libpg_query keeps comments as tokens: it does not see that `'a' -- x` and `'b'` on the next line are
    one constant, which in DO makes two bodies of one, nor that NOT and IN belong together with a comment between them.
    """
    if b"--" not in text and b"/*" not in text:
        return text
    blanked = bytearray(text)
    for start, end, token in native.scan(text.decode()):
        if token in COMMENT_TOKENS:
            blanked[start:end] = b" " * (end - start)
    return bytes(blanked)


def without_comments(text: bytes) -> bytes:
    """`text` with a space in place of every comment. Raises GrammarError where the lexer sees no tokens."""
    if b"--" not in text and b"/*" not in text:
        return text
    pieces: list[bytes] = []
    position = 0
    for start, end, token in native.scan(text.decode()):
        if token in COMMENT_TOKENS:
            pieces += (text[position:start], b" ")
            position = end
    pieces.append(text[position:])
    return b"".join(pieces).strip(b" \t\r\n;")


def shape(text: bytes) -> bytes | None:
    """The shape of `text`; None where it has none that is safe to share. Raises GrammarError where there is no grammar for it."""
    if b"$" in text or len(text) > native.MAX_NORMALISED_BYTES:
        return None
    return native.normalise(without_comments(text))


QUICK_BYTES = 2 << 10
"""Longer texts have no quick shape."""

_PLAIN = re.compile(
    rb"(?:[A-Za-z_][A-Za-z0-9_]*+|[ \t\n.,=<>()*+;:\[\]%!]|-(?!-)"
    rb"|(?<![A-Za-z0-9_.])[0-9]++(?![A-Za-z0-9_.])|(?<![A-Za-z0-9_'])'[ -&(-\[\]-~]*+'(?!'))*+"
)
"""A text in which what a constant is can be told without a lexer: words, whole numbers, strings of ASCII without a backslash, and
signs that begin no comment, no quoted name, no dollar quote and no escape. A prefix before a string (`E''`) does not match."""

_STRING, _NUMBER = re.compile(rb"'[^']*'"), re.compile(rb"(?<![A-Za-z0-9_])[0-9]+")


def quick_shape(text: bytes) -> bytes | None:
    """A key for plain texts that costs half of what `shape` does; None where the text is not plain, or has no constant.

    Two texts with one key have the same bytes between the same kinds of constants. As nothing else in them can change what a
    quote or a digit means, they have the same tokens but for the constants' values. No such key is the shape of another text.
    """
    if len(text) > QUICK_BYTES or _PLAIN.fullmatch(text) is None:
        return None
    blanked = _NUMBER.sub(b"0", _STRING.sub(b"''", text))
    return None if blanked == text else b"\0" + blanked


def written(shape: bytes) -> str:
    """A shape as it may be written down. libpg_query blanks no constant that its grammar keeps as a bare string, such as the
    paths of JSON_TABLE: what is left of a quote is blanked here."""
    return redacted(shape) if b"'" in shape else _CUSTOM.sub(r"\1?", shape.decode())


def redacted(text: bytes) -> str:
    """`text` with every constant blanked and without comments, whatever statement it is; empty where it cannot be told."""
    if b"\0" in text:
        return ""  # the lexer sees nothing of what is behind it
    try:
        tokens = native.scan(text.decode())
    except (native.GrammarError, UnicodeDecodeError):
        return ""
    pieces: list[bytes] = []
    position = 0
    for start, end, token in tokens:
        if token in CONSTANT_TOKENS or token in COMMENT_TOKENS:
            pieces += (text[position:start], b"?" if token in CONSTANT_TOKENS else b" ")
            position = end
    pieces.append(text[position:])
    return _CUSTOM.sub(r"\1?", b"".join(pieces).decode()).strip(" \t\r\n;")
