"""`endcap compare` and `endcap evaluate --recommendations`, as they are typed."""

import json

import pytest

LISTS = "user_id,item_id,rank\n1,a,1\n1,b,2\n2,c,1\n"
OTHER = "user_id,item_id,score\n1,b,0.9\n2,a,0.5\n2,c,0.4\n"
TRUTH = "user_id,item_id,device\n1,a,phone\n2,c,desk\n3,a,desk\n"


@pytest.fixture
def folder(tmp_path):
    more = {
        "numbered.csv": "user_id,item_id\n1,101\n2,102\n",
        "items.csv": "item_id\na\nb\nc\n",
        "one_class.csv": "user_id,item_id,value\n1,b,1\n2,a,1\n",
        "unwanted.csv": "user_id,item_id,value\n1,b,0\n2,a,0\n",
    }
    for name, text in {"lists.csv": LISTS, "other.csv": OTHER, "truth.csv": TRUTH, **more}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_anyones_lists_are_measured(endcap, folder):
    arguments = (
        "evaluate",
        "--recommendations",
        folder / "lists.csv",
        "--truth",
        folder / "truth.csv",
        "--k",
        "1",
        "--k",
        "2",
    )
    said = endcap(*arguments, "--slices", "device", "--out", folder / "report")
    assert (said.code, said.err) == (0, "")
    for part in (
        "3 customers, 3 products to find",
        "1 of 3 customers have truth but no list",
        "recall@1",
        "0.6667",
        "desk",
    ):
        assert part in said.out
    assert (folder / "report" / "index.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    said = endcap(*arguments, "--json")
    figures = json.loads(said.out)["sections"][0]["comparison"]
    assert figures["systems"][0]["metrics"]["recall@1"]["mean"] == pytest.approx(2 / 3)
    assert figures["settings"]["ks"] == [1, 2]


def test_files_are_compared(endcap, folder):
    said = endcap(
        "compare", folder / "lists.csv", f"second={folder / 'other.csv'}", "--truth", folder / "truth.csv", "--k", 1,
        "--out", folder / "report",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    assert "minus lists" in said.out
    assert "-0.6667" in said.out
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h1>second against lists</h1>" in page


def test_runs_are_compared_and_the_page_stands_among_the_reports(endcap, trained_shop, copy_of):
    workspace = copy_of(trained_shop.workspace)
    release = workspace.releases / "recommender" / "1"
    said = endcap("compare", trained_shop.result.run_id, release, "-w", workspace.path)
    assert (said.code, said.err) == (0, "")
    assert "All purchases: " in said.out
    assert "Products new to the customer: " in said.out
    (page,) = workspace.reports.glob("compare-*/index.html")
    assert f"Page: {page}" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate",), "give a release's folder, or both --recommendations FILE and --truth FILE"),
        (("evaluate", "--recommendations", "lists.csv"), "give a release's folder, or both"),
        (
            ("evaluate", "x", "--recommendations", "lists.csv", "--truth", "truth.csv"),
            "give a release's folder, or both",
        ),
        (("evaluate", "--recommendations", "no.csv", "--truth", "truth.csv"), "error: no: no.csv does not exist"),
        (
            ("evaluate", "--recommendations", "lists.csv", "--truth", "truth.csv", "--k", "0"),
            "error: --k 0: expected a whole",
        ),
        (("compare", "lists.csv"), "error: Runs to compare: lists; expected two or more"),
        (
            ("evaluate", "--recommendations", "lists.csv", "--truth", "numbered.csv"),
            (
                "error: lists: none of its products is in the truth. Found 3 distinct ids, none of digits alone, 1 to 1 characters "
                "long; the truth has 2 distinct ids, all of digits"
            ),
        ),
        (
            ("evaluate", "--recommendations", "lists.csv", "--truth", "truth.csv", "--items", "items.csv", "--k", "9"),
            "error: k = 9 is more than the catalog's 3 products; ask for a smaller k.",
        ),
        (
            ("evaluate", "--recommendations", "other.csv", "--truth", "one_class.csv", "--score-means", "probability"),
            (
                "error: An AUC compares both classes: found 1 in all 2 rows that have a score and an outcome (column value), "
                "expected 0 in some too."
            ),
        ),
        (
            ("evaluate", "--recommendations", "other.csv", "--truth", "unwanted.csv"),
            "error: the truth: no row has a value above 0, so that nothing is wanted",
        ),
    ],
)
def test_what_is_typed_wrong_is_refused(endcap, folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    said = endcap(*arguments)
    assert said.code == 2
    assert message in said.err.replace("│ ", "").replace("\n", " ")
