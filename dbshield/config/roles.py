"""How agents' database roles are made: the part of [environments.NAME] about the administrator who makes them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from dbshield.config import conninfo
from dbshield.config.base import OptionalPath, Section, Texts
from dbshield.config.secret import read_secret


class RolesConfig(Section):
    """Who makes agents' database roles, over which schemas, and what each of them may take up."""

    administrator: str = Field(
        default="",
        repr=False,
        description="who makes agents' roles: postgresql://ADMIN@HOST:PORT/DATABASE; leave it empty where the proxy runs",
    )
    administrator_password_file: OptionalPath = Field(default=None, description="file with the administrator's password")
    administrator_password_env: str = Field(default="", description="environment variable with the administrator's password")
    role_schemas: Texts = Field(
        default=(), description="schemas that agents' roles get rights on; empty: every one that is not the system's"
    )
    role_connections: int = Field(default=50, ge=1, description="connections that one agent's role may hold at once")
    role_statement_timeout: float = Field(default=300, ge=0, description="seconds for a statement of an agent's role; 0: no end")
    role_lock_timeout: float = Field(default=10, ge=0, description="seconds that it waits for a lock; 0: no end")
    role_idle_in_transaction_timeout: float = Field(
        default=300, ge=0, description="seconds that it may leave a transaction open and do nothing; 0: no end"
    )
    role_temp_file_mb: int = Field(default=10_240, ge=1, description="megabytes of temporary files that one session may fill")
    emergency_role: str = Field(
        default="", description="role whose rights `dbshield break-glass` gives to a person for a while; empty: it gives none"
    )
    emergency_max_minutes: float = Field(default=60, gt=0, le=1440, description="minutes that an emergency lasts at most")

    @field_validator("administrator")
    @classmethod
    def _without_password(cls, administrator: str) -> str:
        if administrator and conninfo.password(administrator) is not None:
            raise ValueError("holds a password; use administrator_password_file or administrator_password_env")
        return administrator

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.administrator_password_file is not None and self.administrator_password_env:
            raise ValueError("administrator_password_file and administrator_password_env are both given; keep one")
        return self

    def administrator_password(self) -> str | None:
        """The administrator's password. Raises ConfigError where the file or variable is not there."""
        return read_secret(
            "administrator_password", file=self.administrator_password_file, variable=self.administrator_password_env
        )
