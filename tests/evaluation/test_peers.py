"""Ranking metrics against trec_eval (through pytrec_eval) to 1e-9, on random lists with ties, short lists and no lists.

Where the definitions differ, the test aligns them:

- `map@k`: trec_eval divides by all relevant products, Endcap by min(k, relevant), so that a perfect list has 1.
- Equal scores: trec_eval puts the larger id first, Endcap the smaller. The peer gets names that sort the other way round.
- A customer without a list: trec_eval leaves them out, Endcap counts them as having found nothing.
- `mrr@k`: trec_eval's `recip_rank` looks at the whole list; the peer gets lists cut at k.
"""

import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.evaluation.lists import read_lists, read_truth
from endcap.evaluation.runs import Settings, compare_lists

KS = (1, 3, 5, 10)
NUM_ITEMS = 25
PEER_NAMES = {"recall": "recall", "precision": "P", "ndcg": "ndcg_cut", "hit_rate": "success"}


@st.composite
def cases(draw):
    """Customers with what they wanted and the scores of what they were shown; eighths are exact in trec_eval's floats."""
    items = st.integers(0, NUM_ITEMS - 1)
    wanted = draw(st.lists(st.sets(items, min_size=1, max_size=12), min_size=1, max_size=6))
    shown = [draw(st.dictionaries(items, st.integers(-12, 12), max_size=15)) for _ in wanted]
    shown[0] = shown[0] or {0: 1}  # one list at least
    return wanted, [{item: score / 8 for item, score in scores.items()} for scores in shown]


def item_name(number):
    return f"item {number:02d}"


def peers_name(number):
    return f"{NUM_ITEMS - number:02d}"


def peers_means(wanted, shown):
    truth = {str(user): {peers_name(item): 1 for item in items} for user, items in enumerate(wanted)}
    lists = {
        str(user): {peers_name(item): score for item, score in scores.items()}
        for user, scores in enumerate(shown)
        if scores
    }
    names = {f"{name}.{','.join(map(str, KS))}" for name in ("recall", "P", "ndcg_cut", "success", "map_cut")}
    found = pytrec_eval.RelevanceEvaluator(truth, names).evaluate(lists)
    means = {}
    for k in KS:
        for ours, theirs in PEER_NAMES.items():
            means[f"{ours}@{k}"] = sum(each[f"{theirs}_{k}"] for each in found.values()) / len(wanted)
        means[f"map@{k}"] = sum(
            each[f"map_cut_{k}"] * len(truth[user]) / min(k, len(truth[user])) for user, each in found.items()
        ) / len(wanted)
        cut = {
            user: dict(sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:k])
            for user, scores in lists.items()
        }
        first = pytrec_eval.RelevanceEvaluator(truth, {"recip_rank"}).evaluate(cut)
        means[f"mrr@{k}"] = sum(each["recip_rank"] for each in first.values()) / len(wanted)
    return means


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_metrics_are_those_of_trec_eval(case, random):
    wanted, shown = case
    rows = [(user, item_name(item), score) for user, scores in enumerate(shown) for item, score in scores.items()]
    random.shuffle(rows)
    lists = pa.table({name: [row[place] for row in rows] for place, name in enumerate(("user_id", "item_id", "score"))})
    truth = pa.table(
        {
            "user_id": [user for user, items in enumerate(wanted) for _ in items],
            "item_id": [item_name(item) for items in wanted for item in items],
        }
    )
    found = compare_lists(
        [read_lists(lists, "run")], read_truth(truth), settings=Settings(ks=KS, num_resamples=1)
    ).reference.metrics
    expected = peers_means(wanted, shown)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].mean == pytest.approx(value, abs=1e-9), name
