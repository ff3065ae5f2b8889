"""Sends one message through apprise. Where it leads to is a secret: nothing here logs, returns or raises it.

Source: apprise's own documentation of its URLs and of `Apprise.notify`.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any, Final

from dbshield.config.alerts import AlertsConfig
from dbshield.errors import ConfigError

_STATUS: Final = re.compile(r"error=(\d{3})\b")
"""The one thing that is taken from what apprise logs: the status that a server answered with."""

NO_URL: Final = "this is no URL that apprise knows"


def send(name: str, config: AlertsConfig, title: str, body: str, *, urgent: bool = False) -> str:
    """Sends a message by the channel `name`; empty where it arrived, else why not, as `deliver`."""
    try:
        url = config.url(name)
    except ConfigError as error:
        return error.message
    return deliver(url, title, body, timeout=config.timeout, urgent=urgent)


def deliver(url: str, title: str, body: str, *, timeout: float, urgent: bool = False) -> str:
    """Sends a message; empty where the service took it, else why not, in words that hold no secret.

    A service that does not answer within `timeout` seconds has failed; the thread that waits for it is left to itself.
    """
    outcome: list[str] = []
    sender = threading.Thread(target=lambda: outcome.append(_send(url, title, body, urgent=urgent)), name="alert", daemon=True)
    sender.start()
    sender.join(timeout)
    if outcome:
        return outcome[0]
    return f"no answer within {timeout:g} seconds" if sender.is_alive() else "a bug in the sending library"


def _send(url: str, title: str, body: str, *, urgent: bool) -> str:
    import apprise  # noqa: PLC0415  (half a second, which processes that send nothing need not spend)

    # Its lines name hosts and users, and some of those are secrets.
    logging.getLogger("apprise").propagate = False
    try:
        service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="dbshield", app_desc="dbshield", app_url=""))
        if not service.add(url):
            return NO_URL
        kind = apprise.NotifyType.FAILURE if urgent else apprise.NotifyType.WARNING
        result = service.notify(body=body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT)
        return "" if result else _why(result)
    except Exception as error:  # noqa: BLE001  (of a hundred services' own; its text may hold the URL)
        return f"the service could not be reached: {type(error).__name__}"


def _why(result: Any) -> str:
    """What a failed result says, as far as it holds no secret. Before apprise 2 it is a boolean, which says nothing."""
    logs = result.logs() if hasattr(result, "logs") else ()
    found = next((found for line in logs if (found := _STATUS.search(line.message))), None)
    return f"the service answered with status {found[1]}" if found else "the service was not reached, or refused it"
