"""pg_dump's script as a server takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbshield.control.dumps import Partition, _without_restrict, pg_dump, without_attaching
from dbshield.errors import ClusterError

PARTITION = Partition(
    name="shop.e1", indexes=("shop.e1_pkey",), attach="alter table only shop.e attach partition shop.e1 default"
)


def test_what_only_psql_understands_is_taken_out_once() -> None:
    script = b"--\n\\restrict Ab12\nselect '\n\\restrict other\n';\n\\unrestrict Ab12\n"
    assert _without_restrict(script) == b"--\nselect '\n\\restrict other\n';\n"
    assert _without_restrict(b"select 1;\n") == b"select 1;\n"


def test_a_partition_is_attached_later() -> None:
    script = (
        b"CREATE TABLE shop.e1 ();\n"
        b"ALTER TABLE ONLY shop.e ATTACH PARTITION shop.e1 FOR VALUES FROM ('a\nb') TO ('c');\n"
        b"ALTER TABLE ONLY shop.e1 ATTACH PARTITION shop.e11 DEFAULT;\n"
    )
    kept = b"CREATE TABLE shop.e1 ();\nALTER TABLE ONLY shop.e1 ATTACH PARTITION shop.e11 DEFAULT;\n"
    assert without_attaching(script, [PARTITION], "pre-data") == (kept, [])
    indexes = (
        b"ALTER INDEX shop.e_pkey ATTACH PARTITION shop.e1_pkey;\nALTER INDEX shop.e1_pkey ATTACH PARTITION shop.e11_pkey;\n"
    )
    states = b"ALTER TABLE shop.e1 DISABLE TRIGGER t;\nALTER TABLE shop.e1 ENABLE ALWAYS TRIGGER u;\n"
    others = indexes.splitlines(keepends=True)[1] + b"ALTER TABLE shop.e11 DISABLE TRIGGER t;\n"
    kept, later = without_attaching(indexes + states + others, [PARTITION], "post-data")
    assert kept == indexes.splitlines(keepends=True)[1] + others
    assert later == states.decode().splitlines(keepends=True)


def test_a_script_without_the_attaching_is_not_trusted() -> None:
    with pytest.raises(ClusterError, match=r"shop\.e1"):
        without_attaching(b"CREATE TABLE shop.e1 ();\n", [PARTITION], "pre-data")


def test_another_versions_pg_dump_is_not_taken(tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 16.4'\n")
    program.chmod(0o755)
    assert pg_dump(16, [tmp_path]) == program
    with pytest.raises(ClusterError, match="pg_dump of PostgreSQL 17"):
        pg_dump(17, [tmp_path])
