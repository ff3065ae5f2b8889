"""A catalogue that cannot be read is not believed for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from dbshield.model import AccessLevel, AgentLogin, Upstream
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy import catalogue
from dbshield.proxy.catalogue import Watchers
from dbshield.proxy.judges import Judges
from dbshield.proxy.pair import Pair
from dbshield.proxy.sessions import Session
from dbshield.session.relay import Relay

ROW = ("16501", "shop", "f", "s", "false", "sql", "owner", "false", "false", "")
DEADLINE = 20.0


@pytest.mark.parametrize(("stale", "verdict"), [(0.0, "hold"), (3600.0, "allow")])
async def test_functions_are_unknown_when_nobody_could_read_them_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: float, verdict: str
) -> None:
    """The server's socket is not there, so every try fails."""
    monkeypatch.setattr(catalogue, "BRIEF", 0.0)
    monkeypatch.setattr(catalogue, "STALE", stale)
    login = AgentLogin(
        agent="claude",
        environment="test",
        access=AccessLevel.WRITE,
        databases=("shop",),
        salt=b"",
        iterations=4096,
        tokens=(),
        upstream=Upstream(host=str(tmp_path), port=1, user="u"),
    )
    sessions: list[Session] = []
    judges = Judges(
        lambda policy, functions: Judge(policy=policy, functions=functions),
        lambda login: Policy(access=login.access),
        lambda: sessions,
    )
    judges.learn(login, "shop", [ROW])
    judge = await judges.judge(login, "shop", None)  # type: ignore[arg-type]
    relay = Relay(judge=judge, marker="dbshield_test")
    pair = Pair(relay, lambda _, judgement: None, lambda _, rows: None, lambda _: None, lambda told: told(None))
    sessions.append(Session(number=1, login=login, database="shop", client="here", pair=pair))
    assert relay.judge.judge(b"select shop.f()").verdict.word == "allow"
    with structlog.testing.capture_logs() as lines:
        watchers = Watchers(judges, structlog.get_logger())
        leave = watchers.join(login, "shop")
        async with asyncio.timeout(DEADLINE):
            while not lines:  # noqa: ASYNC110 - a log has no event to wait for
                await asyncio.sleep(0.01)
        leave()
        await watchers.stop()
    assert lines[0]["event"] == "the functions of a database are not watched"
    assert relay.judge.judge(b"select shop.f()").verdict.word == verdict
