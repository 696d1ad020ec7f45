"""A registration or a move of an alias in, the same in an outside registry out; what fails there fails nothing here."""

from __future__ import annotations

import importlib
import os
from typing import Any, Protocol

from endcap.contracts.reporting import Reporter
from endcap.releases.registry import AliasMove, Registration

_VERSION_TAG = "endcap_version"
_QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Mirror(Protocol):
    """An outside registry that is told what happened. Never asked: the truth is ours."""

    def register(self, registration: Registration) -> None:
        """Note a release."""
        ...

    def move_alias(self, move: AliasMove) -> None:
        """Note where an alias stands."""
        ...


class MlflowMirror:
    """MLflow's model registry. Its version numbers are its own; the tag `endcap_version` carries ours."""

    def __init__(self, uri: str) -> None:
        """Remember where; nothing is imported or reached yet."""
        self._uri = uri

    def register(self, registration: Registration) -> None:
        """Make the model and the version there, with our labels as tags."""
        client = self._client()
        if not client.search_registered_models(filter_string=f"name='{registration.name}'"):
            client.create_registered_model(registration.name)
        if self._their_version(client, registration.name, registration.version) is not None:
            return
        tags = {**registration.labels, "status": registration.status, "endcap_digest": registration.digest}
        client.create_model_version(
            registration.name,
            source=f"endcap://{registration.name}/{registration.version}",
            tags={**tags, _VERSION_TAG: str(registration.version)},
        )

    def move_alias(self, move: AliasMove) -> None:
        """Move the alias of that name there. Raises LookupError when the version was never mirrored."""
        client = self._client()
        if move.version is None:
            client.delete_registered_model_alias(move.name, move.alias)
            return
        theirs = self._their_version(client, move.name, move.version)
        if theirs is None:
            raise LookupError(f"{move.name}/{move.version} is not in that registry; train again to mirror it")
        client.set_registered_model_alias(move.name, move.alias, theirs)

    def _client(self) -> Any:
        for name, value in _QUICK.items():  # its own defaults wait for minutes
            os.environ.setdefault(name, value)
        mlflow = importlib.import_module("mlflow")
        return mlflow.MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    @staticmethod
    def _their_version(client: Any, name: str, version: int) -> str | None:
        for found in client.search_model_versions(f"name='{name}'"):
            if found.tags.get(_VERSION_TAG) == str(version):
                return str(found.version)
        return None


class Mirrored:
    """Tells a mirror, where there is one; the first failure is reported, and after it the mirror is left alone."""

    def __init__(self, mirror: Mirror | None, report: Reporter) -> None:
        self._mirror = mirror
        self._report = report

    def register(self, registration: Registration) -> None:
        """Note a release there, or say once that it can't be done."""
        if self._mirror is not None:
            self._try(lambda mirror: mirror.register(registration))

    def move_alias(self, move: AliasMove) -> None:
        """Note an alias there, or say once that it can't be done."""
        if self._mirror is not None:
            self._try(lambda mirror: mirror.move_alias(move))

    def _try(self, tell: Any) -> None:
        try:
            tell(self._mirror)
        except Exception as error:  # whatever an outside registry raises, the run goes on
            self._mirror = None
            self._report.event(
                "the registry's mirror failed; the workspace's registry is complete without it",
                error=f"{type(error).__name__}: {error}",
            )


def mirror_for(mlflow_uri: str | None) -> Mirror | None:
    """The mirror that a configuration asks for."""
    return MlflowMirror(mlflow_uri) if mlflow_uri else None
