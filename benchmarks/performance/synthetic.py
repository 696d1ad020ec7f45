"""A size and a seed in, a two-tower model with made-up weights out: as NumPy arrays and as a sealed release."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.release import (
    CANDIDATE_IDS,
    FORMAT_VERSION,
    ITEMS,
    MANIFEST,
    QUERY_GRAPH,
    Blessing,
    Lineage,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.releases.bundle import describe_files, encode_manifest
from endcap.retrieval.build import write_candidates

Weights = dict[str, npt.NDArray[Any]]

_HIDDEN = (128, 64)
_CUSTOMER_DIM, _CITY_DIM, _AGE_DIM = 32, 8, 8
_OPSET, _IR_VERSION = 20, 9


@dataclass(frozen=True)
class Size:
    """How large the synthetic model is."""

    num_items: int = 100_000
    dim: int = 32
    num_customers: int = 100_000
    num_cities: int = 1_000
    num_age_buckets: int = 10
    top_k: int = 100


NUM_CATEGORIES = 20


def category_name(number: int) -> str:
    """Name of the category with that number."""
    return f"category-{number:02d}"


def customer_id(number: int) -> str:
    """Id of the customer with that number."""
    return f"customer-{number:06d}"


def city_name(number: int) -> str:
    """Name of the city with that number."""
    return f"city-{number:04d}"


def make_weights(size: Size, seed: int) -> Weights:
    """All tables, layers and candidates of the model; row 0 of a table is for values it doesn't know."""
    rng = np.random.default_rng(seed)

    def table(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    weights: Weights = {
        "customers": np.array([customer_id(number) for number in range(size.num_customers)]),
        "cities": np.array([city_name(number) for number in range(size.num_cities)]),
        "customer_table": table(size.num_customers + 1, _CUSTOMER_DIM),
        "city_table": table(size.num_cities + 1, _CITY_DIM),
        "age_bounds": np.linspace(18, 80, size.num_age_buckets - 1, dtype=np.float32),
        "age_table": table(size.num_age_buckets, _AGE_DIM),
        "age_mean_std": np.array([45.0, 18.0], dtype=np.float32),
        "item_ids": np.array([f"product-{number:06d}" for number in range(size.num_items)]),
        "candidates": table(size.num_items, size.dim),
    }
    widths = (_CUSTOMER_DIM + _CITY_DIM + _AGE_DIM + 1, *_HIDDEN, size.dim)
    for layer, (width_in, width_out) in enumerate(pairwise(widths)):
        kernel = rng.standard_normal((width_in, width_out)) * np.sqrt(2.0 / width_in)
        weights[f"kernel_{layer}"] = kernel.astype(np.float32)
        weights[f"bias_{layer}"] = (rng.standard_normal(width_out) * 0.1).astype(np.float32)
    return weights


def query_graph(weights: Weights) -> onnx.ModelProto:
    """The query tower from raw customer id, city and age to the vector."""
    initializers = [
        numpy_helper.from_array(array, name) for name, array in weights.items() if array.dtype == np.float32
    ]
    initializers = [initializer for initializer in initializers if initializer.name != "candidates"]
    initializers += [
        numpy_helper.from_array(np.array([1], dtype=np.int64), "last_axis"),
        numpy_helper.from_array(weights["age_mean_std"][0], "age_mean"),
        numpy_helper.from_array(weights["age_mean_std"][1], "age_std"),
    ]
    nodes = [
        _vocabulary("customer_id", "customer_row", weights["customers"]),
        helper.make_node("Gather", ["customer_table", "customer_row"], ["customer_vector"]),
        _vocabulary("city", "city_row", weights["cities"]),
        helper.make_node("Gather", ["city_table", "city_row"], ["city_vector"]),
        helper.make_node("Unsqueeze", ["age", "last_axis"], ["age_column"]),
        helper.make_node("GreaterOrEqual", ["age_column", "age_bounds"], ["age_passed"]),
        helper.make_node("Cast", ["age_passed"], ["age_passed_int"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["age_passed_int", "last_axis"], ["age_row"], keepdims=0),
        helper.make_node("Gather", ["age_table", "age_row"], ["age_vector"]),
        helper.make_node("Sub", ["age_column", "age_mean"], ["age_centered"]),
        helper.make_node("Div", ["age_centered", "age_std"], ["age_normal"]),
        helper.make_node(
            "Concat", ["customer_vector", "city_vector", "age_vector", "age_normal"], ["hidden_0"], axis=1
        ),
    ]
    num_layers = len(_HIDDEN) + 1
    for layer in range(num_layers):
        is_last = layer == num_layers - 1
        dense = "vector" if is_last else f"dense_{layer}"
        nodes.append(helper.make_node("Gemm", [f"hidden_{layer}", f"kernel_{layer}", f"bias_{layer}"], [dense]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [dense], [f"hidden_{layer + 1}"]))
    graph = helper.make_graph(
        nodes,
        "query",
        [
            helper.make_tensor_value_info("customer_id", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("city", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("age", TensorProto.FLOAT, ["batch"]),
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", weights["candidates"].shape[1]])],
        [initializer for initializer in initializers if initializer.name != "age_mean_std"],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def write_release(folder: Path, weights: Weights, size: Size, seed: int) -> None:
    """Write the model as a sealed release: query graph, candidates, manifest."""
    folder.mkdir(parents=True)
    onnx.save(query_graph(weights), str(folder / QUERY_GRAPH))
    write_candidates(folder, weights["item_ids"].tolist(), weights["candidates"])
    signature = Signature(
        inputs=[
            Tensor(name="customer_id", dtype="STRING", shape=[-1]),
            Tensor(name="city", dtype="STRING", shape=[-1], required=False, default=""),
            Tensor(name="age", dtype="FLOAT", shape=[-1]),
        ],
        outputs=[
            Tensor(name="product_ids", dtype="STRING", shape=[-1, size.top_k]),
            Tensor(name="scores", dtype="FLOAT", shape=[-1, size.top_k]),
        ],
    )
    manifest = ReleaseManifest(
        format_version=FORMAT_VERSION,
        name="synthetic",
        created_at="2000-01-01T00:00:00Z",
        as_of="2000-01-01T00:00:00Z",
        files=describe_files(folder),
        signatures={"serving_default": signature},
        retrieval=Retrieval(
            algorithm="brute_force",
            vector_output="vector",
            dim=size.dim,
            num_items=size.num_items,
            top_k=size.top_k,
            item_id_type="STRING",
            primary_id="customer_id",
        ),
        lineage=Lineage(
            run_id="synthetic", git_sha="", seed=seed, data_versions={}, configuration={}, library_versions={}
        ),
        metrics={},
        blessing=Blessing(status="NOT_BLESSED", reasons=["made-up weights"]),
    )
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))


def add_items(folder: Path, size: Size, seed: int) -> None:
    """Add what filters go by to a release of that size: a category of twenty, a price and whether it is in stock."""
    rng = np.random.default_rng(seed)
    categories = np.array([category_name(number) for number in range(NUM_CATEGORIES)])
    items = {
        "item_id": np.load(folder / CANDIDATE_IDS),
        "category": categories[rng.integers(0, NUM_CATEGORIES, size.num_items)],
        "price": np.round(rng.lognormal(3, 1, size.num_items), 2),
        "in_stock": rng.random(size.num_items) < 0.9,
    }
    pq.write_table(pa.table(items), folder / ITEMS)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ReleaseManifest)
    (folder / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=describe_files(folder))))


def _vocabulary(text: str, row: str, values: npt.NDArray[Any]) -> onnx.NodeProto:
    return helper.make_node(
        "LabelEncoder",
        [text],
        [row],
        domain="ai.onnx.ml",
        keys_strings=values.tolist(),
        values_int64s=list(range(1, len(values) + 1)),
        default_int64=0,
    )
