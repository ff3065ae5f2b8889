"""How an alert is worded: pure.

Laws:
- A message is cut to what one reads on a telephone.
- Text of an agent's making stays on its line and in its place: nothing in it looks like a message of dbshield's own, calls people
  or is a link. Services read mentions and Markdown in what is sent as plain text (Discord, Mattermost, Google Chat, Teams), and
  whoever tries to log in may claim any name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dbshield.sqltext.normal import redacted
from dbshield.visible import visible

LONGEST: Final = 300
"""Characters of a text of somebody else's making, such as a reason."""

OBEYED: Final = re.compile(
    r"@(?=everyone|here|channel|all)|(?<!\w)@(?=\w)|<(?=[@!#&/:\w])|\](?=\()|(?<=\w):(?=//)", re.IGNORECASE
)
"""The first sign of what chat services make a mention, a tag or a link of; a space behind it ends that."""

Fields = Mapping[str, Any]
"""Of an entry of the audit, as `json.loads` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing to tell. `event` is one of `config.alerts.EVENTS`; what has the same event, environment and `subject` is alike.
    What is `urgent` waits for no rate and no company."""

    event: str
    environment: str | None
    subject: str
    title: str
    body: str
    urgent: bool = False


def made(event: str, fields: Fields, *, subject: str, title: str, lines: list[str], urgent: bool = False) -> Alert:
    """An alert in the environment of the fields, with lines that are not empty."""
    environment = fields.get("environment")
    return Alert(
        event=event,
        environment=str(environment) if environment else None,
        subject=subject[:LONGEST],
        title=title[:LONGEST],
        body="\n".join(line for line in lines if line),
        urgent=urgent,
    )


def agent_of(fields: Fields) -> str:
    """Which agent did it."""
    return f"agent {text_of(fields, 'agent')}"


def person_of(fields: Fields) -> str:
    """Which human did it."""
    return plain(fields.get("by") or fields.get("person") or "somebody")


def statement_text(fields: Fields) -> str:
    """The statement without its constants, which an audit that keeps statements in full has."""
    text = fields.get("statement")
    return plain(redacted(str(text).encode("utf-8", "replace"))) if text else "?"


def list_of(fields: Fields, name: str) -> list[str]:
    """The texts of a field; nothing where it is not there."""
    value = fields.get(name)
    return [plain(one) for one in value] if isinstance(value, list) else [plain(value)] if value else []


def text_of(fields: Fields, name: str) -> str:
    """A field as a text; what is not there is said so."""
    value = fields.get(name)
    return plain(value) if value is not None and value != "" else "?"


def plain(value: object) -> str:
    """One line of printable characters, not too long, in which no service finds anything to obey."""
    text = OBEYED.sub(r"\g<0> ", " ".join(str(value).split()))
    shown = visible(text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
