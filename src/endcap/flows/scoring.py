"""A release's exported files and a table of questions in, rankings out: what is measured is what is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pyarrow as pa

from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, ITEM_GRAPH, QUERY_GRAPH, DType, Retrieval, Tensor
from endcap.contracts.stopping import uninterrupted
from endcap.evaluation.compare import SystemRankings
from endcap.evaluation.customers import Counting
from endcap.features.transforms.graph import MISSING_INT64
from endcap.features.transforms.raw import canonical
from endcap.retrieval.exact import Boosts, ExactIndex, Hits, add_up

CHUNK = 64
"""Questions at once."""
_EMPTY: dict[str, Any] = {"STRING": "", "INT64": 0, "FLOAT": 0.0}
_DTYPES: dict[str, DType] = {"tensor(string)": "STRING", "tensor(int64)": "INT64", "tensor(float)": "FLOAT"}
_TYPES: dict[str, Any] = {"STRING": object, "INT64": np.int64, "FLOAT": np.float32}


@dataclass(frozen=True)
class GraphFeed:
    """Questions as the query graph takes them, and the products of their histories where these have scores of their own."""

    feeds: dict[str, npt.NDArray[Any]]
    history_items: list[list[str]] | None
    num_rows: int


class ExportedModel:
    """The query graph and the candidates of a release folder, sealed or not."""

    def __init__(self, folder: Path, retrieval: Retrieval, inputs: list[Tensor]) -> None:
        """Load both; `inputs` are the graph's raw inputs."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # one order of summation: the same scores on every run
        self._session = ort.InferenceSession(str(folder / QUERY_GRAPH), options, providers=["CPUExecutionProvider"])
        self.index = ExactIndex.open(folder / CANDIDATE_VECTORS, folder / CANDIDATE_IDS)
        self._retrieval = retrieval
        self.inputs = inputs
        """The graph's raw inputs."""

    def rank(
        self, name: str, title: str, questions: pa.Table, item_nums: npt.NDArray[np.int64], depth: int
    ) -> SystemRankings:
        """Rank all products for each question, once with and once without the customer's own earlier products.

        Args:
            name: Of the system.
            title: Of the system, for people.
            questions: Raw buyer features, and `earlier`: every product that the customer bought before.
            item_nums: The catalog's number of each candidate row.
            depth: Length of the rankings.
        """
        rankings = {counting: np.full((questions.num_rows, depth), -1, np.int64) for counting in Counting}
        for start in range(0, questions.num_rows, CHUNK):
            part = questions.slice(start, CHUNK)
            vectors, boosts = self.encode(part)
            earlier = [self._rows(ids) for ids in part["earlier"].to_pylist()]
            for counting, excluded in ((Counting.ALL_PURCHASES, None), (Counting.NEW_TO_CUSTOMER, earlier)):
                hits = self.index.search(vectors, [depth] * part.num_rows, boosts, excluded)
                for number, hit in enumerate(hits, start=start):
                    rankings[counting][number, : len(hit.rows)] = item_nums[hit.rows]
        return SystemRankings(name, title, rankings[Counting.ALL_PURCHASES], rankings[Counting.NEW_TO_CUSTOMER])

    def prepare(self, questions: pa.Table) -> GraphFeed:
        """Questions as the graph takes them."""
        history = self._retrieval.history
        items = questions[history.items_input].to_pylist() if history and history.boosts_output else None
        return GraphFeed({tensor.name: feed(tensor, questions) for tensor in self.inputs}, items, questions.num_rows)

    def answer(self, asked: GraphFeed, k: int) -> list[Hits]:
        """The best `k` products of each question."""
        vectors, boosts = self._encode(asked)
        return self.index.search(vectors, [k] * asked.num_rows, boosts)

    def scores(self, asked: GraphFeed) -> npt.NDArray[np.float32]:
        """The score of every candidate row for each question, `[num_questions, num_items]`."""
        vectors, boosts = self._encode(asked)
        scores: npt.NDArray[np.float32] = self.index.scores(vectors)
        for row, boost in zip(scores, boosts or [None] * len(scores), strict=True):
            if boost is not None:
                row[boost.rows] += boost.values
        return scores

    def encode(self, questions: pa.Table) -> tuple[npt.NDArray[np.float32], list[Boosts | None] | None]:
        """Query vectors, and what products of the histories get on top; questions are raw buyer features."""
        return self._encode(self.prepare(questions))

    def _encode(self, asked: GraphFeed) -> tuple[npt.NDArray[np.float32], list[Boosts | None] | None]:
        history = self._retrieval.history
        if history is None or not history.outputs:
            return self._run([self._retrieval.vector_output], asked)[0], None
        vectors, *more = self._run([self._retrieval.vector_output, *history.outputs], asked)
        found = dict(zip(history.outputs, more, strict=True))
        boosts: list[Boosts | None] = []
        for number in range(asked.num_rows):
            rows, values = [], []
            if asked.history_items is not None:
                rows.append(self.index.rows_of(asked.history_items[number]))
                values.append(found[str(history.boosts_output)][number, : len(rows[0])])
            if history.neighbor_items_output is not None:
                rows.append(found[history.neighbor_items_output][number])
                values.append(found[str(history.neighbor_boosts_output)][number])
            boosts.append(add_up(np.concatenate(rows), np.concatenate(values)))
        return vectors, boosts

    def _run(self, outputs: list[str], asked: GraphFeed) -> list[Any]:
        with uninterrupted():
            found: list[Any] = self._session.run(outputs, asked.feeds)
        return found

    def _rows(self, ids: list[str]) -> npt.NDArray[np.int64]:
        rows = self.index.rows_of(ids)
        return np.unique(rows[rows >= 0])


def encode_items(folder: Path, products: pa.Table) -> npt.NDArray[np.float32]:
    """Vectors of products from their raw features, by the release's `item.onnx`; they need not be of its catalog."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / ITEM_GRAPH), options, providers=["CPUExecutionProvider"])
    inputs = [Tensor(one.name, _DTYPES[one.type], [-1] * len(one.shape)) for one in session.get_inputs()]
    feeds = {tensor.name: feed(tensor, products) for tensor in inputs}
    with uninterrupted():
        (vectors,) = session.run(None, feeds)
    return np.ascontiguousarray(vectors, np.float32)


def feed(tensor: Tensor, table: pa.Table) -> npt.NDArray[Any]:
    """A raw column as the graph takes it: missing values by their stand-ins, lists padded at the end."""
    values = canonical(table[tensor.name]).to_pylist()
    dtype = _TYPES[tensor.dtype]
    if len(tensor.shape) == 2:
        empty = _EMPTY[tensor.dtype]
        length = max((len(row or []) for row in values), default=0) or 1
        padded = np.full((len(values), length), empty, dtype)
        for number, row in enumerate(values):
            padded[number, : len(row or [])] = [empty if value is None else value for value in row or []]
        return padded
    missing = {"STRING": "", "FLOAT": np.nan, "INT64": MISSING_INT64}[tensor.dtype]
    return np.array([missing if value is None else value for value in values], dtype)
