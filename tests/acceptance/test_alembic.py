"""docs/how-to/migrations.md, with Alembic for real: what adds passes, what destroys stops the migration whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import ProgrammingError
from support.shield import Shield

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "migrations.md").read_text("utf-8")
ENV = """
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, version_table_schema="shop")
    with context.begin_transaction():
        context.run_migrations()
"""
HEAD = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = {revision!r}, {before!r}


"""


@pytest.fixture
def project(app: Shield, tmp_path: Path) -> Config:
    """An Alembic project whose migrations are those of the page, and whose URL is that of an agent with access level migrate."""
    versions = tmp_path / "versions"
    versions.mkdir()
    (tmp_path / "env.py").write_text(ENV)
    before = None
    for number, text in enumerate(re.findall(r"```python\n(def .*?)```", PAGE, re.DOTALL), start=1):
        revision = f"{number:04d}"
        (versions / f"{revision}.py").write_text(HEAD.format(revision=revision, before=before) + text)
        before = revision
    parts = app.parameters("migrate")
    url = sa.URL.create("postgresql+psycopg", **{name: parts[name] for name in ("host", "password")}, username=parts["user"])
    url = url.set(port=int(parts["port"]), database=parts["dbname"], query={"sslmode": "disable"})
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("sqlalchemy.url", url.render_as_string(hide_password=False).replace("%", "%%"))
    return config


def columns(app: Shield) -> set[str]:
    with app.server.connect(app.database) as admin:
        rows = admin.execute(
            "select attname from pg_attribute where attrelid = to_regclass('shop.notes') and attnum > 0 and not attisdropped"
        )
        return {str(row[0]) for row in rows}


def version(app: Shield) -> str:
    with app.server.connect(app.database) as admin:
        row = admin.execute("select version_num from shop.alembic_version").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.one_server
def test_a_migration_that_adds_passes_and_one_that_destroys_leaves_nothing_behind(app: Shield, project: Config) -> None:
    command.upgrade(project, "0002")
    assert version(app) == "0002"
    assert columns(app) == {"id", "order_id", "text", "author"}

    with pytest.raises(ProgrammingError) as stopped:
        command.upgrade(project, "0003")
    answer = str(stopped.value.orig)
    assert "DS104" in answer
    assert "nothing was executed" in answer
    # The migration is one transaction: what it had done before the refused statement is gone as well.
    assert version(app) == "0002"
    assert columns(app) == {"id", "order_id", "text", "author"}

    with pytest.raises(ProgrammingError, match="DS104"):
        command.downgrade(project, "base")
    assert version(app) == "0002"
    assert columns(app) == {"id", "order_id", "text", "author"}
