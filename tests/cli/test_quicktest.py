"""`endcap quicktest`, as it is typed."""

import json
import os
import shutil

import pytest

from endcap.flows.quicktest_record import LOG, records_of
from endcap.workspace.layout import Workspace


@pytest.fixture(scope="module")
def shop(trained_shop, tmp_path_factory):
    """A copy in which quick tests may be made."""
    path = tmp_path_factory.mktemp("quicktest") / "shop"
    shutil.copytree(trained_shop.workspace.path, path)
    return Workspace.open(path), trained_shop.result.run_id


def test_what_would_be_done_is_said(endcap, shop):
    workspace, source = shop
    asked = ("quicktest", "--source-run", source, "-w", workspace.path, "--epochs", 3, "training.learning_rate=0.01")
    said = endcap(*asked, "--dry-run", "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    for part in (
        source,
        "training questions",
        "test customers",
        "parameters",
        "learning_rate=0.01",
        "Nothing was trained.",
    ):
        assert part in said.out
    told = json.loads(endcap(*asked, "--dry-run").out)
    assert told["event"] == "quick test planned"
    assert told["changes"] == {"training.num_epochs": 3, "training.learning_rate": 0.01}
    assert told["estimated_s"] > 0
    assert records_of(workspace, source) == []


def test_two_are_compared_with_each_other_and_their_source(endcap, shop):
    workspace, source = shop
    asked = ("quicktest", "--source-run", "recommender/1", "-w", workspace.path, "--wait", "--log-format", "text")
    assert endcap(*asked, "model.output_embedding_dim=5").code == 0
    said = endcap(*asked, "--model", "two_tower", "model.top_k=20", "--timeout", 5)
    assert (said.code, said.err) == (0, "")
    for part in (
        f"Quick tests of {source}",
        "the source run",
        "output_embedding_dim=5",
        "@100",
        "rmse and mae",
    ):
        assert part in said.out
    assert said.out.count("*") > 4
    listed = endcap("quicktest", "--list", "--source-run", source, "-w", workspace.path)
    records = [json.loads(line) for line in listed.out.splitlines()]
    assert [record["state"] for record in records] == ["completed", "completed"]
    assert records[0]["changes"] == {"model.output_embedding_dim": 5}
    assert "output_embedding_dim=5" in endcap(
        "quicktest", "--list", "--source-run", source, "-w", workspace.path, "--log-format", "text"
    ).out  # fmt: skip


@pytest.mark.slow  # a whole process that trains
def test_in_the_background_it_goes_on_by_itself(endcap, shop):
    workspace, source = shop
    num_before = len(records_of(workspace, source))
    asked = ("quicktest", "--source-run", source, "-w", workspace.path)
    refused = endcap(*asked, "training.batch_siz=3")
    assert (refused.code, "Did you mean training.batch_size?" in refused.err) == (2, True)
    started = json.loads(endcap(*asked, "seed=9").out)
    run_id = started["run_id"]
    log = workspace.runs / run_id / LOG
    assert started["log"] == str(log)
    os.waitpid(started["pid"], 0)
    found = [record for record in records_of(workspace, source) if record.run_id == run_id]
    assert found[0].state == "completed", log.read_text()
    assert found[0].changes == {"seed": 9}
    assert len(records_of(workspace, source)) == num_before + 1


def test_the_time_being_over_is_no_success(endcap, shop):
    workspace, source = shop
    said = endcap("quicktest", "--source-run", source, "-w", workspace.path, "--wait", "--timeout", 0)
    assert said.code == 2
    assert said.err.startswith("error: Timed out")
    assert records_of(workspace, source)[-1].state == "timed_out"


def test_other_features_and_unknown_runs_are_refused(endcap, shop):
    workspace, source = shop
    said = endcap("quicktest", "--features", "online_retail", "--source-run", source, "-w", workspace.path, "--wait")
    assert said.code == 2
    assert "features.product.item_id.embedding.dim: found 96, expected 8" in said.err
    said = endcap("quicktest", "--source-run", "train-2", "-w", workspace.path)
    assert (said.code, "There is no run or release 'train-2'" in said.err) == (2, True)
    said = endcap("quicktest", "--source-run", source, "-w", workspace.path, "--target", "vertex")
    assert said.code == 2
