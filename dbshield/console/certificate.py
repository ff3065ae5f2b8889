"""Whether the console's certificate can be used, before anybody waits for an answer."""

from __future__ import annotations

import ssl

from dbshield.config.console import ConsoleConfig
from dbshield.errors import ConfigError


def check_certificate(console: ConsoleConfig) -> None:
    """ConfigError where certificate and key cannot be used; nothing where there is to be no TLS."""
    if console.tls_certificate is None:
        return
    try:
        # With a password of our own, since OpenSSL would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(console.tls_certificate, console.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[console] tls_certificate {console.tls_certificate} and tls_key {console.tls_key} cannot be used: {error}",
            hint="Both must be PEM files that dbshield may read, and belong together.",
        ) from error
