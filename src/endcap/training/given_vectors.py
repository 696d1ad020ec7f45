"""A model and its fitted features in, its tables of words started from given vectors out."""

from __future__ import annotations

import torch

from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.text import Words
from endcap.features.word_vectors import given_rows
from endcap.models.towers import Towers


def start_from_given_vectors(model: Towers, fitted: FittedFeatures) -> None:
    """Set the rows of words that a `text.encoder` has; a table that is not trainable holds zeros elsewhere, and stays."""
    for output in fitted.outputs:
        column = fitted.definition.side(output.side).get(output.column.source)
        if column is None or column.text is None or not column.text.encoder or not output.chain:
            continue
        words = output.chain[-1]
        if not isinstance(words, Words):
            continue
        tower = model.query_tower if output.side == "buyer" else model.item_tower
        table = tower.encoder.table(output.column.name)
        indexes, vectors = given_rows(words, column.text, f"features.{output.side}.{output.column.source}.text")
        with torch.no_grad():
            if not column.text.trainable:
                table.weight.zero_()
            table.weight[torch.from_numpy(indexes)] = torch.from_numpy(vectors)
        table.weight.requires_grad_(column.text.trainable)
