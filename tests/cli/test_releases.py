"""`endcap releases`: for people and as JSON."""

import json
import shutil

import pytest

from endcap.releases.registry import Registry
from endcap.workspace.layout import Workspace
from tests.releases.sealed import sealed


@pytest.fixture
def shop(tmp_path):
    workspace = Workspace.init(tmp_path / "shop")
    for version, status in ((1, "BLESSED"), (2, "NOT_BLESSED")):
        Registry.of(workspace).register(sealed(workspace, version, status=status))
    return workspace


def answer(endcap, *arguments):
    said = endcap("releases", *arguments, "--json")
    assert (said.code, said.err) == (0, "")
    return json.loads(said.out)


def test_aliases_are_moved_listed_and_their_history_shown(endcap, shop):
    said = endcap("releases", "alias", "recommender/1", "champion", "-m", "the first", "-w", shop.path)
    assert (said.code, said.err) == (0, "")
    assert said.out == "champion names recommender/1, generation 1; before: nothing.\n"
    assert answer(endcap, "alias", "recommender/2", "champion", "--expect", "1", "-w", shop.path)["generation"] == 2
    rows = answer(endcap, "list", "-w", shop.path)
    assert [(row["release"], row["verdict"], row["status"], row["aliases"]) for row in rows] == [
        ("recommender/1", "BLESSED", "completed", []),
        ("recommender/2", "NOT_BLESSED", "not_blessed", ["champion"]),
    ]
    assert "champion" in endcap("releases", "-w", shop.path).out
    moves = answer(endcap, "history", "-w", shop.path)
    assert [(move["version"], move["reason"]) for move in moves] == [(1, "the first"), (2, "")]
    assert "the first" in endcap("releases", "history", "-w", shop.path).out


def test_a_name_is_never_cut_however_narrow_the_terminal_is(endcap, shop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = endcap("releases", "-w", shop.path).out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("recommender")] == ["recommender/1", "recommender/2"]


def test_a_conflict_is_exit_code_2_and_changes_nothing(endcap, shop):
    endcap("releases", "alias", "recommender/1", "champion", "-w", shop.path)
    said = endcap("releases", "alias", "recommender/2", "champion", "--expect", "0", "-w", shop.path)
    assert said.code == 2
    assert "generation 0 was expected" in said.err
    assert Registry.of(shop).alias("recommender", "champion").version == 1


def test_an_alias_is_taken_away(endcap, shop):
    endcap("releases", "alias", "recommender/1", "shadow", "-w", shop.path)
    said = endcap("releases", "alias", "recommender", "shadow", "--remove", "-w", shop.path)
    assert said.out == "shadow names nothing, generation 2; before: recommender/1.\n"


def test_a_release_shows_where_it_comes_from(endcap, shop):
    shown = answer(endcap, "show", "recommender/2", "-w", shop.path)
    assert shown["run"]["run_id"] == "train-2"
    assert shown["data_versions"] == {"events": 2}
    text = endcap("releases", "show", "recommender/2", "-w", shop.path).out
    for part in ("train-2", "events 2", "not_blessed", "recall_at_100"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "recommender"], "expected NAME/VERSION"),
        (["show", "recommender/9"], "recommender/9 is not registered. See: endcap releases list"),
        (["show", "recommender@shadow"], "shadow of recommender names no release"),
        (["alias", "recommender/1", "best"], "expected one of champion, challenger, shadow"),
    ],
)
def test_what_makes_no_sense_is_refused(endcap, shop, arguments, message):
    said = endcap("releases", *arguments, "-w", shop.path)
    assert said.code == 2
    assert message in said.err


def test_a_copied_release_is_registered_by_hand_and_a_deleted_one_stays_known(endcap, shop):
    release = sealed(shop, 3)
    assert answer(endcap, "list", "-w", shop.path)[2]["status"] == "not registered"
    assert "recommender/3 is not registered. Register it" in endcap(
        "releases", "alias", "recommender/3", "shadow", "-w", shop.path
    ).err.replace("\n", " ")
    assert answer(endcap, "register", release.path, "-w", shop.path)["version"] == 3
    shutil.rmtree(release.path)
    assert answer(endcap, "list", "-w", shop.path)[2]["status"] == "gone"


def test_releases_that_rank_are_listed_shown_and_named_like_others(endcap, shop):
    for version, model_type in ((3, "ranking"), (4, "multitask")):
        sealed(shop, version, model_type=model_type)
        assert answer(endcap, "register", shop.releases / "recommender" / str(version), "-w", shop.path)["labels"][
            "target"
        ] == ("value, the shop's currency")
    assert answer(endcap, "alias", "recommender/3", "champion", "-w", shop.path)["version"] == 3
    rows = answer(endcap, "list", "-w", shop.path)
    assert [(row["model_type"], row["ndcg@10"], row["rmse_own_units"]) for row in rows[1:]] == [
        ("retrieval", 0.25, None), ("ranking", None, 12.5), ("multitask", 0.25, 12.5)
    ]  # fmt: skip
    assert answer(endcap, "show", "recommender/3", "-w", shop.path)["labels"]["rmse_own_units"] == "12.500000"
    assert "ranking" in endcap("releases", "-w", shop.path).out
    assert "serve_ranking serving_default" in endcap("releases", "show", "recommender@champion", "-w", shop.path).out


def test_a_workspace_before_the_verb_is_refused_rather_than_ignored(endcap, shop):
    said = endcap("releases", "-w", shop.path, "list")
    assert said.code == 2
    assert "after the verb" in said.err
