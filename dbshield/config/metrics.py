"""[metrics] and [tracing]: what a monitoring is told, and where."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dbshield.config.address import ListenAddress
from dbshield.config.base import Section, Texts


class MetricsConfig(Section):
    """[metrics]: numbers for Prometheus, and whether this proxy is healthy and ready. Nobody is asked for a password."""

    listen: str = Field(
        default="", description="host:port of /metrics, /healthz and /readyz, as in 127.0.0.1:9632; empty: not told to anybody"
    )
    allow_remote: bool = Field(default=False, description="listen beyond this machine, for whoever reaches the address")
    names: Texts = Field(
        default=(), description="host names by which it is asked, as in Prometheus' targets; by an address it always may be"
    )

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        if listen and ListenAddress.parse(listen).is_socket:
            raise ValueError(f'"{listen}" is a Unix socket, which no Prometheus reads; write host:port')
        return listen

    @field_validator("names")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.isascii() or any(sign in name for sign in ":/[]*@ "):
                raise ValueError(f'names has "{name}", which is no name of a host; write it without scheme and port')
        return tuple(name.lower().rstrip(".") for name in names)

    @model_validator(mode="after")
    def _near(self) -> Self:
        if self.listen and not ListenAddress.parse(self.listen).is_local and not self.allow_remote:
            raise ValueError(
                f"listen has {self.listen}, which others reach: the names of agents and environments would be told to whoever "
                "asks; listen on 127.0.0.1, or say allow_remote = true"
            )
        return self

    @property
    def address(self) -> ListenAddress | None:
        """Where it listens; nothing where it does not."""
        return ListenAddress.parse(self.listen) if self.listen else None


class TracingConfig(Section):
    """[tracing]: a span for each statement, to an OpenTelemetry collector. Its credentials are read from
    OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str = Field(
        default="", description="OTLP over HTTP, as in http://127.0.0.1:4318/v1/traces; needs dbshield[otel]; empty: no traces"
    )
    ratio: float = Field(default=1.0, gt=0, le=1, description="share of the sessions whose statements are traced")

    @field_validator("endpoint")
    @classmethod
    def _url(cls, endpoint: str) -> str:
        if endpoint:
            parts = urlsplit(endpoint)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("endpoint is no URL of http or https, as in http://127.0.0.1:4318/v1/traces")
            if parts.username or parts.password:
                raise ValueError("endpoint holds credentials; put them into OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint
