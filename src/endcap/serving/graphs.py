"""A release's ONNX files in, loaded sessions and what they take out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import onnxruntime as ort

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import QUERY_GRAPH, RANK_GRAPH
from endcap.releases.bundle import Release

_TYPES: Final = {"tensor(string)": "STRING", "tensor(int64)": "INT64", "tensor(float)": "FLOAT"}


class Graph:
    """One of a release's graphs, loaded."""

    def __init__(self, release: Release, name: str) -> None:
        """Load the part `name`. Raises ArtifactError when ONNX Runtime can't read it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # its tensors are small: it would keep more than it saves
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = release.file(name)
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            inputs = [(node.name, node.type, len(node.shape)) for node in self._session.get_inputs()]
            self._outputs = {node.name for node in self._session.get_outputs()}
        except Exception as error:  # ONNX Runtime's errors share no base of their own
            raise ArtifactError(f"{path} can't be loaded by ONNX Runtime: {error}. Release again.") from error
        self.name = name
        self._where = release.path
        self.types = {name: _TYPES.get(kind) for name, kind, _ in inputs}
        """STRING, INT64 or FLOAT by input."""
        self.ranks = {name: rank for name, _, rank in inputs}
        """How many dimensions each input has, the batch's among them."""

    def run(self, outputs: list[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Compute the outputs; feeds that the graph doesn't take are passed over."""
        if len(feeds) > len(self.types):
            feeds = {name: feeds[name] for name in self.types}
        results: list[Any] = self._session.run(outputs, feeds)
        return results

    def check_fits(self, declared: Mapping[str, str | None], outputs: list[str]) -> None:
        """Raise ArtifactError unless the graph takes what is `declared`, by name, and gives the outputs.

        A type that is None may be any.
        """
        for name, dtype in self.types.items():
            if name not in declared or declared[name] not in (dtype, None):
                said = declared.get(name, "nothing of it")
                raise ArtifactError(
                    f"{self._where}: {self.name} takes {name} ({dtype}), the manifest says {said}. Release again."
                )
        if surplus := [name for name in declared if name not in self.types]:
            raise ArtifactError(f"{self._where}: {self.name} does not take {', '.join(surplus)}. Release again.")
        if missing := sorted(set(outputs) - self._outputs):
            raise ArtifactError(f"{self._where}: {self.name} lacks the output {', '.join(missing)}. Release again.")


class Graphs(NamedTuple):
    """The graphs that a release answers with."""

    query: Graph | None
    rank: Graph | None


def open_graphs(release: Release) -> Graphs:
    """Load what the release has of them. Raises ArtifactError when ONNX Runtime can't read one."""
    return Graphs(
        Graph(release, QUERY_GRAPH) if release.manifest.retrieval else None,
        Graph(release, RANK_GRAPH) if release.manifest.ranking else None,
    )
