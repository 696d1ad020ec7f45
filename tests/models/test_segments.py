"""Ragged histories (training) and padded ones (export) sum, bound and spread alike."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.models.segments import PaddedSegments, RaggedSegments

NUMBERS = st.floats(-100, 100, width=32)
HISTORIES = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), min_size=1, max_size=7)


def ragged_and_padded(histories, *, room):
    """The same two-column entries flat and as rows padded with zeros; where the padded ones are entries."""
    lengths = torch.tensor([len(history) for history in histories])
    flat = torch.tensor([entry for history in histories for entry in history]).reshape(-1, 2)
    width = max(1, int(lengths.max())) + room
    known_BL = torch.arange(width) < lengths.unsqueeze(1)
    padded = torch.zeros(len(histories), width, 2)
    padded[known_BL] = flat
    return RaggedSegments(lengths), flat, PaddedSegments(known_BL), padded.reshape(-1, 2), known_BL.reshape(-1)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(0, 3))
def test_ragged_equals_padded(histories, room):
    ragged, flat, padded, wide, known = ragged_and_padded(histories, room=room)
    torch.testing.assert_close(ragged.total(flat), padded.total(wide))
    assert torch.equal(ragged.lowest(flat[:, 0]), padded.lowest(wide[:, 0]))
    rows = torch.arange(3.0 * len(histories)).reshape(-1, 3)
    assert torch.equal(ragged.spread(rows), padded.spread(rows)[known])


@settings(max_examples=40, deadline=None)
@given(HISTORIES)
def test_ragged_is_what_python_says(histories):
    ragged, flat, *_ = ragged_and_padded(histories, room=0)
    totals = [[math.fsum(entry[column] for entry in history) for column in (0, 1)] for history in histories]
    torch.testing.assert_close(ragged.total(flat), torch.tensor(totals, dtype=torch.float32), rtol=1e-4, atol=1e-3)
    assert ragged.lowest(flat[:, 0]).tolist() == [min((x for x, _ in h), default=math.inf) for h in histories]
    owners = [number for number, history in enumerate(histories) for _ in history]
    assert ragged.question_E.tolist() == owners


def test_no_history_at_all():
    ragged, flat, padded, wide, _ = ragged_and_padded([[], []], room=0)
    for segments, entries in ((ragged, flat), (padded, wide)):
        assert segments.total(entries).tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert segments.lowest(entries[:, 0]).tolist() == [math.inf, math.inf]


def test_lowest_takes_no_gradient_and_total_does():
    x_E = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    segments = RaggedSegments(torch.tensor([2, 1]))
    assert not segments.lowest(x_E).requires_grad
    segments.total(x_E.unsqueeze(1)).sum().backward()
    assert x_E.grad.tolist() == [1.0, 1.0, 1.0]
