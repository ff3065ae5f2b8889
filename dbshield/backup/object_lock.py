"""S3 Object Lock: what was written cannot be deleted before its time, whoever has the credentials.

- obstore cannot ask for a lock, boto3 can (the extra `objectlock`). Members are locked when all are there and before the manifest
  is written, and the manifest after that: what is a snapshot is locked, and what came to nothing can be removed.
- A lock is on one version of an object. Deleting without naming a version hides an object and removes nothing, so who removes
  names every version.
- Without Object Lock on the bucket nothing is backed up: a plan that asks for it must not believe that it has it.

Source: S3 user guide, "Locking objects with Object Lock"; S3 API reference, PutObjectRetention, GetObjectLockConfiguration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from obstore.store import ObjectStore

from dbshield.backup.objects import Objects, credentials
from dbshield.backup.store import Hold
from dbshield.config import BackupConfig
from dbshield.errors import BackupError, ConfigError

AT_ONCE = 8
"""Requests: each is a round trip, and a dump may have thousands of members."""
TIMEOUT = 60
MISSING = ("NoSuchKey", "404", "NoSuchObjectLockConfiguration", "InvalidRequest")


class LockedObjects(Objects):
    """A bucket with a prefix, whose snapshots are locked."""

    def __init__(self, store: ObjectStore, place: str, client: Any, plan: BackupConfig) -> None:
        super().__init__(store, place)
        parts = urlsplit(plan.destination)
        self._client = client
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._mode = plan.object_lock.upper()
        self._days = timedelta(days=plan.object_lock_days)

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

    def hold(self, keys: Sequence[str]) -> None:
        """Lock objects that are there, those that are locked for longer as they are. BackupError where one could not be."""
        until = (datetime.now(UTC) + self._days).replace(microsecond=0)
        retention = {"Mode": self._mode, "RetainUntilDate": until}

        def lock(key: str) -> None:
            found = self.held(key)
            if found is not None and found.until >= until:
                return
            with self._said(key):
                self._client.put_object_retention(Bucket=self._bucket, Key=self._key(key), Retention=retention)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lock, keys):
                pass

    def held(self, key: str) -> Hold | None:
        """The lock of an object; nothing where it has none, or is not there. Raises BackupError."""
        with self._said(key):
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
            except self._client.exceptions.ClientError as error:
                if _code(error) in MISSING:
                    return None
                raise
        until = found.get("ObjectLockRetainUntilDate")
        if until is None:
            return None
        strict = found.get("ObjectLockMode") == "COMPLIANCE" or self._mode == "GOVERNANCE"
        return Hold(until=until, as_asked=strict)

    def hidden(self, prefix: str) -> tuple[str, ...]:
        """Every object below a prefix that has a version, those among them that a delete without a version has hidden."""
        return tuple(dict.fromkeys(key for key, _ in self._versions(prefix)))

    def delete(self, key: str) -> None:
        """Every version of an object. Raises BackupError where it is locked."""
        for version in [version for found, version in self._versions(key) if found == key]:
            with self._said(key):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key), VersionId=version)

    def _versions(self, prefix: str) -> list[tuple[str, str]]:
        """Keys, with their versions and delete markers."""
        above = len(self._key(""))
        with self._said(prefix):
            pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=self._key(prefix))
            return [
                (found["Key"][above:], found["VersionId"])
                for page in pages
                for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]

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
