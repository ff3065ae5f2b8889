"""Builds the generated reference pages: `python -m docs.build`."""
