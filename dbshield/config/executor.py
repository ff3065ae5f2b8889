"""Who runs what humans approved, as the configuration says it: a part of [environments.NAME]."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from dbshield.config import conninfo
from dbshield.config.base import OptionalPath, Section
from dbshield.config.secret import read_secret


class ExecutorConfig(Section):
    """The part of [environments.NAME] that says how the executor reaches the protected server, and how far it may go."""

    executor: str = Field(
        default="",
        repr=False,
        description="role that runs approved statements: postgresql://ROLE@HOST:PORT/DATABASE; empty: dbshield runs none of them",
    )
    executor_password_file: OptionalPath = Field(default=None, description="file with the executor's password, on one line")
    executor_password_env: str = Field(default="", description="environment variable with the executor's password")
    execution_timeout: float = Field(default=600.0, gt=0, description="seconds that an approved statement may take")
    execution_lock_timeout: float = Field(default=10.0, gt=0, description="seconds that it waits for a lock")
    row_tolerance: float = Field(
        default=0.1, ge=0, le=1, description="share by which the rows may differ from those that the human was shown"
    )
    undo_max_bytes: int = Field(
        default=1 << 30, ge=0, description="largest undo point; what needs more runs with --without-undo alone"
    )
    undo_keep_days: int = Field(
        default=30, ge=1, le=36_500, description="days that an undo point is kept after its statement ran; then its files go"
    )

    @field_validator("executor")
    @classmethod
    def _readable(cls, executor: str) -> str:
        if executor:
            conninfo.to_upstream(executor)
            if conninfo.password(executor) is not None:
                raise ValueError("holds a password; use executor_password_file or executor_password_env")
        return executor

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.executor_password_file is not None and self.executor_password_env:
            raise ValueError("executor_password_file and executor_password_env are both given; keep one")
        return self

    def executor_dsn(self, database: str) -> str:
        """What libpq connects with, password included, to a database of the environment: for connecting, never for showing.

        Raises ConfigError where the password is not where the configuration says.
        """
        password = read_secret("executor_password", file=self.executor_password_file, variable=self.executor_password_env)
        return conninfo.with_database(conninfo.with_password(self.executor, password), database)
