"""Messages and framing of the PostgreSQL frontend/backend protocol, 3.0 and 3.2. No I/O, no clock."""
