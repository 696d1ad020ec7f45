"""A small release with every kind of input, and real servers that answer for it."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.release import (
    FORMAT_VERSION,
    ITEMS,
    MANIFEST,
    MERGED_GRAPH,
    QUERY_GRAPH,
    RANK_GRAPH,
    USER_FEATURES,
    Blessing,
    History,
    Lineage,
    Ranking,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.releases.bundle import describe_files, encode_manifest
from endcap.retrieval.build import write_candidates
from endcap.retrieval.merged import write_merged_graph
from tests.serving import pairs
from tests.serving.sockets import over_sockets as over_sockets
from tests.serving.stubs import free_port

NUM_ITEMS, DIM, TOP_K = 3000, 8, 20
USERS = ("ann", "bob", "cyd")
CITIES = ("Oslo", "Köln", "東京")
HISTORY = History(
    items_input="user_history",
    ages_input="user_history_age_days",
    counts_input="user_history_count",
    max_length=5,
    boosts_output="boosts",
)
INPUTS = [
    Tensor(name="user_id", dtype="STRING", shape=[-1]),
    Tensor(name="city", dtype="STRING", shape=[-1], required=False),
    Tensor(name="age", dtype="FLOAT", shape=[-1], required=False),
    Tensor(name="visits", dtype="INT64", shape=[-1, 1], required=False, default=2),
    Tensor(name="event_time_us", dtype="INT64", shape=[-1], required=False),
]
RETRIEVAL_SIGNATURE = Signature(
    inputs=INPUTS,
    outputs=[
        Tensor(name="product_ids", dtype="STRING", shape=[-1, TOP_K]),
        Tensor(name="scores", dtype="FLOAT", shape=[-1, TOP_K]),
    ],
)

_SERVE = """
import json
import sys
from pathlib import Path
from endcap.contracts.errors import EndcapError
from endcap.serving import run_server
from endcap.serving.settings import ModelSettings, ServerSettings
from endcap.serving.sources import source_of
release, host, port, auth, more = sys.argv[1:]
more = {key: Path(value) if key.endswith(("_file", "_dir")) else value for key, value in json.loads(more).items()}
if "user_key" in more:
    more["user_key"] = bytes.fromhex(more["user_key"])
try:
    model = ModelSettings("recommender", source_of(Path(release)))
    settings = ServerSettings(
        (model,), **({"poll_seconds": 0.05, "grpc_port": 0} | more), host=host, port=int(port), auth=auth or None
    )
    run_server(settings, on_ready=lambda url: print(url, flush=True))
except EndcapError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(2)
"""


def _query_graph() -> onnx.ModelProto:
    """vector = user + city + age (0 when NaN) * a + visits * b + (event after 2020) * c; boosts = count - age_days."""
    rng = np.random.default_rng(11)

    def table(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    constants = {
        "user_table": table(len(USERS) + 1, DIM),
        "city_table": table(len(CITIES) + 1, DIM),
        "age_weights": table(1, DIM) / 30,
        "visit_weights": table(1, DIM) / 5,
        "late_weights": table(1, DIM),
        "one": np.array([1], dtype=np.int64),
        "zero": np.array(0, dtype=np.float32),
        "year_2020_us": np.array(1_577_836_800_000_000, dtype=np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["age"], ["age_unknown"]),
        helper.make_node("Where", ["age_unknown", "zero", "age"], ["age_known"]),
        helper.make_node("Unsqueeze", ["age_known", "one"], ["age_column"]),
        helper.make_node("MatMul", ["age_column", "age_weights"], ["age_vector"]),
        helper.make_node("Cast", ["visits"], ["visits_float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["visits_float", "visit_weights"], ["visit_vector"]),
        helper.make_node("Greater", ["event_time_us", "year_2020_us"], ["is_late"]),
        helper.make_node("Cast", ["is_late"], ["late"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["late", "one"], ["late_column"]),
        helper.make_node("MatMul", ["late_column", "late_weights"], ["late_vector"]),
        helper.make_node("Cast", [HISTORY.counts_input], ["counts"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["counts", HISTORY.ages_input], ["boosts"]),
    ]
    for name, values in (("user_id", USERS), ("city", CITIES)):
        column = name.removesuffix("_id")
        nodes += [
            helper.make_node(
                "LabelEncoder",
                [name],
                [f"{column}_row"],
                domain="ai.onnx.ml",
                keys_strings=list(values),
                values_int64s=list(range(1, len(values) + 1)),
                default_int64=0,
            ),
            helper.make_node("Gather", [f"{column}_table", f"{column}_row"], [f"{column}_vector"]),
        ]
    parts = [f"{name}_vector" for name in ("user", "city", "age", "visit", "late")]
    nodes.append(helper.make_node("Sum", parts, ["vector"]))
    types = {"STRING": TensorProto.STRING, "INT64": TensorProto.INT64, "FLOAT": TensorProto.FLOAT}
    inputs = [
        helper.make_tensor_value_info(tensor.name, types[tensor.dtype], ["batch", 1][: len(tensor.shape)])
        for tensor in INPUTS
    ]
    for name, kind in zip(
        (HISTORY.items_input, HISTORY.ages_input, HISTORY.counts_input), ("STRING", "FLOAT", "INT64"), strict=True
    ):
        inputs.append(helper.make_tensor_value_info(name, types[kind], ["batch", "length"]))
    outputs = [
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", DIM]),
        helper.make_tensor_value_info("boosts", TensorProto.FLOAT, ["batch", "length"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "query", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def write_release(folder: Path) -> Path:
    """A release of 3,000 products with snapshot, history boosts and merged graph."""
    retrieval = write_retrieval(folder)
    write_snapshot(folder)
    seal(folder, retrieval, {"serving_default": RETRIEVAL_SIGNATURE})
    return folder


def write_ranking_release(folder: Path, *, recommends: bool = False) -> Path:
    """A release that scores pairs with ten products; it also recommends, when asked to."""
    retrieval = None
    if recommends:
        retrieval = write_retrieval(folder)
    else:
        folder.mkdir(parents=True)
    onnx.save(pairs.rank_graph(INPUTS, HISTORY), str(folder / RANK_GRAPH))
    pairs.write_items(folder / ITEMS)
    write_snapshot(folder)
    signature = pairs.signature_of(INPUTS)
    signatures = {"serving_default": RETRIEVAL_SIGNATURE if recommends else signature, "serve_ranking": signature}
    seal(folder, retrieval, signatures, pairs.ranking_of(HISTORY))
    return folder


def write_retrieval(folder: Path) -> Retrieval:
    """Query graph, candidates and merged graph."""
    rng = np.random.default_rng(12)
    folder.mkdir(parents=True)
    onnx.save(_query_graph(), str(folder / QUERY_GRAPH))
    ids = [f"p{number}" for number in range(NUM_ITEMS)]
    vectors = rng.standard_normal((NUM_ITEMS, DIM)).astype(np.float32)
    write_candidates(folder, ids, vectors)
    retrieval = Retrieval(
        algorithm="brute_force",
        vector_output="vector",
        dim=DIM,
        num_items=NUM_ITEMS,
        top_k=TOP_K,
        item_id_type="STRING",
        primary_id="user_id",
        history=HISTORY,
    )
    write_merged_graph(folder / MERGED_GRAPH, folder / QUERY_GRAPH, vectors, ids, retrieval)
    return retrieval


def write_snapshot(folder: Path) -> None:
    """What is known of ann and bob."""
    snapshot = pa.table(
        {
            "user_id": ["ann", "bob"],
            "city": ["Köln", None],
            "age": pa.array([31.0, None], pa.float32()),
            "visits": pa.array([7, 1], pa.int64()),
            "event_time_us": pa.array([1_500_000_000_000_000, None], pa.int64()),
            "user_history": [["p3", "p4"], []],
            "user_history_age_days": pa.array([[2.0, 0.5], []], pa.list_(pa.float32())),
            "user_history_count": pa.array([[90, 4], []], pa.list_(pa.int64())),
            "user_history_target": pa.array([[12.5, None], []], pa.list_(pa.float64())),
        }
    )
    pq.write_table(snapshot, folder / USER_FEATURES)


def seal(
    folder: Path, retrieval: Retrieval | None, signatures: dict[str, Signature], ranking: Ranking | None = None
) -> None:
    """Write the manifest over what lies in the folder."""
    manifest = ReleaseManifest(
        format_version=FORMAT_VERSION,
        name="small",
        created_at="2026-01-01T00:00:00Z",
        as_of="2026-01-01T00:00:00Z",
        files=describe_files(folder),
        signatures=signatures,
        retrieval=retrieval,
        lineage=Lineage(run_id="r", git_sha="", seed=0, data_versions={}, configuration={}, library_versions={}),
        metrics={},
        blessing=Blessing(status="BLESSED", reasons=[]),
        ranking=ranking,
    )
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))


@dataclass
class Answer:
    """What came back: status, headers in lower case, decoded body, and the bytes that it was."""

    status: int
    headers: dict[str, str]
    body: Any
    content: bytes = b""

    @property
    def error(self) -> str:
        """The message of an error body."""
        assert list(self.body) == ["error"], self.body
        return str(self.body["error"])


@dataclass
class Server:
    """A server process that accepts requests."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    connections: list[http.client.HTTPConnection] = field(default_factory=list)
    grpc_port: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; `body` is sent as JSON unless it is bytes."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, raw, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("content-type") == "application/json" and not response.getheader(
                "content-encoding"
            )
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, json.loads(content) if is_json and content else content, content)
        finally:
            connection.close()

    def predict(self, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST to the predict route."""
        return self.ask("POST", "/v1/models/recommender:predict", body, headers)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small release; not to be changed."""
    return write_release(tmp_path_factory.mktemp("releases") / "small")


@contextmanager
def server_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """A function that starts servers as subprocesses; all are gone at the end of the block."""
    servers: list[Server] = []

    def start(
        release: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        auth: str = "",
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Server:
        """`settings` are further fields of ServerSettings, as JSON can say them; files and folders as text or paths."""
        log = tmp_path_factory.mktemp("log") / "server.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(release), host, str(port), auth, json.dumps(settings, default=str)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        server = Server(process, line, log, grpc_port=settings.get("grpc_port", 0))
        servers.append(server)
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.stop()
            assert server.process.stdout is not None
            server.process.stdout.close()


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start servers that are gone at the end of the file: each looks for new versions all the time that it lives."""
    with server_processes(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start servers of releases that don't change, which tests of many files ask."""
    with server_processes(tmp_path_factory) as start:
        yield functools.partial(start, poll_seconds=1.0)


@pytest.fixture(scope="session")
def server(release: Path, start_shared: StartServer) -> Server:
    """One server for the tests that only ask."""
    return start_shared(release)


@pytest.fixture(scope="session")
def ranking_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that only scores pairs; not to be changed."""
    return write_ranking_release(tmp_path_factory.mktemp("releases") / "ranking")


@pytest.fixture(scope="session")
def multitask_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that recommends and scores pairs; not to be changed."""
    return write_ranking_release(tmp_path_factory.mktemp("releases") / "multitask", recommends=True)


@pytest.fixture(scope="session")
def ranking_server(ranking_release: Path, start_shared: StartServer) -> Server:
    """A server of the release that only scores pairs."""
    return start_shared(ranking_release)


@pytest.fixture(scope="session")
def multitask_server(multitask_release: Path, start_shared: StartServer) -> Server:
    """A server of the release that does both, over gRPC too."""
    return start_shared(multitask_release, grpc_port=free_port())
