"""Judges that know the functions of tests/cases/seed.sql, as a server tells them."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

SEED_FUNCTIONS = (
    # oid, schema, name, volatility, definer, language, owner, shadowed, of row
    ("16500", "shop", "purge_cancelled", "v", "false", "sql", "app_owner", "false", "false", ""),
    ("16501", "shop", "wipe_customers", "v", "true", "plpgsql", "app_owner", "false", "false", ""),
    ("16502", "shop", "order_count", "s", "false", "sql", "app_owner", "false", "false", ""),
    ("16503", "shop", "touch", "v", "false", "plpgsql", "app_owner", "false", "false", ""),
    ("16504", "shop", "archive_orders", "v", "false", "sql", "app_owner", "false", "false", ""),
)
"""The rows of CATALOGUE_QUERY on the seed's database."""


@pytest.fixture(scope="session")
def functions() -> FunctionCatalogue:
    return FunctionCatalogue.from_rows(SEED_FUNCTIONS)


@pytest.fixture
def judges(functions: FunctionCatalogue) -> dict[AccessLevel, Judge]:
    """A judge for each access level."""
    return {access: Judge(policy=Policy(access=access), functions=functions) for access in AccessLevel}


@pytest.fixture
def judge(judges: dict[AccessLevel, Judge]) -> Judge:
    """The judge of the widest access level, so that what it stops is stopped for everybody."""
    return judges[AccessLevel.MIGRATE]
