"""Writes dbshield/policy/data/functions.txt: the functions of pg_catalog and information_schema, from real servers.

    python -m docs.functions "host=/tmp port=5415 user=postgres" "host=/tmp port=5418 user=postgres"

One line a name: schema-qualified only outside pg_catalog, the hardest volatility of its overloads on any of the servers
(`v`olatile, `s`table, `i`mmutable), then the OIDs. Built-in OIDs are the same on every server of a version and never reused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

TARGET = Path(__file__).parent.parent / "dbshield" / "policy" / "data" / "functions.txt"
QUERY = """
select n.nspname, p.proname, p.provolatile, p.oid
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname in ('pg_catalog', 'information_schema')
"""
HARDNESS = "isv"


def main(servers: list[str]) -> None:
    volatility: dict[str, str] = {}
    oids: dict[str, set[int]] = {}
    for server in servers:
        with psycopg.connect(server) as connection:
            for schema, name, kind, oid in connection.execute(QUERY):
                key = name if schema == "pg_catalog" else f"{schema}.{name}"
                volatility[key] = max(volatility.get(key, "i"), kind, key=HARDNESS.index)
                # OIDs from 10000 on are given out by initdb and differ between builds.
                oids.setdefault(key, set()).update({oid} if oid < 10_000 else set())
    lines = (f"{key} {volatility[key]} {' '.join(map(str, sorted(oids[key])))}".strip() for key in sorted(volatility))
    TARGET.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
