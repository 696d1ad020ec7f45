"""Requests in, the ids of the users they are about out, and of each id the name that logs may say."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from endcap.serving.predictor import Predictor
    from endcap.serving.requests import PredictRequest

_places: WeakKeyDictionary[Predictor, int | None] = WeakKeyDictionary()


class UserKeys:
    """Hashes ids as the workspace of the key does (`Workspace.user_key`), so that logs join its tables."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, user_id: Any) -> str:
        """The name under which logs may speak of the user."""
        return hmac.digest(self._key, str(user_id).encode(), hashlib.sha256).hex()[:16]


def user_ids_in(predictor: Predictor, asked: PredictRequest, most: int) -> list[Any]:
    """The ids of the users of the first `most` instances."""
    if predictor not in _places:
        _places[predictor] = _place_in(predictor)
    place = _places[predictor]
    return [] if place is None else [query.values[place] for query in asked.queries[:most]]


def _place_in(predictor: Predictor) -> int | None:
    """Where the id stands among the values of an instance."""
    manifest = predictor.release.manifest
    side = manifest.retrieval or manifest.ranking
    reader = next(iter(predictor.decoder.readers.values()))
    names = [feature.name for feature in reader.features]
    return names.index(side.primary_id) if side is not None and side.primary_id in names else None
