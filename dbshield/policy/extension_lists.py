"""Extensions that only bring types, operators and functions that compute: none reads a file, runs a text, or writes a row.

Migrations create them by the dozen (`CREATE EXTENSION IF NOT EXISTS "uuid-ossp"`). PostgreSQL itself lets a plain role create
only those that it calls trusted. Of those, tablefunc is not here, because crosstab runs a text, nor lo, whose trigger unlinks
large objects.

Source: appendix F of the PostgreSQL manual, and the extensions' own SQL.
"""

from __future__ import annotations

HARMLESS_EXTENSIONS: dict[str, str] = {
    "btree_gin": "operator classes of indexes",
    "btree_gist": "operator classes of indexes",
    "citext": "a type of text",
    "cube": "a type of boxes",
    "earthdistance": "computes distances",
    "fuzzystrmatch": "compares texts",
    "hstore": "a type of pairs",
    "intarray": "computes with arrays",
    "isn": "types of product numbers",
    "ltree": "a type of paths",
    "pg_trgm": "compares texts",
    "pgcrypto": "computes hashes and keys",
    "plpgsql": "there already, in every database; its bodies are read",
    "seg": "a type of ranges",
    "unaccent": "takes accents off",
    "uuid-ossp": "makes keys",
    "vector": "a type of vectors",
}
