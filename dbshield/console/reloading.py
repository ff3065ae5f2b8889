"""The configuration read again, when SIGHUP asks for it: pages and sign-ins that come later go by the new one.

Law: what cannot be used changes nothing. A file that is not valid, or a certificate that is none, leaves the console as it is,
and the log says so. What is read once at the start stays as it was, and the log says that too.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog
from starlette.applications import Starlette

from dbshield.config import Config
from dbshield.console.certificate import check_certificate
from dbshield.console.frame import parts_in
from dbshield.errors import ConfigError

AT_START: Final = ("state", "control", "log")
"""Sections that are read once."""
AT_START_HERE: Final = ("listen", "trusted_proxies")
"""Keys of [console] that are."""

Load = Callable[[], Config]
"""Reads the configuration. Raises ConfigError."""


def reload(app: Starlette, load: Load, tls: ssl.SSLContext | None) -> None:
    """Exchange the configuration of a console that runs; `tls` is what its handshakes use. Never raises."""
    log: Any = structlog.get_logger("dbshield.console")
    parts = parts_in(app)
    try:
        read = load()
        config, waiting = usable(parts.config, read)
        check_certificate(config.console)
    except ConfigError as error:
        log.error("the configuration was not reloaded", why=error.message)
        return
    if tls is not None and config.console.tls_certificate is not None:
        tls.load_cert_chain(config.console.tls_certificate, config.console.tls_key, password="")
    app.state.parts = replace(parts, config=config)
    if waiting:
        log.warning("these settings change at the next start", keys=waiting)
    log.info("configuration reloaded")


def usable(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The new configuration with what only a start changes as it was, and the keys of that."""
    sections = [name for name in AT_START if getattr(old, name) != getattr(new, name)]
    keys = [name for name in AT_START_HERE if getattr(old.console, name) != getattr(new.console, name)]
    kept = {name: getattr(old.console, name) for name in keys}
    if "listen" in kept:
        # Which names lead here goes by both.
        kept["address"] = old.console.address
    if old.console.tls != new.console.tls:
        keys += ["tls_certificate", "tls_key"]
        kept |= {"tls_certificate": old.console.tls_certificate, "tls_key": old.console.tls_key}
    update: dict[str, Any] = {name: getattr(old, name) for name in sections}
    update["console"] = new.console.model_copy(update=kept)
    return new.model_copy(update=update), [*sections, *(f"console.{key}" for key in keys)]
