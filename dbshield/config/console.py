"""[console]: where people look at dbshield with a browser, and how long they stay signed in."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dbshield.config.address import ListenAddress, is_somebody
from dbshield.config.base import OptionalPath, Section, Texts

DEFAULT_PORTS = {"http": 80, "https": 443}


class ConsoleConfig(Section):
    """[console]: the web page of `dbshield console` and `dbshield up`."""

    listen: str = Field(default="127.0.0.1:7433", description="host:port or [::1]:port; empty: `dbshield up` runs none")
    address: str = Field(
        default="", description="URL that people open, as in https://dbshield.example.com; refusals and alerts link to it"
    )
    tls_certificate: OptionalPath = Field(default=None, description="PEM file: the certificate and its chain")
    tls_key: OptionalPath = Field(default=None, description="PEM file: the certificate's key")
    allow_plaintext: bool = Field(default=False, description="listen beyond this machine although there is no TLS")
    trusted_proxies: Texts = Field(
        default=(),
        description="addresses or networks of reverse proxies whose X-Forwarded-For says who is there; empty: none is believed",
    )
    session_hours: float = Field(default=12, gt=0, le=24 * 30, description="hours after which people sign in again in any case")
    idle_minutes: float = Field(default=30, gt=0, le=24 * 60, description="minutes without a click after which they do")

    @field_validator("listen")
    @classmethod
    def _listens(cls, listen: str) -> str:
        if listen and ListenAddress.parse(listen).is_socket:
            raise ValueError(f'"{listen}" is a Unix socket, which no browser opens; write host:port')
        return listen

    @field_validator("address")
    @classmethod
    def _public(cls, address: str) -> str:
        if not address:
            return address
        parts = urlsplit(address)
        if (
            parts.scheme not in DEFAULT_PORTS
            or not parts.hostname
            or parts.path not in {"", "/"}
            or parts.query
            or parts.fragment
        ):
            raise ValueError(f'"{address}" is no address of a site; write it as in https://dbshield.example.com')
        if parts.username is not None:
            raise ValueError("address holds a user name, which a link must not")
        return address.rstrip("/").lower()

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, trusted_proxies: tuple[str, ...]) -> tuple[str, ...]:
        for each in trusted_proxies:
            if not is_somebody(each):
                # Who is believed by everybody's word is counted nowhere: guessing passwords would have no limit by place.
                raise ValueError(f'trusted_proxies has "{each}", which is no address of a reverse proxy, and no network of them')
        return trusted_proxies

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together; one of them is missing")
        where = self.where
        if where is None:
            return self
        if not where.is_local and not self.tls and not self.allow_plaintext:
            raise ValueError(
                f"listen has {where}, which others reach, and there is no TLS: passwords would cross the network in clear; "
                "give tls_certificate and tls_key, or say allow_plaintext = true"
            )
        if where.is_wildcard and not self.address:
            raise ValueError(f"listen has {where}, so address has to say by which name people open the console")
        return self

    @property
    def where(self) -> ListenAddress | None:
        return ListenAddress.parse(self.listen) if self.listen else None

    @property
    def tls(self) -> bool:
        return self.tls_certificate is not None

    @property
    def origins(self) -> dict[str, str]:
        """The sites that the console is, by the Host header of their requests: all others are refused."""
        found = self._listening() if self.listen else {}
        if self.address:
            parts = urlsplit(self.address)
            suffix = "" if parts.port in {None, DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
            name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            found[f"{name}{suffix}"] = f"{parts.scheme}://{name}{suffix}"
        return found

    def _listening(self) -> dict[str, str]:
        where, scheme = ListenAddress.parse(self.listen), "https" if self.tls else "http"
        hosts = [] if where.is_wildcard else [f"[{where.host}]" if ":" in where.host else where.host]
        if where.is_local:
            hosts += ["localhost", "127.0.0.1", "[::1]"]
        port = "" if where.port == DEFAULT_PORTS[scheme] else f":{where.port}"
        return {f"{host}{port}".lower(): f"{scheme}://{host}{port}".lower() for host in hosts}

    def link(self, path: str) -> str:
        """The URL of a page, as in "/rules/DS101"; empty where nobody said how people reach the console."""
        return f"{self.address}{path}" if self.address else ""
