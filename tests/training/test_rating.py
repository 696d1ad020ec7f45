"""Rating heads on small lines: what pairs are told, what losses are, what is learned, and that the graph says the same."""

import json
import os
from pathlib import Path

import ibis
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
import torch

from endcap.contracts.configuration import ModelConfig, TrainingConfig
from endcap.contracts.errors import InputError
from endcap.contracts.features import Target
from endcap.evaluation.rating import Calibration, Line
from endcap.features.transforms.target import FittedTarget
from endcap.models.rating import RatedTowers, RatedTwoTower
from endcap.training.data import Catalog, questions_of
from endcap.training.export_rating import LEARNED, PREDICTION, export_ranker
from endcap.training.rating import MultitaskTrainer, RatingTrainer, evaluate_rating, predict, rating_loss
from endcap.training.rating_data import Rated, rated_period, rated_questions

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curves.json"
DAY_US = 86_400_000_000
DAYS = [100, 101, 102]
SHAPE = {
    "model_type": "multitask", "buyer_tower": [{"units": 6}], "product_tower": [{"units": 4}],
    "output_embedding_dim": 7, "rating_head": [{"units": 5, "activation": "silu"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def lines(random_questions, question_table):
    """The random questions with what was spent on each target, and what was last spent on each product of the history."""
    table = question_table(random_questions)
    rng = np.random.default_rng(8)
    spent = [[float(np.exp(int(item[1:]) / 4) + rng.random()) for item in row] for row in table["targets"].to_pylist()]
    spent[3][0] = float("nan")
    last = [[float(np.exp(int(item[1:]) / 4)) for item in row] for row in table["user_history"].to_pylist()]
    last[5] = [0.0 for _ in last[5]]
    return table.append_column("target_values", pa.array(spent, pa.list_(pa.float64()))).append_column(
        "user_history_target", pa.array(last, pa.list_(pa.float64()))
    )


@pytest.fixture(scope="module")
def fitted(lines, product_table, fit_features, features):
    table = lines.drop_columns(["target_values", "user_history_target"])
    return fit_features(table, product_table(DAYS).slice(24), features | {"target": {"column": "value", "log": {}}})


@pytest.fixture(scope="module")
def target(lines):
    rows = ibis.memtable(pa.table({"value": lines["target_values"].combine_chunks().flatten()}))
    return FittedTarget.fit(rows, Target(column="value", clip={"p_high": 0.9}, log={}))


@pytest.fixture(scope="module")
def rated(fitted, target, lines, product_table):
    period = rated_period(fitted, target, lines, product_table(DAYS), 102)
    return Rated(rated_questions(fitted, target, lines, known_alone=True), target, period)


@pytest.fixture(scope="module")
def trainer_of(fitted, rated, lines, product_table):
    def make(kind=RatingTrainer, model=None, **training):
        config = ModelConfig.model_validate(SHAPE | (model or {}))
        settings = TrainingConfig.model_validate({"num_epochs": 40, "batch_size": 8, "learning_rate": 0.02} | training)
        torch.manual_seed(7)
        towers = RatedTowers(fitted.columns("buyer"), fitted.columns("product"), "item_id", config, rated.moments)
        catalog = Catalog(fitted, product_table(DAYS))
        if kind is RatingTrainer:
            return RatingTrainer(towers, settings, catalog, rated, 103 * DAY_US, 7)
        return MultitaskTrainer(towers, config, settings, catalog, questions_of(fitted, lines), rated, 103 * DAY_US, 7)

    return make


def model_of(trainer, fitted, rated, num_members=1):
    """A model of so many members, the first the trained one; the others as they were drawn."""
    config = ModelConfig.model_validate(SHAPE | {"num_members": num_members})
    model = RatedTwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", config, rated.moments)
    model.members[0] = trainer.average
    return model


def test_pairs_know_what_their_history_says_of_them(lines, rated):
    pairs, clip = rated.train, rated.target.clip
    for row, line in enumerate(lines.to_pylist()):
        start, stop = pairs.item.offsets[row : row + 2]
        targets = [
            (item, value) for item, value in zip(line["targets"], line["target_values"], strict=True) if value == value
        ]
        assert stop - start == len(targets)
        for place, (item, _) in enumerate(targets, start):
            known = item in line["user_history"]
            position = line["user_history"].index(item) if known else 0
            count = line["user_history_count"][position] if known else 0
            last = line["user_history_target"][position] if known else 0.0
            assert pairs.count.values[place] == count
            if last:
                assert pairs.last.values[place] == pytest.approx(np.log1p(np.clip(last, clip.low, clip.high)), rel=1e-5)
            else:
                assert torch.isnan(pairs.last.values[place])


def test_losses_by_hand():
    score, target = torch.tensor([0.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    question = torch.tensor([0, 0, 1])

    def loss(name):
        return float(rating_loss(TrainingConfig(rating_loss=name), score, target, question))

    assert loss("mse") == pytest.approx((1 + 4 + 0) / 3)
    assert loss("huber") == pytest.approx((0.5 + 1.5 + 0) / 3)
    assert loss("bce") == pytest.approx((np.log(2) + np.log1p(np.exp(2)) + np.log1p(np.exp(-1))) / 3, rel=1e-5)
    wanted = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    said = np.exp([0.0, 2.0]) / np.exp([0.0, 2.0]).sum()
    assert loss("listwise") == pytest.approx(-(wanted * np.log(said)).sum(), rel=1e-5)


def test_a_head_learns_what_lines_come_to(trainer_of, fitted, rated):
    trainer = trainer_of(weight_average=0.5, id_dropout=0.0, history_dropout=0.0)
    settings = TrainingConfig()
    before = evaluate_rating(model_of(trainer, fitted, rated), settings, trainer._catalog, rated, rated.evaluate)
    for _ in range(40):
        trainer.run_epoch(lambda *_: None)
    after = evaluate_rating(model_of(trainer, fitted, rated), settings, trainer._catalog, rated, rated.evaluate)
    assert after["rmse"] < before["rmse"] / 4
    assert after["rmse_own_units"] < before["rmse_own_units"]


@pytest.mark.parametrize("loss", ["huber", "listwise"])
def test_other_losses_fall_too(loss, trainer_of, rated):
    trainer = trainer_of(rating_loss=loss)
    for _ in range(15):
        trainer.run_epoch(lambda *_: None)
    assert np.mean(trainer.losses[-4:]) < np.mean(trainer.losses[:4])


def test_bce_wants_a_target_between_0_and_1(trainer_of):
    with pytest.raises(InputError, match="rating_loss=bce takes a target between 0 and 1; value lies between"):
        trainer_of(rating_loss="bce")


@pytest.mark.parametrize("name", ["ranking", "multitask", "learned_weights"])
def test_twenty_steps_lose_what_they_lost(name, trainer_of):
    kind = RatingTrainer if name == "ranking" else MultitaskTrainer
    model = {"task_weighting": "learned"} if name == "learned_weights" else {}
    trainer = trainer_of(kind, model, num_epochs=7)
    while len(trainer.losses) < 20:
        trainer.run_epoch(lambda *_: None)
    curves = json.loads(GOLDEN.read_text())
    if os.environ.get("ENDCAP_WRITE_GOLDEN"):
        curves[name] = [round(loss, 6) for loss in trainer.losses[:20]]
        GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
    assert trainer.losses[:20] == pytest.approx(curves[name], rel=1e-4)


def test_learned_weights_move(trainer_of):
    trainer = trainer_of(MultitaskTrainer, {"task_weighting": "learned"})
    trainer.run_epoch(lambda *_: None)
    assert trainer._model.task_log_variance_2.abs().min() > 0


def test_weights_that_are_both_zero_are_refused():
    with pytest.raises(ValueError, match="leaves nothing to learn"):
        ModelConfig.model_validate(SHAPE | {"retrieval_weight": 0, "ranking_weight": 0})


@pytest.fixture(
    scope="module", params=[(1, False), (2, False), (1, True)], ids=["one member", "two members", "probabilities"]
)
def exported(request, trainer_of, fitted, rated, tmp_path_factory):
    trainer = trainer_of()
    for _ in range(3):
        trainer.run_epoch(lambda *_: None)
    clip = rated.target.clip
    calibration = Calibration(Line(0.9, 0.1), 1.2, clip.low, clip.high, is_log=True)
    num_members, is_bce = request.param
    model, catalog = model_of(trainer, fitted, rated, num_members).eval(), trainer._catalog
    with torch.no_grad():
        products = model.learned_products(catalog.on(102))
    path = tmp_path_factory.mktemp("exported") / "rank.onnx"
    export_ranker(model, fitted, products, calibration, path, is_bce=is_bce)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def learned():
        """What the model says of the pairs, on the learned scale."""
        score = predict(model, catalog, rated.evaluate)
        return 1 / (1 + np.exp(-score)) if is_bce else rated.moments.mean + rated.moments.std * score

    return learned, calibration, session


def fed(lines, product_table, width=None):
    """Raw inputs of every line that has a target: the question's row, and the product's of its own day."""
    products = {(row["day"], row["item_id"]): row for row in product_table(DAYS).to_pylist()}
    pairs = [
        (row, products[row["event_time_us"] // DAY_US, item])
        for row in lines.to_pylist()
        for item, value in zip(row["targets"], row["target_values"], strict=True)
        if value == value
    ]

    def padded(name, empty, dtype, width=4):
        return np.array([(row[name] + [empty] * width)[:width] for row, _ in pairs], dtype)

    return {
        "user_id": np.array([row["user_id"] for row, _ in pairs], object),
        "days_since_last_purchase": np.array(
            [
                np.nan if row["days_since_last_purchase"] is None else row["days_since_last_purchase"]
                for row, _ in pairs
            ],
            np.float32,
        ),
        "num_baskets": np.array([row["num_baskets"] for row, _ in pairs]),
        "event_time_us": np.array([row["event_time_us"] for row, _ in pairs]),
        "user_history": padded("user_history", "", object),
        "user_history_age_days": padded("user_history_age_days", 0.0, np.float32),
        "user_history_count": padded("user_history_count", 0, np.int64),
        "user_history_target": padded("user_history_target", 0.0, np.float32, width or 4),
        "item_id": np.array([product["item_id"] for _, product in pairs], object),
        "title": np.array([product["title"] for _, product in pairs], object),
        "price": np.array([product["price"] for _, product in pairs], np.float32),
    }


def test_the_graph_says_what_the_model_says(exported, lines, product_table):
    said, calibration, session = exported
    prediction, learned = session.run([PREDICTION, LEARNED], fed(lines, product_table))
    np.testing.assert_allclose(learned, calibration.line.apply(said()), atol=2e-5)
    np.testing.assert_allclose(prediction, calibration.own_units(said()), rtol=1e-4, atol=1e-4)


def test_lists_of_targets_may_be_shorter_or_longer_than_histories(exported, lines, product_table):
    *_, session = exported
    feeds = fed(lines, product_table)
    (whole,) = session.run([PREDICTION], feeds)
    (longer,) = session.run(
        [PREDICTION], feeds | {"user_history_target": np.pad(feeds["user_history_target"], ((0, 0), (0, 3)))}
    )
    np.testing.assert_array_equal(whole, longer)
    nothing = np.zeros((len(whole), 1), np.float32)
    (shorter,) = session.run([PREDICTION], feeds | {"user_history_target": nothing})
    assert np.isfinite(shorter).all()
    assert not np.array_equal(whole, shorter)


@pytest.mark.parametrize("kind", [RatingTrainer, MultitaskTrainer])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_trainer_goes_on_where_another_stood_to_the_last_bit(kind, num_steps, trainer_of):
    def left_after(trainer, step):
        def look():
            if len(trainer.losses) == step:
                raise InterruptedError

        return look

    whole, cut, other = (
        trainer_of(kind, {"task_weighting": "learned", "dropout": 0.0}, batch_size=4) for _ in range(3)
    )
    for _ in range(3):
        mean = whole.run_epoch(lambda *_: None)
    with pytest.raises(InterruptedError):
        cut.run_epoch(lambda *_: None, left_after(cut, num_steps))
    other.restore(cut.state())
    for _ in range(3):
        again = other.run_epoch(lambda *_: None)
    assert (other.losses, again) == (whole.losses, mean)
    for found, expected in ((other.average, whole.average), (other._model, whole._model)):
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name
