"""Another model on an earlier run's transformed data: nothing fitted again, nothing released, all of it compared."""

import json
import shutil

import pytest

from endcap.contracts.configuration import ModelConfig
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.reporting import Silent
from endcap.flows import quicktest as flow
from endcap.flows import transformed
from endcap.flows.comparing import compare_runs
from endcap.flows.quicktest_record import EIGHT, RECORD, Record, best_of, records_of, write_record
from endcap.flows.train_run import train_run
from endcap.workspace.configuration import load_features, load_model
from endcap.workspace.exclusive import alone_in
from endcap.workspace.manifests import read_manifest


@pytest.fixture(scope="module")
def shop(trained_shop, tmp_path_factory):
    """A copy of the trained shop for the tests that only read it, and one quick test of it."""
    path = tmp_path_factory.mktemp("quicktest") / "shop"
    shutil.copytree(trained_shop.workspace.path, path)
    workspace = type(trained_shop.workspace).open(path)
    source = trained_shop.result.run_id
    planned = flow.plan(workspace, source, overrides=["model.output_embedding_dim=5", "training.learning_rate=0.01"])
    return workspace, source, flow.run_quicktest(workspace, planned, Silent())


def no_fit(*_):
    raise AssertionError("fitted again")


def test_it_measures_the_eight_and_keeps_them(shop):
    workspace, _, record = shop
    assert record.state == "completed"
    manifest = read_manifest(workspace, record.run_id)
    assert manifest.metrics == record.metrics
    assert set(EIGHT) <= set(manifest.metrics)
    recalls = [manifest.metrics[name] for name in EIGHT[:4]]
    assert recalls == sorted(recalls)
    assert 0 < recalls[0] <= recalls[-1] <= 1
    assert [manifest.metrics[name] for name in EIGHT[4:]] == [None] * 4
    assert manifest.remarks == ["rmse and mae are null: the FeatureConfig names no target."]
    assert manifest.metrics["validation/ndcg@10"] > 0
    assert record.changes == {"model.output_embedding_dim": 5, "training.learning_rate": 0.01}
    assert manifest.configuration["model"]["output_embedding_dim"] == 5
    assert manifest.inputs
    assert manifest.dataset_version == 1
    assert sorted(path.name for path in (workspace.runs / record.run_id).iterdir()) == [
        "manifest.json", RECORD, "rankings.parquet", "truth.parquet"
    ]  # fmt: skip
    assert [path.name for path in (workspace.releases / "recommender").iterdir()] == ["1"]


def test_nothing_is_fitted_and_its_source_run_measures_what_it_did_when_it_was_tuned(shop, monkeypatch):
    """The same settings on the same data give the source run's own model, to the last digit."""
    workspace, source, first = shop
    for name in ("fit", "questions_of"):
        monkeypatch.setattr(transformed, name, no_fit)
    again = flow.run_quicktest(workspace, flow.plan(workspace, source), Silent())
    assert again.changes == {}
    assert again.metrics == first.source_metrics
    epochs = json.loads((workspace.runs / source / "checkpoint-eval" / "epochs.json").read_text())
    best = epochs["epochs"][epochs["chosen_epoch"] - 1]["metrics"]["mean/ndcg@10"]
    assert again.metrics["validation/ndcg@10"] == best
    assert [record.run_id for record in records_of(workspace, source)][:2] == [first.run_id, again.run_id]
    assert records_of(workspace, "train-of-another") == []


def test_transformed_data_that_are_gone_are_made_again_without_fitting(shop, copy_of, monkeypatch):
    workspace, source, first = shop
    workspace = copy_of(workspace)
    planned = flow.plan(workspace, source, overrides=["model.output_embedding_dim=5", "training.learning_rate=0.01"])
    shutil.rmtree(planned.folder)
    monkeypatch.setattr(transformed, "fit", no_fit)
    assert flow.run_quicktest(workspace, planned, Silent()).metrics == first.metrics
    shutil.rmtree(planned.tables.folder)
    with pytest.raises(ArtifactError, match=r"feature tables of train-.* are gone: expected .* Train again"):
        flow.plan(workspace, source)


def test_the_plan_says_what_would_be_done_and_does_nothing(shop):
    workspace, source, _ = shop
    before = sorted(workspace.path.rglob("*"))
    planned = flow.plan(workspace, source, num_epochs=7)
    tables = planned.tables
    asked = tables.table("baskets")["period"].to_pylist()
    assert planned.num_questions == asked.count("train") < len(asked)
    assert planned.num_test == tables.table("test").num_rows
    assert planned.configuration.training.num_epochs == 7
    smaller = flow.plan(workspace, source, overrides=["model.output_embedding_dim=5"])
    assert smaller.num_parameters < planned.num_parameters
    assert planned.estimated_s == pytest.approx(smaller.estimated_s * 7 / 2)
    assert sorted(workspace.path.rglob("*")) == before


def test_the_number_of_epochs(shop):
    workspace, source, _ = shop
    assert flow.plan(workspace, source).configuration.training.num_epochs == 2
    assert flow.plan(workspace, source, overrides=["training.num_epochs=3"]).configuration.training.num_epochs == 3
    with pytest.raises(InputError, match="given twice"):
        flow.plan(workspace, source, overrides=["training.num_epochs=3"], num_epochs=3)


def test_another_feature_config_is_refused_key_by_key(shop, configured, tmp_path):
    workspace, source, _ = shop
    same = configured().features
    assert flow.plan(workspace, source, features=(same, tmp_path / "same.yaml")).changes == {}
    other = configured(
        "features.buyer.country.embedding.dim=3", "features.product.price.bucketize.n=5",
        "+features.buyer.country.embedding.max_vocab=9"
    ).features  # fmt: skip
    with pytest.raises(InputError) as refused:
        flow.plan(workspace, source, features=(other, tmp_path / "other.yaml"))
    text = str(refused.value)
    assert "other.yaml is not what train-" in text
    assert "differs in 3 keys" in text
    assert "features.buyer.country.embedding.dim: found 3, expected 2\n" in text
    assert "features.product.price.bucketize.n: found 5, expected 4\n" in text
    assert "features.buyer.country.embedding.max_vocab: found 9, expected 1000000\n" in text
    assert text.count("found") == 3
    assert "endcap train features=other" in text
    crossed = configured("++features.crosses={c: {columns: [country, event_time_us], n: 9, dim: 2}}").features
    with pytest.raises(InputError, match=r"differs in 1 key:\n  features\.crosses\.c: found \{.*, expected nothing"):
        flow.plan(workspace, source, features=(crossed, tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("features.buyer.country.embedding.dim=3", "expected a key of model or training or seed"),
        ("evaluation.metric=mrr", "expected a key of model or training or seed"),
        ("model=two_tower", "expected a key of model or training or seed"),
        ("training.learning_rat=0.1", r"Did you mean training\.learning_rate\?"),
        ("training.learning_rate=2", "less than or equal to 1"),
        ("training.learning_rate", "Write key=value"),
    ],
)
def test_wrong_overrides_are_told(shop, override, said):
    workspace, source, _ = shop
    with pytest.raises(InputError, match=said):
        flow.plan(workspace, source, overrides=[override])


def test_another_model_takes_the_place_of_the_source_runs(shop, tmp_path):
    workspace, source, _ = shop
    path = tmp_path / "wide.yaml"
    path.write_text("buyer_tower: [{units: 16}]\nproduct_tower: []\noutput_embedding_dim: 9\ntop_k: 20\n")
    model, file = load_model(str(path))
    assert file == path
    planned = flow.plan(workspace, source, model=model)
    assert isinstance(planned.configuration.model, ModelConfig)
    assert planned.changes["model.product_tower"] == []
    assert load_model("two_tower")[0].output_embedding_dim == 97
    with pytest.raises(InputError, match=r"no ModelConfig two_towr: .* Did you mean two_tower\?"):
        load_model("two_towr")
    path.write_text("buyer_tower: []\nproduct_tower: []\noutput_dim: 9\n")
    with pytest.raises(
        InputError, match=r"wide\.yaml: model\.output_dim: unknown key; .* Did you mean output_embedding_dim"
    ):
        load_model(str(path))
    assert load_features("online_retail")[1].name == "online_retail.yaml"


def test_when_the_time_is_over_it_stops_and_says_so(shop, copy_of):
    workspace, source, _ = shop
    workspace = copy_of(workspace)
    planned = flow.plan(workspace, source, overrides=["model.item_map_dim=4"])
    with pytest.raises(flow.TimedOutError, match=r"Timed out .* Give a longer --timeout"):
        flow.run_quicktest(workspace, planned, Silent(), timeout_s=0, run_id="quicktest-late")
    record = records_of(workspace, source)[-1]
    assert (record.run_id, record.state, record.metrics) == ("quicktest-late", "timed_out", {})
    assert record.ended_at
    assert not (workspace.runs / "quicktest-late" / "manifest.json").exists()


def test_a_test_whose_process_is_gone_was_stopped(shop, copy_of):
    workspace, source, _ = shop
    workspace = copy_of(workspace)
    left = Record("quicktest-9", source, "running", "2026-01-01T00:00:00+00:00", {}, 2, 10)
    write_record(workspace, left)
    assert records_of(workspace, source)[-1].state == "stopped"
    with alone_in(workspace.runs / "quicktest-9"):
        assert records_of(workspace, source)[-1].state == "running"


def test_the_source_run_may_be_named_by_its_release(shop):
    workspace, source, first = shop
    assert flow.find_source(workspace, source) == source
    assert flow.find_source(workspace, "recommender/1") == source
    with pytest.raises(InputError, match=rf"no run or release 'train-1' .* the latest are {source}"):
        flow.find_source(workspace, "train-1")
    with pytest.raises(InputError, match="says nothing of transformed data"):
        flow.plan(workspace, first.run_id)


def test_the_best_of_a_column():
    rows = [{"test/recall@5": 0.1, "test/rmse": 2.0}, {"test/recall@5": 0.3, "test/rmse": 3.0}, {"test/recall@5": None}]
    assert best_of(rows, "test/recall@5") == 0.3
    assert best_of(rows, "test/rmse") == 2.0
    assert best_of(rows[1:], "test/recall@5") is None


def test_what_it_recommends_is_compared_like_any_run(shop):
    """Its recall, measured anew from the lists that it kept, is what its manifest says."""
    workspace, source, record = shop
    every = compare_runs([record.run_id, source], workspace.path)[0].comparison
    recall = every.systems[0].metrics["recall@10"].mean
    assert recall == pytest.approx(record.metrics["test/recall@10"])


def test_ratings_are_measured_where_the_model_predicts(trained_shop, copy_of, configured):
    """On the source's data another kind of model: errors in the shop's own units, and recall where it recommends."""
    workspace = copy_of(trained_shop.workspace)
    target = "++features.target={column: value, log: {}}"
    source = train_run(workspace, configured(target, "training.num_epochs=1", "training.refit=false"), Silent()).run_id
    found = {}
    for kind in ("retrieval", "multitask", "ranking"):
        planned = flow.plan(workspace, source, overrides=[f"model.model_type={kind}"], num_epochs=1)
        found[kind] = flow.run_quicktest(workspace, planned, Silent())
    assert found["retrieval"].remarks == ["rmse and mae are null: a retrieval model predicts no target."]
    assert found["multitask"].remarks == []
    assert None not in found["multitask"].metrics.values()
    ranking = found["ranking"].metrics
    assert [name for name in EIGHT if ranking[name] is None] == list(EIGHT[:4])
    assert 0 < ranking["test/mae"] <= ranking["test/rmse"]
    assert found["retrieval"].source_metrics["test/rmse"] is None
    with pytest.raises(InputError, match=r"manifest\.json: .* predicts features\.target, and there is none"):
        flow.plan(workspace, trained_shop.result.run_id, overrides=["model.model_type=ranking"])
