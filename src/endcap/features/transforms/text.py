"""Texts in, lists of indexes of words and runs of words out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Self

import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa

from endcap.contracts import features as config
from endcap.features.transforms.graph import GraphBuilder
from endcap.features.transforms.raw import canonical
from endcap.features.transforms.vocabulary import most_frequent

PAD = 0
"""Index of padding and of words that are left out; the mean over words skips it."""

_END = "\x00"
_EDGES = "\"'`.,;:!?()[]{}<>*#/\\-_+=&%|~"


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="words"):
    """Index of each word of a text; words that differ in case or in punctuation at their edges share one.

    ONNX has no portable lower-casing, so `spellings` lists each spelling of a word, seen in training or common
    (lower, UPPER, Title), next to the index of the word. A run of words is known by its words' indexes, as digits of one
    number; a word that is left out breaks it.
    """

    spellings: list[str]
    indexes: list[int]
    num_words: int
    runs: list[list[int]] = []
    """Kept runs of two words, then of three, as numbers; their indexes follow those of words."""

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
        words = cls(spellings=list(index_of), indexes=list(index_of.values()), num_words=len(kept))
        if spec.ngrams == 1:
            return words
        rows = [[index_of.get(token, PAD) for token in _split(text)] for text in sorted(t for t in texts if t)]
        runs = []
        for length in range(2, spec.ngrams + 1):
            found = Counter(run for row in rows for run in set(words._runs(row, length)) if run != PAD)
            often = ((run, count) for run, count in found.items() if count >= spec.min_count)
            runs.append(most_frequent(often, spec.max_vocab))
        return msgspec.structs.replace(words, runs=runs)

    @property
    def size(self) -> int:
        """Number of indexes, with the one for padding."""
        return self.num_words + 1 + sum(map(len, self.runs))

    def apply(self, column: pa.Array) -> pa.Array:
        """Lists of int64, of known words alone, then of known runs."""
        index_of = dict(zip(self.spellings, self.indexes, strict=True))
        index_of_run = {run: index for runs, first in self._numbered_runs() for index, run in enumerate(runs, first)}
        rows = []
        for text in canonical(column).to_pylist():
            words = [index_of.get(token, PAD) for token in _split(text or "")]
            row = [word for word in words if word != PAD]
            for length in range(2, len(self.runs) + 2):
                row += [index_of_run[run] for run in self._runs(words, length) if run in index_of_run]
            rows.append(row)
        return pa.array(rows, type=pa.list_(pa.int64()))

    def _runs(self, words: list[int], length: int) -> list[int]:
        """Each run of `length` words as one number; `PAD` where a word of it is left out."""
        runs = []
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            number = 0
            for word in run:
                number = number * (self.num_words + 1) + word
            runs.append(PAD if PAD in run else number)
        return runs

    def _numbered_runs(self) -> Iterator[tuple[list[int], int]]:
        """Kept runs of each length with the index of their first."""
        first = self.num_words + 1
        for runs in self.runs:
            yield runs, first
            first += len(runs)

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """StringSplit and LabelEncoders; [batch, (most words + 1) x lengths of runs], 0 where something is left out."""
        # A token of its own at the end keeps the second dimension above 0 when every text of a batch is empty.
        ended = graph.node("StringConcat", [tensor, graph.constant([f" {_END}"])])
        tokens = graph.node_many("StringSplit", [ended], 2)[0]
        words = graph.label_encoder(tokens, self.spellings, self.indexes, PAD)
        if not self.runs:
            return words
        bags = [words]
        # Padding at the end lets every run be as long as the words are many; a run that reaches into it is left out.
        pads = graph.constant_int64([0, 0, 0, len(self.runs)])
        padded = graph.node("Pad", [words, pads, graph.constant(np.array(PAD, np.int64))])
        number, whole = words, self._is_word(graph, words)
        for place, (runs, first) in enumerate(self._numbered_runs(), start=1):
            following = self._shifted(graph, padded, place, len(self.runs) - place)
            base = graph.constant_int64([self.num_words + 1])
            number = graph.node("Add", [graph.node("Mul", [number, base]), following])
            whole = graph.node("And", [whole, self._is_word(graph, following)])
            known = graph.label_encoder(number, runs, list(range(first, first + len(runs))), PAD, integers=True)
            bags.append(graph.node("Where", [whole, known, graph.constant_int64([PAD])]))
        return graph.node("Concat", bags, axis=1)

    @staticmethod
    def _shifted(graph: GraphBuilder, padded: str, before: int, after: int) -> str:
        """Columns of `padded` but for so many at its begin and end."""
        end = [-after] if after else [np.iinfo(np.int64).max]
        return graph.node("Slice", [padded, *(graph.constant_int64(values) for values in ([before], end, [1]))])

    @staticmethod
    def _is_word(graph: GraphBuilder, tensor: str) -> str:
        return graph.node("Greater", [tensor, graph.constant_int64([PAD])])


def _split(text: str) -> list[str]:
    return [token for token in text.split(" ") if token]


def _word(token: str) -> str:
    return "" if token == _END else token.casefold().strip(_EDGES)
