"""What the gate is told beside rankings: whether the exported files answer as the model does, how fast, and what a log says."""

import shutil

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file

from endcap.contracts.release import CANDIDATE_VECTORS, DEFAULT_SIGNATURE, MERGED_GRAPH, QUERY_GRAPH
from endcap.contracts.reporting import Silent
from endcap.evaluation.gate import Thresholds
from endcap.flows import evidence, judging, logged
from endcap.flows.evidence import Gathered, gather, measure_parity, time_answers
from endcap.flows.features import build_features
from endcap.flows.fitting import FittedModel, read_features
from endcap.flows.logged import estimates_from_log
from endcap.flows.scoring import ExportedModel
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog
from endcap.training.loop import Trained
from endcap.workspace import tables as workspace_tables

MAX_GAP = Thresholds().max_parity_gap


@pytest.fixture(scope="module")
def made(trained_shop):
    """The trained model as its run kept it, its release, and the feature tables."""
    workspace, configuration = trained_shop.workspace, trained_shop.configuration
    tables = build_features(workspace, configuration, Silent())
    folder = workspace.runs / trained_shop.result.run_id / "checkpoint"
    fitted = read_features(folder)
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    day = tables.split.test_start_us // 86_400_000_000
    final = FittedModel(Trained(model, [], 1), fitted, Catalog(fitted, tables.products_on(day)), day)
    return final, trained_shop.result.release, tables


def exported(release, folder=None):
    return ExportedModel(
        folder or release.path, release.manifest.retrieval, release.manifest.signatures[DEFAULT_SIGNATURE].inputs
    )


def parity_of(made, folder=None):
    final, release, tables = made
    return measure_parity(final, exported(release, folder), folder or release.path, tables.table("test"))


def test_the_exported_files_answer_as_the_model_does(made):
    """Over real questions, all products, and each place of the merged graph's lists."""
    found = parity_of(made)
    num_questions, num_items = made[2].table("test").num_rows, made[0].catalog.num_items
    assert found.num_compared == num_questions * (num_items + 20)
    assert found.max_gap < 1e-4
    assert found.num_lists == found.num_equal_lists == num_questions


def tamper(path, name_part):
    """Move one weight of a graph."""
    model = onnx.load(str(path))
    weight = next(w for w in model.graph.initializer if name_part in w.name and w.data_type == onnx.TensorProto.FLOAT)
    values = numpy_helper.to_array(weight).copy()
    values.flat[:] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("broken", [QUERY_GRAPH, MERGED_GRAPH, CANDIDATE_VECTORS])
def test_a_broken_export_is_not_blessed(made, trained_shop, tmp_path, broken):
    _, release, tables = made
    folder = tmp_path / "release"
    shutil.copytree(release.path, folder)
    if broken == CANDIDATE_VECTORS:
        vectors = np.load(folder / broken, allow_pickle=False)
        vectors[3] += 0.5
        np.save(folder / broken, vectors, allow_pickle=False)
    else:
        tamper(folder / broken, "retrieval/candidates" if broken == MERGED_GRAPH else "query_tower")
    found = parity_of(made, folder)
    assert found.max_gap > MAX_GAP
    judged = judging.judge_on_test(
        trained_shop.workspace, tables, trained_shop.configuration, release.path, release.manifest.retrieval,
        release.manifest.signatures[DEFAULT_SIGNATURE].inputs, gathered=Gathered(parity=found),
    )  # fmt: skip
    assert judged.blessing.status == "NOT_BLESSED"
    (reason,) = [reason for reason in judged.blessing.reasons if "exported graph" in reason]
    assert "expected at most 0.001" in reason


def test_products_in_another_order_count_by_what_they_should_have_scored(made, tmp_path):
    """A graph that says the right scores of the wrong products is found too."""
    folder = tmp_path / "release"
    shutil.copytree(made[1].path, folder)
    model = onnx.load(str(folder / MERGED_GRAPH))
    ids = next(weight for weight in model.graph.initializer if weight.name == "retrieval/ids")
    ids.string_data[:] = [*ids.string_data[1:], ids.string_data[0]]
    (folder / MERGED_GRAPH).write_bytes(model.SerializeToString())
    found = parity_of(made, folder)
    assert found.max_gap > MAX_GAP
    assert found.num_equal_lists < found.num_lists


def test_answers_are_timed_one_by_one(made, monkeypatch):
    _, release, tables = made
    now = iter(np.cumsum([0.0] + [0.001, 0.002] * (evidence._NUM_TIMED + evidence._NUM_WARM_UP)).tolist())
    monkeypatch.setattr(evidence.time, "perf_counter", lambda: next(now))
    found = time_answers(exported(release), 20, tables.table("test"))
    assert (found.p50_ms, found.p95_ms, found.num_requests) == (pytest.approx(1.0), pytest.approx(1.0), 200)


def test_a_run_tells_what_was_gathered(trained_shop):
    """In the manifest and in the report: parity and time; no log, no estimates."""
    release = trained_shop.result.release
    said = " ".join(release.manifest.blessing.reasons)
    if release.manifest.blessing.status == "BLESSED":
        assert "The exported graph differs from the trained model by" in said
        assert "An answer takes" in said
    assert "logged rows" not in said


def test_a_slow_release_is_not_blessed_where_a_bound_is_set(made, trained_shop, configured):
    final, release, tables = made
    configuration = configured("evaluation.max_answer_time_ms=0.000001")
    inputs = release.manifest.signatures[DEFAULT_SIGNATURE].inputs
    arguments = (trained_shop.workspace, tables, configuration)
    found = gather(*arguments, final, release.path, release.manifest.retrieval, inputs, Silent())
    judged = judging.judge_on_test(*arguments, release.path, release.manifest.retrieval, inputs, gathered=found)
    assert any("expected at most 1e-06 ms" in reason for reason in judged.blessing.reasons)
    assert found.estimates == []


def log_of(users, start_us, pool, liked, *, propensity=None, late_us=0):
    """Each user is shown each product of the pool once, one at a time; what is liked is clicked."""
    rows = [(user, item) for user in users for item in pool]
    count = len(rows)
    return pa.table({
        "batch": ["b"] * count,
        "request_id": [f"r{number}" for number in range(count)],
        "user_key": ["k"] * count,
        "user_id": [user for user, _ in rows],
        "item_id": [item for _, item in rows],
        "ts_us": [start_us + late_us] * count,
        "position": [1] * count,
        "score": pa.nulls(count, pa.float64()),
        "propensity": pa.array([propensity] * count, pa.float64()),
        "surface": ["home"] * count,
        "release_digest": ["d"] * count,
        "experiment": pa.nulls(count, pa.string()),
        "variant": pa.nulls(count, pa.string()),
        "num_clicks": [int(item == liked) for _, item in rows],
        "num_carts": [0] * count,
        "num_purchases": [0] * count,
        "value": pa.nulls(count, pa.decimal128(18, 4)),
        "event_date": pa.array([(start_us + late_us) // 86_400_000_000] * count, pa.int32()).cast(pa.date32()),
    })  # fmt: skip


@pytest.fixture
def logged_shop(monkeypatch):
    """A function that makes a workspace say it holds this log."""
    in_force = workspace_tables.version_in_force

    def holds(log):
        monkeypatch.setattr(
            workspace_tables,
            "version_in_force",
            lambda workspace, name: 0 if name == "impressions" else in_force(workspace, name),
        )
        monkeypatch.setattr(
            logged, "_shown", lambda _, start_us: log.filter(pa.compute.greater_equal(log["ts_us"], start_us))
        )

    return holds


def test_a_log_of_chances_tells_what_the_release_would_have_earned(made, trained_shop, logged_shop, recorder):
    """Every product shown to everybody: by hand, the share of customers whose best of the pool is the liked one."""
    _, release, tables = made
    questions, start_us = tables.table("test"), tables.split.test_start_us
    model = exported(release)
    pool = sorted(model.index.item_ids[[2, 5, 9, 17, 30]].tolist())
    ranked = model.rank("m", "m", questions.append_column("earlier", pa.array([[]] * questions.num_rows, pa.list_(pa.string()))),
                        np.arange(model.index.num_items), model.index.num_items).all_purchases  # fmt: skip
    ids = np.asarray(model.index.item_ids)
    best = [next(item for item in ids[row] if item in pool) for row in ranked]
    liked = max(pool, key=best.count)
    expected = best.count(liked) / len(best)
    users = questions["user_id"].to_pylist()
    logged_shop(log_of(users, start_us, pool, liked, propensity=0.2))
    found = estimates_from_log(trained_shop.workspace, tables, trained_shop.configuration, model, recorder)
    assert [estimate.estimator for estimate in found] == ["IPS", "SNIPS", "DR"]
    for estimate in found[:2]:
        assert estimate.value.mean == pytest.approx(expected)
        assert estimate.logged.mean == pytest.approx(0.2)
        assert estimate.mean_weight == pytest.approx(1.0)
        assert estimate.num_rows == len(users) * 5
    assert found[2].value.mean == pytest.approx(expected, abs=0.1)
    assert recorder.events == []


def test_a_product_that_stands_above_is_not_chosen_again(made, trained_shop, logged_shop):
    """Two places, shown best first: the model chooses exactly what was shown, so it earns what the log did."""
    _, release, tables = made
    model = exported(release)
    questions = tables.table("test").slice(0, 10)
    pool = model.index.item_ids[[2, 5]].tolist()
    scores = model.scores(model.prepare(questions))[:, [2, 5]]
    users = questions["user_id"].to_pylist()
    whole = log_of(users, tables.split.test_start_us, pool, pool[0], propensity=1.0)
    rows = whole.to_pylist()
    for number, row in enumerate(rows):
        user, item = divmod(number, 2)
        row["request_id"], row["position"] = f"r{user:02}", 1 + int(scores[user].argmax() != item)
    rows.sort(key=lambda row: (row["request_id"], row["position"]))
    logged_shop(pa.Table.from_pylist(rows, whole.schema))
    found = estimates_from_log(trained_shop.workspace, tables, trained_shop.configuration, model, Silent())
    for estimate in found:
        assert (estimate.mean_weight, estimate.max_weight) == (1.0, 1.0)
        assert estimate.value.mean == pytest.approx(0.5)


def test_logs_that_say_nothing_give_no_estimates(made, trained_shop, logged_shop, recorder):
    _, release, tables = made
    arguments = (trained_shop.workspace, tables, trained_shop.configuration, exported(release), recorder)
    assert estimates_from_log(*arguments) == []
    pool = exported(release).index.item_ids[:2].tolist()
    users = tables.table("test")["user_id"].to_pylist()
    logged_shop(log_of(users, tables.split.test_start_us, pool, pool[0]))
    assert estimates_from_log(*arguments) == []
    assert recorder.events[0][0].startswith("no off-policy estimates: no product that was shown")
    logged_shop(log_of(users, tables.split.test_start_us, pool, pool[0], propensity=0.5, late_us=-1))
    assert estimates_from_log(*arguments) == []


def test_impressions_are_read_from_the_workspace_request_by_request(trained_shop, copy_of, monkeypatch):
    workspace = copy_of(trained_shop.workspace)
    log = log_of(["u1", "u2", "u3"], 1_300_000_000_000_000, ["b", "a"], "a", propensity=0.5)
    log = log.set_column(1, "request_id", pa.array(["r1", "r1", "r2", "r2", "r3", "r3"]))
    log = log.set_column(6, "position", pa.array([2, 1] * 3))
    written = workspace_tables.write_table(workspace, "impressions", log)
    monkeypatch.setattr(workspace_tables, "version_in_force", lambda *_: written.version)
    found = logged._shown(workspace, 1_300_000_000_000_000)
    assert list(zip(found["request_id"].to_pylist(), found["item_id"].to_pylist(), strict=True)) == [
        ("r1", "a"), ("r1", "b"), ("r2", "a"), ("r2", "b"), ("r3", "a"), ("r3", "b")
    ]  # fmt: skip
    monkeypatch.setattr(logged, "MAX_REQUESTS", 2)
    assert logged._shown(workspace, 0)["request_id"].to_pylist() == ["r1", "r1", "r3", "r3"]
    assert logged._shown(workspace, 1_300_000_000_000_001).num_rows == 0
