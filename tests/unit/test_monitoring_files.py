"""The dashboard and the alert rules name metrics and labels that there are; what they say in text is no dead end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbshield.cli.main import COMMANDS
from dbshield.metrics import BY_NAME, METRICS, Kind

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dbshield.json").read_text())
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
TARGET = {"instance", "job"}
"""Labels that Prometheus itself gives to whatever it reads."""
METRIC = re.compile(r"\b((?:dbshield_[a-z_]+)|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"')
GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
WORDS = re.compile(r"\b[a-z_]+\b(?=\s*[({])")
FUNCTIONS = {"sum", "min", "max", "count", "rate", "increase", "time", "topk", "by", "without", "and", "or"}
FUNCTIONS |= {"histogram_quantile", "max_over_time", "label_values", "on", "ignoring"}


def _panels() -> Iterator[tuple[str, str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.sub(r"label_values\((\w+), (\w+)\)", r'\1{\2=""}', variable["definition"]), ""


def _rules() -> Iterator[tuple[str, str, str]]:
    for rule in ALERTS:
        said = " ".join(rule["annotations"].values())
        yield rule["alert"], rule["expr"], re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"{{\1}}", said)


EXPRESSIONS = [*_panels(), *_rules()]


def _known(name: str) -> tuple[set[str], str]:
    """The labels of a series as Prometheus has it, and the metric that it belongs to."""
    if name == "up":
        return TARGET, name
    for suffix in ("_bucket", "_count", "_sum"):
        base = name.removesuffix(suffix)
        if base != name and base in BY_NAME and BY_NAME[base].kind is Kind.HISTOGRAM:
            return {*BY_NAME[base].labels, *TARGET, *({"le"} if suffix == "_bucket" else ())}, base
    assert name in BY_NAME, f"there is no metric {name}"
    assert BY_NAME[name].kind is not Kind.HISTOGRAM, f"{name} is a histogram: name its buckets"
    return {*BY_NAME[name].labels, *TARGET}, name


@pytest.mark.parametrize(
    ("where", "expression", "shown"), EXPRESSIONS, ids=[f"{where}: {text[:40]}" for where, text, _ in EXPRESSIONS]
)
def test_every_expression_names_what_there_is(where: str, expression: str, shown: str) -> None:
    assert expression.count("(") == expression.count(")")
    labels: set[str] = set()
    names = METRIC.findall(expression)
    assert names, where
    for name, matchers in names:
        known, base = _known(name)
        labels |= known
        assert set(MATCHER.findall(matchers)) <= known, f"{where}: {name} has the labels {sorted(known)}"
        if base in BY_NAME and BY_NAME[base].kind is not Kind.GAUGE:
            assert re.search(rf"(rate|increase)\({name}\b", expression), f"{where}: {name} only grows; ask for its rate"
    for group in GROUPED.findall(expression):
        assert {word.strip() for word in group.split(",")} <= labels, f"{where}: {group}"
    left = re.search(r"\bby \(([^)]*)\)", expression)
    there = {word.strip() for word in left.group(1).split(",")} | TARGET if left else labels
    assert set(re.findall(r"\{\{(\w+)\}\}", shown)) <= there, f"{where} shows a label that its answer has not"
    assert set(WORDS.findall(re.sub(r"dbshield_\w+|\bup\b", "", expression))) <= FUNCTIONS


def test_every_metric_is_looked_at_somewhere() -> None:
    used = {_known(name)[1] for _, expression, _ in EXPRESSIONS for name, _ in METRIC.findall(expression)}
    assert {metric.name for metric in METRICS} <= used


def test_the_dashboard_holds_together() -> None:
    panels = DASHBOARD["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(numbers) == len(set(numbers))
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"], f"{panel['title']} lies over {taken[x, y]}"


def test_every_alert_says_what_to_do() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    commands = {command.name for command in COMMANDS}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        for command in re.findall(r"dbshield ([a-z-]+)", rule["annotations"]["description"]):
            assert command in commands, rule["alert"]
