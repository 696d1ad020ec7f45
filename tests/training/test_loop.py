"""Training repeats itself to the last bit, keeps the best epoch, and learns what popularity can't tell."""

import numpy as np
import pytest
import torch

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.evaluation.metrics import RaggedSets
from endcap.evaluation.predictions import auc
from endcap.training import loop
from endcap.training.data import Catalog, questions_of
from endcap.training.loop import EvalPeriod, evaluate_model, fit_model, score_all

DAY_US = 86_400_000_000
END_US = 103 * DAY_US


@pytest.fixture
def fit_on(question_table, product_table, fit_features):
    """A function that trains on questions, with an eval period of others where given."""

    def fit(configuration, train, evaluation=None, num_epochs=None, report=None):
        products, questions = product_table([100, 101, 102, 103]), question_table(train)
        fitted = fit_features(questions, products.slice(36))
        catalog = Catalog(fitted, products)
        period = None
        if evaluation is not None:
            numbers = {item: number for number, item in enumerate(catalog.item_ids)}
            bought = RaggedSets.from_lists([[numbers[item] for item in one.targets] for one in evaluation])
            earlier = RaggedSets.from_lists([[numbers[item] for item, *_ in one.history] for one in evaluation])
            period = EvalPeriod(questions_of(fitted, question_table(evaluation)), bought, earlier, 103)
        trained = fit_model(
            configuration,
            fitted,
            catalog,
            questions_of(fitted, questions),
            END_US,
            report or Silent(),
            period,
            num_epochs,
        )
        return trained, catalog, period

    return fit


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(fit_on, small, random_questions):
    first, again, other = (
        fit_on(small(seed=seed), random_questions, random_questions[:9])[0] for seed in (7, 7, 8)
    )  # fmt: skip
    assert first.epochs == again.epochs
    assert same(weights(first), weights(again))
    assert first.epochs != other.epochs
    assert not same(weights(first), weights(other))


def test_a_refit_runs_exactly_the_chosen_epochs_of_the_same_schedule(fit_on, small, random_questions):
    tuned = fit_on(small(patience=9), random_questions, random_questions[:9])[0]
    assert [record.epoch for record in tuned.epochs] == [1, 2, 3, 4]
    refitted = fit_on(small(), random_questions, num_epochs=2)[0]
    assert [record.loss for record in refitted.epochs] == [record.loss for record in tuned.epochs[:2]]
    assert refitted.chosen_epoch == 2
    assert [record.metrics for record in refitted.epochs] == [{}, {}]


@pytest.fixture
def scripted_metrics(monkeypatch):
    """A function that makes the eval metric follow a script; gives the list of weights as they were at each epoch."""

    def script(*values):
        seen = []

        def evaluate(model, catalog, period):
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return {"mean/ndcg@10": values[len(seen) - 1], "mean/mrr": -values[len(seen) - 1]}

        monkeypatch.setattr(loop, "evaluate_model", evaluate)
        return seen

    return script


@pytest.mark.parametrize("weight_average", [0.99, 0.0])
def test_training_stops_early_and_gives_the_best_epochs_weights(
    weight_average, fit_on, small, random_questions, scripted_metrics
):
    seen = scripted_metrics(0.1, 0.5, 0.4, 0.5, 0.9, 0.9)
    configuration = small(num_epochs=6, patience=2, weight_average=weight_average)
    trained = fit_on(configuration, random_questions, random_questions[:3])[0]
    assert [record.metrics["mean/ndcg@10"] for record in trained.epochs] == [0.1, 0.5, 0.4, 0.5]
    assert trained.chosen_epoch == 2
    assert same(weights(trained), seen[1])
    assert not same(seen[1], seen[3])
    assert not trained.model.training


def test_patience_waits_as_long_as_asked(fit_on, small, random_questions, scripted_metrics):
    scripted_metrics(0.1, 0.5, 0.4, 0.4, 0.9, 0.2)
    trained = fit_on(small(num_epochs=6, patience=3), random_questions, random_questions[:3])[0]
    assert trained.chosen_epoch == 5
    assert len(trained.epochs) == 6


def test_the_configured_metric_chooses(fit_on, small, random_questions, scripted_metrics):
    scripted_metrics(0.1, 0.2, 0.3, 0.4)
    trained = fit_on(small(metric="mrr", patience=9), random_questions, random_questions[:3])[0]
    assert trained.chosen_epoch == 1


def test_averaging_changes_what_is_released_but_not_how_it_is_trained(fit_on, small, random_questions):
    averaged = fit_on(small(weight_average=0.9), random_questions)[0]
    last = fit_on(small(weight_average=0.0), random_questions)[0]
    assert [record.loss for record in averaged.epochs] == [record.loss for record in last.epochs]
    assert not same(weights(averaged), weights(last))


def test_questions_without_known_targets_teach_nothing(fit_on, small, random_questions, asked):
    extra = [asked("u1", 101, (("p1", 3.0, 1),), ("gone",))] * 5
    trained = fit_on(small(id_dropout=0, history_dropout=0), [*random_questions, *extra], num_epochs=1)[0]
    assert np.isfinite(trained.epochs[0].loss)
    only = fit_on(small(), [*extra, random_questions[0]], num_epochs=1)[0]
    assert np.isfinite(only.epochs[0].loss)


def test_training_leaves_the_process_as_it_was(fit_on, small, random_questions):
    """What makes a run repeat itself is no business of whoever called it: the smallest floats stay what they are."""
    threads = torch.get_num_threads()
    fit_on(small(num_threads=threads + 1), random_questions, num_epochs=1)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert np.array([1e-310]) / 2 > 0
    assert (torch.tensor([1e-40]) / 2).item() > 0


def test_every_epoch_is_reported(fit_on, small, random_questions):
    class Recorder(Silent):
        metrics, ended = [], []

        def metric(self, step, metric, value):
            self.metrics.append((step, metric, value))

        def progress(self, stage, done, total, note=""):
            assert isinstance(note, str)
            assert 0 <= done <= total
            if done == total:
                self.ended.append(stage)

    recorder = Recorder()
    trained = fit_on(small(num_epochs=2), random_questions, random_questions[:9], report=recorder)[0]
    losses = [(step, value) for step, metric, value in recorder.metrics if metric == "loss"]
    assert losses == [(record.epoch, record.loss) for record in trained.epochs]
    found = [(step, value) for step, metric, value in recorder.metrics if metric == "ndcg@10"]
    assert found == [(record.epoch, record.metrics["ndcg@10"]) for record in trained.epochs]
    assert recorder.ended == ["training"]


def test_a_step_follows_the_rate_of_the_schedule(fit_on, small, random_questions, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def record(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    fit_on(small(num_epochs=30, batch_size=2, learning_rate=0.5), random_questions)
    peak = int(np.argmax(rates))
    assert 40 <= peak <= 60
    assert 0.4 < rates[peak] <= 0.5
    assert rates[0] == pytest.approx(0.01)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.001


def random_order_ndcg(num_items):
    """Expected ndcg@10 of one relevant product among `num_items` in any order: all are equally popular."""
    return sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / num_items


LEARNING = {"num_epochs": 40, "learning_rate": 0.03, "num_negatives": 12, "patience": 40, "half_life_days": 1000.0}


def test_learns_that_customers_buy_again_what_they_often_bought(fit_on, small, asked):
    """Each product is as popular as any other, and new customers come: what is often bought is all there is to go by."""
    rng = np.random.default_rng(1)

    def question(number, day):
        often, once, twice = (f"p{item}" for item in rng.choice(12, 3, replace=False))
        history = [(often, float(rng.integers(1, 30)), 6), (once, float(rng.integers(1, 30)), 1)]
        history = [*history, (twice, float(rng.integers(1, 30)), 2)]
        return asked(f"u{number}", day, tuple(history[place] for place in rng.permutation(3)), (often,))

    train = [question(number, 100 + number % 3) for number in range(90)]
    evaluation = [question(1000 + number, 103) for number in range(60)]
    trained, catalog, period = fit_on(small(**LEARNING), train, evaluation)
    found = evaluate_model(trained.model, catalog, period)
    assert found == trained.epochs[trained.chosen_epoch - 1].metrics
    assert random_order_ndcg(12) < 0.4
    assert found["ndcg@10"] > 0.9


def test_learns_what_goes_together(fit_on, small, asked):
    """Whoever has product 2i buys 2i + 1 next; the eval period's customers are others than those of training."""
    train = [
        asked(f"u{number}", 100 + number % 3, ((f"p{2 * (number % 6)}", 5.0, 1),), (f"p{2 * (number % 6) + 1}",))
        for number in range(90)
    ]
    evaluation = [asked(f"new{n}", 103, ((f"p{2 * n}", 5.0, 1),), (f"p{2 * n + 1}",)) for n in range(6)]
    trained, catalog, period = fit_on(small(**LEARNING), train, evaluation)
    assert evaluate_model(trained.model, catalog, period)["ndcg@10"] > 0.9


def test_evaluation_ranks_every_product_and_never_the_unknown_one(fit_on, small, asked, random_questions):
    every = tuple(f"p{number}" for number in range(12))
    trained, catalog, period = fit_on(small(), random_questions, [asked("u1", 103, (), every)], num_epochs=1)
    with torch.no_grad():  # whatever its vector, a product that is none takes nobody's place
        for value in (100.0, -100.0):
            trained.model.members[0].item_tower.id_table.weight[0] = value
            found = evaluate_model(trained.model, catalog, period)
            assert found["recall@100"] == found["new_to_customer/recall@100"] == 1.0


def test_both_counts_are_measured_and_averaged(fit_on, small, asked, random_questions):
    """New to the customer is what stands in no history, ranked without what does."""
    history = tuple((f"p{number}", 3.0, 1) for number in range(11))
    evaluation = [asked("u1", 103, history, ("p0", "p11")), asked("u2", 103, history, ("p3",))]
    trained, catalog, period = fit_on(small(), random_questions, evaluation, num_epochs=1)
    found = evaluate_model(trained.model, catalog, period)
    # One product alone is new to the first customer, who bought it; the second bought none.
    assert found["new_to_customer/ndcg@10"] == found["new_to_customer/mrr"] == 1.0
    assert found["new_to_customer/auc"] == found["new_to_customer/auc@100"] == 0.5  # nothing is left to stand above
    for metric in ("ndcg@10", "mrr", "recall@5"):
        assert found[f"mean/{metric}"] == (found[metric] + found[f"new_to_customer/{metric}"]) / 2
    assert found["recall@5"] < 1.0


def test_the_auc_is_of_all_scores_and_that_of_a_list_of_the_whole_catalog(fit_on, small, random_questions):
    evaluation = [one for one in random_questions[:20] if set(one.targets) - {item for item, *_ in one.history}]
    trained, catalog, period = fit_on(small(), random_questions, evaluation, num_epochs=1)
    found = evaluate_model(trained.model, catalog, period)
    with torch.no_grad():
        products = trained.model.products(catalog.on(103))
        scores = score_all(trained.model, products, period.questions, np.arange(len(evaluation)))[:, 1:].numpy()
    every, new = [], []
    for score, one in zip(scores, evaluation, strict=True):
        had = {item for item, *_ in one.history}
        is_wanted = np.array([item in one.targets for item in catalog.item_ids])
        is_known = np.array([item in had for item in catalog.item_ids])
        every.append(auc(is_wanted, score))
        new.append(auc(is_wanted[~is_known], score[~is_known]))
    assert (found["auc"], found["new_to_customer/auc"]) == pytest.approx((np.mean(every), np.mean(new)))
    assert (found["auc@100"], found["mean/auc"]) == pytest.approx((found["auc"], (np.mean(every) + np.mean(new)) / 2))


def losses(trained):
    return [record.loss for record in trained[0].epochs]


STEADY = {"dropout": 0.0, "product_tower": []}


def test_a_catalog_encoded_in_part_trains_as_one_encoded_whole(fit_on, small, random_questions):
    whole = fit_on(small(model=STEADY, whole_catalog=12), random_questions, num_epochs=3)
    part = fit_on(small(model=STEADY, whole_catalog=11), random_questions, num_epochs=3)
    assert losses(part) == pytest.approx(losses(whole), rel=1e-5)
    for name, tensor in weights(part[0]).items():
        torch.testing.assert_close(tensor, weights(whole[0])[name], rtol=1e-3, atol=1e-4)


def test_members_are_trained_apart_and_measured_together(fit_on, small, random_questions, asked):
    """The first is the model that would have been trained alone; the second another one."""
    evaluation = [asked("u1", 103, (), ("p3",))]
    alone = fit_on(small(model=STEADY, num_epochs=2, patience=2), random_questions, evaluation)
    both = fit_on(small(model=STEADY | {"num_members": 2}, num_epochs=2, patience=2), random_questions, evaluation)
    assert both[0].epochs[0].loss != losses(alone)[0]
    assert both[0].epochs[0].loss == pytest.approx(losses(alone)[0], rel=0.2)
    assert evaluate_model(both[0].model, *both[1:]) == both[0].epochs[both[0].chosen_epoch - 1].metrics
    apart = fit_on(small(model=STEADY, num_epochs=2), random_questions, num_epochs=2)[0].model.state_dict()
    both = fit_on(small(model=STEADY | {"num_members": 2}, num_epochs=2), random_questions, num_epochs=2)
    second = both[0].model.members[1].state_dict()
    for name, tensor in both[0].model.members[0].state_dict().items():
        torch.testing.assert_close(tensor, apart[f"members.0.{name}"])
    assert not torch.allclose(second["item_tower.id_table.weight"], apart["members.0.item_tower.id_table.weight"])


def test_penalized_weights_stay_smaller_and_the_loss_says_what_they_cost(fit_on, small, random_questions):
    def first_layer(l2):
        model = STEADY | {"buyer_tower": [{"units": 5, "l2": l2}]}
        configuration = small(model=model, weight_average=0, learning_rate=0.03, warmup_steps=1, num_epochs=6)
        trained = fit_on(configuration, random_questions, num_epochs=6)
        return trained, trained[0].model.members[0].query_tower.dense[0].weight.square().sum().item()

    (free, squares), (dear, fewer) = first_layer(0.0), first_layer(0.2)
    assert fewer < 0.7 * squares
    assert losses(dear)[0] > losses(free)[0] + 0.2 * fewer


def test_the_average_knows_the_rows_that_batch_norms_have_met(fit_on, small, random_questions):
    model = STEADY | {"buyer_tower": [{"units": 5, "batch_norm": True}]}
    trained, _, _ = fit_on(small(model=model, weight_average=0.9), random_questions, num_epochs=2)
    norm = trained.model.members[0].query_tower.dense[1]
    assert norm.num_batches_tracked.item() > 2
    assert norm.running_mean.abs().max() > 0
    assert not torch.allclose(norm.running_var, torch.ones(5))


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "sparse_adam"])
def test_large_tables_learn_by_their_own_optimizer(sparse, fit_on, small, random_questions):
    configuration = small(
        model=STEADY, whole_catalog=0, sparse_rows=5, sparse_optimizer=sparse, sparse_learning_rate=0.5, warmup_steps=2,
        learning_rate=1e-6, weight_decay=0, id_dropout=0, history_dropout=0, profile_dropout=0, item_id_dropout=0,
        num_epochs=20,
    )  # fmt: skip
    trained = fit_on(configuration, random_questions, num_epochs=20)
    assert trained[0].model.members[0].item_tower.id_table.sparse
    assert sum(losses(trained)[-5:]) < 0.95 * sum(losses(trained)[:5])


@pytest.mark.parametrize("loss", ["sampled_softmax", "in_batch", "bpr", "bce"])
@pytest.mark.parametrize("negatives", ["popularity", "uniform", "mixed"])
def test_every_loss_falls(loss, negatives, fit_on, small, random_questions):
    configuration = small(loss=loss, negatives=negatives, num_epochs=5, learning_rate=0.05, warmup_steps=2)
    found = losses(fit_on(configuration, random_questions, num_epochs=5))
    assert found[-1] < found[0]


@pytest.mark.parametrize("whole_catalog", [0, 20_000])
def test_products_shown_as_new_change_what_is_learned(fit_on, small, random_questions, whole_catalog):
    settings = {"num_epochs": 1, "whole_catalog": whole_catalog}
    plain, shown = (
        fit_on(small(**settings, **more), random_questions, num_epochs=1)[0] for more in ({}, {"new_item_dropout": 0.5})
    )
    assert not same(weights(plain), weights(shown))


def test_a_loss_that_is_no_number_stops_at_once_and_names_the_columns(fit_on, small, random_questions, monkeypatch):
    questions_of_table = questions_of

    def spoiled(fitted, table):
        questions = questions_of_table(fitted, table)
        questions.tensors["num_baskets.normalize"][3] = float("nan")
        return questions

    monkeypatch.setitem(globals(), "questions_of", spoiled)
    with pytest.raises(
        InputError, match=r"The loss is nan at step \d+, in a batch of \d+ questions of 1970-04-1"
    ) as raised:
        fit_on(small(history_dropout=0, profile_dropout=0), random_questions)
    assert "columns with values that are no numbers: num_baskets.normalize. Clip or log" in str(raised.value)


def test_steps_that_are_too_long_are_told_from_bad_columns(fit_on, small, random_questions):
    configuration = small(optimizer="sgd", learning_rate=1.0, warmup_steps=0, num_epochs=400, loss="bce")
    configuration = configuration.model_copy(
        update={"training": configuration.training.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(
        InputError,
        match=r"The loss is (nan|inf) at step 2, .*weights up to \d+(\.\d+)?e\+\d+ .*lower training.learning_rate",
    ):
        fit_on(configuration, random_questions)


def test_no_known_target_at_all_is_said(fit_on, small, asked):
    lost = [asked("u1", 101, (("p1", 3.0, 1),), ("gone",))]
    with pytest.raises(InputError, match="there is nothing to learn from"):
        fit_on(small(), lost)
