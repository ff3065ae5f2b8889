"""The files that are no modules: found in a wheel, found in a checkout, missed by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbshield.config.names import NAME_PATTERN
from dbshield.errors import StoreError
from dbshield.model import AccessLevel
from dbshield.store.resources import data_folder
from dbshield.store.schema import ACCESS_LEVELS, NAME_CHECK


def test_the_checkout_has_them() -> None:
    assert (data_folder("migrations") / "env.py").is_file()
    assert data_folder("sql").is_dir()


def test_the_wheel_comes_before_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "site" / "dbshield"
    (package / "_data" / "migrations").mkdir(parents=True)
    (tmp_path / "site" / "migrations").mkdir()
    (tmp_path / "site" / "sql").mkdir()
    assert data_folder("migrations", package=package) == package / "_data" / "migrations"
    assert data_folder("sql", package=package) == tmp_path / "site" / "sql"
    with pytest.raises(StoreError, match="own folder docs is missing"):
        data_folder("docs", package=package)


def test_the_database_checks_what_the_domain_says() -> None:
    assert f"^{NAME_PATTERN}$" == NAME_CHECK
    assert tuple(AccessLevel) == ACCESS_LEVELS
