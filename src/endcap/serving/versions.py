"""The versions of a model that a server holds: what state each is in, and which one a request means."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from endcap.serving.checks import shown
from endcap.serving.errors import RequestError
from endcap.serving.settings import All, Latest, ModelSettings, Specific, VersionPolicy

if TYPE_CHECKING:
    from endcap.serving.answers import PredictWork
    from endcap.serving.predictor import Predictor

# Ended and failed versions that the status still tells of.
_MAX_ENDED: Final = 16


class State(StrEnum):
    """TensorFlow Serving's states of a version."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


class Loaded(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """What answers for a version."""

    predictor: Predictor
    work: PredictWork


class Version(msgspec.Struct, eq=False):
    """One version of a model."""

    number: int
    state: State = State.START
    loaded: Loaded | None = None
    """There while the state is AVAILABLE or UNLOADING."""
    error: str = ""
    """Why it could not be loaded."""

    @property
    def in_service(self) -> Loaded:
        """What answers. Raises RequestError where the version isn't there any more."""
        if self.loaded is None:
            raise RequestError(503, f"Version {self.number} is {self.state.value}, not AVAILABLE.")
        return self.loaded


class ServedModel:
    """One model of the server. Touched by the event loop alone."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.policy: VersionPolicy = settings.policy
        """As it counts at present: an operator may set another than the settings say."""
        self.wished_labels = dict(settings.labels)
        """What labels are to name, once it is loaded."""
        self.labels: dict[str, int] = {}
        """What labels name: only versions that are loaded."""
        self.versions: dict[int, Version] = {}
        self.wanted: frozenset[int] = frozenset()
        """What the policy asks for, of what there is."""

    @property
    def name(self) -> str:
        """In the URL."""
        return self.settings.name

    @property
    def available(self) -> list[int]:
        """Versions that answer, ascending."""
        return sorted(number for number, version in self.versions.items() if version.state is State.AVAILABLE)

    @property
    def current(self) -> Version | None:
        """The version that answers where none is named: the newest of those that the policy asks for."""
        found, rank = None, (False, -1)
        for version in self.versions.values():  # asked for with each request: cheaper than to sort those that there are
            if version.state is State.AVAILABLE and (own := (version.number in self.wanted, version.number)) > rank:
                found, rank = version, own
        return found

    def find(self, version: int | None = None, label: str | None = None) -> Version:
        """The version that a request means. Raises RequestError (404) where it isn't here, 503 where nothing is."""
        if label is not None:
            if label not in self.labels:
                there = ", ".join(sorted(self.labels)) or "none"
                raise RequestError(404, f"{self.name} has no label {shown(label)} here; labels: {there}.")
            version = self.labels[label]
        if version is None:
            current = self.current
            if current is None:
                raise RequestError(503, f"No version of {self.name} is loaded.", ((b"retry-after", b"1"),))
            return current
        found = self.versions.get(version)
        if found is None or found.state is not State.AVAILABLE:
            there = ", ".join(map(str, self.available)) or "none"
            raise RequestError(404, f"{self.name} has no version {version} here; it has: {there}.")
        return found

    def tidy(self) -> None:
        """Forget the versions that ended longest ago."""
        ended = [number for number, version in self.versions.items() if version.state is State.END]
        for number in ended[: max(len(ended) - _MAX_ENDED, 0)]:
            del self.versions[number]


def chosen(policy: VersionPolicy, versions: Collection[int]) -> frozenset[int]:
    """The versions that a policy asks for, of those that there are."""
    match policy:
        case Latest(number):
            return frozenset(sorted(versions)[-number:])
        case All():
            return frozenset(versions)
        case Specific(numbers):
            return frozenset(versions).intersection(numbers)


class Models:
    """All models of a server, the first of them its main one."""

    def __init__(self, served: list[ServedModel], predict_route: str | None = None) -> None:
        """Serve these; `predict_route` is a second path of the main model's predictions."""
        self._predict_route = predict_route
        self.replace(served)

    def replace(self, served: list[ServedModel]) -> None:
        """Serve these from here on."""
        self.served = served
        self.by_predict_path = {f"/v1/models/{model.name}:predict".encode(): model for model in served}
        """The models by the path that most requests come by."""
        if self._predict_route is not None:
            self.by_predict_path[self._predict_route.encode()] = served[0]

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Version:
        """The version that a request means. Raises RequestError where it isn't here."""
        return self.model(name).find(version, label)

    def model(self, name: str) -> ServedModel:
        """One model. Raises RequestError (404) for a name that this server doesn't have."""
        for model in self.served:
            if model.name == name:
                return model
        names = ", ".join(model.name for model in self.served)
        raise RequestError(404, f"There is no model {shown(name)} here. This server has: {names}.")
