"""Texts in, lists of indexes of words and runs of words out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Self

import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa
from onnx import TensorProto

from endcap.contracts import features as config
from endcap.features.transforms.graph import GraphBuilder
from endcap.features.transforms.hashing import (
    PRIME,
    bins_of,
    bins_of_nodes,
    hash_string,
    hash_strings_nodes,
    mix,
    mix_nodes,
)
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
    number; a word that is left out breaks it. With `num_oov`, words and runs out of vocabulary are hashed as they are spelled
    into so many indexes after the last run's.
    """

    spellings: list[str]
    indexes: list[int]
    num_words: int
    runs: list[list[int]] = []
    """Kept runs of two words, then of three, as numbers; their indexes follow those of words."""
    num_oov: int = 0

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
        words = cls(list(index_of), list(index_of.values()), len(kept), num_oov=spec.oov)
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
    def words(self) -> list[str]:
        """The words as they are compared, by index from 1."""
        found: dict[int, str] = {}
        for spelling, index in zip(self.spellings, self.indexes, strict=True):
            found.setdefault(index, _word(spelling))
        return [found[index] for index in range(1, self.num_words + 1)]

    @property
    def size(self) -> int:
        """Number of indexes, with the one for padding and those for out of vocabulary."""
        return self.first_oov + self.num_oov

    @property
    def first_oov(self) -> int:
        """The index after the last run's: from here on, hashes of words and runs out of vocabulary."""
        return self.num_words + 1 + sum(map(len, self.runs))

    def apply(self, column: pa.Array) -> pa.Array:
        """Lists of int64, of known words alone, then of known runs."""
        index_of = dict(zip(self.spellings, self.indexes, strict=True))
        index_of_run = {run: index for runs, first in self._numbered_runs() for index, run in enumerate(runs, first)}
        hashes: dict[str, int] = {}
        rows = []
        for text in canonical(column).to_pylist():
            tokens = _split(text or "")
            words = [index_of.get(token, PAD) for token in tokens]
            runs = (self._runs(words, length) for length in range(2, len(self.runs) + 2))
            bags = [words, *([index_of_run.get(run, PAD) for run in row] for row in runs)]
            if self.num_oov and PAD in itertools.chain(*bags):
                bags = self._with_hashes(bags, tokens, hashes)
            rows.append([index for bag in bags for index in bag if index != PAD])
        return pa.array(rows, type=pa.list_(pa.int64()))

    def _with_hashes(self, bags: list[list[int]], tokens: list[str], hashes: dict[str, int]) -> list[list[int]]:
        """The same with a hash of the spelling in the place of what is out of vocabulary; `hashes` remembers words."""
        for token in tokens:
            if token not in hashes:
                hashes[token] = hash_string(token) % PRIME
        hashed = np.array([hashes[token] for token in tokens], np.int64)
        is_word = np.array([token != _END for token in tokens], np.bool_)
        state, whole = np.zeros(len(tokens), np.int64), np.ones(len(tokens), np.bool_)
        found = []
        for place, bag in enumerate(bags):
            state = mix(state[: len(bag)], hashed[place:])
            whole = whole[: len(bag)] & is_word[place:]
            bins = self.first_oov + bins_of(state, self.num_oov)
            known = np.array(bag, np.int64)
            found.append(np.where(known != PAD, known, np.where(whole, bins, PAD)).tolist())
        return found

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
        hashed = self._hashes(graph, tokens) if self.num_oov else None
        bags = [self._or_hash(graph, words, hashed, 0)]
        number, whole = words, self._is_word(graph, words)
        for place, (runs, first) in enumerate(self._numbered_runs(), start=1):
            following = self._shifted(graph, words, place)
            base = graph.constant_int64([self.num_words + 1])
            number = graph.node("Add", [graph.node("Mul", [number, base]), following])
            whole = graph.node("And", [whole, self._is_word(graph, following)])
            known = graph.label_encoder(number, runs, list(range(first, first + len(runs))), PAD, integers=True)
            known = graph.node("Where", [whole, known, graph.constant_int64([PAD])])
            bags.append(self._or_hash(graph, known, hashed, place))
        return graph.node("Concat", bags, axis=1) if len(bags) > 1 else bags[0]

    def _hashes(self, graph: GraphBuilder, tokens: str) -> list[str]:
        """For runs of each length, from one word on: the index of the spelling's hash, 0 where no run begins."""
        hashed = graph.node("Mod", [hash_strings_nodes(graph, tokens), graph.constant_int64([PRIME])])
        whole: str | None = None
        is_none = graph.node("Or", [graph.node("Equal", [tokens, graph.constant([text])]) for text in ("", _END)])
        is_word = graph.node("Cast", [graph.node("Not", [is_none])], to=TensorProto.INT64)
        mixed: str | None = None
        found = []
        for place in range(len(self.runs) + 1):
            mixed = mix_nodes(graph, mixed, self._shifted(graph, hashed, place))
            there = self._is_word(graph, self._shifted(graph, is_word, place))
            whole = there if whole is None else graph.node("And", [whole, there])
            bins = graph.node(
                "Add", [bins_of_nodes(graph, mixed, self.num_oov), graph.constant_int64([self.first_oov])]
            )
            found.append(graph.node("Where", [whole, bins, graph.constant_int64([PAD])]))
        return found

    def _or_hash(self, graph: GraphBuilder, known: str, hashed: list[str] | None, place: int) -> str:
        if hashed is None:
            return known
        return graph.node("Where", [self._is_word(graph, known), known, hashed[place]])

    def _shifted(self, graph: GraphBuilder, tensor: str, places: int) -> str:
        """The columns of `tensor` from one place on, padded to the same width, so that a run may not reach beyond the end."""
        if not places:
            return tensor
        pads = graph.constant_int64([0, 0, 0, places])
        padded = graph.node("Pad", [tensor, pads, graph.constant(np.array(PAD, np.int64))])
        end = graph.constant_int64([np.iinfo(np.int64).max])
        return graph.node("Slice", [padded, graph.constant_int64([places]), end, graph.constant_int64([1])])

    @staticmethod
    def _is_word(graph: GraphBuilder, tensor: str) -> str:
        return graph.node("Greater", [tensor, graph.constant_int64([PAD])])


def _split(text: str) -> list[str]:
    return [token for token in text.split(" ") if token]


def _word(token: str) -> str:
    return "" if token == _END else token.casefold().strip(_EDGES)
