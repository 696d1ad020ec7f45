"""A ranking graph over the small release's customers and ten products, and what it predicts, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.release import History, ProductInput, Ranking, Signature, Tensor

NUM_PRODUCTS = 10
PRODUCTS: list[dict[str, Any]] = [
    {
        "item_id": f"p{number}",
        "city": ("Oslo", "Köln", None)[number % 3],
        "price": None if number == 7 else number + 0.5,
        "stock": None if number == 8 else number * 4,
        "tags": [f"tag {tag}" for tag in range(number % 4)],
    }
    for number in range(NUM_PRODUCTS)
]
PRODUCT_INPUTS = [
    ProductInput(Tensor("item_id", "STRING", [-1]), "item_id"),
    ProductInput(Tensor("product.city", "STRING", [-1], required=False), "city"),
    ProductInput(Tensor("price", "FLOAT", [-1], required=False), "price"),
    ProductInput(Tensor("stock", "INT64", [-1], required=False, default=-8), "stock"),
    ProductInput(Tensor("tags", "STRING", [-1, -1], required=False, default=""), "tags"),
]


VALUES = "user_history_target"


def prediction(
    customer: Mapping[str, Any],
    history: Mapping[str, float],
    product: Mapping[str, Any],
    values: Mapping[str, float] | None = None,
) -> float:
    """age (0 when unknown) + visits + 100 in the same city + 10 price (-1 when unknown) + stock / 8 + tags / 4 + 1000 counts + last value."""
    price = product.get("price")
    stock = product.get("stock")
    return (
        (customer.get("age") or 0.0)
        + customer.get("visits", 2)
        + 100 * ((customer.get("city") or "") == (product.get("city") or ""))
        + 10 * (-1.0 if price is None else price)
        + (-8 if stock is None else stock) / 8
        + len(product.get("tags") or []) / 4
        + 1000 * history.get(product["item_id"], 0.0)
        + (values or {}).get(product["item_id"], 0.0)
    )


def rank_graph(inputs: list[Tensor], history: History, output: str = "prediction") -> onnx.ModelProto:
    """The same in ONNX."""
    constants = {
        "zero": np.array(0, np.float32),
        "minus_one": np.array(-1, np.float32),
        "ten": np.array(10, np.float32),
        "eighth": np.array(1 / 8, np.float32),
        "quarter": np.array(1 / 4, np.float32),
        "hundred": np.array(100, np.float32),
        "thousand": np.array(1000, np.float32),
        "one": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("IsNaN", ["age"], ["age_unknown"]),
        node("Where", ["age_unknown", "zero", "age"], ["age_known"]),
        node("Cast", ["visits"], ["visits_float"], to=TensorProto.FLOAT),
        node("Squeeze", ["visits_float", "one"], ["visits_flat"]),
        node("Equal", ["city", "product.city"], ["same_city"]),
        node("Cast", ["same_city"], ["same_city_float"], to=TensorProto.FLOAT),
        node("Mul", ["same_city_float", "hundred"], ["of_city"]),
        node("IsNaN", ["price"], ["price_unknown"]),
        node("Where", ["price_unknown", "minus_one", "price"], ["price_known"]),
        node("Mul", ["price_known", "ten"], ["of_price"]),
        node("Cast", ["stock"], ["stock_float"], to=TensorProto.FLOAT),
        node("Mul", ["stock_float", "eighth"], ["of_stock"]),
        node("Equal", ["tags", "no_tag"], ["is_padding"]),
        node("Not", ["is_padding"], ["is_tag"]),
        node("Cast", ["is_tag"], ["is_tag_float"], to=TensorProto.FLOAT),
        node("ReduceSum", ["is_tag_float", "one"], ["num_tags"], keepdims=0),
        node("Mul", ["num_tags", "quarter"], ["of_tags"]),
        node("Unsqueeze", ["item_id", "one"], ["item_column"]),
        node("Equal", [history.items_input, "item_column"], ["is_product"]),
        node("Cast", ["is_product"], ["is_product_float"], to=TensorProto.FLOAT),
        node("Cast", [history.counts_input], ["counts"], to=TensorProto.FLOAT),
        node("Mul", ["is_product_float", "counts"], ["counts_of_product"]),
        node("ReduceSum", ["counts_of_product", "one"], ["count"], keepdims=0),
        node("Mul", ["count", "thousand"], ["of_history"]),
        node("Mul", ["is_product_float", VALUES], ["values_of_product"]),
        node("ReduceSum", ["values_of_product", "one"], ["value"], keepdims=0),
        node(
            "Sum",
            ["age_known", "visits_flat", "of_city", "of_price", "of_stock", "of_tags", "of_history", "value"],
            [output],
        ),
    ]
    types = {"STRING": TensorProto.STRING, "INT64": TensorProto.INT64, "FLOAT": TensorProto.FLOAT}
    ends = [
        helper.make_tensor_value_info(tensor.name, types[tensor.dtype], ["batch", 1][: len(tensor.shape)])
        for tensor in inputs
    ]
    ends += [
        helper.make_tensor_value_info(
            one.tensor.name, types[one.tensor.dtype], ["batch", "num_tags"][: len(one.tensor.shape)]
        )
        for one in PRODUCT_INPUTS
    ]
    for name, dtype in (
        (history.items_input, "STRING"),
        (history.ages_input, "FLOAT"),
        (history.counts_input, "INT64"),
        (VALUES, "FLOAT"),
    ):
        ends.append(helper.make_tensor_value_info(name, types[dtype], ["batch", "length"]))
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    initializers.append(helper.make_tensor("no_tag", TensorProto.STRING, [1], [b""]))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph(nodes, "rank", ends, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def ranking_of(history: History) -> Ranking:
    """What the manifest says of the graph."""
    plain = msgspec.structs.replace(history, boosts_output=None, values_input=VALUES)
    return Ranking(
        "prediction", "value", "the shop's currency", "user_id", "item_id", "STRING", PRODUCT_INPUTS, plain
    )  # fmt: skip


def signature_of(inputs: list[Tensor]) -> Signature:
    """How pairs are asked for."""
    products = [
        Tensor(one.tensor.name, one.tensor.dtype, [-1, *one.tensor.shape], required=one.column == "item_id")
        for one in PRODUCT_INPUTS
    ]
    outputs = [Tensor("product_ids", "STRING", [-1, -1]), Tensor("scores", "FLOAT", [-1, -1])]
    return Signature([*inputs, *products], outputs)


def write_items(path: Path, **changes: Any) -> None:
    """The ten products as a release keeps them; `changes` are columns, None for one to leave out."""
    names = ("item_id", "city", "price", "stock", "tags")
    columns = {name: [product[name] for product in PRODUCTS] for name in names} | changes
    columns["title"] = [f"Product {number}" for number in range(len(next(iter(columns.values()))))]
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path)


def is_close(found: list[float], expected: list[float]) -> bool:
    """Equal, but for the last digits."""
    return len(found) == len(expected) and all(
        math.isclose(one, other, rel_tol=1e-5) for one, other in zip(found, expected, strict=True)
    )
