"""What an operator wishes of a running server in, what its models are to be out: kept in one document that all its processes read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import msgspec

from endcap.contracts.errors import ArtifactError
from endcap.serving.errors import RequestError
from endcap.serving.settings import All, Latest, Specific, VersionPolicy
from endcap.serving.versions import Models

if TYPE_CHECKING:
    from endcap.serving.predictor import Predictor

logger = logging.getLogger(__name__)

CONTROL: Final = "control.json"
MODELS: Final = "models.txt"

_MAX_VERSION: Final = 10**18


class AddedItem(msgspec.Struct):
    """A product that was added while the server ran."""

    version: int
    """That answered when it was added; a newer one that has the product itself keeps its own."""
    item: dict[str, Any]
    """Its features."""


class ModelWishes(msgspec.Struct, omit_defaults=True):
    """What was set of one model; what wasn't is as the server was started."""

    policy: dict[str, Any] | None = None
    """`{"latest": 1}`, `{"all": true}` or `{"specific": [3]}`."""
    labels: dict[str, int | None] = {}
    """Names of versions; null: a label that the server was started with is taken away."""
    items: list[AddedItem] = []
    """The latest of each id."""


class Wishes(msgspec.Struct):
    """All that was set."""

    generation: int = 0
    """How many changes there were."""
    models: dict[str, ModelWishes] = {}
    """By name."""


class Control:
    """The operator's wishes: in `folder`, where all processes of a server see them and a restart too, else in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = None if folder is None else folder / CONTROL
        self.model_config_file = None if folder is None else folder / MODELS
        """Where a list of models that a running server was given is kept, in TensorFlow Serving's text form."""
        self._wishes = Wishes()
        self._seen: tuple[int, ...] | None = None
        self._applied = 0
        self._turn = threading.Lock()
        # The generation whose items each predictor has.
        self._given: WeakKeyDictionary[Predictor, int] = WeakKeyDictionary()

    def read(self) -> Wishes:
        """What is wished at present. Raises ArtifactError where the document can't be read."""
        if self._file is None:
            return self._wishes
        try:
            state = self._file.stat()
        except FileNotFoundError:
            self._wishes, self._seen = Wishes(), None
            return self._wishes
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen != self._seen:
            try:
                self._wishes = msgspec.json.decode(self._file.read_bytes(), type=Wishes)
                for wishes in self._wishes.models.values():
                    if wishes.policy is not None:
                        policy_of(wishes.policy)
            except (msgspec.DecodeError, ValueError) as error:
                raise ArtifactError(
                    f"{self._file} can't be read: {error}. Remove it, and set anew what it held."
                ) from None
            self._seen = seen
        return self._wishes

    def change(self, model_name: str, change: Callable[[ModelWishes], None]) -> None:
        """Write down what `change` makes of the wishes for a model; one process after the other."""
        if self._file is None:
            with self._turn:
                self._change(model_name, change)
            return
        from endcap.workspace.atomic import write_json
        from endcap.workspace.exclusive import alone_in

        with self._turn, alone_in(self._file.parent):
            self._change(model_name, change)
            write_json(self._file, msgspec.to_builtins(self._wishes), mode=0o600)

    def _change(self, model_name: str, change: Callable[[ModelWishes], None]) -> None:
        wishes = msgspec.convert(msgspec.to_builtins(self.read()), Wishes)
        change(wishes.models.setdefault(model_name, ModelWishes()))
        wishes.generation += 1
        self._wishes, self._seen = wishes, None

    def apply(self, models: Models, *, anew: bool = False) -> None:
        """Give the models the policies and labels that are wished, where anything has changed since the last time.

        `anew`: the models themselves have changed.
        """
        wishes = self.read()
        if wishes.generation == self._applied and not anew:
            return
        for model in models.served:
            wished = wishes.models.get(model.name, ModelWishes())
            model.policy = model.settings.policy if wished.policy is None else policy_of(wished.policy)
            labels = {**model.settings.labels, **wished.labels}
            model.wished_labels = {label: number for label, number in labels.items() if number is not None}
        self._applied = wishes.generation

    def add_items(self, model_name: str, version: int, predictor: Predictor, items: list[Any]) -> int:
        """Add products to the version that answers, and write them down for the others. Raises RequestError (400).

        Takes a while: not for the event loop.
        """
        num_items = 0

        def wish(wishes: ModelWishes) -> None:
            nonlocal num_items
            num_items = predictor.add_items(items)
            key = predictor.added_id or ""
            added = {item[key] for item in items}
            kept = [one for one in wishes.items if one.item.get(key) not in added]
            latest = {item[key]: AddedItem(version, item) for item in items}
            wishes.items = [*kept, *latest.values()]

        self.change(model_name, wish)
        return num_items

    def owes(self, model_name: str, predictor: Predictor) -> bool:
        """Whether products were added that the predictor may not have."""
        wished = self._wishes.models.get(model_name)
        return bool(wished and wished.items) and self._given.get(predictor) != self._wishes.generation

    def give_items(self, model_name: str, version: int, predictor: Predictor) -> None:
        """Add to a version what was added to the model; one that takes none is left as it is, and the log says so."""
        wishes = self.read()
        wished = wishes.models.get(model_name)
        known = {msgspec.json.encode(item) for item in predictor.added_items}
        items = [one for one in wished.items if msgspec.json.encode(one.item) not in known] if wished else []
        try:
            # What an older release says of a product is behind what was said later; a newer one knows better.
            for replaces in (True, False):
                if batch := [one.item for one in items if (version <= one.version) is replaces]:
                    predictor.add_items(batch, replace=replaces)
        except RequestError as error:
            logger.warning("%s version %d takes no products that were added: %s", model_name, version, error.message)
        self._given[predictor] = wishes.generation


def policy_of(said: Any) -> VersionPolicy:
    """The policy that JSON says. Raises ValueError, with what was expected, where it says none."""
    match said:
        case {"latest": int(number)} if len(said) == 1 and not isinstance(number, bool) and 1 <= number <= 1000:
            return Latest(number)
        case {"all": True} if len(said) == 1:
            return All()
        case {"specific": [_, *_] as numbers} if len(said) == 1 and all(_is_version(number) for number in numbers):
            return Specific(tuple(numbers))
    raise ValueError('Expected {"latest": 1}, {"all": true} or {"specific": [3]}, with versions as numbers')


def describe_policy(policy: VersionPolicy) -> dict[str, Any]:
    """The policy as JSON says it."""
    match policy:
        case Latest(number):
            return {"latest": number}
        case All():
            return {"all": True}
        case Specific(numbers):
            return {"specific": list(numbers)}


def _is_version(number: Any) -> bool:
    return type(number) is int and 0 <= number < _MAX_VERSION
