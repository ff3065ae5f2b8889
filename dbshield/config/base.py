"""What every section of the configuration shares, and how lists and paths are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dbshield.config.names import check_name

Name = Annotated[str, AfterValidator(check_name)]


def _split(value: object) -> object:
    """A list may be written as one text with commas, which is how an environment variable has to say it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _expand(path: Path) -> Path:
    return path.expanduser()


Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]


def _nothing(value: object) -> object:
    """The empty text stands for nothing, as it does in the commented file."""
    return None if value == "" else value


UserPath = Annotated[Path, AfterValidator(_expand)]
OptionalPath = Annotated[UserPath | None, BeforeValidator(_nothing)]


class Section(BaseModel):
    """What every section shares: unknown keys are errors, values do not change, and no error repeats what was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class WithPassword(Section):
    """A section that connects somewhere and names where its password is."""

    password_file: OptionalPath = Field(default=None, description="file with the password, on one line")
    password_env: str = Field(default="", description="environment variable with the password")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.password_file is not None and self.password_env:
            raise ValueError("password_file and password_env are both given; keep one")
        return self
