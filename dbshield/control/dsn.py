"""The connection string that an agent gets. It holds the token: it is shown once, and never logged."""

from __future__ import annotations

import socket
from urllib.parse import quote, urlencode

from dbshield.config import EnvironmentConfig, ProxyConfig
from dbshield.control.agents import IssuedToken


def agent_dsn(issued: IssuedToken, environment: EnvironmentConfig, proxy: ProxyConfig) -> str:
    """`postgresql://AGENT.ENVIRONMENT:TOKEN@HOST:PORT/DATABASE`, by the address that [proxy] advertises or listens on first."""
    address = proxy.client_address
    user = f"{issued.agent}.{issued.environment}"
    parameters: dict[str, str] = {}
    if address.is_socket:
        place = ""
        parameters |= {"host": address.folder, "port": str(address.port)}
    else:
        # The wildcard is a place to listen, not to connect to; this machine's name is the best guess at what it is called.
        host = socket.gethostname() if address.is_wildcard else address.host
        place = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
        if proxy.tls:
            parameters["sslmode"] = "require"
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"postgresql://{user}:{issued.token.text}@{place}/{quote(environment.databases[0], safe='')}{query}"
