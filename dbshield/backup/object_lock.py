"""S3 Object Lock: what was written cannot be deleted before its time, whoever has the credentials.

- obstore cannot ask for a lock, boto3 can (the extra `objectlock`). Members are locked when all are there and before the manifest
  is written, and the manifest after that: what is a snapshot is locked, and what came to nothing can be removed.
- A lock is on one version of an object. Deleting without naming a version hides an object and removes nothing, so who removes
  names every version, and who locks locks them all.
- Who may write can put another version over a locked one, or a delete marker. What reads here finds what was written below it by
  its signature and its SHA-256 (`versions.py`), and says so.
- Without Object Lock on the bucket nothing is backed up: a plan that asks for it must not believe that it has it.

Source: S3 user guide, "Locking objects with Object Lock"; S3 API reference, PutObjectRetention, GetObjectLockConfiguration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from os.path import commonpath
from typing import Any
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from dbshield.backup.damage import Absent
from dbshield.backup.objects import ObjectReader, Objects, credentials
from dbshield.backup.store import Hold, Source, Version, Versions
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, ConfigError

AT_ONCE = 8
"""Requests: each is a round trip, and a dump may have thousands of members."""
TIMEOUT = 60
MISSING = ("NoSuchKey", "NoSuchVersion", "404", "NoSuchObjectLockConfiguration", "InvalidRequest")
TRIED = 100
"""Versions of one object that are looked at, from the oldest on: dbshield itself makes one."""


class LockedObjects(Objects):
    """A bucket with a prefix, whose snapshots are locked."""

    def __init__(self, store: ObjectStore, place: str, client: Any, plan: BackupConfig) -> None:
        super().__init__(store, place)
        parts = urlsplit(plan.destination)
        self._client = client
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._mode = plan.object_lock.upper()
        self._days = plan.object_lock_days
        self._covered: dict[str, None] = {}

    @classmethod
    def of(cls, plan: BackupConfig) -> LockedObjects:
        """The store of a plan with object_lock. Raises ConfigError where boto3 is missing or credentials are not usable."""
        store = cls.opened(plan)
        return cls(store, plan.destination, _client(plan), plan)

    def require_lock(self) -> None:
        """Raises ConfigError where the bucket cannot lock anything."""
        with self._said("the bucket"):
            try:
                found = self._client.get_object_lock_configuration(Bucket=self._bucket)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in {"ObjectLockConfigurationNotFoundError", "ObjectLockConfigurationNotFound"}:
                    raise
                found = {}
        if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(
                f"object_lock is set, and the bucket {self._bucket} has no Object Lock",
                hint="Switch versioning and Object Lock on for the bucket; or take object_lock out of the plan.",
            )

    def hold(self, keys: Sequence[str], *, days: int | None = None) -> None:
        """Lock every version of objects that are there, those that are locked for longer as they are. BackupError where one could
        not be: Absent where it is gone."""
        span = timedelta(days=self._days if days is None else min(days, self._days))
        until = (datetime.now(UTC) + span).replace(microsecond=0)
        retention = {"Mode": self._mode, "RetainUntilDate": until}
        if not keys:
            return
        there = self.versions(commonpath(keys))
        for key in keys:
            if key not in there or not there[key].kept:
                raise Absent(f"{self.place}/{key} is not there any more", hint="Look at who else writes there.")

        def lock(each: tuple[str, Version]) -> None:
            key, version = each
            found = self.held(key, version.id)
            if found is not None and found.until >= until:
                return
            with self._said(key):
                self._client.put_object_retention(
                    Bucket=self._bucket, Key=self._key(key), VersionId=version.id, Retention=retention
                )

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lock, [(key, version) for key in keys for version in there[key].kept[:TRIED]]):
                pass

    def held(self, key: str, version: str) -> Hold | None:
        """The lock of a version; nothing where it has none, or is not there. Raises BackupError."""
        with self._said(key):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._key(key), VersionId=version)
            except self._client.exceptions.ClientError as error:
                if _code(error) in MISSING:
                    return None
                raise
        until = found.get("ObjectLockRetainUntilDate")
        if until is None:
            return None
        strict = found.get("ObjectLockMode") == "COMPLIANCE" or self._mode == "GOVERNANCE"
        return Hold(until=until, as_asked=strict)

    def versions(self, prefix: str) -> Mapping[str, Versions]:
        """Every object below a prefix that has a version or a delete marker."""
        kept: dict[str, list[Version]] = {}
        hidden: dict[str, datetime | None] = {}
        for page in self._pages(prefix):
            for found in page.get("Versions", ()):
                version = Version(id=found["VersionId"], size=found["Size"], written=found["LastModified"])
                kept.setdefault(found["Key"], []).append(version)
                hidden.setdefault(found["Key"], None)
            for found in page.get("DeleteMarkers", ()):
                hidden[found["Key"]] = found["LastModified"] if found["IsLatest"] else hidden.get(found["Key"])
        above = len(self._key(""))
        return {
            # The store lists the newest first.
            key[above:]: Versions(kept=tuple(reversed(kept.get(key, ()))), hidden=since)
            for key, since in hidden.items()
        }

    @contextlib.contextmanager
    def open_version(self, key: str, version: Version, *, start: int = 0) -> Iterator[Source]:
        yield ObjectReader(self, key, version.size, start, version.id)

    def cover(self, what: str) -> None:
        self._covered[what] = None

    def covered(self) -> tuple[str, ...]:
        return tuple(self._covered)

    def delete(self, key: str) -> None:
        """Every version of an object. Raises BackupError where it is locked."""
        names = [
            found["VersionId"]
            for page in self._pages(key)
            for found in (*page.get("DeleteMarkers", ()), *page.get("Versions", ()))
            if found["Key"] == self._key(key)
        ]
        for name in names:
            with self._said(key):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key), VersionId=name)

    def _pages(self, prefix: str) -> list[Any]:
        """Versions and delete markers below a prefix, as the store lists them."""
        with self._said(prefix):
            return list(
                self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=self._key(prefix))
            )

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @contextlib.contextmanager
    def _said(self, key: str) -> Iterator[None]:
        """What the store says, in a line without its request."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  (an extra)

        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            raise BackupError(
                f"{self.place}/{key}: {said.get('Code', 'refused')}: {str(said.get('Message', ''))[:200]}",
                hint="Look at what the credentials may do there: s3:GetBucketObjectLockConfiguration, s3:PutObjectRetention,"
                " s3:GetObjectRetention, s3:ListBucketVersions; a lock that has not ended lets nobody delete.",
            ) from error
        except BotoCoreError as error:
            raise BackupError(f"{self.place}/{key}: {str(error)[:200]}", hint="Look at the store and its credentials.") from error


def _client(plan: BackupConfig) -> Any:
    try:
        import boto3  # noqa: PLC0415  (an extra)
        from botocore.config import Config as ClientConfig  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "object_lock needs boto3, which is not installed", hint='pip install "dbshield[objectlock]", or take object_lock out.'
        ) from error
    given = credentials(plan.credentials_file) if plan.credentials_file else {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return boto3.session.Session().client(
        "s3",
        endpoint_url=plan.endpoint or None,
        region_name=plan.region or given.get("aws_region") or None,
        config=ClientConfig(
            connect_timeout=TIMEOUT,
            read_timeout=TIMEOUT,
            retries={"max_attempts": 6, "mode": "standard"},
            s3={"addressing_style": "path"} if plan.endpoint else {},
            max_pool_connections=AT_ONCE,
        ),
        **{name: given[name] for name in names if name in given},
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
