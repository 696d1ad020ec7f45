"""What nothing can be learned from or measured on is refused before training, every problem in one message."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.features.dataset import FeatureTables
from endcap.features.split import Split
from endcap.flows.preconditions import check_before_training
from endcap.workspace.configuration import load_configuration

DAY_US = 86_400_000_000
EVAL_US, TEST_US, END_US = 10 * DAY_US, 20 * DAY_US, 30 * DAY_US
SOUND = [("ann", "a", 1), ("bob", "b", 2), ("ann", "a", 11), ("bob", "c", 12), ("ann", "b", 21)]

Bought = Sequence[tuple[str, str, int]]


@pytest.fixture
def tables(tmp_path: Path) -> Callable[[Bought], FeatureTables]:
    """A function that writes the feature tables of purchases: who, what, on which day."""

    def write(bought: Bought) -> FeatureTables:
        def period(day: int) -> str:
            return "train" if day < 10 else "eval" if day < 20 else "test"

        pq.write_table(
            pa.table({
                "user_id": [user for user, *_ in bought],
                "item_id": [item for _, item, _ in bought],
                "period": [period(day) for *_, day in bought],
            }),
            tmp_path / "purchases.parquet",
        )  # fmt: skip
        for name, start in (("eval", 10), ("test", 20)):
            known = {user for user, _, day in bought if day < start}
            asked = {user for user, _, day in bought if period(day) == name} & known
            pq.write_table(pa.table({"user_id": pa.array(sorted(asked), pa.string())}), tmp_path / f"{name}.parquet")
        items = sorted({item for _, item, _ in bought})
        firsts = [min((day for _, item, day in bought if item == one and day < 20), default=None) for one in items]
        pq.write_table(
            pa.table({
                "day": pa.array([20] * len(items), pa.int64()),
                "item_id": items,
                "days_since_first_sold": pa.array([None if day is None else 20.0 - day for day in firsts], pa.float64()),
            }),
            tmp_path / "products.parquet",
        )  # fmt: skip
        return FeatureTables(tmp_path, Split(EVAL_US, TEST_US, END_US, 1, 1, 1))

    return write


def refusal(tables, recorder, *overrides: str) -> str:
    with pytest.raises(InputError) as refused:
        check_before_training(tables, load_configuration(list(overrides)), recorder)
    return str(refused.value)


def test_sound_data_passes_and_a_large_k_is_told(tables, recorder):
    check_before_training(tables(SOUND), load_configuration(["model.top_k=3"]), recorder)
    assert recorder.events == []
    check_before_training(tables(SOUND), load_configuration(["model.top_k=50"]), recorder)
    ((event, said),) = recorder.events
    assert event == "remark on the model"
    assert said["remark"] == "model.top_k: 50 is more than the catalog's 3 products; so many are answered."


def test_no_positives_in_a_period(tables, recorder):
    message = refusal(tables([("ann", "a", 1), ("bob", "b", 11), ("eve", "c", 21)]), recorder)
    eval_line, test_line = message.splitlines()
    assert eval_line.startswith("Nobody bought both in the eval period and before it: found 1 purchases of 1 customers")
    assert test_line.startswith("Nobody bought both in the test period and before it: found 1 purchases of 1 customers")
    assert test_line.endswith("Ingest a longer time, or change split.*.")


def test_repeats_alone(tables, recorder):
    message = refusal(tables([*SOUND[:4], ("ann", "a", 21), ("new", "c", 22)]), recorder)
    assert "No customer bought a product in the test period that was new to them: found 1 customers" in message
    assert "in a catalog of 3 products" in message


def test_a_product_first_sold_in_the_test_period_is_new_to_the_customer(tables, recorder):
    check_before_training(tables([*SOUND[:4], ("ann", "z", 21)]), load_configuration(["model.top_k=2"]), recorder)


def test_a_catalog_of_one(tables, recorder):
    message = refusal(tables([("ann", "a", 1), ("ann", "a", 11), ("ann", "a", 21)]), recorder)
    assert "The catalog has 1 products that were sold before the test period; expected 2 or more" in message


def test_another_primary_id_than_the_tables_have(tables, recorder):
    message = refusal(
        tables(SOUND), recorder, "features.buyer.user_id.is_primary_id=false", "features.buyer.country.is_primary_id=true"
    )  # fmt: skip
    assert message.startswith(
        "features.buyer.country: is_primary_id stands here; expected it on user_id, which names a"
    )
