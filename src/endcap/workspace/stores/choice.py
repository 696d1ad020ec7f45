"""A location's scheme and bucket in, the store that keeps it out; a cloud's client is imported when one is first used."""

from __future__ import annotations

from endcap.contracts.errors import InputError
from endcap.workspace.stores.disk import Disk
from endcap.workspace.stores.gcs import GcsBucket
from endcap.workspace.stores.patience import Patience
from endcap.workspace.stores.s3 import S3Bucket
from endcap.workspace.stores.store import Store


def store_for(scheme: str, bucket: str, patience: Patience) -> Store:
    """The store. Raises InputError when its client isn't installed or finds no credentials."""
    if scheme == "file":
        return Disk()
    if scheme == "gs":
        return GcsBucket(bucket, patience)
    if scheme == "s3":
        return S3Bucket(bucket, patience)
    raise InputError(f"Found the scheme {scheme!r}; expected file, gs or s3.")
