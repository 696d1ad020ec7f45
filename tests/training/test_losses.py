"""The sampled softmax against a slow reference, one question and one candidate at a time; the sampler against its rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.training.losses import (
    Negatives,
    NegativeSampler,
    Scored,
    Targets,
    pairwise_loss,
    pointwise_loss,
    sampled_softmax,
    target_logits,
)

NUM_ITEMS, DIM = 8, 3
NOTHING = torch.zeros(0, dtype=torch.int64)


def hardest(drawn, negatives):
    """The `num_hard` drawn products with the highest scores; all of them for 0."""
    best = sorted(drawn, key=drawn.__getitem__, reverse=True)
    return {item: drawn[item] for item in best[: negatives.num_hard or None]}


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
        drawn = {int(item): float(query @ vector_ND[int(item)]) for item in negatives.item_S if int(item) not in logits}
        log_chances = dict(zip(negatives.item_S.tolist(), negatives.log_chance_S.tolist(), strict=True))
        logits |= {item: score - log_chances[item] for item, score in hardest(drawn, negatives).items()}
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
    num_hard = draw(st.integers(0, 3))
    return (
        scored,
        Targets(flat(bought), owners(bought), weights),
        Negatives(torch.tensor(negatives), log_chance, num_hard),
    )


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
        drawn = sampler.draw(NOTHING)
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
        return [sampler.draw(NOTHING).item_S.tolist() for _ in range(5)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_more_draws_than_products():
    sampler = NegativeSampler(torch.tensor([0, 3, 3]), 500, torch.Generator().manual_seed(1))
    drawn = sampler.draw(NOTHING)
    assert drawn.item_S.tolist() == [1, 2]
    torch.testing.assert_close(drawn.log_chance_S, torch.zeros(2), atol=1e-6, rtol=0)


def whole_scores(scored, targets, negatives, question):
    """Scores of what a question has (known), bought, and what of the drawn is neither; without any correction."""
    query, vectors = scored.query_BD[question].detach().double(), scored.vector_ND.detach().double()
    entries = zip(scored.item_E.tolist(), scored.question_E.tolist(), scored.score_E.tolist(), strict=True)
    has = {item: score for item, owner, score in entries if owner == question and item > 0}
    owners = zip(targets.item_T.tolist(), targets.question_T.tolist(), strict=True)
    bought = {item: has.get(item, float(query @ vectors[item])) for item, owner in owners if owner == question}
    drawn = {i: float(query @ vectors[i]) for i in negatives.item_S.tolist() if i not in has and i not in bought}
    return bought, {item: score for item, score in has.items() if item not in bought}, hardest(drawn, negatives)


def softplus(value):
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def naive_pairwise(scored, targets, negatives):
    total = 0.0
    for question, weight in enumerate(targets.weight_B.tolist()):
        bought, own, drawn = whole_scores(scored, targets, negatives, question)
        others = [*own.values(), *drawn.values()]
        for score in bought.values():
            total += weight * sum(softplus(other - score) for other in others) / max(len(others), 1)
    return total / len(scored.query_BD)


def naive_pointwise(scored, targets, negatives):
    total = 0.0
    for question, weight in enumerate(targets.weight_B.tolist()):
        bought, own, drawn = whole_scores(scored, targets, negatives, question)
        others = [*own.values(), *drawn.values()]
        lost = sum(map(softplus, others)) / max(len(others), 1)
        total += weight * sum(softplus(-score) + lost for score in bought.values())
    return total / len(scored.query_BD)


@settings(max_examples=100, deadline=None)
@given(batches())
@pytest.mark.parametrize(("loss", "naive"), [(pairwise_loss, naive_pairwise), (pointwise_loss, naive_pointwise)])
def test_pairs_and_points_equal_the_slow_references(loss, naive, batch):
    scored, targets, negatives = batch
    found = loss(scored, targets, negatives)
    assert found.item() == pytest.approx(naive(scored, targets, negatives), rel=1e-4, abs=1e-5)
    found.backward()
    for leaf in (scored.query_BD, scored.vector_ND, scored.score_E):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()


def test_a_targets_score_is_that_of_the_history_where_it_is_in_it():
    scored = Scored(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [2.0, 3.0], [4.0, 5.0]]),
        torch.tensor([2, 1]),
        torch.tensor([0, 1]),
        torch.tensor([9.0, 8.0]),
    )
    targets = Targets(torch.tensor([1, 2, 1, 2]), torch.tensor([0, 0, 1, 1]), torch.ones(2))
    assert target_logits(scored, targets).tolist() == [2.0, 9.0, 8.0, 5.0]


def test_uniform_draws_take_every_product_alike():
    sampler = NegativeSampler(torch.tensor([500, 100, 1, 0]), 2, torch.Generator().manual_seed(5), "uniform")
    drawn = sampler.draw(NOTHING)
    assert 0 not in drawn.item_S.tolist()
    expected = math.log(1 - (2 / 3) ** 2)
    torch.testing.assert_close(drawn.log_chance_S, torch.full_like(drawn.log_chance_S, expected))


def test_in_batch_negatives_are_what_the_step_bought():
    sampler = NegativeSampler(torch.tensor([9, 3, 1, 0]), 50, torch.Generator().manual_seed(5), "in_batch")
    drawn = sampler.draw(torch.tensor([2, 1, 1]))
    assert drawn.item_S.tolist() == [1, 2]
    shares = [3 / 4, 1 / 4]  # of all targets; the unknown product takes no part
    expected = [math.log(1 - (1 - share) ** 3) for share in shares]
    torch.testing.assert_close(drawn.log_chance_S, torch.tensor(expected))


def test_mixed_negatives_are_both():
    sampler = NegativeSampler(torch.tensor([0, 1, 1, 0, 0]), 2, torch.Generator().manual_seed(1), "mixed")
    drawn = sampler.draw(torch.tensor([2]))
    assert 2 in drawn.item_S.tolist()
    chance = {1: 1 - (3 / 4) ** 2 / 2, 2: 1 - (3 / 4) ** 2 / 2, 3: 1 - (3 / 4) ** 2, 4: 1 - (3 / 4) ** 2}
    expected = [math.log(chance[item]) for item in drawn.item_S.tolist()]
    torch.testing.assert_close(drawn.log_chance_S, torch.tensor(expected))


def test_hard_negatives_are_the_highest_scored_that_a_question_neither_has_nor_bought():
    # Scores of products 1 to 4: 4, 3, 2, 1 for the first question, 1, 2, 3, 4 for the second. The first has product 1.
    scored = Scored(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]]),
        torch.tensor([1]),
        torch.tensor([0]),
        torch.tensor([0.0]),
    )
    targets = Targets(torch.tensor([2, 4]), torch.tensor([0, 1]), torch.ones(2))
    drawn = Negatives(torch.tensor([1, 2, 3, 4]), torch.zeros(4), num_hard=1)
    # 0: bought 2 (score 3), has 1 (score 0), of 3 and 4 the hardest is 3 (score 2). 1: bought 4 (4), the hardest is 3 (3).
    expected = [math.log(sum(map(math.exp, logits))) - logits[0] for logits in ([3, 0, 2], [4, 3])]
    assert sampled_softmax(scored, targets, drawn).item() == pytest.approx(sum(expected) / 2)
    pairs = [(softplus(0 - 3) + softplus(2 - 3)) / 2, softplus(3 - 4)]
    assert pairwise_loss(scored, targets, drawn).item() == pytest.approx(sum(pairs) / 2)


def test_the_sampler_says_how_many_are_hard():
    sampler = NegativeSampler(torch.tensor([0, 3, 3]), 5, torch.Generator().manual_seed(1), num_hard=4)
    assert sampler.draw(NOTHING).num_hard == 4
