"""A protected database to try dbshield on, for who has none at hand: an embedded PostgreSQL with a small table in it.

It lives in the state folder and keeps what is put into it. Its role's password is new at each start and stands nowhere.
One `dbshield up` has it at a time: a second one would change that password under the first, and stop the server when it ends.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.cluster.cluster import Cluster
from dbshield.config import Config, EnvironmentConfig
from dbshield.errors import ConfigError

ENVIRONMENT = "trial"
DATABASE, ROLE = "shop", "shop_app"
USER_LOCK = "trial.user"
"""Held alone by the `dbshield up` that has the trial and by the children it forked, until the last of them is gone."""

TABLES = """
create table if not exists orders (id integer primary key, customer text not null, total numeric(8, 2) not null);
insert into orders select i, 'customer ' || i % 100, i % 90 + 0.99 from generate_series(1, 1000) i on conflict do nothing;
grant select, insert, update, delete on orders to shop_app;
"""


@contextmanager
def trial_environment(config: Config) -> Iterator[Config]:
    """The configuration with an environment for the trial database, which runs until the block ends.

    Raises ConfigError where another process has the trial in this state folder, ClusterError where the server does not start.
    """
    with _alone(config.state):
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


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    descriptor = os.open(state / USER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another `dbshield up` runs the database to try in {state}",
                hint="Work with the string that it printed, or end it first. For a second one beside it, set DBSHIELD_STATE to"
                " another folder and DBSHIELD_PROXY__LISTEN to another address.",
            ) from None
        yield
    finally:
        os.close(descriptor)


def _with_trial(config: Config, cluster: Cluster, password: str | None = None) -> Config:
    upstream = make_conninfo(cluster.dsn(DATABASE, ROLE), password=password)
    # Whoever tries out what is refused is not frozen for it.
    superuser = cluster.dsn(DATABASE)
    environment = EnvironmentConfig(upstream=upstream, executor=superuser, administrator=superuser, freeze_after_refusals=0)
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
