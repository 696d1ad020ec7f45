"""The sampled softmax against a slow reference, one question and one candidate at a time; the sampler against its rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.training.losses import Negatives, NegativeSampler, Scored, Targets, sampled_softmax

NUM_ITEMS, DIM = 8, 3


def naive_loss(scored, targets, negatives):
    """Each target against the question's known history, its targets and what negatives are neither."""
    query_BD, vector_ND = scored.query_BD.detach().double(), scored.vector_ND.detach().double()
    total = 0.0
    num_questions = len(query_BD)
    for question in range(num_questions):
        query = query_BD[question]
        logits = {}
        for item, owner, score in zip(scored.item_E, scored.question_E, scored.score_E.detach(), strict=True):
            if int(owner) == question and int(item) > 0:
                logits[int(item)] = float(score)
        bought = [int(i) for i, owner in zip(targets.item_T, targets.question_T, strict=True) if int(owner) == question]
        for item in bought:
            logits.setdefault(item, float(query @ vector_ND[item]))
        for item, log_chance in zip(negatives.item_S, negatives.log_chance_S, strict=True):
            logits.setdefault(int(item), float(query @ vector_ND[int(item)]) - float(log_chance))
        log_sum = math.log(math.fsum(math.exp(value) for value in logits.values()))
        total += float(targets.weight_B[question]) * sum(log_sum - logits[item] for item in bought)
    return total / num_questions


@st.composite
def batches(draw):
    """Questions with any histories and targets, either of which may be empty or hold the negatives."""
    num_questions, known = draw(st.integers(1, 4)), st.integers(1, NUM_ITEMS - 1)
    unknown = draw(st.lists(st.integers(0, 2), min_size=num_questions, max_size=num_questions))
    # A history names a product once; the unknown one may stand for several.
    histories = [[*draw(st.lists(known, unique=True, max_size=4)), *[0] * number] for number in unknown]
    histories = [draw(st.permutations(history)) for history in histories]
    bought = [draw(st.lists(known, unique=True, max_size=3)) for _ in range(num_questions)]
    negatives = sorted(draw(st.lists(known, unique=True, min_size=1, max_size=NUM_ITEMS - 1)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))

    def owners(lists):
        return torch.tensor([row for row, items in enumerate(lists) for _ in items], dtype=torch.int64)

    def flat(lists):
        return torch.tensor([item for items in lists for item in items], dtype=torch.int64)

    scored = Scored(
        query_BD=(torch.randn(num_questions, DIM, generator=generator) * scale).requires_grad_(),
        vector_ND=(torch.randn(NUM_ITEMS, DIM, generator=generator) * scale).requires_grad_(),
        item_E=flat(histories),
        question_E=owners(histories),
        score_E=(torch.randn(len(flat(histories)), generator=generator) * scale).requires_grad_(),
    )
    weights = torch.rand(num_questions, generator=generator) + 0.1
    log_chance = torch.log(torch.rand(len(negatives), generator=generator) * 0.9 + 0.05)
    return scored, Targets(flat(bought), owners(bought), weights), Negatives(torch.tensor(negatives), log_chance)


@settings(max_examples=150, deadline=None)
@given(batches())
def test_loss_equals_the_slow_reference(batch):
    scored, targets, negatives = batch
    loss = sampled_softmax(scored, targets, negatives)
    assert loss.item() == pytest.approx(naive_loss(scored, targets, negatives), rel=1e-4, abs=1e-4)
    loss.backward()
    for leaf in (scored.query_BD, scored.vector_ND, scored.score_E):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()


def one_question(*, item_E=(), score_E=(), targets=(), negatives=((3, 0.0),), query=(1.0, 0.0)):
    vector_ND = torch.tensor([[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    scored = Scored(
        torch.tensor([query]),
        vector_ND,
        torch.tensor(item_E, dtype=torch.int64),
        torch.zeros(len(item_E), dtype=torch.int64),
        torch.tensor(score_E, dtype=torch.float32),
    )
    items, log_chances = zip(*negatives, strict=True)
    return sampled_softmax(
        scored,
        Targets(torch.tensor(targets, dtype=torch.int64), torch.zeros(len(targets), dtype=torch.int64), torch.ones(1)),
        Negatives(torch.tensor(items), torch.tensor(log_chances)),
    ).item()


def test_by_hand_without_history():
    # Target 1 scores 1; negative 3 scores 0 and was drawn with chance 1/2, negative 4 scores -1, always drawn.
    loss = one_question(targets=[1], negatives=[(3, math.log(0.5)), (4, 0.0)])
    assert loss == pytest.approx(math.log(math.e + 2 + math.exp(-1)) - 1)


def test_a_negative_that_was_bought_or_is_in_the_history_is_left_out():
    assert one_question(targets=[1], negatives=[(1, -3.0), (3, 0.0)]) == pytest.approx(math.log(math.e + 1) - 1)
    loss = one_question(item_E=[3], score_E=[0.5], targets=[1], negatives=[(3, -3.0), (4, 0.0)])
    assert loss == pytest.approx(math.log(math.e + math.exp(0.5) + math.exp(-1)) - 1)


def test_a_target_in_the_history_is_scored_once_and_with_its_repeat_score():
    loss = one_question(item_E=[1, 2], score_E=[4.0, 0.0], targets=[1], negatives=[(3, 0.0)])
    assert loss == pytest.approx(math.log(math.exp(4) + 1 + 1) - 4, abs=1e-5)


def test_unknown_products_of_the_history_take_no_part():
    without = one_question(item_E=[1], score_E=[2.0], targets=[2])
    assert one_question(item_E=[0, 1, 0], score_E=[50.0, 2.0, 50.0], targets=[2]) == pytest.approx(without)


def test_a_question_without_targets_costs_nothing():
    assert one_question(item_E=[1], score_E=[2.0]) == 0.0


def test_all_negatives_taken():
    assert one_question(targets=[1], negatives=[(1, 0.0)]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [80.0, 1000.0])
def test_a_question_that_is_answered_with_certainty_costs_nothing_and_never_less(scale):
    assert one_question(targets=[1], query=(scale, 0.0)) == pytest.approx(0.0, abs=1e-3)
    assert one_question(item_E=[1], score_E=[scale], targets=[1], query=(0.0, 0.0)) == pytest.approx(0.0, abs=1e-3)
    assert one_question(item_E=[1], score_E=[-scale], targets=[1], query=(0.0, 0.0)) == pytest.approx(scale, rel=1e-3)


def test_sampler_states_the_chance_to_be_among_the_drawn():
    counts = torch.tensor([500, 16, 81, 0, 1])
    sampler = NegativeSampler(counts, 3, torch.Generator().manual_seed(5))
    powers = [0.0, 8.0, 27.0, 0.0, 1.0]
    expected = [1 - (1 - power / 36) ** 3 for power in powers]
    num_draws, hits = 4000, torch.zeros(5)
    for _ in range(num_draws):
        drawn = sampler.draw()
        items = drawn.item_S.tolist()
        assert items == sorted(set(items))
        stated = torch.tensor([math.log(expected[item]) for item in items])
        torch.testing.assert_close(drawn.log_chance_S, stated, rtol=1e-4, atol=1e-5)
        hits[drawn.item_S] += 1
    for share, chance in zip((hits / num_draws).tolist(), expected, strict=True):
        deviation = math.sqrt(chance * (1 - chance) / num_draws)
        assert abs(share - chance) <= 4 * deviation


def test_sampler_repeats_itself_with_the_same_seed_alone():
    def draws(seed):
        sampler = NegativeSampler(torch.arange(50), 10, torch.Generator().manual_seed(seed))
        return [sampler.draw().item_S.tolist() for _ in range(5)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_more_draws_than_products():
    sampler = NegativeSampler(torch.tensor([0, 3, 3]), 500, torch.Generator().manual_seed(1))
    drawn = sampler.draw()
    assert drawn.item_S.tolist() == [1, 2]
    torch.testing.assert_close(drawn.log_chance_S, torch.zeros(2), atol=1e-6, rtol=0)
