"""Predict requests in, the JSON bodies of their answers out: one batch through the predictor, then serialized."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from endcap.contracts.release import Tensor
from endcap.serving.errors import RequestError
from endcap.serving.instances import Pairs, Query
from endcap.serving.metrics import ModelCounts
from endcap.serving.pending import Pending
from endcap.serving.predictor import Predictor
from endcap.serving.requests import Form, PredictRequest, Rank, Recommend
from endcap.serving.timing import TIMED, TimedRank, TimedRecommend
from endcap.serving.versions import ServedModel, State, Version

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.serving.retriever import Observe, Recommendation

_MOST_PADDING = 2.0
_TF_TYPES = {"STRING": "DT_STRING", "INT64": "DT_INT64", "FLOAT": "DT_FLOAT"}


class Arrays(NamedTuple):
    """An answer that isn't written down yet: ids and scores of each instance, in the order of the instances."""

    ids: list[list[Any]]
    scores: list[npt.NDArray[np.float32]]


class PredictWork:
    """Answers batches of requests; the worker thread calls it."""

    def __init__(self, predictor: Predictor, counts: ModelCounts) -> None:
        """Take the loaded release and where its model's stages are counted."""
        self._retriever, self._ranker = predictor.retriever, predictor.ranker
        self._fragments: IdFragments | None = None
        if self._retriever is not None:
            self._fragments = IdFragments(self._retriever.item_ids)
            self._retriever.drop_id_pages()
        self.counts = counts
        self.full_batch = 1 if self._retriever is None else self._retriever.queries_at_once

    def __call__(self, requests: Sequence[PredictRequest]) -> Sequence[bytes | Arrays]:
        """The answer to each request; the requests are all for recommendations, or all for scores."""
        if isinstance(requests[0], Rank):
            started = time.perf_counter()
            answers = self._rank([request for request in requests if isinstance(request, Rank)])
            self.counts.runtime.observe(time.perf_counter() - started, len(requests))
            return answers
        return self._begin(requests, aside=False).finish()

    def begin(self, requests: Sequence[PredictRequest]) -> Pending[Sequence[bytes | Arrays]]:
        """Begin to answer; of recommendations, a large part is computed on a thread."""
        if isinstance(requests[0], Rank):
            return Pending(lambda: self(requests))
        return self._begin(requests, aside=True)

    def _begin(self, requests: Sequence[PredictRequest], *, aside: bool) -> Pending[Sequence[bytes | Arrays]]:
        started = time.perf_counter()
        if self._retriever is None or self._fragments is None:
            raise ValueError("The release recommends nothing.")
        asked = [request for request in requests if isinstance(request, Recommend)]
        queries: list[Query] = [query for request in asked for query in request.queries]
        observe = self._observer_of(requests)
        fragments = self._fragments
        search = self._retriever.begin(queries, observe, aside=aside)
        seconds = time.perf_counter() - started

        def finish() -> Sequence[bytes | Arrays]:
            resumed = time.perf_counter()
            recommended = search.finish()
            searched = time.perf_counter()
            answers = _written(asked, recommended, fragments)
            ended = time.perf_counter()
            observe("serialize", ended - searched, len(queries))
            self.counts.runtime.observe(seconds + ended - resumed, len(requests))
            return answers

        return Pending(finish, search.product)

    def _rank(self, requests: Sequence[Rank]) -> list[bytes | Arrays]:
        if self._ranker is None:
            raise ValueError("The release scores no pairs.")
        asked: list[Pairs] = [pairs for request in requests for pairs in request.queries]
        observe = self._observer_of(requests)
        scores = self._ranker.score(asked, observe)
        started = time.perf_counter()
        answers: list[bytes | Arrays] = []
        place = 0
        for request in requests:
            end = place + len(request.queries)
            mine = [pairs.item_ids for pairs in asked[place:end]]
            if request.form == "arrays":
                answers.append(Arrays(mine, scores[place:end]))
            else:
                answers.append(_encode([orjson.dumps(ids) for ids in mine], scores[place:end], request.form))
            place = end
        observe("serialize", time.perf_counter() - started, len(asked))
        return answers

    def _observer_of(self, requests: Sequence[PredictRequest]) -> Observe:
        """What is told the stages of a batch; of a batch that asks for its timings, all of it does."""
        if type(requests[0]) not in TIMED:
            return self._observe
        timings = [one.timing for one in requests if isinstance(one, TimedRecommend | TimedRank)]
        for timing in timings:
            timing.note_begun()

        def observe(stage: str, seconds: float, num_instances: int) -> None:
            self._observe(stage, seconds, num_instances)
            for timing in timings:
                timing.note(stage, seconds)

        return observe

    def _observe(self, stage: str, seconds: float, _num_instances: int) -> None:
        self.counts.stages[stage].observe(seconds)


def _written(
    requests: Sequence[Recommend], found: Sequence[Recommendation], fragments: IdFragments
) -> list[bytes | Arrays]:
    """The answer to each request, of what was found for all their instances."""
    answers: list[bytes | Arrays] = []
    place = 0
    for request in requests:
        end = place + len(request.queries)
        mine = found[place:end]
        scores = [one.scores for one in mine]
        if request.form == "arrays":
            answers.append(Arrays([fragments.ids_of(one.rows) if one.ids is None else one.ids for one in mine], scores))
        else:
            ids = [fragments.join(one.rows) if one.ids is None else orjson.dumps(one.ids) for one in mine]
            answers.append(_encode(ids, scores, request.form))
        place = end
    return answers


class IdFragments:
    """Product ids as JSON, ready to be joined: gathering a hundred Python strings costs as much as a search's half.

    Ids of one length lie in one array, each with a comma behind it and filled up with spaces, which JSON allows.
    Where lengths differ so much that the spaces would weigh more than the ids, they are encoded for each answer.
    """

    def __init__(self, item_ids: npt.NDArray[Any]) -> None:
        """Take the ids by row: strings or int64."""
        self._item_ids = item_ids
        self._padded = _plain_fragments(item_ids) if item_ids.dtype.kind == "U" else None
        if self._padded is None:
            encoded = [orjson.dumps(item_id) + b"," for item_id in item_ids.tolist()]
            width = max(map(len, encoded))
            if width * len(encoded) <= _MOST_PADDING * sum(map(len, encoded)):
                self._padded = np.array([fragment.ljust(width) for fragment in encoded])

    def join(self, rows: npt.NDArray[np.int64]) -> bytes:
        """The ids of `rows` as a JSON list."""
        if self._padded is None:
            return orjson.dumps(self._item_ids.take(rows).tolist())
        return b"[" + self._padded.take(rows).tobytes().rstrip()[:-1] + b"]"

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """The ids of `rows` as they are."""
        ids: list[Any] = self._item_ids.take(rows).tolist()
        return ids


def _plain_fragments(item_ids: npt.NDArray[np.str_]) -> npt.NDArray[np.bytes_] | None:
    """Fragments of ids of printable ASCII without quote and backslash, in a few array operations; None for others."""
    width = item_ids.dtype.itemsize // 4
    codes = np.ascontiguousarray(item_ids).view(np.uint32).reshape(len(item_ids), width)
    if codes.max() >= 0x7F:
        return None
    letters = codes.astype(np.uint8)
    lengths = np.strings.str_len(item_ids)
    num_letters = int(lengths.sum())
    if letters.size > _MOST_PADDING * num_letters or not lengths.all():
        return None
    has_control = np.count_nonzero(letters < ord(" ")) > letters.size - num_letters  # NumPy fills ids up with zeros
    if has_control or (letters == ord('"')).any() or (letters == ord("\\")).any():
        return None
    padded = np.full((len(item_ids), width + 3), ord(" "), dtype=np.uint8)
    padded[:, 0] = ord('"')
    np.maximum(letters, ord(" "), out=padded[:, 1 : width + 1])
    behind = np.arange(1, padded.size, width + 3) + lengths
    padded.reshape(-1)[behind] = ord('"')
    padded.reshape(-1)[behind + 1] = ord(",")
    fragments: npt.NDArray[np.bytes_] = padded.view(f"S{width + 3}")[:, 0]
    return fragments


def _encode(ids: Sequence[bytes], scores: Sequence[npt.NDArray[np.float32]], form: Form) -> bytes:
    """The body of an answer; `ids` are JSON lists, one an instance."""
    encoded = [orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY) for numbers in scores]
    if form == "columns":
        return b'{"outputs":{"product_ids":[' + b",".join(ids) + b'],"scores":[' + b",".join(encoded) + b"]}}"
    rows = [b'{"product_ids":' + i + b',"scores":' + s + b"}" for i, s in zip(ids, encoded, strict=True)]
    return b'{"predictions":[' + b",".join(rows) + b"]}"


def describe_status(model: ServedModel, number: int | None, *, is_draining: bool) -> dict[str, Any]:
    """The status answer in TensorFlow Serving's shape: of all versions, newest first, or of one.

    Raises RequestError (404) for a version that was never here.
    """
    if number is not None and number not in model.versions:
        there = ", ".join(map(str, model.available)) or "none"
        raise RequestError(404, f"{model.name} has no version {number} here; it has: {there}.")
    numbers = sorted(model.versions, reverse=True) if number is None else [number]
    return {"model_version_status": [_describe_version(model.versions[one], is_draining) for one in numbers]}


def _describe_version(version: Version, is_draining: bool) -> dict[str, Any]:
    state = "UNLOADING" if is_draining and version.state is State.AVAILABLE else version.state.value
    return {
        "version": str(version.number),
        "state": state,
        "status": {"error_code": "UNKNOWN" if version.error else "OK", "error_message": version.error},
    }


def describe_signatures(predictor: Predictor, model_name: str, version: int) -> dict[str, Any]:
    """The metadata answer, in TensorFlow Serving's shape."""
    outputs = {name: signature.outputs for name, signature in predictor.release.manifest.signatures.items()}
    definitions = {
        name: {
            "inputs": {tensor.name: _describe_tensor(tensor) for tensor in reader.client_inputs},
            "outputs": {tensor.name: _describe_tensor(tensor) for tensor in outputs[name]},
            "method_name": "tensorflow/serving/predict",
        }
        for name, reader in predictor.decoder.readers.items()
    }
    return {
        "model_spec": {"name": model_name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _describe_tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": _TF_TYPES[tensor.dtype],
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in tensor.shape], "unknown_rank": False},
        "name": f"{tensor.name}:0",
    }
