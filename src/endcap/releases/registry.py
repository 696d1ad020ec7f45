"""Sealed releases in, what is known of each of them and which of them an alias names out.

Below its store the registry keeps `releases/NAME/VERSION.json`, written once when a release is registered, and
`aliases/NAME/ALIAS/GENERATION.json`, one for each move. The newest move is where the alias stands: history and pointer
are the same documents, so they can't contradict each other, and of two who write the same generation one fails.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

from endcap.contracts.errors import ArtifactError, ConflictError, InputError
from endcap.contracts.release import REGISTRY, Lineage
from endcap.releases.bundle import Release
from endcap.releases.storage import AlreadyThereError, DocumentStore, FolderStore
from endcap.workspace.layout import Workspace

ALIASES = ("champion", "challenger", "shadow")

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LABELLED = {
    "recall_at_100": "all_purchases/recall@100",
    "ndcg_at_10": "all_purchases/ndcg@10",
    "new_to_customer_ndcg_at_10": "new_to_customer/ndcg@10",
    "rmse": "rmse",
    "rmse_own_units": "rmse_own_units",
}


class AliasConflictError(ConflictError):
    """Somebody else moved the alias in the meantime: look where it stands, then decide anew."""


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the registry knows of a release. `registered_at` is ISO 8601 in UTC; labels are text, for any registry."""

    name: str
    version: int
    digest: str
    status: Literal["completed", "not_blessed"]
    labels: dict[str, str]
    registered_at: str
    lineage: Lineage


class AliasMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One move of an alias; `version` is None where it was taken away. Generations count from 1 without a gap."""

    name: str
    alias: str
    generation: int
    version: int | None
    digest: str | None
    previous_version: int | None
    moved_by: str
    moved_at: str
    reason: str


class Registry:
    """Registrations and aliases in one store."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    @classmethod
    def of(cls, workspace: Workspace) -> Registry:
        """The workspace's own registry."""
        return cls(FolderStore(workspace.releases / REGISTRY))

    def register(self, release: Release) -> Registration:
        """Note a sealed release, blessed or not; the same release again changes nothing.

        Raises InputError when its folder is no version number, or another release has that name and version.
        """
        manifest = release.manifest
        if not release.path.name.isdigit():
            raise InputError(
                f"{release.path} is no version of a release: expected a number as its folder's name, such as "
                f"{manifest.name}/1. Move it below 04_releases."
            )
        _check(manifest.name)
        version = int(release.path.name)
        found = self.find(manifest.name, version)
        if found is None:
            is_blessed = manifest.blessing.status == "BLESSED"
            registration = Registration(
                name=manifest.name,
                version=version,
                digest=release.digest,
                status="completed" if is_blessed else "not_blessed",
                labels=_labels(release, is_blessed=is_blessed),
                registered_at=_now(),
                lineage=manifest.lineage,
            )
            try:
                self._store.create(_release_document(manifest.name, version), msgspec.json.encode(registration))
            except AlreadyThereError:
                found = self.find(manifest.name, version)
            else:
                return registration
        if found is None or found.digest != release.digest:
            other = "unreadable" if found is None else found.digest[:12]
            raise InputError(
                f"{manifest.name}/{version} is registered with the digest {other}, the release at {release.path} has "
                f"{release.digest[:12]}. Versions are never reused: seal it under the next number."
            )
        return found

    def find(self, name: str, version: int) -> Registration | None:
        """One registration, or None."""
        _check(name)
        return self._read(_release_document(name, version), Registration)

    def registrations(self, name: str | None = None) -> list[Registration]:
        """All of them, or those of one name, by name and version."""
        found = []
        for one in [name] if name is not None else self._store.names("releases"):
            _check(one)
            versions = sorted(int(document.removesuffix(".json")) for document in self._store.names(f"releases/{one}"))
            found += [registration for version in versions if (registration := self.find(one, version))]
        return found

    def history(self, name: str, alias: str | None = None) -> list[AliasMove]:
        """Every move of one alias, or of all aliases of the name, oldest first. Nothing ever leaves this list."""
        _check(name, *([alias] if alias else []))
        documents = [
            f"aliases/{name}/{one}/{document}"
            for one in ([alias] if alias else self._store.names(f"aliases/{name}"))
            for document in self._store.names(f"aliases/{name}/{one}")
        ]
        moves = [move for document in documents if (move := self._read(document, AliasMove))]
        return sorted(moves, key=lambda move: (move.moved_at, move.alias, move.generation))

    def alias(self, name: str, alias: str) -> AliasMove | None:
        """Where an alias stands, or None when it was never set; `version` is None when it was taken away."""
        _check(name, alias)
        documents = self._store.names(f"aliases/{name}/{alias}")
        return self._read(f"aliases/{name}/{alias}/{documents[-1]}", AliasMove) if documents else None

    def aliases(self, name: str) -> dict[str, AliasMove]:
        """The aliases that stand somewhere."""
        _check(name)
        found = {alias: self.alias(name, alias) for alias in self._store.names(f"aliases/{name}")}
        return {alias: move for alias, move in found.items() if move is not None and move.version is not None}

    def move_alias(
        self,
        name: str,
        alias: str,
        version: int | None,
        *,
        moved_by: str,
        reason: str = "",
        expected_generation: int | None = None,
    ) -> AliasMove:
        """Let an alias name a registered version, or with None nothing.

        `expected_generation` is what the caller saw the alias at, 0 when it was never set; without it, what is there at
        the beginning of this call. Raises AliasConflictError when it is at another one, InputError when the version
        isn't registered.
        """
        _check(name, alias)
        if alias not in ALIASES:
            raise InputError(f"Found the alias {alias!r}; expected one of {', '.join(ALIASES)}.")
        registration = None
        if version is not None and (registration := self.find(name, version)) is None:
            known = ", ".join(str(one.version) for one in self.registrations(name)) or "none"
            raise InputError(f"{name}/{version} is not registered; registered versions of {name}: {known}.")
        current = self.alias(name, alias)
        generation = current.generation if current else 0
        if expected_generation is not None and expected_generation != generation:
            raise self._conflict(name, alias, expected_generation)
        move = AliasMove(
            name=name,
            alias=alias,
            generation=generation + 1,
            version=version,
            digest=registration.digest if registration else None,
            previous_version=current.version if current else None,
            moved_by=moved_by,
            moved_at=_now(),
            reason=reason,
        )
        try:
            self._store.create(f"aliases/{name}/{alias}/{move.generation:08d}.json", msgspec.json.encode(move))
        except AlreadyThereError as error:
            raise self._conflict(name, alias, generation) from error
        return move

    def _conflict(self, name: str, alias: str, expected: int) -> AliasConflictError:
        current = self.alias(name, alias)
        if current is None:
            found = "was never set"
        else:
            to = f"to {name}/{current.version}" if current.version is not None else "away"
            found = (
                f"is at generation {current.generation}: {current.moved_by} moved it {to} at {current.moved_at[:19]}"
            )
        return AliasConflictError(
            f"{alias} of {name} {found}; generation {expected} was expected. Look at it, then move it again if you "
            "still want to."
        )

    def _read(self, document: str, kind: type[T]) -> T | None:
        data = self._store.read(document)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"The registry's document {document} can't be read: {error}. Restore it from a backup."
            ) from error


def _labels(release: Release, *, is_blessed: bool) -> dict[str, str]:
    manifest = release.manifest
    model = manifest.lineage.configuration.get("model", {})
    labels = {
        "training_run_id": manifest.lineage.run_id,
        "model_endpoint_id": manifest.name,
        "model_type": str(model.get("model_type", "retrieval")),
        "is_blessed": str(is_blessed).lower(),
        "signatures": " ".join(sorted(manifest.signatures)),
    }
    if manifest.ranking is not None:
        labels["target"] = f"{manifest.ranking.target}, {manifest.ranking.units}"
    return labels | {
        label: f"{manifest.metrics[metric]:.6f}" for label, metric in _LABELLED.items() if metric in manifest.metrics
    }


def _release_document(name: str, version: int) -> str:
    return f"releases/{name}/{version}.json"


def _check(*names: str) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"Found the name {name!r}; expected 1 to 64 letters, digits, '_' or '-'.")


def _now() -> str:
    return datetime.now(UTC).isoformat()
