"""A location's scheme and bucket in, the store that keeps it out."""

from __future__ import annotations

from endcap.contracts.errors import InputError
from endcap.workspace.stores.disk import Disk
from endcap.workspace.stores.patience import Patience
from endcap.workspace.stores.store import Store


def store_for(scheme: str, bucket: str, patience: Patience) -> Store:
    """The store. Raises InputError when its client library isn't installed."""
    if scheme == "file":
        return Disk()
    raise InputError(
        f"Found the location {scheme}://{bucket}; object stores can't be reached (patience {patience.deadline_s:.0f} s)."
    )
