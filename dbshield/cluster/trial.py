"""A protected database to try dbshield on, for who has none at hand: an embedded PostgreSQL with a small table in it.

It lives in the state folder and keeps what is put into it. Its role's password is new at each start and stands nowhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.cluster.cluster import Cluster
from dbshield.config import Config, EnvironmentConfig

ENVIRONMENT = "trial"
DATABASE, ROLE = "shop", "shop_app"

TABLES = """
create table if not exists orders (id integer primary key, customer text not null, total numeric(8, 2) not null);
insert into orders select i, 'customer ' || i % 100, i % 90 + 0.99 from generate_series(1, 1000) i on conflict do nothing;
grant select, insert, update, delete on orders to shop_app;
"""


@contextmanager
def trial_environment(config: Config) -> Iterator[Config]:
    """The configuration with an environment for the trial database, which runs until the block ends."""
    cluster = Cluster(config.state / ENVIRONMENT)
    cluster.ensure()
    cluster.start(tethered=True)
    try:
        password = secrets.token_urlsafe(24)
        _prepare(cluster, password)
        yield _with_trial(config, cluster, password)
    finally:
        cluster.stop()


def with_running_trial(config: Config) -> Config:
    """The configuration for a command beside `dbshield up` on a trial: with its environment, which stands in no file, so that
    people can decide in it. Unchanged where an environment is configured or no trial runs here."""
    cluster = Cluster(config.state / ENVIRONMENT)
    if config.environments or not cluster.running:
        return config
    return _with_trial(config, cluster)


def trial_administrator(config: Config) -> str | None:
    """The superuser's connection string, where this is the configuration beside a trial; nobody knows its own role's password."""
    cluster = Cluster(config.state / ENVIRONMENT)
    found = config.environments.get(ENVIRONMENT)
    return found.executor if found is not None and cluster.running and found.executor == cluster.dsn(DATABASE) else None


def _with_trial(config: Config, cluster: Cluster, password: str | None = None) -> Config:
    upstream = make_conninfo(cluster.dsn(DATABASE, ROLE), password=password)
    # Whoever tries out what is refused is not frozen for it.
    environment = EnvironmentConfig(upstream=upstream, executor=cluster.dsn(DATABASE), freeze_after_refusals=0)
    return config.model_copy(update={"environments": {**config.environments, ENVIRONMENT: environment}})


def _prepare(cluster: Cluster, password: str) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        if conn.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone() is None:
            conn.execute(sql.SQL("create role {} login").format(sql.Identifier(ROLE)))
        conn.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(ROLE), sql.Literal(password)))
        if conn.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as conn:
        conn.execute(TABLES)
