"""All that is found in the text of one file. Pure: a name and a text in, findings out, in the order of their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from dbshield.scan.connections import find_connections, may_have_connections, without_escapes
from dbshield.scan.found import Found, Power, Target
from dbshield.scan.tokens import PIECE, find_tokens, may_have_tokens
from dbshield.scan.variables import find_variables

KNOWN_LEAST = 8
"""Characters of a known password that is looked for by itself: a shorter one stands in many texts by accident."""
LINE_LONGEST = 20_000
"""Characters of a line that connection strings are looked for in at once; longer lines are machines' and are cut."""


_USER = re.compile(r'^"((?:[^"]|"")*)"\s+"((?:[^"]|"")+)"')


def find(text: str, name: str, known: Mapping[str, str] | None = None) -> list[Found]:
    """The credentials in a text. `known` are passwords of protected environments, with what to call them: they are found
    wherever they stand. A secret is told once a line, by the first that found it."""
    pgpass = "pgpass" in PurePath(name).name.lower()
    found: list[Found] = []
    for block in _blocks(text.splitlines()):
        whole = "\n".join(line for _, line in block)
        connects, tokens = pgpass or may_have_connections(whole), may_have_tokens(whole)
        secrets = {secret: what for secret, what in (known or {}).items() if len(secret) >= KNOWN_LEAST and secret in whole}
        for number, line in block:
            if connects:
                found += _connections(line, number, pgpass=pgpass)
            if tokens:
                found += find_tokens(line, number)
            found += (
                Found(line=number, what=what, power=Power.DATABASE, secret=secret)
                for secret, what in secrets.items()
                if secret in line
            )
    found += find_variables(text.splitlines(), name)
    if PurePath(name).name.lower() == "userlist.txt":
        found += _userlist(text.splitlines())
    once: dict[tuple[int, str], Found] = {}
    for one in found:
        once.setdefault((one.line, one.secret), one)
    return sorted(once.values(), key=lambda one: one.line)


def _userlist(lines: list[str]) -> Iterator[Found]:
    """PgBouncer's file of passwords, but for what is only their hash."""
    for number, line in enumerate(lines, 1):
        if (match := _USER.match(line)) and not match[2].startswith(("md5", "SCRAM-")):
            target = Target(user=match[1].replace('""', '"'))
            yield Found(
                line=number, what="password file", power=Power.DATABASE, secret=match[2].replace('""', '"'), target=target
            )


def _connections(line: str, number: int, *, pgpass: bool) -> Iterator[Found]:
    """What connects in a line; in what it says, where it is one of JSON."""
    plain = without_escapes(line)
    if plain == line:
        return find_connections(line, number, pgpass=pgpass)
    # Where quotes are not JSON's but a part of the secret, only the line as it stands has it whole.
    found = [one for one in find_connections(line, number, pgpass=pgpass) if not one.secret.endswith("\\")]
    return iter(found) if found else find_connections(plain, number, pgpass=pgpass)


def _blocks(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines, long ones in pieces, in blocks of about PIECE characters: most blocks of most files have nothing, which
    is seen of a block at once and not of each of its lines."""
    block: list[tuple[int, str]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        for part in _cut(line):
            if block and size + len(part) >= PIECE:
                yield block
                block, size = [], 0
            block.append((number, part))
            size += len(part) + 1
    if block:
        yield block


def _cut(line: str) -> list[str]:
    """The line in pieces, cut where a blank or comma stands, if one does."""
    pieces = []
    while len(line) > LINE_LONGEST:
        at = max(line.rfind(sign, LINE_LONGEST // 2, LINE_LONGEST) for sign in ' ,;"')
        at = at + 1 if at > 0 else LINE_LONGEST
        pieces.append(line[:at])
        line = line[at:]
    return [*pieces, line]
