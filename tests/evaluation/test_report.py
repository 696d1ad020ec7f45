"""Both forms of the report: first line, shape of tables, escaping, and that the page needs nothing from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import Blessing
from endcap.evaluation.cold_items import ColdRankings, measure_cold_items
from endcap.evaluation.customers import Counting
from endcap.evaluation.evidence import CustomerExample, Epoch, TrainingHistory
from endcap.evaluation.gate import GateEvidence, Thresholds, judge
from endcap.evaluation.intervals import Interval
from endcap.evaluation.metrics import RaggedSets
from endcap.evaluation.report import render_markdown, render_page, verdict, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
NASTY = "<script>alert('x')</script> | **bold** `code` [a](b) & co"


class Page(HTMLParser):
    """Collects tags with attributes, the visible text, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.first = [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and not {"style", "title"} & set(self.open):
            self.text.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def judged(make_comparison, make_evidence):
    """A function that makes evidence with the gate's own verdict."""

    def make(every=None, new=None, **changed):
        compared = make_comparison(every, new)
        return make_evidence(compared, judge(GateEvidence(compared), Thresholds()), **changed)

    return make


@pytest.fixture(scope="module")
def page_text(judged):
    """The page of a model that wins, with a product whose name is full of markup."""
    return render_page(judged(product_name=NASTY))


def test_a_system_that_scores_the_whole_catalog_has_its_auc_below_the_table(make_comparison, make_evidence):
    compared = make_comparison()
    part = compared.countings[Counting.NEW_TO_CUSTOMER]
    scored = replace(part.candidate, auc=Interval(0.8125, 0.8, 0.825))
    new = {Counting.NEW_TO_CUSTOMER: replace(part, systems=(scored, *part.baselines))}
    evidence = make_evidence(replace(compared, countings=compared.countings | new))
    said = "AUC of two-tower model over all scores: 0.8125"
    assert render_markdown(evidence).count(said) == render_page(evidence).count(said) == 1


def test_products_first_sold_in_the_test_period_have_a_section(judged):
    order = ColdRankings("the model", np.array([[0, 1], [1, 0]]))
    relevant = RaggedSets.from_lists([[0], [0]])
    cold = measure_cold_items(order.rankings, np.ones(2), [order], relevant, 2, 48, seed=0, num_resamples=10)
    for text in (render_markdown(judged(cold_items=cold)), render_page(judged(cold_items=cold))):
        assert "Products first sold in the test period" in text
        assert "among all 50 products" in text
        assert "drawn at random" in text
    assert "among all 50 products" not in render_page(judged())


@pytest.mark.parametrize(
    ("every", "new", "sentence"),
    [
        ({}, {}, "The model beats every baseline on both counts: BLESSED"),
        (
            {"ahead": -0.02},
            {},
            "The model LOSES to `own most bought` on all purchases (ndcg@10 0.3300 against 0.3500): NOT_BLESSED",
        ),
        (
            {},
            {"ahead": 0.005},
            (
                "The model does not clearly beat `own most bought` on products new to the customer "
                "(ndcg@10 0.3550 against 0.3500): NOT_BLESSED"
            ),
        ),
        (
            {"ahead": -0.02},
            {"ahead": -0.02},
            (
                "The model LOSES to `own most bought` on all purchases (ndcg@10 0.3300 against 0.3500) and LOSES to "
                "`own most bought` on products new to the customer (ndcg@10 0.3300 against 0.3500): NOT_BLESSED"
            ),
        ),
        (
            {"num_customers": 40},
            {},
            (
                "The model beats every baseline on both counts: NOT_BLESSED, for another reason: All purchases: measured on "
                "40 customers; at least 100 are asked for."
            ),
        ),
    ],
)
def test_the_verdict_comes_first(judged, every, new, sentence):
    shown = judged(every, new)
    assert verdict(shown.comparison, shown.blessing, "ndcg@10") == sentence
    assert render_markdown(shown).splitlines()[0] == f"# {sentence}"


@pytest.mark.parametrize("every", [{}, {"ahead": -0.02}])
def test_the_verdict_is_the_first_text_of_the_page(judged, every):
    shown = judged(every)
    words = verdict(shown.comparison, shown.blessing, "ndcg@10").replace("`", "")
    page = render_page(shown)
    assert " ".join(Page(page).text).startswith(words)
    assert f"<title>{words}</title>" in page


def test_the_page_needs_nothing_from_elsewhere(page_text):
    page = Page(page_text)
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", page_text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page_text))


def test_every_plot_has_a_title_and_words_for_those_who_do_not_see_it(page_text):
    page = Page(page_text)
    images = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(images) == len(page.all("figcaption")) == 8
    assert all(len(attributes["aria-label"]) > 20 for attributes in images)
    assert "all purchases, against own most bought: +0.0300 (+0.0200 to +0.0400)" in images[0]["aria-label"]


def test_plots_take_their_colours_from_the_page_and_share_no_ids(page_text):
    text = page_text
    svgs = re.findall(r'<svg aria-hidden="true" focusable="false".*?</svg>', text, flags=re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert "var(--series-0)" in svg
        assert not re.search(r"#0[1-3]0[1-3]0[1-3]|#1100", svg)
        for target in re.findall(r'(?:url\(|href=")#([^)"]*)', svg):
            assert f'id="{target}"' in svg
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert "prefers-color-scheme: dark" in text


def test_product_names_are_text(judged, page_text):
    shown = judged(product_name=NASTY)
    assert "<script" not in page_text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page_text
    markdown = render_markdown(shown)
    assert "<script" not in markdown
    assert r"&lt;script&gt;alert('x')&lt;/script&gt; \| \*\*bold\*\* \`code\` \[a\](b) &amp; co" in markdown


def tables(markdown):
    blocks, block = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            blocks.append(block)
            block = []
    return blocks


def test_markdown_tables_are_whole(judged):
    found = tables(render_markdown(judged(product_name=NASTY)))
    assert len(found) == 11
    for table in found:
        widths = [len(re.split(r"(?<!\\)\|", line)) for line in table]
        assert len(set(widths)) == 1, table
        assert re.fullmatch(r"\|(-{3}:?\|)+", table[1])
        assert all(line.endswith("|") for line in table)
    headline = found[0]
    assert len(headline) == 2 + 3
    assert headline[2].startswith("| two-tower model | 0.3800 ±\u202f0.0100 |")


def test_numbers_and_lineage_are_on_both_forms(judged, page_text):
    for text in (render_markdown(judged()), page_text):
        for expected in (
            "387,777",
            "2011-11-20 14:40 UTC",
            "run-1",
            "4be1f0c",
            "ab" * 32,
            "0123456789ab",
            "+0.0300",
            "40.0%",
        ):
            assert expected in text
    words = " ".join(Page(page_text).text)
    for expected in (
        "training.num_epochs 3",
        "layers [64, 32]",
        "bought again",
        "1 of 2 recommendations bought",
        "61.2",
    ):
        assert expected in words


def test_the_chosen_epoch_is_told(judged, page_text):
    assert "Epoch 2 was kept, by ndcg@10" in render_markdown(judged())
    assert "epoch 2 kept at 0.3500" in page_text


@pytest.mark.parametrize(
    "history", [None, TrainingHistory([], 1, "ndcg@10"), TrainingHistory([Epoch(1, 5.0)], 1, "ndcg@10")]
)
def test_training_and_examples_may_be_missing(judged, history):
    shown = judged(history=history, examples=())
    page = Page(render_page(shown))
    assert "Examples" not in page.text
    assert ("Training" in page.text) == bool(history and history.epochs)
    assert ("## Training" in render_markdown(shown)) == bool(history and history.epochs)


def test_another_metric_of_the_gate_leads(judged):
    page = render_page(judged(metric="mrr"))
    assert "Difference in mrr" in page
    assert "All purchases, mrr" in page


def test_equal_evidence_gives_equal_bytes(judged, tmp_path):
    first = write_report(judged(), tmp_path / "a" / "report")
    second = write_report(judged(), tmp_path / "b")
    assert first.page.read_bytes() == second.page.read_bytes()
    assert first.markdown.read_bytes() == second.markdown.read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["index.html", "report.md"]


def test_a_raw_id_is_no_key():
    with pytest.raises(InputError, match="no pseudonym") as caught:
        CustomerExample("17850", [], [], 0)
    assert "17850" not in str(caught.value)


def test_reasons_are_listed(make_comparison, make_evidence):
    shown = make_evidence(
        make_comparison(), Blessing(status="NOT_BLESSED", reasons=["Too slow: 90 ms.", "Too <small>."])
    )
    assert "- Too slow: 90 ms." in render_markdown(shown)
    assert "Too &lt;small&gt;." in render_page(shown)
