"""Where the files lie that are no Python modules of the package: in the wheel under `_data`, in a checkout beside the package."""

from __future__ import annotations

from pathlib import Path

import dbshield
from dbshield.errors import StoreError

PACKAGE = Path(dbshield.__file__).resolve().parent


def data_folder(name: str, *, package: Path = PACKAGE) -> Path:
    """The folder `migrations` or `sql`. StoreError where neither place has it: the installation is incomplete."""
    for folder in (package / "_data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise StoreError(f"dbshield's own folder {name} is missing beside {package}", hint="Install dbshield again.")
