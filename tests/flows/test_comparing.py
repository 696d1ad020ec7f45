"""Runs, releases and files found by what a person types, and compared."""

import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.evaluation.kept import RANKINGS, TRUTH
from endcap.evaluation.runs import Settings
from endcap.flows.comparing import compare_runs
from endcap.flows.train_run import evaluate_release

FEW = Settings(ks=(10, 100), num_resamples=50)


@pytest.fixture(scope="module")
def shop(trained_shop, tmp_path_factory):
    """The trained shop's workspace; what is added to it are runs of evaluation alone."""
    return trained_shop


def test_a_run_keeps_rankings_that_give_the_figures_of_its_manifest(shop):
    run_id = shop.result.run_id
    found = compare_runs([run_id, f"again={shop.result.release.path}"], shop.workspace.path, settings=FEW)
    assert [section.title for section in found] == ["All purchases", "Products new to the customer"]
    metrics = shop.result.release.manifest.metrics
    for section, counting in zip(found, ("all_purchases", "new_to_customer"), strict=True):
        compared = section.comparison
        assert [system.name for system in compared.systems] == [run_id, "again"]
        for name in ("ndcg@10", "recall@10", "recall@100", "map@10", "hit_rate@10"):
            assert compared.reference.metrics[name].mean == pytest.approx(metrics[f"{counting}/{name}"], abs=1e-12)
        assert compared.differences["again"]["ndcg@10"].p_value == 1.0
    assert {piece.column for piece in found[0].comparison.slices} == {"earlier baskets", "product"}
    assert {piece.column for piece in found[1].comparison.slices} == {"earlier baskets"}


def test_customers_stand_under_pseudonyms(shop):
    folder = shop.workspace.runs / shop.result.run_id
    users = set(pq.read_table(shop.result.release.path / "features.parquet")["user_id"].to_pylist())
    for name in (RANKINGS, TRUTH):
        keys = set(pq.read_table(folder / name)["user_key"].to_pylist())
        assert keys
        assert not keys & users


def test_an_evaluated_release_keeps_the_same_rankings(shop, copy_of):
    workspace = copy_of(shop.workspace)
    again = evaluate_release(workspace, workspace.releases / "recommender" / "1", Silent())
    found = compare_runs([shop.result.run_id, again.run_id], workspace.path, settings=FEW)
    gap = found[0].comparison.differences[again.run_id]["ndcg@10"].interval
    assert (gap.mean, gap.low, gap.high) == (0, 0, 0)


def test_a_file_beside_a_run_is_matched_under_the_workspaces_pseudonyms(shop, tmp_path):
    users = pq.read_table(shop.result.release.path / "features.parquet")["user_id"].to_pylist()
    kept = pq.read_table(shop.workspace.runs / shop.result.run_id / RANKINGS).to_pylist()
    lists = {row["user_key"]: row["item_ids"] for row in kept if row["counting"] == "all_purchases"}
    lines = ["user_id,item_id,rank"]
    for user in users:
        shown = lists.get(shop.workspace.user_key(user), [])
        lines += [f"{user},{item},{rank}" for rank, item in enumerate(shown, start=1)]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    section = compare_runs([shop.result.run_id, str(tmp_path / "mine.csv")], shop.workspace.path, settings=FEW)[0]
    names = [system.name for system in section.comparison.systems]
    assert names == [shop.result.run_id, "mine"]
    assert section.comparison.differences["mine"]["ndcg@10"].interval.mean == pytest.approx(0, abs=1e-12)


def test_runs_of_other_purchases_can_not_be_paired(shop, copy_of):
    workspace = copy_of(shop.workspace)
    other = workspace.runs / "train-other"
    other.mkdir()
    for name in (RANKINGS, TRUTH):
        table = pq.read_table(workspace.runs / shop.result.run_id / name)
        pq.write_table(table.slice(1) if name == TRUTH else table, other / name)
    with pytest.raises(InputError, match="judged on different purchases"):
        compare_runs([shop.result.run_id, "train-other"], workspace.path, settings=FEW)
    (other / TRUTH).unlink()
    with pytest.raises(InputError, match="train-other holds no rankings to compare"):
        compare_runs([shop.result.run_id, "train-other"], workspace.path, settings=FEW)


def test_what_can_not_be_found_or_held_against_is_refused(shop, tmp_path):
    run_id = shop.result.run_id
    for given, place, truth, message in [
        ([run_id], shop.workspace.path, None, "expected two or more"),
        ([run_id, run_id], shop.workspace.path, None, "with distinct names"),
        ([run_id, "train-nothing"], shop.workspace.path, None, "no run below"),
        ([run_id, "no.parquet"], shop.workspace.path, None, "no.parquet does not exist"),
        ([run_id, f"x={run_id}"], tmp_path, None, "is no workspace that could hold a run"),
        ([run_id, f"x={run_id}"], shop.workspace.path, tmp_path / "t.csv", "--truth goes with files alone"),
    ]:
        with pytest.raises(InputError, match=message):
            compare_runs(given, place, truth=truth, settings=FEW)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user_id,item_id,rank\n1,2,1\n")
    with pytest.raises(InputError, match="nothing to hold them against; give --truth FILE"):
        compare_runs([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], tmp_path, settings=FEW)


def test_the_catalog_adds_its_columns(shop):
    items = shop.result.release.path / "items.parquet"
    column = next(name for name in pq.read_schema(items).names if name != "item_id")
    given = [shop.result.run_id, f"again={shop.result.release.path}"]
    found = compare_runs(given, shop.workspace.path, items=items, slices=[column], settings=Settings((5,), 0, 20))
    pieces = [piece for piece in found[0].comparison.slices if piece.column == column]
    assert pieces
    assert 0 < found[0].comparison.reference.totals["coverage@5"] <= 1
    with pytest.raises(InputError, match="Slices by 'colour': found no such column; the files have user_key, item_id"):
        compare_runs(given, shop.workspace.path, slices=["colour"], settings=FEW)
