"""Where the statements of a text begin and end, by PostgreSQL's own grammar."""

from __future__ import annotations

from postgast.native import lib

from dbshield.sqltext.native import GrammarError
from dbshield.sqltext.normal import blanked_comments


def split(text: bytes) -> list[tuple[int, int]]:
    """The bounds of each statement in bytes, without the semicolons; empty statements have none.

    Only for a text that the Judge has read: the library's parser recurses, and what is not yet known to be shallow can end the
    process (see native.py). Raises GrammarError where the grammar does not accept the text.
    """
    result = lib.pg_query_split_with_parser(blanked_comments(text))
    try:
        if result.error:
            raise GrammarError((result.error.contents.message or b"").decode("utf-8", "replace"), result.error.contents.cursorpos)
        statements = (result.stmts[index].contents for index in range(result.n_stmts))
        return [
            (statement.stmt_location, statement.stmt_location + statement.stmt_len if statement.stmt_len else len(text))
            for statement in statements
        ]
    finally:
        lib.pg_query_free_split_result(result)
