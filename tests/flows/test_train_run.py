"""From tables to a judged release: the same twice to the last digit, whole or not at all, blind to the test period."""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import (
    CANDIDATE_IDS,
    CANDIDATE_VECTORS,
    FALLBACK_POPULAR,
    ITEM_GRAPH,
    ITEMS,
    MERGED_GRAPH,
    QUERY_GRAPH,
    REPORT,
    USER_FEATURES,
)
from endcap.contracts.reporting import Silent
from endcap.evaluation.metrics import METRICS
from endcap.flows import evidence, fitting, judging, packing
from endcap.flows.features import build_features
from endcap.flows.train_run import evaluate_release, list_releases, train_run
from endcap.ingest.pipeline import ingest
from endcap.releases.bundle import open_release
from endcap.training.export import item_vectors
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import read_manifest
from endcap.workspace.tables import current_dataset

PARTS = {
    QUERY_GRAPH, ITEM_GRAPH, MERGED_GRAPH, CANDIDATE_VECTORS, CANDIDATE_IDS, ITEMS, USER_FEATURES, FALLBACK_POPULAR,
    REPORT, "report/report.md",
}  # fmt: skip


def names(path):
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def runs_of(workspace, step):
    return [name for name in names(workspace.runs) if name.startswith(f"{step}-")]


def test_the_release_is_whole_and_says_where_it_comes_from(trained_shop):
    workspace, configuration = trained_shop.workspace, trained_shop.configuration
    release = trained_shop.result.release
    assert release.path == workspace.releases / "recommender" / "1"
    assert open_release(release.path) == release
    assert set(release.manifest.files) == PARTS
    assert names(workspace.releases / "recommender") == ["1"]

    manifest = release.manifest
    lineage = manifest.lineage
    assert lineage.run_id == trained_shop.result.run_id == runs_of(workspace, "train")[0]
    assert lineage.seed == configuration.seed
    assert lineage.data_versions == current_dataset(workspace).versions
    assert lineage.dataset_version == current_dataset(workspace).number == 1
    assert lineage.configuration == configuration.model_dump(mode="json", exclude_none=True)
    assert type(configuration).model_validate(lineage.configuration) == configuration
    assert lineage.library_versions.keys() >= {"endcap", "torch", "onnxruntime", "numpy"}
    assert lineage.git_sha
    assert manifest.metrics.keys() >= {
        f"{c}/{m}" for c in ("all_purchases", "new_to_customer") for m in (*METRICS, "auc")
    }
    assert all(np.isfinite(value) for value in manifest.metrics.values())
    assert manifest.blessing.reasons

    signature = manifest.signatures["serving_default"]
    assert [tensor.name for tensor in signature.inputs if tensor.required] == ["user_id"]
    assert {tensor.name for tensor in signature.inputs} == {
        *configuration.features.buyer, "user_history_age_days", "user_history_count"
    }  # fmt: skip
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in signature.outputs] == [
        ("product_ids", "STRING", [-1, 20]),
        ("scores", "FLOAT", [-1, 20]),
    ]
    assert (manifest.retrieval.dim, manifest.retrieval.top_k) == (9, 20)


def test_the_parts_fit_each_other(trained_shop):
    release = trained_shop.result.release
    ids = np.load(release.file(CANDIDATE_IDS), allow_pickle=False)
    assert len(ids) == release.manifest.retrieval.num_items == len(set(ids.tolist()))
    vectors = np.load(release.file(CANDIDATE_VECTORS), allow_pickle=False)
    assert vectors.shape == (len(ids), 9)
    assert vectors.dtype == np.float32
    items = pq.read_table(release.file(ITEMS))
    assert sorted(items["item_id"].to_pylist()) == sorted(ids.tolist())
    popular = json.loads(release.file(FALLBACK_POPULAR).read_bytes())["product_ids"]
    assert len(popular) == 20
    assert set(popular) <= set(ids.tolist())
    sold = dict(zip(items["item_id"].to_pylist(), items["purchases_30d_per_10k"].to_pylist(), strict=True))
    assert [sold[item] for item in popular] == sorted(sold.values(), reverse=True)[:20]
    users = pq.read_table(release.file(USER_FEATURES))
    assert len(users) == len(set(users["user_id"].to_pylist())) == 60
    assert "event_time_us" not in users.column_names


def test_the_run_left_its_record(trained_shop):
    workspace, result = trained_shop.workspace, trained_shop.result
    manifest = read_manifest(workspace, result.run_id)
    assert manifest.metrics == result.release.manifest.metrics
    assert manifest.configuration == result.release.manifest.lineage.configuration
    assert manifest.timings_s.keys() == {"features", "train", "export", "evaluate"}
    page = workspace.reports / result.run_id / "index.html"
    assert page.read_bytes() == result.release.file(REPORT).read_bytes()
    verdict = (page.parent / "report.md").read_text(encoding="utf-8").splitlines()[0]
    assert result.release.manifest.blessing.status in verdict
    for checkpoint in ("checkpoint-eval", "checkpoint"):
        assert names(workspace.runs / result.run_id / checkpoint) == [
            "epochs.json", "features.json", "model.safetensors"
        ]  # fmt: skip


def test_no_user_id_stands_where_people_read(trained_shop):
    """Reports, run manifests and the release's own manifest speak of customers by their hashed names alone."""
    workspace, release = trained_shop.workspace, trained_shop.result.release
    texts = [release.path / "manifest.json", *release.path.rglob("report/*"), *workspace.reports.rglob("*.*")]
    texts += [*workspace.runs.rglob("manifest.json")]
    users = pq.read_table(release.file(USER_FEATURES))["user_id"].to_pylist()
    shown = "".join(path.read_text(encoding="utf-8") for path in texts)
    assert not [user for user in users if f">{user}<" in shown or f'"{user}"' in shown or f" {user} " in shown]
    assert [user for user in users if workspace.user_key(user)[:12] in shown]


def test_a_rerun_finds_the_release_and_writes_nothing(trained_shop, recorder):
    workspace = trained_shop.workspace
    before = {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*") if ".scratch" not in str(path)}
    again = train_run(workspace, trained_shop.configuration, recorder)
    assert (again.run_id, again.release) == (trained_shop.result.run_id, trained_shop.result.release)
    assert again.comparison.flat_metrics() == trained_shop.result.comparison.flat_metrics()
    after = {path: path.stat().st_mtime_ns for path in workspace.path.rglob("*") if ".scratch" not in str(path)}
    assert after == before
    (said,) = recorder.events
    assert said[0].startswith("nothing to train")
    assert said[1]["run_id"] == trained_shop.result.run_id
    assert said[1]["experiment"] == "baseline"
    assert again.report.is_file()


def test_evaluating_a_release_again_gives_its_metrics_to_the_last_digit(trained_shop, copy_of, recorder):
    workspace = copy_of(trained_shop.workspace)
    release = trained_shop.result.release
    result = evaluate_release(workspace, workspace.releases / "recommender" / "1", recorder)
    assert result.comparison.flat_metrics().items() <= release.manifest.metrics.items()
    assert result.comparison == trained_shop.result.comparison
    told = {name.removeprefix("all_purchases/"): value for name, value in release.manifest.metrics.items()}
    assert {metric: value for _, metric, value in recorder.metrics} == told
    assert result.report.is_file()
    assert result.report.parent.name == result.run_id == runs_of(workspace, "evaluate")[0]
    assert names(workspace.releases / "recommender") == ["1"]


def test_a_release_is_not_evaluated_on_other_data(trained_shop, copy_of, shop_lines, tmp_path):
    workspace = copy_of(trained_shop.workspace)
    prices = shop_lines["UnitPrice"].to_pylist()
    changed = shop_lines.set_column(5, "UnitPrice", pa.array([prices[0] + 1, *prices[1:]]))
    pq.write_table(changed, tmp_path / "changed.parquet")
    ingest(workspace, "online_retail", tmp_path / "changed.parquet")
    with pytest.raises(InputError, match=r"was made from the data versions .* Train again"):
        evaluate_release(workspace, workspace.releases / "recommender" / "1", Silent())
    assert runs_of(workspace, "evaluate") == []


def dying(*args, **kwargs):
    raise RuntimeError("the machine went down")


class _Prepared:
    """What the trained shop's run exported, handed out again: for tests of what comes after."""

    def __init__(self, trained_shop):
        self._release = trained_shop.result.release

    def write_model(self, _model, _configuration, folder):
        for name in (QUERY_GRAPH, ITEM_GRAPH, MERGED_GRAPH, CANDIDATE_VECTORS, CANDIDATE_IDS):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self._release.file(name), folder / name)
        return self._release.manifest.retrieval


@pytest.mark.parametrize("place", ["export", "tables", "evaluate", "report", "seal"])
def test_a_run_that_dies_leaves_no_release_and_nothing_beside(trained_shop, copy_of, configured, monkeypatch, place):
    workspace = copy_of(trained_shop.workspace)
    shutil.rmtree(workspace.releases / "recommender")
    shutil.rmtree(workspace.ledger / "train")
    reports = names(workspace.reports)
    monkeypatch.setattr(packing, "write_model", _Prepared(trained_shop).write_model)
    trained = SimpleNamespace(chosen_epoch=1, epochs=[])
    model = fitting.FittedModel(trained, fitting.read_features(checkpoint(trained_shop)), None, 0)
    for function, given in (("tune", model), ("refit", model), ("save_checkpoint", None)):
        monkeypatch.setattr(fitting, function, Mock(return_value=given))
    monkeypatch.setattr(evidence, "gather", Mock(return_value=evidence.Gathered()))
    if place != "tables":
        monkeypatch.setattr(packing, "write_tables", Mock(return_value=None))
    target = {
        "export": (packing, "write_model"), "tables": (packing, "write_tables"), "evaluate": (judging, "judge_on_test"),
        "report": (judging, "report_on"), "seal": (packing, "manifest_of"),
    }[place]  # fmt: skip
    monkeypatch.setattr(*target, dying)
    with pytest.raises(RuntimeError, match="the machine went down"):
        train_run(workspace, configured(), Silent())
    assert names(workspace.releases / "recommender") == []
    assert list_releases(workspace) == []
    assert names(workspace.ledger / "train") == []
    assert names(workspace.reports) == reports


def checkpoint(trained_shop):
    return trained_shop.workspace.runs / trained_shop.result.run_id / "checkpoint"


def test_after_a_crash_the_rerun_gives_exactly_the_first_workspaces_release(
    trained_shop, ingested_shop, copy_of, configured, monkeypatch
):
    """The same data, configuration and seed in a second workspace: equal parts, equal metrics to the last digit."""
    workspace = copy_of(ingested_shop)
    with monkeypatch.context() as patched:
        patched.setattr(packing, "export_query", dying)
        with pytest.raises(RuntimeError, match="the machine went down"):
            train_run(workspace, configured(), Silent())
    assert list_releases(workspace) == []
    result = train_run(workspace, configured(), Silent())
    assert result.report == workspace.reports / result.run_id / "index.html"
    mine, theirs = result.release, trained_shop.result.release
    assert names(workspace.releases / "recommender") == ["1"]
    assert mine.manifest.metrics == theirs.manifest.metrics
    assert result.comparison == trained_shop.result.comparison
    unlike = {name for name in PARTS if mine.manifest.files[name] != theirs.manifest.files[name]}
    assert unlike <= {REPORT, "report/report.md"}  # they name the run and its times


def test_nothing_of_the_test_period_reaches_the_model(trained_shop, configured, shop_lines, tmp_path):
    """Two shops that differ in what is bought in the test period alone train the same model, bit by bit."""
    start_us = build_features(trained_shop.workspace, configured(), Silent()).split.test_start_us
    moments = shop_lines["InvoiceDate"].cast(pa.int64()).to_numpy()
    later = moments >= start_us
    # Another product each, one to one, so that baskets keep their sizes; names stay with the products.
    named = dict(zip(shop_lines["StockCode"].to_pylist(), shop_lines["Description"].to_pylist(), strict=True))
    codes = sorted(named)
    other = dict(zip(codes, codes[7:] + codes[:7], strict=True))
    code = [other[c] if is_later else c for c, is_later in zip(shop_lines["StockCode"].to_pylist(), later, strict=True)]
    price = np.where(later, shop_lines["UnitPrice"].to_numpy() * 3 + 1, shop_lines["UnitPrice"].to_numpy())
    changed = shop_lines.set_column(1, "StockCode", pa.array(code))
    changed = changed.set_column(2, "Description", pa.array([named[c] for c in code]))
    changed = changed.set_column(5, "UnitPrice", pa.array(np.round(price, 4)))
    pq.write_table(changed, tmp_path / "changed.parquet")
    workspace = Workspace.init(tmp_path / "shop")
    ingest(workspace, "online_retail", tmp_path / "changed.parquet")

    tables = build_features(workspace, configured(), Silent())
    theirs = build_features(trained_shop.workspace, configured(), Silent())
    assert tables.split == theirs.split
    assert tables.table("test")["targets"].to_pylist() != theirs.table("test")["targets"].to_pylist()
    for name in ("baskets", "eval", "products"):
        assert tables.table(name).equals(theirs.table(name)), name

    tuned = fitting.tune(tables, configured(), Silent())
    final = fitting.refit(tables, configured(), tuned.trained.chosen_epoch, Silent())
    for model, folder in ((tuned, "checkpoint-eval"), (final, "checkpoint")):
        fitting.save_checkpoint(model, tmp_path / folder)
        for file in ("features.json", "model.safetensors", "epochs.json"):
            expected = (checkpoint(trained_shop).parent / folder / file).read_bytes()
            assert (tmp_path / folder / file).read_bytes() == expected, (folder, file)
    with torch.no_grad():
        vectors = item_vectors(final.trained.model.products(final.catalog.on(final.day)))
    released = np.load(trained_shop.result.release.file(CANDIDATE_VECTORS), allow_pickle=False)
    np.testing.assert_array_equal(vectors, released)


def test_the_tuned_model_knows_nothing_of_the_eval_period(trained_shop, configured):
    """What chooses the epoch is fitted without the eval period; the refitted model has seen it."""
    tables = build_features(trained_shop.workspace, configured(), Silent())
    folder = checkpoint(trained_shop).parent
    values = {}
    for name in ("checkpoint-eval", "checkpoint"):
        outputs = fitting.read_features(folder / name).outputs
        values[name] = set(next(o.chain[0].values for o in outputs if o.column.name == "item_id.embedding"))
    purchases = tables.table("purchases")
    sold = {
        name: set(purchases.filter(pa.compute.less(purchases["ts_us"], end))["item_id"].to_pylist())
        for name, end in (("checkpoint-eval", tables.split.eval_start_us), ("checkpoint", tables.split.test_start_us))
    }
    for name, known in values.items():
        assert known <= sold[name]
    assert values["checkpoint-eval"] < values["checkpoint"]


def test_a_release_that_was_damaged_is_made_again_beside(trained_shop, copy_of, configured, monkeypatch):
    """A damaged release doesn't stand for a finished run; what is left of it isn't touched."""
    workspace = copy_of(trained_shop.workspace)
    damaged = workspace.releases / "recommender" / "1" / ITEM_GRAPH
    damaged.write_bytes(b"?" + damaged.read_bytes()[1:])
    with pytest.raises(ArtifactError, match="is not the file that was released"):
        list_releases(workspace)
    monkeypatch.setattr(fitting, "tune", dying)
    with pytest.raises(RuntimeError, match="the machine went down"):
        train_run(workspace, configured(), Silent())


def test_releases_are_listed_by_version(trained_shop, copy_of):
    workspace = copy_of(trained_shop.workspace)
    folder = workspace.releases / "recommender"
    for version in ("10", "2"):
        shutil.copytree(folder / "1", folder / version)
    shutil.copytree(folder / "1", folder / ".staging-left")
    (folder / "3").mkdir()
    assert [release.path.name for release in list_releases(workspace)] == ["1", "2", "10"]
