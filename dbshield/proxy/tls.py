"""TLS contexts for both sides, and the server's certificate as a channel binding.

Source: libpq's manual, "SSL Support", for what each `sslmode` checks; RFC 5929 section 4 for tls-server-end-point.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dbshield.errors import ConfigError
from dbshield.model import Upstream

ALPN = "postgresql"
"""What a client of direct TLS must offer (PostgreSQL 17)."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For clients. Raises ConfigError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    try:
        # A password of our own, since OpenSSL would ask the terminal for one, and everything would wait for it.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"proxy.tls_certificate {certificate} and proxy.tls_key {key} cannot be used: {error}",
            hint="Both must be PEM files that dbshield may read, and belong together.",
        ) from error
    return context


def upstream_context(upstream: Upstream) -> ssl.SSLContext | None:
    """For the protected server, as strict as `sslmode` says; None where no TLS is to be tried."""
    if upstream.sslmode == "disable" or upstream.is_socket:
        return None
    return _upstream_context(upstream.sslmode, upstream.sslrootcert)


def forget_contexts() -> None:
    """Read certificates again, after the configuration changed."""
    _upstream_context.cache_clear()


@lru_cache(maxsize=64)
def _upstream_context(sslmode: str, sslrootcert: str) -> ssl.SSLContext:
    """One for all connections alike: making it costs more than a login, and the memory of each stays with its connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    verifies = sslmode in {"verify-ca", "verify-full"} or bool(sslrootcert and sslmode == "require")
    context.check_hostname = sslmode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if not verifies:
        return context
    try:
        if sslrootcert and sslrootcert != "system":
            context.load_verify_locations(sslrootcert)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"sslrootcert {sslrootcert} cannot be used: {error}",
            hint="Name a PEM file with the server's root certificate.",
        ) from error
    return context


def channel_binding(connection: ssl.SSLObject | None) -> tuple[str, bytes] | None:
    """The tls-server-end-point binding of a connection to a server: a hash of its certificate.

    The hash is the one of the certificate's signature, or SHA-256 where that is MD5 or SHA-1; None where there is none to use.
    """
    der = connection.getpeercert(binary_form=True) if connection else None
    if not der:
        return None
    algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(der)
    return "tls-server-end-point", digest.finalize()
