"""[backup.NAME]: what is backed up, by which engine, where it goes, and for whom it is sealed.

The destination must survive what destroys the database, so what weakens that has to be said by name: `encryption = "none"`,
`same_device = "allowed"`, `same_account = "allowed"`, `same_credentials = "allowed"`. Credentials of object stores come from the
environment variables that their own tools read, or from `credentials_file`; they never stand in a URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator

from dbshield.config import conninfo
from dbshield.config.base import OptionalPath, Texts, WithPassword
from dbshield.config.drill import DrillConfig
from dbshield.config.object_lock import ObjectLockConfig
from dbshield.config.pgbackrest import PgBackRestConfig
from dbshield.config.retention import RetentionConfig
from dbshield.config.schedule import PlanSchedule

SCHEMES = ("file", "s3", "gs", "az")
"""A folder, and the stores of Amazon (and those that speak like it), Google and Azure."""
RECIPIENT_PREFIX = "age1"


def _destination(text: str) -> str:
    parts = _split(text)
    if parts.scheme not in SCHEMES:
        raise ValueError("begins with none of file://, s3://, gs:// and az://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("has more than a place in it; credentials belong in the environment or in credentials_file")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("is no folder; write file:///an/absolute/folder")
        if ".." in parts.path.split("/"):
            raise ValueError("has .. in it; write the folder itself")
    elif not parts.netloc:
        raise ValueError(f"names no bucket; write {parts.scheme}://bucket/prefix")
    return text.rstrip("/")


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise ValueError("is no URL; write file:///folder or s3://bucket/prefix") from None


def _recipients(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if text.upper().startswith("AGE-SECRET-KEY-"):
            raise ValueError("has an age identity, which is secret, in it; only the recipient (age1…) belongs here")
        if not text.startswith(RECIPIENT_PREFIX):
            raise ValueError(f'has "{text}", which is no age recipient (age1…)')
    return texts


def _source(text: str) -> str:
    if text:
        conninfo.to_upstream(text)
    return text


class BackupConfig(PgBackRestConfig, RetentionConfig, PlanSchedule, DrillConfig, ObjectLockConfig, WithPassword):
    """[backup.NAME]: one plan of backups."""

    destination: Annotated[str, AfterValidator(_destination)] = Field(
        description="where snapshots go: file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )
    environment: str = Field(default="", description="the environment that is backed up; empty: the one called as this plan")
    engine: Literal["logical", "physical", "pgbackrest"] = Field(
        default="logical",
        description="logical: pg_dump, into any server of the version; physical: pg_basebackup of the whole cluster;"
        " pgbackrest: the same by an installed pgBackRest, into its own repository",
    )
    incremental: bool = Field(
        default=False,
        description="of the engine physical, PostgreSQL 17 and later: snapshots hold what changed since the last one",
    )
    full_every: int = Field(
        default=7, ge=1, le=500, description="snapshots of a chain of incremental ones; after so many the next is a full one"
    )
    source: Annotated[str, AfterValidator(_source)] = Field(
        default="",
        repr=False,
        description="the role that reads everything: postgresql://USER@HOST:PORT/DATABASE; empty: upstream",
    )
    databases: Texts = Field(default=(), description="databases that are backed up; empty: those of the environment")
    encrypt_to: Annotated[Texts, AfterValidator(_recipients)] = Field(
        default=(), description="age recipients (age1…), public keys; who has the identity of one of them can restore"
    )
    encryption: Literal["age", "none"] = Field(default="age", description="none: whoever reads the destination reads the data")
    same_device: Literal["refused", "allowed"] = Field(
        default="refused", description="allowed: the destination may lie on the disk of the protected database"
    )
    same_account: Literal["refused", "allowed"] = Field(
        default="refused", description="allowed: the account of the protected server may write in the destination"
    )
    same_credentials: Literal["refused", "allowed"] = Field(
        default="refused", description="allowed: a proxy of this machine may have the credentials that write to s3:// here"
    )
    jobs: int = Field(
        default=2, ge=1, le=64, description="tables dumped and fingerprinted at once; threads that compress a base backup"
    )
    compression_level: int = Field(default=3, ge=1, le=19, description="zstandard's level")
    fingerprint_max_bytes: int = Field(
        default=16 << 30, ge=0, description="bytes of a table beyond which only a sample of its rows is fingerprinted"
    )
    work: OptionalPath = Field(default=None, description="folder for dumps under way; empty: backup in the state folder")
    wal_max_seconds: float = Field(
        default=60, ge=1, le=86_400, description="seconds after which WAL is archived although its segment is not full"
    )
    wal_spool: OptionalPath = Field(
        default=None, description="folder for WAL that is not archived yet; empty: wal in the state folder"
    )
    binaries: OptionalPath = Field(
        default=None, description="folder of PostgreSQL's programs; empty: found by the server's version"
    )
    credentials_file: OptionalPath = Field(
        default=None, description="file of NAME=value lines for the store, such as AWS_SECRET_ACCESS_KEY; else the environment"
    )
    endpoint: str = Field(default="", description="URL of a store that is not the provider's own; http:// only on this machine")
    region: str = Field(default="", description="region of the bucket")

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if self.encryption == "age" and not self.encrypt_to:
            raise ValueError(
                'encrypt_to is missing; name the age recipients (`dbshield backup key` makes one), or say encryption = "none"'
            )
        if self.encryption == "none" and self.encrypt_to:
            raise ValueError('encryption is "none" although encrypt_to names recipients; keep one')
        if self.incremental and self.engine != "physical":
            raise ValueError('incremental is for the engine "physical"; take it out')
        problem = self.lock_problem(urlsplit(self.destination).scheme)
        if problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _with_stanza(self) -> Self:
        if (self.engine == "pgbackrest") != bool(self.stanza):
            raise ValueError("the engine pgbackrest needs a stanza" if not self.stanza else "stanza is for the engine pgbackrest")
        return self

    @property
    def folder(self) -> Path | None:
        """The folder of a destination on this machine; nothing for a store."""
        parts = urlsplit(self.destination)
        return Path(parts.path) if parts.scheme == "file" else None

    def backup_remarks(self) -> Iterator[str]:
        """What is weaker than it could be, a sentence each."""
        if self.encryption == "none":
            yield "encryption is none: whoever reads the destination reads the data"
        if self.same_device == "allowed":
            yield "same_device is allowed: what destroys the database's disk may destroy its backups"
        if self.same_account == "allowed":
            yield "same_account is allowed: who gets at the database server's account may delete its backups"
        if self.same_credentials == "allowed":
            yield "same_credentials is allowed: who takes over a proxy may write over its backups"
        if self.source and conninfo.password(self.source) is not None:
            yield "source holds a password in clear; use password_file or password_env"
