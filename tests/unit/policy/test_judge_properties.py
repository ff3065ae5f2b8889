"""Laws of the judge, tried on generated texts. `make fuzz` tries more of them, again and again."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dbshield.model import AccessLevel, Allow, Judgement, Limit, Operation
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext import native
from dbshield.sqltext.normal import CONSTANT_TOKENS, quick_shape, shape, without_comments

FUZZING = bool(os.environ.get("DBSHIELD_FUZZ"))
EXAMPLES = 5_000 if FUZZING else 150
pytestmark = pytest.mark.timeout(0 if FUZZING else 120)
BUDGET = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

CASES = Path(__file__).parents[2] / "cases"
CASE_TEXTS = [
    (AccessLevel(case["access"]), step["sql"])
    for name in ("attacks.jsonl", "harmless.jsonl")
    for case in map(json.loads, (CASES / name).read_text().splitlines())
    for step in case["steps"]
    if step.get("sql")
]


def fresh(access: AccessLevel) -> Judge:
    return Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin(), cache_entries=10)


SHARED = {access: fresh(access) for access in AccessLevel}


def stopped(judgement: Judgement) -> bool:
    return not isinstance(judgement.verdict, (Allow, Limit))


STOPPED_TEXTS = [(access, text) for access, text in CASE_TEXTS if text.isascii() and stopped(fresh(access).judge(text.encode()))]

SPACES = st.sampled_from([" ", "\n", "\t", "  ", "\r\n", " /* x */ ", " /* a /* b */ c */ ", " -- x\n", "/**/ ", " \f"])


def reworded(text: str, data: st.DataObject) -> str:
    """`text` with other white space, comments and letter case outside its constants and quoted names."""
    pieces: list[str] = []
    position = 0
    for token in native.scan(text):
        gap, word = text[position : token.start], text[token.start : token.end]
        pieces.append(data.draw(SPACES) if gap.strip(" \t") == "" and gap else gap)
        if token.token not in CONSTANT_TOKENS and re.fullmatch(r"[A-Za-z_]+", word):
            word = data.draw(st.sampled_from([word, word.upper(), word.lower(), word.title()]))
        pieces.append(word)
        position = token.end
    return "".join(pieces) + text[position:]


@BUDGET
@given(case=st.sampled_from(STOPPED_TEXTS), data=st.data())
def test_property_a_stopped_case_stays_stopped_in_other_words(case: tuple[AccessLevel, str], data: st.DataObject) -> None:
    access, text = case
    try:
        other = reworded(text, data)
    except native.GrammarError:
        assume(False)  # A text without tokens is stopped whatever its white space is.
    assert stopped(SHARED[access].judge(other.encode()))


@BUDGET
@given(text=st.binary(max_size=300))
def test_property_no_bytes_raise(text: bytes) -> None:
    assert SHARED[AccessLevel.READ].judge(text).verdict.word in {"allow", "hold", "deny"}


WORDS = st.sampled_from(
    [
        "select", "delete", "from", "update", "set", "where", "and", "or", "not", "in", "(",
        ")", ",", ";", ".", "*", "=", "t", "a", "b", "1", "'x'",
        "$1", "null", "true", "exists", "any", "array", "with", "as", "insert", "into", "values",
        "on", "conflict", "do", "nothing", "merge", "using", "when", "matched", "then", "limit", "::",
        "is", "::", "||", "[", "]", "case", "end", "cast", "like", "'%'", "returning",
        "union", "all", "join", "lateral", "create", "table", "drop", "truncate", "copy", "stdout", "begin",
        "commit", "explain", "analyze", "prepare",
    ]
)  # fmt: skip


@BUDGET
@given(words=st.lists(WORDS, max_size=25))
def test_property_no_words_raise_or_pass_unread(words: list[str]) -> None:
    judgement = SHARED[AccessLevel.READ].judge(" ".join(words).encode())
    assert "DS908" not in {finding.rule for finding in judgement.findings}
    if not stopped(judgement):
        changing = {Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.TRUNCATE, Operation.DROP, Operation.CREATE}
        assert not changing & {effect.operation for effect in judgement.effects}


CONSTANTS = st.sampled_from(
    ["1", "-1", "0", "1.5", "'x'", "''", "'%'", "true", "false", "null", "2147483648", "E'\\n'", "'2026-01-01'"]
)
TEMPLATES = st.sampled_from(
    [
        "select * from t where a = {} and b in ({}, {})",
        "select {}, {} from t limit 5",
        "delete from t where id = {}",
        "delete from t where {} = {}",
        "delete from t where id = {} or {} = {}",
        "delete from t where id between {} and {}",
        "delete from t where {} in (id, {})",
        "update t set a = {}, b = {} where c = {} and d > {}",
        "update t set a = {} where coalesce(b, {}) = {}",
        "update t set a = {} where not (b = {})",
        "insert into t values ({}, {}), ({}, {})",
        "insert into t values ({}) on conflict (a) do update set a = {}",
        "merge into t using s on t.id = s.id and s.a = {} when matched then delete",
        "with x as (delete from t where a = {} returning {}) select * from x",
        "select f({}), case when a = {} then {} end from t",
        "delete from t where a like {}",
        "delete from t where id in (select id from t where b = {} limit 3)",
    ]
)


@BUDGET
@given(template=TEMPLATES, data=st.data())
def test_property_the_verdict_of_a_shape_ignores_its_literals(template: str, data: st.DataObject) -> None:
    texts = [re.sub(r"\{\}", lambda _: data.draw(CONSTANTS), template).encode() for _ in range(2)]
    judge = fresh(AccessLevel.WRITE)
    first = judge.judge(texts[0])
    alone = fresh(AccessLevel.WRITE).judge(texts[1])
    assert judge.judge(texts[1]).verdict == alone.verdict
    if first.shape_only and alone.shape_only and shape(texts[0]) == shape(texts[1]):
        assert (first.verdict, first.findings, first.effects) == (alone.verdict, alone.findings, alone.effects)


PIECES = st.sampled_from(
    ["select", "case", "when", "then", "else", "end", "a", "b", "'x'", "'y z'", "1", "2.5", "-", "+", " ", " ", " ", "date", "n",
     "e", "x", "u&", "b", "true", "null", "from", "t", "where", "=", "(", ")", ",", "/* c */", "--\n", "interval", "::", "int",
     "'%'"]
)  # fmt: skip


def tokens(text: bytes) -> list[tuple[int, bytes]]:
    """The tokens of a text with its constants and their signs blanked."""
    found: list[tuple[int, bytes]] = []
    clean = without_comments(text)
    for token in native.scan(clean.decode()):
        word = clean[token.start : token.end]
        constant = token.token in CONSTANT_TOKENS or word.lower() in {b"true", b"false", b"null"}
        found.append((-1, b"") if constant else (token.token, word))
    return found


def without_signs(found: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """A minus before a constant may be part of it."""
    return [item for index, item in enumerate(found) if not (item[1] == b"-" and found[index + 1 : index + 2] == [(-1, b"")])]


@BUDGET
@given(pieces=st.lists(PIECES, min_size=2, max_size=14), data=st.data())
def test_property_texts_with_one_key_have_the_same_tokens(pieces: list[str], data: st.DataObject) -> None:
    """The texts differ in constants and in what stands right beside them; where the keys are equal, so are the tokens."""
    keys: dict[bytes, list[tuple[int, bytes]]] = {}
    for _ in range(3):
        text = "select " + "".join(
            data.draw(st.sampled_from(["'x'", "1", "E'a'", "null", "n'q'", "b'1'"])) if piece in {"'x'", "1"} else piece
            for piece in pieces
        )
        try:
            key = shape(text.encode())
        except native.GrammarError:
            continue
        if key is not None:
            blanked = without_signs(tokens(text.encode()))
            assert keys.setdefault(key, blanked) == blanked


HOSTILE = st.sampled_from(
    ["1", "2", "'x'", "'y z'", "'1'", "'--'", "'/*'", "'$$'", "''", "'", '"', "\\", "$", "$$", "$a$", "E", "e", "u&", "n", "b",
     "_", "a", ".", "-", "--", "/", "*", "/*", "*/", "\n", "\t", "\f", "\x0b", " ", ";", ":", "&", "|", "@", "#", "?", "é", "\0",
     "x", "0x", "e5", "(", ")"]
)  # fmt: skip


@BUDGET
@given(pieces=st.lists(HOSTILE, max_size=12), data=st.data())
def test_property_a_quick_shape_hides_nothing_but_the_values_of_constants(pieces: list[str], data: st.DataObject) -> None:
    """Whatever stands around the constants: where two texts share a quick shape, the lexer sees the same tokens in both."""
    numbers, strings = st.sampled_from(["1", "23", "00"]), st.sampled_from(["'x'", "'--'", "'/* 1'", "'$$'", "' 7 '", "''"])
    swaps = {"1": numbers, "2": numbers, "'x'": strings, "'y z'": strings, "'--'": strings, "''": strings}
    keys: dict[bytes, list[tuple[int, bytes]]] = {}
    for _ in range(4):
        text = "".join(data.draw(swaps[piece]) if piece in swaps else piece for piece in pieces).encode()
        key = quick_shape(text)
        if key is not None:
            found = [
                (-1, b"") if token.token in CONSTANT_TOKENS else (token.token, text[token.start : token.end])
                for token in native.scan(text.decode())
            ]
            assert keys.setdefault(key, found) == found


@pytest.mark.parametrize(
    "text",
    [
        "E'a'",
        "'a''b'",
        "'a\\'",
        "1.5",
        "1e5",
        "a--b",
        "/* */",
        "U&'x'",
        "x'1'",
        '"a"',
        "1a",
        "$1",
        "$$x$$",
        "'é'",
        "é",
        "'a",
        "0x1F",
        "1_000",
    ],
)
def test_what_has_no_quick_shape(text: str) -> None:
    assert quick_shape(f"select {text}".encode()) is None


def test_plain_texts_share_a_quick_shape() -> None:
    one, two = (b"select a from t where id = %d and s = '%s' -1" % values for values in ((1, b"x"), (4711, b"it is; -- 7")))
    assert quick_shape(one) == quick_shape(two) == b"\0select a from t where id = 0 and s = '' -0"
