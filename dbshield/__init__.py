"""dbshield: the layer between AI agents and PostgreSQL."""

__version__ = "0.1.0"
