"""Each class of module that comes into a graph: the graph says what the module says; what can have no nodes is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from endcap.contracts.configuration import Layer, ModelConfig
from endcap.contracts.encoded import EncodedColumn
from endcap.models.encoders import BatchNorm, ColumnEncoder, PenalizedLinear, dense_layers
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.rating import OwnLines, RatedTwoTower, RatingHead, TargetMoments
from endcap.models.segments import PaddedSegments
from endcap.models.towers import History, ItemTower, QueryTower, RepeatHead
from endcap.models.two_tower import ItemMap, Neighbors, TwoTower
from endcap.training.export import Given, export_module, given_columns
from tests.training.graph_parity import HIGHEST, assert_same, with_random_weights

USER = EncodedColumn("user", "user", "index", HIGHEST, 3)
WORDS = EncodedColumn("words", "words", "bag", HIGHEST, 2)
NUMBERS = [EncodedColumn("paid", "paid", "number", 0, 1), EncodedColumn("hour", "hour", "number", 0, 2)]
HISTORY = EncodedColumn("bought", "bought", "sequence", HIGHEST, 4)
COUNTED = msgspec.structs.replace(HISTORY, counted=["purchase", "view_item"])
ITEM = EncodedColumn("item.embedding", "item", "index", HIGHEST, 4)
TITLE = EncodedColumn("title", "title", "bag", HIGHEST, 3)
SELLING = [EncodedColumn("price", "price", "number", 0, 1), EncodedColumn("sold", "sold", "number", 0, 2)]
BUYER, PRODUCT = [USER, WORDS, *NUMBERS, HISTORY], [ITEM, TITLE, *SELLING]
X = Given("x", torch.float32, ("batch", 4))
MOMENTS = TargetMoments(3.0, 2.0)

Case = tuple[nn.Module, Sequence[Given]]


def config(**changes: Any) -> ModelConfig:
    layers = [Layer(units=5, activation="gelu", batch_norm=True, dropout=0.3)]
    shape = {"buyer_tower": layers, "product_tower": layers, "rating_head": layers, "output_embedding_dim": 6}
    return ModelConfig(**{**shape, "dropout": 0.2, **changes})


class Asked(nn.Module):
    """A module and how it is asked for its answers, of inputs by name."""

    def __init__(self, module: nn.Module, given: Sequence[Given], ask: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self._given, self._ask = module, given, ask

    def forward(self, *tensors: Tensor) -> Any:
        return self._ask(self.module, {one.name: x for one, x in zip(self._given, tensors, strict=True)})


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def history_of(x: Mapping[str, Tensor]) -> History | None:
    if "bought" not in x:
        return None
    counted = [x[name].reshape(-1) for name in COUNTED.tensors[3:] if name in x]
    item_E, age_E, count_E = (x[name].reshape(-1) for name in HISTORY.tensors)
    return History(
        item_E, age_E, count_E, PaddedSegments(x["bought"] > 0), torch.stack(counted, 1) if counted else None
    )


def of_columns(columns: list[EncodedColumn], module: nn.Module, ask: Callable[..., Any]) -> Case:
    given = given_columns(columns)
    return Asked(module, given, ask), given


def layers_of_every_kind() -> nn.Module:
    kinds = ("relu", "gelu", "silu", "tanh", "linear")
    return dense_layers(4, [Layer(units=3, activation=kind, batch_norm=True, dropout=0.5, l2=1.0) for kind in kinds], 2)


def column_encoder() -> Case:
    columns = [USER, WORDS, *NUMBERS]
    return of_columns(columns, ColumnEncoder(columns), lambda module, x: module(x))


def item_tower(columns: list[EncodedColumn], dim: int) -> Case:
    tower = ItemTower(columns, "item.embedding", config(output_embedding_dim=dim + 1))
    return of_columns(columns, tower, lambda module, x: tuple(module(x)))


def query_tower(columns: list[EncodedColumn]) -> Case:
    base_ND = random(HIGHEST, 5)
    return of_columns(columns, QueryTower(columns, config()), lambda module, x: module(x, base_ND, history_of(x)))


def repeat_head(history: EncodedColumn) -> Case:
    numbers_NF = random(HIGHEST, 2)
    head = RepeatHead(4 + len(history.counted), 1, 2)
    return of_columns([NUMBERS[0], history], head, lambda module, x: module(history_of(x), x["paid"], numbers_NF))


def neighbors(history: EncodedColumn) -> Case:
    shape = config(neighbors=3, neighbor_fade=0.3, neighbor_weights={"view_item": 0.1})
    counted = Neighbors(HIGHEST, history.counted, shape, neighbor_tables())
    return of_columns([history], counted, lambda module, x: module(history_of(x)))


def item_map() -> Case:
    def ask(module: ItemMap, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        history = history_of(x)
        assert history is not None
        map_BR = module.query(history)
        return map_BR, module.score(map_BR, history)

    return of_columns([HISTORY], ItemMap(HIGHEST, config(item_map_dim=2, output_embedding_dim=8), None), ask)


def rating_head() -> Case:
    widths = {"query": (6,), "vector": (6,), "numbers": (3,), "own count": (), "own age": (), "own last": ()}
    given = [Given(name, torch.float32, ("batch", *dims)) for name, dims in widths.items()]

    def ask(module: RatingHead, x: Mapping[str, Tensor]) -> Tensor:
        rated: Tensor = module(x["query"], x["vector"], x["numbers"], own_of(x))
        return rated

    return Asked(RatingHead(1, 2, config(), MOMENTS), given, ask), given


def own_of(x: Mapping[str, Tensor]) -> OwnLines:
    """Some of the last targets are unknown."""
    return OwnLines(x["own count"], x["own age"], torch.where(x["own last"] > 1, torch.nan, x["own last"]))


def neighbor_tables() -> NeighborTables:
    rng, rows = np.random.default_rng(1), (HIGHEST - 1, 3)
    return NeighborTables(rng.integers(-1, HIGHEST - 1, rows).astype(np.int32), rng.random(rows).astype(np.float32))


def two_tower(buyer: list[EncodedColumn], product: list[EncodedColumn], **changes: Any) -> Case:
    """Queries over a catalog of the day, as a release's query graph has them."""
    rng = np.random.default_rng(2)
    width = (HIGHEST - 1, changes.get("item_map_dim", 0))
    maps = MapTables(rng.random(width).astype(np.float32), rng.random(width).astype(np.float32))
    model = TwoTower(buyer, product, "item", config(**changes), maps, neighbor_tables())
    catalog = {
        column.name: torch.arange(HIGHEST)
        if column is ITEM
        else random(HIGHEST, column.dim)
        if column.kind == "number"
        else torch.randint(0, HIGHEST, (HIGHEST, 3), generator=torch.Generator().manual_seed(4))
        for column in product
    }

    def ask(module: TwoTower, x: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        history = history_of(x)
        vector_BD, repeat_E = module.query(x, module.products(catalog), history)
        return (vector_BD, *([] if repeat_E is None else [repeat_E]), *(module.near(history) or ()))

    return of_columns(buyer, model, ask)


def two_tower_items(**changes: Any) -> Case:
    model = TwoTower(BUYER, PRODUCT, "item", config(**changes))
    return of_columns(PRODUCT, model, lambda module, x: module.products(x).vector_ND)


def rated_two_tower(num_members: int) -> Case:
    """A pair has a question and a product of its own."""
    model = RatedTwoTower(BUYER, PRODUCT, "item", config(num_members=num_members), MOMENTS)
    base_ND = random(HIGHEST, 5 * num_members)
    own = [Given(name, torch.float32, ("batch",)) for name in ("own count", "own age", "own last")]
    given = [*given_columns(BUYER), *given_columns(PRODUCT), *own]

    def ask(module: RatedTwoTower, x: Mapping[str, Tensor]) -> Tensor:
        queries = module.ask(x, base_ND, history_of(x))
        return module.rate(x, queries, None, module.learned_products(x), own_of(x))

    return Asked(model, given, ask), given


CASES: dict[str, Callable[[], Case]] = {
    "Linear": lambda: (nn.Linear(4, 3), [X]),
    "Linear without bias": lambda: (nn.Linear(4, 3, bias=False), [X]),
    "PenalizedLinear": lambda: (PenalizedLinear(4, 3, 0.1), [X]),
    "BatchNorm": lambda: (BatchNorm(4), [X]),
    "layers of every kind": lambda: (layers_of_every_kind(), [X]),
    "ColumnEncoder": column_encoder,
    "ItemTower": partial(item_tower, PRODUCT, 5),
    "ItemTower, id as wide as it is": partial(item_tower, PRODUCT, 4),
    "ItemTower without numbers": partial(item_tower, PRODUCT[:2], 5),
    "ItemTower of an id": partial(item_tower, PRODUCT[:1], 4),
    "QueryTower": partial(query_tower, BUYER),
    "QueryTower with counts by type": partial(query_tower, [USER, COUNTED]),
    "QueryTower without history": partial(query_tower, BUYER[:-1]),
    "RepeatHead": partial(repeat_head, HISTORY),
    "RepeatHead with counts by type": partial(repeat_head, COUNTED),
    "ItemMap": item_map,
    "Neighbors": partial(neighbors, HISTORY),
    "Neighbors with counts by type": partial(neighbors, COUNTED),
    "RatingHead": rating_head,
    "TwoTower": partial(two_tower, BUYER, PRODUCT),
    "TwoTower of members, a map and neighbors": partial(
        two_tower, [*BUYER[:-1], COUNTED], PRODUCT, num_members=3, item_map_dim=2, output_embedding_dim=8, neighbors=3
    ),
    "TwoTower of members without repeat head": partial(two_tower, BUYER, PRODUCT, num_members=2, repeat_head=False),
    "TwoTower with a map, without repeat head": partial(
        two_tower, BUYER, PRODUCT, item_map_dim=2, output_embedding_dim=8, repeat_head=False
    ),
    "TwoTower without numbers": partial(two_tower, [USER, HISTORY], PRODUCT[:2]),
    "TwoTower of ids": partial(two_tower, [USER], [ITEM], repeat_head=False),
    "TwoTower's items": two_tower_items,
    "TwoTower's items of members and a map": partial(
        two_tower_items, num_members=2, item_map_dim=2, output_embedding_dim=8
    ),
    "RatedTwoTower": partial(rated_two_tower, 1),
    "RatedTwoTower of members": partial(rated_two_tower, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_modules_graph_says_what_it_says(name: str) -> None:
    torch.manual_seed(1)
    assert_same(*CASES[name]())


def test_a_graph_has_equal_bytes_each_time_and_nothing_twice_or_in_vain() -> None:
    torch.manual_seed(1)
    module, given = CASES["TwoTower of members, a map and neighbors"]()
    module = with_random_weights(module)
    graph, again = (export_module(module, given, ["vector", "boosts", "items", "near"]) for _ in range(2))
    assert graph.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    said = [(node.op_type, *node.input, str(node.attribute)) for node in graph.graph.node]
    assert len(set(said)) == len(said)
    named = {tensor.name for tensor in graph.graph.initializer}
    assert {name for name in module.state_dict() if ".query_tower." in name and name.endswith(".weight")} <= named
    used = {name for node in graph.graph.node for name in node.input} | {value.name for value in graph.graph.output}
    made = [name for node in graph.graph.node for name in node.output]
    assert {*made, *named} <= used


class Strange(nn.Module):
    """A class that nobody has told of graphs."""

    def __init__(self, compute: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._compute = compute

    def forward(self, x: Tensor) -> Any:
        return self._compute(x)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda x: torch.cumsum(x, 1), "torch.cumsum is asked for on the way into an ONNX graph, and has no nodes"),
        (lambda x: x.softmax(1), "torch.Tensor.softmax is asked for"),
        (lambda x: torch.nn.MultiheadAttention(4, 1)(x, x, x)[0], "is asked for on the way"),
        (lambda x: x if x.sum(1) > 0 else -x, "torch.Tensor.__bool__ is asked for"),
        (lambda x: x * float(x[:, 0].sum(0)), "torch.Tensor.__float__ is asked for"),
        (lambda x: x + torch.from_numpy(x.detach().numpy()), "torch.Tensor.detach is asked for"),
        (lambda x: x.add_(1), "torch.Tensor.add_ is asked for"),
        (lambda x: random(4).copy_(x), "torch.Tensor.copy_ is asked for"),
        (lambda x: x.to(x.device), "torch.Tensor.device.__get__ is asked for"),
        (lambda x: x if x.shape[0] == 1 else -x, "asks whether the length batch is 1"),
        (lambda x: x if x.shape[0] else -x, "asks whether the length batch is 0"),
        (lambda x: x[x[:, 0] > 0], "places and slices have nodes"),
        (lambda x: x[0], "A dimension of unknown length, batch, is asked for place 0"),
        (lambda x: x[1:], "A dimension of length batch is asked for slice"),
        (lambda x: x[:, ::2], "A dimension of length 4 is asked for slice"),
        (lambda x: x.chunk(2, 0), "A dimension of unknown length, batch, is cut into 2"),
        (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 1)), "A dimension of unknown length, batch, is padded"),
        (lambda x: x.squeeze(1), "isn't 1 long"),
        (lambda x: x.reshape(-1, 2), "say the length of each dimension"),
        (lambda x: x + random(3), "don't fit each other"),
        (lambda x: x.unsqueeze(1) @ x.unsqueeze(2), "torch.Tensor.matmul is asked for"),
        (lambda x: torch.nn.functional.linear(x.unsqueeze(1), random(3, 4)), "take rows of one width"),
        (lambda x: torch.nn.functional.dropout(x, 0.5), "Values are dropped while a model trains: call eval"),
        (lambda x: nn.BatchNorm1d(4)(x), "Values are standardised by the rows of a step while a model trains"),
        (lambda x: torch.nn.functional.embedding(x.long(), random(9, 2), max_norm=1.0), "cut to a length of 1.0"),
    ],
)
def test_what_has_no_nodes_is_refused(compute: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        export_module(Strange(compute), [X], ["y"])
