"""Statements made from a grammar, against what must hold for every statement.

What a text writes is told by oracle.py, which shares nothing with the readers. `make test` tries the same texts each time;
`make fuzz` tries new ones until one breaks a law or somebody stops it.
"""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Iterator
from random import Random

import pytest
from fuzz import oracle
from fuzz.grammar import GRAMMAR, SYMBOL, Text
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dbshield.model import AccessLevel, Allow, Judgement, Limit
from dbshield.policy import judge as judging
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext import native
from dbshield.sqltext.normal import CONSTANT_TOKENS, shape
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Unreadable

FUZZING = bool(os.environ.get("DBSHIELD_FUZZ"))
pytestmark = pytest.mark.timeout(0 if FUZZING else 300)


def budget(examples: int) -> settings:
    return settings(
        max_examples=20 * examples if FUZZING else examples,
        derandomize=not FUZZING,
        database=None if not FUZZING else settings.default.database,  # type: ignore[union-attr]
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


BYTES = st.binary(min_size=40, max_size=160)
FUNCTIONS = FunctionCatalogue.builtin()

FRAMES = {
    "literal": "select {}",
    "column": "select {}",
    "type": "select 1::{}",
    "operator": "select 1 {} 2",
    "function": "select {}(1)",
    "expr": "select {}",
    "condition": "select 1 where {}",
    "items": "select {} from t",
    "table": "select 1 from {}",
    "from": "select 1 from {}",
    "source": "merge into t using {} on true when matched then delete",
    "tail": "select a from t {}",
    "returning": "delete from t {}",
    "with": "{} delete from t",
    "set": "update t set {}",
    "conflict": "insert into t values (1) {}",
    "when": "merge into t using u on true {}",
    "option": "explain {} select 1",
    "constraint": "create table x (a int {})",
}
"""Statements around what is none on its own."""


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "ROW_LIMIT_ENFORCED", True, raising=False)


def fresh(access: AccessLevel = AccessLevel.MIGRATE) -> Judge:
    return Judge(policy=Policy(access=access), functions=FUNCTIONS, cache_entries=10)


JUDGES = {access: fresh(access) for access in AccessLevel}


def passed(judgement: Judgement) -> bool:
    return isinstance(judgement.verdict, (Allow, Limit))


def said(judgement: Judgement) -> tuple[str, tuple[str, ...]]:
    """A judgement without what it quotes."""
    return judgement.verdict.word, tuple(sorted({finding.rule for finding in judgement.findings}))


def simplest(template: str) -> str:
    while SYMBOL.search(template):
        template = SYMBOL.sub(lambda found: GRAMMAR[found[1]][0], template)
    return template


@pytest.mark.parametrize(("symbol", "alternative"), [(symbol, item) for symbol, items in GRAMMAR.items() for item in items])
def test_every_alternative_of_the_grammar_is_sql(symbol: str, alternative: str) -> None:
    text = FRAMES.get(symbol, "{}").format(simplest(alternative))
    assert oracle.tree(text) is not None, text


def test_most_texts_are_sql() -> None:
    random = Random(1)
    made = [Text(random.randbytes(120)).text for _ in range(300)]
    assert sum(oracle.tree(text) is not None for text in made) > 270


# -- effects


@budget(1_200)
@given(data=BYTES)
def test_fuzz_a_call_anywhere_is_seen(data: bytes) -> None:
    text = Text(data).with_probe("shield_probe(1)", "select shield_probe(1)")
    assume("shield_probe" in text and oracle.tree(text) is not None)
    assert "shield_probe" in named(text, "call"), text


@budget(1_200)
@given(data=BYTES)
def test_fuzz_a_write_anywhere_is_seen(data: bytes) -> None:
    hidden = "with shield_w as (delete from shield_probe where a = 1 returning a) select a from shield_w"
    text = Text(data).with_probe(f"({hidden})", hidden)
    trees = oracle.tree(text)
    assume("shield_probe" in text and trees is not None)
    runs = any(node.get("relation", {}).get("relname") == "shield_probe" for _, node in oracle.writes(trees))
    prepared = "PrepareStmt" in str(trees)
    assert "shield_probe" in named(text, "delete" if runs or prepared else "read"), text


def named(text: str, operation: str) -> set[str]:
    """The names of what the reader says a text does this to; of anything where the text is refused."""
    try:
        statements = read(text.encode())
    except Unreadable:
        return {"shield_probe"}
    return {effect.name.name for statement in statements for effect in statement.effects if effect.operation == operation}


# -- verdicts


@budget(2_500)
@given(data=BYTES)
def test_fuzz_no_write_passes_without_its_limit(data: bytes) -> None:
    text = Text(data).text
    trees = oracle.tree(text)
    for access, judge in JUDGES.items():
        judgement, seconds = timed(judge, text)
        assert seconds < 0.5 + len(text) * 20e-6, "more work than the length of the text says"
        assert "DS908" not in said(judgement)[1], text
        if trees is None:
            assert not passed(judgement), text
        elif passed(judgement):
            check(access, judgement, trees, text)


def timed(judge: Judge, text: str) -> tuple[Judgement, float]:
    """The judgement, and its seconds of CPU without a collection of garbage: that goes through all that a process holds, which is
    half a second's work in one that has run for minutes, and is not the judgement's."""
    gc.disable()
    try:
        begin = time.process_time()
        judgement = judge.judge(text.encode())
        return judgement, time.process_time() - begin
    finally:
        gc.enable()


def check(access: AccessLevel, judgement: Judgement, trees: list[dict[str, object]], text: str) -> None:
    """What must hold of a text that passed."""
    (tag,) = trees[0]
    found = list(oracle.writes(trees))
    words = {word for word, _ in found}
    assert tag not in oracle.NEVER, text
    if access is AccessLevel.READ:
        assert not words, text
        assert tag in oracle.READING, text
    if access is AccessLevel.WRITE and tag not in oracle.WRITING:
        assert "pg_temp" in text or "temp" in text, text
    if tag in oracle.DESTROYING:
        assert "pg_temp" in text, text
    if isinstance(judgement.verdict, Allow):
        assert not words & oracle.ROW_WRITES, text
    for word, node in found:
        if word in {"UpdateStmt", "DeleteStmt"}:
            assert node.get("whereClause"), text
            assert judgement.counted, text


# -- what may not matter


def reworded(text: str, data: bytes) -> str:
    """`text` with other white space, comments and letter case outside its constants and quoted names."""
    spaces = (" ", "\n", "\t", "  ", "\r\n", " /* x */ ", " /* a /* b */ c */ ", " -- x\n", "/**/ ", " \f")
    turns = iter(data * (1 + len(text) // max(1, len(data))))
    pieces: list[str] = []
    position = 0
    for token in native.scan(text):
        gap, word = text[position : token.start], text[token.start : token.end]
        turn = next(turns, 0)
        pieces.append(spaces[turn % len(spaces)] if gap.strip(" \t") == "" and gap else gap)
        if token.token not in CONSTANT_TOKENS and re.fullmatch(r"[A-Za-z_]+", word):
            word = (word, word.upper(), word.title())[turn % 3]
        pieces.append(word)
        position = token.end
    return "".join(pieces) + text[position:]


@budget(600)
@given(data=BYTES, words=st.binary(min_size=5, max_size=40))
def test_fuzz_spelling_does_not_change_the_verdict(data: bytes, words: bytes) -> None:
    text = Text(data).text
    other = reworded(text, words)
    assert said(fresh().judge(other.encode())) == said(fresh().judge(text.encode())), (text, other)


OTHERS = {266: ("1", "0", "77", "2147483647"), 260: ("2.5", "0.0", "1e9"), 261: ("'x'", "''", "'%'", "'2026-01-01'", "'it''s'")}
"""Constants by token number: numbers, fractions, strings."""


def other_constants(text: str, data: bytes) -> str:
    turns = iter(data * (1 + len(text) // max(1, len(data))))
    pieces: list[str] = []
    position = 0
    for token in native.scan(text):
        others = OTHERS.get(token.token)
        if others and text[token.start] != "$":
            pieces += (text[position : token.start], others[next(turns, 0) % len(others)])
            position = token.end
    return "".join(pieces) + text[position:]


@budget(800)
@given(data=BYTES, values=st.binary(min_size=5, max_size=20))
def test_fuzz_constants_do_not_change_what_is_kept_by_shape(data: bytes, values: bytes) -> None:
    text = Text(data, "row statement").text.replace("$1", "b")
    first = fresh().judge(text.encode())
    assume(first.shape_only)
    other = other_constants(text, values)
    second = fresh().judge(other.encode())
    assume(second.shape_only)
    assume(shape(text.encode()) == shape(other.encode()))  # The numbers in varchar(3) stay.
    assert (said(first), first.effects) == (said(second), second.effects), (text, other)


@budget(1_200)
@given(data=BYTES, place=st.integers(0, 159), value=st.integers(0, 255), values=st.binary(min_size=5, max_size=20))
def test_fuzz_texts_with_one_key_have_the_same_tokens(data: bytes, place: int, value: int, values: bytes) -> None:
    """The second text takes one turn differently, and other constants."""
    other = bytearray(data)
    other[place % len(data)] = value
    texts = [Text(data).text, Text(bytes(other)).text, other_constants(Text(data).text, values)]
    keys: dict[bytes, list[tuple[int, str]]] = {}
    for text in texts:
        try:
            key = shape(text.encode())
        except native.GrammarError:
            continue
        if key is not None:
            found = list(without_signs(oracle.tokens(text)))
            assert keys.setdefault(key, found) == found, texts


def without_signs(found: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """A minus before a constant may be part of it."""
    for index, item in enumerate(found):
        if not (item[1] == "-" and found[index + 1 : index + 2] == [(-1, "")]):
            yield item
