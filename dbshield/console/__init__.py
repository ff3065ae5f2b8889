"""The console: dbshield in a browser. Pages made on the server, and what changes by server-sent events."""
