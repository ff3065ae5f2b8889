"""The control database: its tables and queries."""
