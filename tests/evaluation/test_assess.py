"""Files in, figures out: slices from wherever a column is, what scores are worth, the page."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.assess import Files, assess
from endcap.evaluation.predictions import auc, errors, logloss
from endcap.evaluation.runs import Settings
from endcap.evaluation.runs_page import Section, render_runs, write_runs

NASTY = "<b>shoes</b> & co"
SMALL = Settings(ks=(1, 3), num_resamples=20)


@pytest.fixture
def files(tmp_path):
    """A function that writes tables and names them."""

    def write(truth, lists, **others):
        paths = {}
        for name, table in {"truth": truth, "lists": lists, **others}.items():
            paths[name] = tmp_path / f"{name}.parquet"
            pq.write_table(pa.table(table), paths[name])
        return Files({"run": paths.pop("lists")}, **paths)

    return write


TRUTH = {"user_id": [1, 1, 2, 3], "item_id": [10, 11, 10, 12], "device": ["phone", "desk", "phone", "desk"]}
LISTS = {"user_id": [1, 1, 2, 3], "item_id": [10, 11, 11, 12], "rank": [1, 2, 1, 1]}


def test_slices_come_from_the_file_that_has_the_column(files):
    given = files(
        TRUTH,
        LISTS,
        items={"item_id": [10, 11, 12], "category": [NASTY, NASTY, "hats"]},
        users={"user_id": ["3", "1"], "country": ["FR", "DE"]},
        history={"user_id": [1, 1, 1, 9], "item_id": [10, 12, 10, 11]},
    )
    found = assess(given, settings=SMALL, slices=["device", "category", "country"]).comparison
    pieces = {(piece.column, piece.label): piece.num_users for piece in found.slices}
    assert pieces == {
        ("device", "desk"): 2, ("device", "phone"): 2,
        ("category", NASTY): 2, ("category", "hats"): 1,
        ("country", "DE"): 1, ("country", "FR"): 1, ("country", "(missing)"): 1,
        ("earlier events", "none"): 2, ("earlier events", "2-3"): 1,
        ("product", "had by somebody before"): 3,
    }  # fmt: skip
    page = render_runs("A title", [Section("", found)])
    assert "&lt;b&gt;shoes&lt;/b&gt; &amp; co" in page
    assert NASTY not in page


def test_an_unknown_column_is_refused_with_those_there_are(files):
    with pytest.raises(
        InputError, match="Slices by 'devise': found no such column; the files have user_id, item_id, device"
    ):
        assess(files(TRUTH, LISTS), slices=["devise"])


def scored(meaning):
    generator = np.random.default_rng(1)
    users, items = np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)
    scores = generator.random(240)
    values = (generator.random(240) < scores).astype(int) if meaning == "probability" else scores * 3 + 1
    order = generator.permutation(240)
    lists = {"user_id": users[order], "item_id": items[order], "score": scores[order]}
    truth = {"user_id": [*users, 0], "item_id": [*items, 77], "value": [*values, 1]}
    return lists, truth, values.astype(float), scores


def test_scores_that_mean_probabilities(files):
    lists, truth, values, scores = scored("probability")
    found = assess(files(truth, lists), settings=SMALL, score_means="probability").scores["run"]
    assert (found.num_pairs, found.num_unscored) == (240, 1)
    assert found.metrics["auc"].mean == pytest.approx(auc(values, scores))
    assert found.metrics["logloss"].mean == pytest.approx(logloss(values, scores))
    assert found.metrics["auc"].low < found.metrics["auc"].mean < found.metrics["auc"].high
    assert set(found.metrics) == {"auc", "logloss", "grouped_auc"}
    assert sum(one.num_rows for one in found.calibration.bins) == 240


def test_scores_that_mean_values(files):
    lists, truth, values, scores = scored("value")
    found = assess(files(truth, lists), settings=SMALL, score_means="value").scores["run"]
    expected = errors(values, scores)
    assert (found.metrics["rmse"].mean, found.metrics["mae"].mean) == (
        pytest.approx(expected.rmse),
        pytest.approx(expected.mae),
    )


@pytest.mark.parametrize(
    ("truth", "lists", "message"),
    [
        ({"user_id": [1], "item_id": [1]}, {"user_id": [1], "item_id": [1], "score": [0.5]}, "found no column value"),
        (
            {"user_id": [1], "item_id": [1], "value": [1]},
            {"user_id": [1], "item_id": [1], "rank": [1]},
            "expected score too",
        ),
        (
            {"user_id": [1], "item_id": [1], "value": [1]},
            {"user_id": [1], "item_id": [2], "score": [0.5]},
            "none of its pairs",
        ),
        (
            {"user_id": [1], "item_id": [1], "value": [1]},
            {"user_id": [1], "item_id": [1], "score": [0.5]},
            "found 1 in all 1 rows that have a score and an outcome .column value., expected 0",
        ),
        (
            {"user_id": [1, 1], "item_id": [1, 2], "value": [1, 0]},
            {"user_id": [1, 1], "item_id": [1, 2], "score": [5, 1]},
            "between 1 and 5; probabilities between 0 and 1",
        ),
    ],
)
def test_scores_that_can_not_be_judged_are_refused(files, truth, lists, message):
    with pytest.raises(InputError, match=message):
        assess(files(truth, lists), settings=SMALL, score_means="probability")


def test_the_page_needs_nothing_from_elsewhere_and_equal_input_gives_equal_bytes(files, tmp_path):
    lists, truth, _, _ = scored("probability")
    given = files(truth, lists)
    more = Files({"run": given.recommendations["run"], "other <run>": given.recommendations["run"]}, given.truth)
    found = assess(more, settings=SMALL, score_means="probability")
    sections = [Section("All", found.comparison, found.scores)]
    paths, again = write_runs("Two runs", sections, tmp_path / "a"), write_runs("Two runs", sections, tmp_path / "b")
    page = paths.page.read_text(encoding="utf-8")
    assert page == again.page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|javascript:|<script|<link|<img", page)
    assert "other &lt;run&gt;" in page
    assert "other <run>" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<figure") == 1 + 2 + 2  # recall, two differences, two reliability diagrams
    figures = json.loads(paths.figures.read_bytes())
    compared = figures["sections"][0]["comparison"]
    assert [system["name"] for system in compared["systems"]] == ["run", "other <run>"]
    assert compared["differences"]["other <run>"]["ndcg@1"]["p_value"] == 1.0
