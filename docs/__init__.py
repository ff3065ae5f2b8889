"""The documentation, and what makes its reference (`docs.build`), looks at its pages (`docs.check`) and builds its site (`docs.site`)."""
