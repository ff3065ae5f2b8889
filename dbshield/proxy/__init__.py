"""asyncio: listeners, TLS, login to the server, relay, workers."""
