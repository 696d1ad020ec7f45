"""Ranking runs from invoices to verdict: what answers is what was trained, be it a network or trees; nonsense is refused."""

import shutil

import msgspec
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file

from endcap.contracts.errors import ColumnsError, InputError
from endcap.contracts.release import CANDIDATE_IDS, QUERY_GRAPH, RANK_GRAPH
from endcap.contracts.reporting import Silent
from endcap.evaluation.gate import Thresholds
from endcap.evaluation.rating import Calibration, Line
from endcap.features.transforms.numeric import Clip
from endcap.features.transforms.target import FittedTarget
from endcap.flows.evidence import measure_rating_parity
from endcap.flows.features import build_features
from endcap.flows.fitting import FittedModel, read_features
from endcap.flows.rating import FittedRating, load_rating, refit_beside
from endcap.flows.rating_verdict import judge_ratings_on_test
from endcap.flows.train_run import train_run
from endcap.models.rating import RatedTwoTower, TargetMoments
from endcap.training.data import Catalog
from endcap.training.loop import Trained

SPEND = ("model=ranking", "features=online_retail_spend", "training.num_epochs=1", "training.refit=false")
TREES = (
    "model.ranker=lightgbm", "evaluation.baselines.lightgbm.num_trees=20", "evaluation.baselines.lightgbm.num_leaves=8"
)  # fmt: skip
MAX_GAP = Thresholds().max_parity_gap


def trained_again(workspace, configuration, result):
    """The model as its run kept it, and the feature tables."""
    tables = build_features(workspace, configuration, Silent())
    folder = workspace.runs / result.run_id / "checkpoint-eval"
    fitted = read_features(folder)
    model = RatedTwoTower(
        fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model, TargetMoments(0.0, 1.0)
    )
    model.load_state_dict(load_file(folder / "model.safetensors"))
    day = tables.split.eval_start_us // 86_400_000_000
    catalog = Catalog(fitted, tables.products_on(day))
    return FittedModel(Trained(model.eval(), [], 1), fitted, catalog, day, load_rating(folder)), tables


def tamper(path, op_type):
    """Move one weight of the first node of a kind."""
    model = onnx.load(str(path))
    node = next(node for node in model.graph.node if node.op_type == op_type)
    if op_type == "TreeEnsembleRegressor":
        weights = next(one for one in node.attribute if one.name == "target_weights")
        weights.floats[0] += 0.5
    else:
        names = set(node.input)
        weight = next(one for one in model.graph.initializer if one.name in names)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 0.5, weight.name))
    path.write_bytes(model.SerializeToString())


def parity_and_verdict(workspace, configuration, result, folder):
    final, tables = trained_again(workspace, configuration, result)
    ranking = result.release.manifest.ranking
    parity = measure_rating_parity(tables, configuration, final, folder, ranking)
    _, blessing = judge_ratings_on_test(tables, configuration, folder, ranking, final.fitted, final.rating, parity)
    return parity, blessing


def test_the_graph_is_the_network_and_a_broken_one_is_not_blessed(rated_shop, tmp_path):
    workspace, configuration, result = rated_shop.workspace, rated_shop.configuration, rated_shop.result
    parity, _ = parity_and_verdict(workspace, configuration, result, result.release.path)
    assert parity.max_gap < 1e-4
    assert parity.num_compared > 100
    folder = tmp_path / "release"
    shutil.copytree(result.release.path, folder)
    tamper(folder / RANK_GRAPH, "Gemm")
    parity, blessing = parity_and_verdict(workspace, configuration, result, folder)
    assert parity.max_gap > MAX_GAP
    assert blessing.status == "NOT_BLESSED"
    assert any("rank.onnx differs from what was trained" in reason for reason in blessing.reasons)


def beside(rated_shop, champion):
    result, configuration = rated_shop.result, rated_shop.configuration
    final, tables = trained_again(rated_shop.workspace, configuration, result)
    release = result.release
    return judge_ratings_on_test(
        tables, configuration, release.path, release.manifest.ranking, final.fitted, final.rating, champion=champion
    )


def test_a_network_does_not_beat_itself(rated_shop):
    champion = rated_shop.result.release
    comparison, blessing = beside(rated_shop, champion)
    (reason,) = [reason for reason in blessing.reasons if "the champion" in reason]
    title = f"the champion, recommender/{champion.path.name}"
    assert (
        f"of {title} (difference +0.0000, 95% interval +0.0000 to +0.0000); the interval must lie below zero" in reason
    )
    assert comparison.systems[-1].metrics == comparison.candidate.metrics


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"as_of": "2099-01-01T00:00:00+00:00"}, "trained on purchases up to 2099-01-01.* would win by memory"),
        ({"ranking": None}, "predicts nothing; expected value"),
        ({"ranking": {"target": "quantity"}}, "predicts quantity; expected value"),
        ({"ranking": {"product_inputs": []}}, None),
    ],
)
def test_a_champion_whose_ratings_can_not_be_compared_is_refused(rated_shop, changed, message):
    release = rated_shop.result.release
    manifest = release.manifest
    if changed.get("ranking"):
        fields = changed["ranking"]
        if "product_inputs" in fields:
            first, *rest = manifest.ranking.product_inputs
            fields = {"product_inputs": [msgspec.structs.replace(first, column="shoe_size"), *rest]}
            message = "asks for shoe_size, which the candidate's features lack"
        changed = {"ranking": msgspec.structs.replace(manifest.ranking, **fields)}
    champion = msgspec.structs.replace(release, manifest=msgspec.structs.replace(manifest, **changed))
    with pytest.raises(InputError, match=message):
        beside(rated_shop, champion)


def test_a_refit_clips_as_its_own_target_does():
    tuned = FittedRating(
        FittedTarget("value", Clip(0.0, 207.0), is_logged=True),
        calibrations={"model": Calibration(Line(1.1, 0.2), 1.3, 0.0, 207.0, True)},
    )
    target = FittedTarget("value", Clip(0.5, 204.0), is_logged=True)
    found = refit_beside(None, None, None, target, tuned, Silent())
    assert found.calibrations == {"model": Calibration(Line(1.1, 0.2), 1.3, 0.5, 204.0, True)}
    assert found.target is target


def test_trees_may_answer_themselves(ingested_shop, copy_of, configured, tmp_path):
    workspace, configuration = copy_of(ingested_shop), configured(*SPEND, *TREES)
    result = train_run(workspace, configuration, Silent())
    release = result.release
    assert result.comparison is None
    assert release.has(RANK_GRAPH)
    assert not release.has(QUERY_GRAPH)
    assert not release.has(CANDIDATE_IDS)
    assert release.manifest.retrieval is None
    assert [system.name for system in result.ratings.systems][:2] == ["model", "mean"]
    assert result.ratings.candidate.title == "boosted trees"
    mean = next(system for system in result.ratings.systems if system.name == "mean")
    assert result.ratings.candidate.metrics["rmse"].mean < 0.95 * mean.metrics["rmse"].mean
    parity, _ = parity_and_verdict(workspace, configuration, result, release.path)
    assert parity.max_gap < 1e-4
    folder = tmp_path / "release"
    shutil.copytree(release.path, folder)
    tamper(folder / RANK_GRAPH, "TreeEnsembleRegressor")
    parity, _ = parity_and_verdict(workspace, configuration, result, folder)
    assert parity.max_gap > MAX_GAP


def test_a_target_that_is_the_same_everywhere_is_refused(ingested_shop, copy_of, configured):
    configuration = configured(*SPEND, "features.target={column: quantity, clip: {p_high: 0.01}}")
    with pytest.raises((ColumnsError, InputError), match="constant"):
        train_run(copy_of(ingested_shop), configuration, Silent())


def test_weights_of_nothing_are_refused(configured):
    with pytest.raises(InputError, match="retrieval_weight and ranking_weight are both 0"):
        configured(
            "model=multitask", "features=online_retail_spend", "model.retrieval_weight=0", "model.ranking_weight=0"
        )
