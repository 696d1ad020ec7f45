"""Texts in, lists of word indexes out."""

from __future__ import annotations

from collections import Counter
from typing import Self

import ibis.expr.types as ir
import msgspec
import pyarrow as pa

from endcap.contracts import features as config
from endcap.features.transforms.graph import GraphBuilder

PAD = 0
"""Index of padding and of words that are left out; the mean over words skips it."""

_END = "\x00"
_EDGES = "\"'`.,;:!?()[]{}<>*#/\\-_+=&%|~"


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="words"):
    """Index of each word of a text; words that differ in case or in punctuation at their edges share one.

    ONNX has no portable lower-casing, so `spellings` lists each spelling of a word, seen in training or common
    (lower, UPPER, Title), next to the index of the word.
    """

    spellings: list[str]
    indexes: list[int]
    num_words: int

    @classmethod
    def fit(cls, column: ir.StringColumn, spec: config.Text) -> Self:
        """Count in how many texts each word stands."""
        texts = column.name("text").as_table().distinct().to_pyarrow()["text"].to_pylist()
        seen: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        for text in sorted(t for t in texts if t):
            tokens = _split(text)
            counts.update({word for token in tokens if (word := _word(token))})
            for token in tokens:
                seen.setdefault(_word(token), set()).add(token)
        kept = [word for word, count in counts.items() if count >= spec.min_count]
        kept = sorted(kept, key=lambda word: (-counts[word], word))[: spec.max_vocab]
        index_of: dict[str, int] = {}
        for index, word in enumerate(kept, start=1):
            for spelling in sorted(seen[word] | {word, word.upper(), word.title()}):
                index_of.setdefault(spelling, index)
        return cls(spellings=list(index_of), indexes=list(index_of.values()), num_words=len(kept))

    @property
    def size(self) -> int:
        """Number of indexes, with the one for padding."""
        return self.num_words + 1

    def apply(self, column: pa.Array) -> pa.Array:
        """Lists of int64, of known words alone."""
        index_of = dict(zip(self.spellings, self.indexes, strict=True))
        rows = [[index_of[token] for token in _split(text or "") if token in index_of] for text in column.to_pylist()]
        return pa.array(rows, type=pa.list_(pa.int64()))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """StringSplit and a LabelEncoder; [batch, most words + 1], 0 where a word is left out and at the end."""
        # A token of its own at the end keeps the second dimension above 0 when every text of a batch is empty.
        ended = graph.node("StringConcat", [tensor, graph.constant([f" {_END}"])])
        tokens = graph.node_many("StringSplit", [ended], 2)[0]
        return graph.label_encoder(tokens, self.spellings, self.indexes, PAD)


def _split(text: str) -> list[str]:
    return [token for token in text.split(" ") if token]


def _word(token: str) -> str:
    return "" if token == _END else token.casefold().strip(_EDGES)
