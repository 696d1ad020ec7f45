"""Checked queries in, the best products of each out: snapshot and defaults, query graph, exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnxruntime as ort

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, QUERY_GRAPH, USER_FEATURES, History, Tensor
from endcap.releases.bundle import Release
from endcap.retrieval.exact import Boosts, ExactIndex
from endcap.serving.requests import USER_HISTORY, Feature, Query, RequestDecoder, default_value, takes_present_time

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]

if TYPE_CHECKING:
    from endcap.serving.snapshot import UserSnapshot


DEFAULT_SIGNATURE: Final = "serving_default"
IDS_OUTPUT: Final = "product_ids"
SCORES_OUTPUT: Final = "scores"

MAX_BATCH: Final = 64

_NUMPY_TYPES: Final[dict[str, Any]] = {"STRING": object, "INT64": np.int64, "FLOAT": np.float32}
_PADDING: Final[dict[str, Any]] = {"STRING": "", "INT64": 0, "FLOAT": 0.0}
_GRAPH_TYPES: Final = {"tensor(string)": "STRING", "tensor(int64)": "INT64", "tensor(float)": "FLOAT"}


class Recommendation(NamedTuple):
    """The products of one query, best first: rows of the candidates, and scores."""

    rows: npt.NDArray[np.int64]
    scores: Float32Array


class UserHistory(NamedTuple):
    """A user's distinct recent products, oldest first, with ages in days and how often each."""

    items: list[Any]
    ages: list[float]
    counts: list[float]


EMPTY_HISTORY: Final = UserHistory([], [], [])


class Predictor:
    """One release, loaded. `recommend` is for one thread at a time."""

    def __init__(self, release: Release, graph: Future[ort.InferenceSession] | None = None) -> None:
        """Load the graph (unless it is being loaded as `graph`), the candidates and the snapshot.

        Raises ArtifactError when they don't fit each other.
        """
        self.release = release
        manifest = release.manifest
        if manifest.retrieval is None:
            raise ArtifactError(f"{release.path} scores pairs and recommends nothing that could be served.")
        self.retrieval = manifest.retrieval
        self.signature_name = _retrieval_signature(release)
        self.decoder = RequestDecoder(manifest.signatures, self.signature_name, self.retrieval)
        self._features: list[Feature] = self.decoder.features
        self._history = self.retrieval.history
        self._index = ExactIndex.open(release.file(CANDIDATE_VECTORS), release.file(CANDIDATE_IDS))
        self._session = graph.result() if graph is not None else open_graph(release)
        self._graph_types = {node.name: _GRAPH_TYPES.get(node.type) for node in self._session.get_inputs()}
        self._check_parts_fit()
        self._outputs = [self.retrieval.vector_output]
        if self._history is not None and self._history.boosts_output is not None:
            self._outputs.append(self._history.boosts_output)
        self._primary_place = next(
            (place for place, feature in enumerate(self._features) if feature.name == self.retrieval.primary_id), None
        )
        self._snapshot = self._open_snapshot()

    def recommend(self, queries: Sequence[Query], observe: Callable[[str, float, int], None]) -> list[Recommendation]:
        """Answer each query. `observe(stage, seconds, instances)` is told how long each stage of a batch took."""
        answers: list[Recommendation] = []
        for start in range(0, len(queries), MAX_BATCH):
            answers += self._recommend_batch(queries[start : start + MAX_BATCH], observe)
        return answers

    @property
    def item_ids(self) -> npt.NDArray[Any]:
        """Product ids by row of the candidates."""
        return self._index.item_ids

    def warm(self) -> None:
        """Answer a made-up query, so that the first real one finds everything allocated."""
        values = [[] if feature.is_list else _PADDING[feature.tensor.dtype] for feature in self._features]
        query = Query(values, self.retrieval.top_k, None, None)
        for size in (1, MAX_BATCH // 8):
            self.recommend([query] * size, lambda _stage, _seconds, _instances: None)

    def _recommend_batch(
        self, queries: Sequence[Query], observe: Callable[[str, float, int], None]
    ) -> list[Recommendation]:
        started = time.perf_counter()
        histories = self._complete(queries)
        feeds = self._feed(queries, histories)
        outputs = self._session.run(self._outputs, feeds)
        between = time.perf_counter()
        boosts = self._boosts(histories, outputs[1]) if len(outputs) > 1 else None
        exclude = [None if query.exclude is None else self._known_rows(query.exclude) for query in queries]
        ks = [min(query.k, self._index.num_items) for query in queries]
        hits = self._index.search(outputs[0], ks, boosts, exclude)
        answers = [Recommendation(hit.rows, hit.scores) for hit in hits]
        ended = time.perf_counter()
        observe("features_tower", between - started, len(queries))
        observe("search", ended - between, len(queries))
        return answers

    def _complete(self, queries: Sequence[Query]) -> list[UserHistory]:
        """Fill what the queries leave out, from the snapshot, else by default; gather their histories."""
        histories: list[UserHistory] = []
        for query in queries:
            values = query.values
            row = None
            if self._snapshot is not None and self._primary_place is not None:
                row = self._snapshot.row_of(values[self._primary_place])
            if None in values:
                for place, feature in enumerate(self._features):
                    if values[place] is None:
                        values[place] = self._absent_value(feature, row)
            histories.append(self._history_of(query, row))
        return histories

    def _absent_value(self, feature: Feature, row: int | None) -> Any:
        if row is not None and self._snapshot is not None:
            value = self._snapshot.value(row, feature.name)
            if value is not None:
                return value
        if feature.is_list:
            length = max(feature.tensor.shape[1], 1)
            return [] if feature.tensor.default is None else [feature.tensor.default] * length
        return default_value(feature.tensor)

    def _history_of(self, query: Query, row: int | None) -> UserHistory:
        if self._history is None:
            return EMPTY_HISTORY
        if query.history is not None:
            rows = self._index.rows_of(query.history)
            known = [item for item, place in zip(query.history, rows, strict=True) if place >= 0]
            return distinct_history(known, self._history.max_length)
        if row is None or self._snapshot is None:
            return EMPTY_HISTORY
        items, ages, counts = (self._snapshot.value(row, name) or [] for name in _history_inputs(self._history))
        start = max(len(items) - self._history.max_length, 0)
        return UserHistory(items[start:], ages[start:], counts[start:])

    def _feed(self, queries: Sequence[Query], histories: Sequence[UserHistory]) -> dict[str, npt.NDArray[Any]]:
        feeds: dict[str, npt.NDArray[Any]] = {}
        for place, feature in enumerate(self._features):
            tensor = feature.tensor
            values = [query.values[place] for query in queries]
            if feature.is_list:
                feeds[tensor.name] = _padded(values, tensor.dtype, max(tensor.shape[1], 0))
            else:
                column = np.array(values, dtype=_NUMPY_TYPES[tensor.dtype])
                feeds[tensor.name] = column if len(tensor.shape) == 1 else column[:, None]
        if self._history is not None:
            length = max(1, *(len(history.items) for history in histories)) if histories else 1
            for name, part in zip(_history_inputs(self._history), zip(*histories, strict=True), strict=True):
                dtype = self._graph_types[name] or "STRING"
                is_text = dtype == "STRING" and not self._index.has_string_ids
                feeds[name] = _padded([list(map(str, items)) for items in part] if is_text else part, dtype, length)
        return feeds

    def _boosts(self, histories: Sequence[UserHistory], boosts_BL: Float32Array) -> list[Boosts | None]:
        boosts: list[Boosts | None] = []
        for history, boosts_L in zip(histories, boosts_BL, strict=True):
            if not history.items:
                boosts.append(None)
                continue
            rows = self._index.rows_of(history.items)
            known = rows >= 0
            boosts.append(Boosts(rows[known], boosts_L[: len(rows)][known]))
        return boosts

    def _known_rows(self, ids: Sequence[Any]) -> npt.NDArray[np.int64]:
        rows = self._index.rows_of(ids)
        return np.unique(rows[rows >= 0])

    def _open_snapshot(self) -> UserSnapshot | None:
        if not self.release.has(USER_FEATURES):
            return None
        # Arrow is imported for releases that need it alone: it costs some 40 MB.
        from endcap.serving.snapshot import UserSnapshot

        path = self.release.file(USER_FEATURES)
        if self._primary_place is None:
            raise ArtifactError(
                f"{path}: the signature has no input {self.retrieval.primary_id} to find users by. Release again."
            )
        wanted: dict[str, tuple[str, bool]] = {
            feature.name: (feature.tensor.dtype, feature.is_list)
            for feature in self._features
            if feature.name != self.retrieval.primary_id and not takes_present_time(feature.tensor)
        }
        history: tuple[str, ...] = ()
        if self._history is not None:
            history = _history_inputs(self._history)
            wanted.update((name, (self._graph_types[name] or "STRING", True)) for name in history)
            # Products by the catalog's ids, whatever type the graph wants them in.
            wanted[self._history.items_input] = (self.retrieval.item_id_type, True)
        primary_type = self._features[self._primary_place].tensor.dtype
        snapshot = UserSnapshot(path, self.retrieval.primary_id, primary_type, wanted)
        if 0 < len(snapshot.names & set(history)) < len(history):
            raise ArtifactError(f"{path} has a part of {', '.join(history)}; expected all or none. Release again.")
        return snapshot

    def _check_parts_fit(self) -> None:
        retrieval, where = self.retrieval, self.release.path
        if (self._index.num_items, self._index.dim) != (retrieval.num_items, retrieval.dim):
            raise ArtifactError(
                f"{where}: candidates are {self._index.num_items:,} x {self._index.dim}, the manifest says "
                f"{retrieval.num_items:,} x {retrieval.dim}. Release again."
            )
        if self._index.has_string_ids != (retrieval.item_id_type == "STRING"):
            raise ArtifactError(
                f"{where}: the type of the candidates' ids is not {retrieval.item_id_type}. Release again."
            )
        declared = {feature.name: feature.tensor.dtype for feature in self._features}
        history = dict.fromkeys(_history_inputs(self._history)) if self._history is not None else {}
        for name, dtype in self._graph_types.items():
            if name not in history and declared.get(name) != dtype:
                raise ArtifactError(
                    f"{where}: {QUERY_GRAPH} takes {name} ({dtype}), the signature says "
                    f"{declared.get(name, 'nothing of it')}. Release again."
                )
        surplus = [name for name in (*declared, *history) if name not in self._graph_types]
        if surplus:
            raise ArtifactError(f"{where}: {QUERY_GRAPH} does not take {', '.join(surplus)}. Release again.")
        outputs = {node.name for node in self._session.get_outputs()}
        wanted = {retrieval.vector_output}
        if self._history is not None and self._history.boosts_output is not None:
            wanted.add(self._history.boosts_output)
        if wanted - outputs:
            raise ArtifactError(
                f"{where}: {QUERY_GRAPH} lacks the output {', '.join(sorted(wanted - outputs))}. Release again."
            )


def distinct_history(items: Sequence[Any], max_length: int) -> UserHistory:
    """A list of purchases, oldest first, as distinct products in the order of their last purchase, with counts.

    Only the last `max_length` products are kept; their ages are 0 days.
    """
    counts: dict[Any, float] = {}
    for item in items:
        counts[item] = counts.pop(item, 0.0) + 1.0
    last = list(counts)[-max_length:]
    return UserHistory(last, [0.0] * len(last), [counts[item] for item in last])


def _history_inputs(history: History) -> tuple[str, str, str]:
    return history.items_input, history.ages_input, history.counts_input


def _padded(values: Sequence[Sequence[Any]], dtype: str, length: int) -> npt.NDArray[Any]:
    """`[batch, length]`, or as long as the longest list, filled up on the right."""
    width = max([length, 1, *map(len, values)])
    padded = np.full((len(values), width), _PADDING[dtype], dtype=_NUMPY_TYPES[dtype])
    for row, elements in enumerate(values):
        padded[row, : len(elements)] = elements
    return padded


def _retrieval_signature(release: Release) -> str:
    signatures = release.manifest.signatures
    able = [
        name
        for name, signature in signatures.items()
        if {IDS_OUTPUT, SCORES_OUTPUT} <= {tensor.name for tensor in signature.outputs}
    ]
    if not able:
        raise ArtifactError(
            f"{release.path} has no signature with the outputs {IDS_OUTPUT} and {SCORES_OUTPUT}. Release again."
        )
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in able else able[0]


def open_graph(release: Release) -> ort.InferenceSession:
    """The query graph, loaded. Raises ArtifactError when ONNX Runtime can't read it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = release.file(QUERY_GRAPH)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base of their own
        raise ArtifactError(f"{path} can't be loaded by ONNX Runtime: {error}. Release again.") from error


def client_inputs(decoder: RequestDecoder) -> list[Tensor]:
    """The inputs that a client may give, `user_history` among them where the release takes one."""
    tensors = [feature.tensor for feature in decoder.features]
    if decoder.retrieval.history is not None:
        tensors.append(Tensor(name=USER_HISTORY, dtype=decoder.retrieval.item_id_type, shape=[-1, -1], required=False))
    return tensors
