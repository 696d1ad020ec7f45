"""The release in production, asked the candidate's questions."""

import msgspec
import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import DEFAULT_SIGNATURE
from endcap.contracts.reporting import Silent
from endcap.flows.champion import _close_up
from endcap.flows.features import build_features
from endcap.flows.judging import judge_on_test


@pytest.fixture(scope="module")
def judged_with(trained_shop):
    """A function that judges the shop's release beside a champion."""
    release, configuration = trained_shop.result.release, trained_shop.configuration
    tables = build_features(trained_shop.workspace, configuration, Silent())

    def judge(champion):
        manifest = release.manifest
        inputs = manifest.signatures[DEFAULT_SIGNATURE].inputs
        return judge_on_test(
            trained_shop.workspace, tables, configuration, release.path, manifest.retrieval, inputs, champion
        )

    return judge


def test_a_release_does_not_beat_itself(judged_with, trained_shop):
    blessing = judged_with(trained_shop.result.release).blessing
    assert blessing.status == "NOT_BLESSED"
    for sentence in ("All purchases: ndcg@10 is", "Products new to the customer: ndcg@10 is"):
        (reason,) = [reason for reason in blessing.reasons if reason.startswith(sentence) and "champion" in reason]
        assert "of the champion, recommender/1 (paired difference +0.0000, 95% interval +0.0000 to +0.0000)" in reason


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"as_of": "2099-01-01T00:00:00+00:00"}, "trained on purchases up to 2099-01-01.* would win by memory"),
        ({"retrieval": None}, "scores pairs and recommends nothing that could be compared"),
        ({"signatures": None}, "asks for shoe_size, which the candidate's features lack"),
    ],
)
def test_a_champion_that_can_not_be_compared_is_refused(judged_with, trained_shop, changed, message):
    release = trained_shop.result.release
    if "signatures" in changed:
        signature = release.manifest.signatures[DEFAULT_SIGNATURE]
        odd = msgspec.structs.replace(signature.inputs[0], name="shoe_size")
        changed = {"signatures": {DEFAULT_SIGNATURE: msgspec.structs.replace(signature, inputs=[odd])}}
    champion = msgspec.structs.replace(release, manifest=msgspec.structs.replace(release.manifest, **changed))
    with pytest.raises(InputError, match=message):
        judged_with(champion)


def test_products_that_are_not_sold_any_more_leave_no_gap():
    assert _close_up(np.array([[3, -1, 1, -1, 2], [-1, -1, -1, 0, -1]]), 3).tolist() == [[3, 1, 2], [0, -1, -1]]
    assert _close_up(np.array([[-1, 4]]), 3).tolist() == [[4, -1, -1]]
