"""The documentation: its reference (`docs.build`), what looks at its pages (`docs.check`), and its site (`docs.site`)."""
