"""The command line, one module a command group. `main` is the console script."""

from dbshield.cli.main import main

__all__ = ["main"]
