"""Members trained apart in, one model of two towers out: their vectors side by side, and what was solved beforehand.

The score of a question and a product is the mean of the members' scores, as an inner product of vectors that lie end to
end: members that started elsewhere err elsewhere, so that their mean errs less (Hansen and Salamon, TPAMI 1990).

An item map that was solved beforehand may lengthen both vectors once the members are trained: what it says of products
outside of the history is added to their scores. So may scores of single neighbors of the history's products.

Legend: B questions, E entries of their histories, N products (row 0 is the unknown product), D vector width of all members,
R width of the item map, K types of events, M neighbors of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from endcap.contracts.configuration import ModelConfig
from endcap.contracts.encoded import EncodedColumn
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.towers import History, Products, Towers, entry_columns

Columns = Sequence[EncodedColumn]

_SHORTEST = 1e-6  # sums of the map's rows below this are those of histories that it knows nothing of


class ItemMap(nn.Module):
    """Where a history leads by weights that were solved beforehand; nothing of it is trained."""

    def __init__(self, cardinality: int, config: ModelConfig, tables: MapTables | None) -> None:
        """`tables` without the unknown product; None where they are loaded from a checkpoint."""
        super().__init__()
        self._scale = config.item_map_scale
        self.leads_NR: Tensor
        self.candidates_NR: Tensor
        for name in ("leads_NR", "candidates_NR"):
            table_NR = torch.zeros(cardinality, config.item_map_dim)
            if tables is not None:
                table_NR[1:] = torch.from_numpy(getattr(tables, name))
            self.register_buffer(name, table_NR)

    def query(self, history: History) -> Tensor:
        """What histories add to query vectors, [B, R]: a sum over their products, all of one length."""
        sum_BR = history.segments.total(torch.nn.functional.embedding(history.item_E, self.leads_NR))
        length_B1 = sum_BR.square().sum(1, keepdim=True).sqrt()
        return sum_BR * (self._scale / length_B1.clamp(min=_SHORTEST))

    def score(self, map_BR: Tensor, history: History) -> Tensor:
        """Its scores of the histories' own products, [E]."""
        candidate_ER = torch.nn.functional.embedding(history.item_E, self.candidates_NR)
        return (history.segments.spread(map_BR) * candidate_ER).sum(1)


class Neighbors(nn.Module):
    """Scores of the neighbors of a history's products, by weights that were counted beforehand; nothing of it is trained."""

    def __init__(
        self, cardinality: int, counted: Sequence[str], config: ModelConfig, tables: NeighborTables | None
    ) -> None:
        """`tables` without the unknown product; None where they are loaded from a checkpoint."""
        super().__init__()
        self.scale, self._fade = config.neighbor_scale, config.neighbor_fade
        self.items_NM: Tensor
        self.weights_NM: Tensor
        self.type_weights_K: Tensor
        self.register_buffer("items_NM", torch.zeros(cardinality, config.neighbors, dtype=torch.int32))
        self.register_buffer("weights_NM", torch.zeros(cardinality, config.neighbors))
        weights = [config.neighbor_weights.get(name, 1.0) for name in counted]  # type: ignore[call-overload]
        self.register_buffer("type_weights_K", torch.tensor(weights, dtype=torch.float32), persistent=False)
        if tables is not None:
            self.items_NM[1:] = torch.from_numpy(tables.items_NK) + 1
            self.weights_NM[1:] = torch.from_numpy(tables.weights_NK)

    def forward(self, history: History) -> tuple[Tensor, Tensor]:
        """Items, 0 for none, and what is added to their scores, both [E, M]."""
        count_E, _, _, gap_E = entry_columns(history)
        lead_E = torch.log1p(count_E)
        if history.counted_EK is not None:
            told_E = (torch.log1p(history.counted_EK) * self.type_weights_K).sum(1)
            lead_E = torch.where(history.counted_EK.sum(1) > 0, told_E, lead_E)
        lead_E = lead_E * (1 + gap_E) ** -self._fade * (self.scale * (history.item_E > 0))
        item_EM = torch.index_select(self.items_NM, 0, history.item_E).long()
        return item_EM, torch.index_select(self.weights_NM, 0, history.item_E) * lead_E.unsqueeze(1)


class TwoTower(nn.Module):
    """The members, the item map and the neighbors.

    The map stays out of training: it was solved from the very purchases that training asks for, and would seem better
    than it is. Of products of the history it says nothing where there is a repeat head, which knows them better.
    """

    def __init__(
        self,
        buyer: Columns,
        product: Columns,
        item_id: str,
        config: ModelConfig,
        map_tables: MapTables | None = None,
        neighbor_tables: NeighborTables | None = None,
        *,
        member: Callable[[Columns, Columns, str, ModelConfig], Towers] = Towers,
    ) -> None:
        """`item_id` is the product side's primary id column; the tables follow its vocabulary; `member` draws weights."""
        super().__init__()
        self._id_column = f"{item_id}.embedding"
        cardinality = next(column.cardinality for column in product if column.name == self._id_column)
        self.neighbors: Neighbors | None = None
        if config.neighbors:
            counted = next(column.counted for column in buyer if column.kind == "sequence")
            self.neighbors = Neighbors(cardinality, counted, config, neighbor_tables)
        self.item_map: ItemMap | None = None
        if config.item_map_dim:
            self.item_map = ItemMap(cardinality, config, map_tables)
        self.has_repeat_head = config.repeat_head
        """Whether products of the history get a score of their own."""
        self.members = nn.ModuleList(member(buyer, product, item_id, config) for _ in range(config.num_members))

    def products(self, tensors: Mapping[str, Tensor]) -> Products:
        """What the members say of N products, and where the item map has them."""
        products = self.learned_products(tensors)
        if self.item_map is None or self.training:
            return products
        candidate_NR = torch.nn.functional.embedding(tensors[self._id_column], self.item_map.candidates_NR)
        return products._replace(vector_ND=torch.cat([candidate_NR, products.vector_ND], 1))

    def learned_products(self, tensors: Mapping[str, Tensor]) -> Products:
        """What the members say of N products: theirs end to end, without the item map."""
        said = [member.products(tensors) for member in self._each]
        bases, vectors = [one.base_ND for one in said], [one.vector_ND for one in said]
        return Products(_end_to_end(bases), _end_to_end(vectors), said[0].numbers_NF)

    def query(
        self, tensors: Mapping[str, Tensor], products: Products, history: History | None
    ) -> tuple[Tensor, Tensor | None]:
        """Query vectors [B, D] and repeat scores [E] (None without a repeat head or a history)."""
        num = len(self.members)
        parts = products.base_ND.chunk(num, 1)
        said = [
            member.query(tensors, products._replace(base_ND=base_ND), history)
            for member, base_ND in zip(self._each, parts, strict=True)
        ]
        vector_BD = _end_to_end([vector for vector, _ in said])
        repeats = [repeat for _, repeat in said if repeat is not None]
        repeat_E = repeats[0] if repeats else None
        if num > 1:
            vector_BD = vector_BD / num
            repeat_E = torch.stack(repeats).mean(0) if repeats else None
        if self.item_map is None or self.training or history is None:
            return vector_BD, repeat_E
        map_BR = self.item_map.query(history)
        if repeat_E is not None:
            repeat_E = repeat_E - self.item_map.score(map_BR, history)
        return torch.cat([map_BR, vector_BD], 1), repeat_E

    def near(self, history: History | None) -> tuple[Tensor, Tensor] | None:
        """Neighbors of the histories' products, 0 for none, and what is added to their scores, both [E, M]; None without.

        They too stay out of training, in which nobody asks for them.
        """
        return None if self.neighbors is None or history is None else self.neighbors(history)

    @property
    def _each(self) -> list[Towers]:
        return list(self.members)  # type: ignore[arg-type]


def _end_to_end(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
