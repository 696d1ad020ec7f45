"""Every model under the model suite; a model that is added gets an adapter and a class here (docs/adding-a-model.md)."""

from tests.suites.baseline_adapter import BaselineAdapter
from tests.suites.model_suite import ModelSuite, PersonalSuite, StoredSuite
from tests.suites.two_tower_adapter import TwoTowerAdapter

HISTORY = {"type": "STRING", "sequence": {"max_length": 10}}
TITLE = {"type": "STRING", "text": {"dim": 8, "min_count": 1}}
COLOUR = {"type": "STRING", "embedding": {"dim": 3}}
PRICE = {"type": "FLOAT64", "normalize": {}, "bucketize": {"n": 4, "dim": 2}}
NUM_PRODUCTS = {"type": "INT64", "log": {}, "normalize": {}, "bucketize": {"n": 3, "dim": 2}}


class TestPopularLately(ModelSuite):
    adapter = BaselineAdapter("popular_lately")


class TestOwnMostBought(ModelSuite):
    adapter = BaselineAdapter("own_most_bought")


class TestCoPurchase(PersonalSuite):
    adapter = BaselineAdapter("co_purchase")


class TestEase(PersonalSuite):
    adapter = BaselineAdapter("ease", {"l2": 2.0})


class TestSparseEase(PersonalSuite):
    adapter = BaselineAdapter("ease", {"l2": 2.0, "max_exact": 1, "num_neighbors": 6})


class TestAls(PersonalSuite):
    adapter = BaselineAdapter("als", {"num_factors": 4}, takes_seed=True)
    starts_at_random = True


class TestTwoTower(PersonalSuite, StoredSuite):
    """History, words and numbers, with a repeat head: the default shape."""

    adapter = TwoTowerAdapter(
        buyer={"num_products": NUM_PRODUCTS, "user_history": HISTORY}, product={"title": TITLE, "price": PRICE}
    )
    starts_at_random = True


class TestTwoTowerWithItemMap(PersonalSuite, StoredSuite):
    """A map from the history to products beside the towers, solved and not trained."""

    adapter = TwoTowerAdapter(
        buyer={"user_history": HISTORY},
        model={"item_map_dim": 3, "item_map_l2": 2.0, "output_embedding_dim": 12},
        training={"id_dropout": 0.1},
    )
    starts_at_random = True


class TestTwoTowerWithNeighbors(PersonalSuite, StoredSuite):
    """Neighbors of the history's products beside the towers, counted and not trained."""

    adapter = TwoTowerAdapter(buyer={"user_history": HISTORY}, model={"neighbors": 3}, training={"id_dropout": 0.1})
    starts_at_random = True


class TestTwoTowerOfMembers(PersonalSuite, StoredSuite):
    """Two pairs of towers averaged, beside an item map and neighbors that stand once."""

    adapter = TwoTowerAdapter(
        buyer={"user_history": HISTORY},
        model={"num_members": 2, "neighbors": 3, "item_map_dim": 3},
        training={"id_dropout": 0.1},
    )
    starts_at_random = True


class TestTwoTowerWithBatchNorm(PersonalSuite, StoredSuite):
    """Towers whose layers are standardised and penalized."""

    adapter = TwoTowerAdapter(
        buyer={"user_history": HISTORY},
        product={"price": PRICE},
        model={
            "buyer_tower": [{"units": 8, "batch_norm": True, "l2": 1e-5}],
            "product_tower": [{"units": 4, "batch_norm": True, "activation": "tanh"}],
        },
        training={"id_dropout": 0.1},
    )
    starts_at_random = True


class TestTwoTowerWithoutHistory(PersonalSuite, StoredSuite):
    """Ids alone on both sides: a factorization."""

    adapter = TwoTowerAdapter(model={"repeat_head": False}, training={"id_dropout": 0.1, "loss": "bpr"})
    starts_at_random = True


class TestTwoTowerByContent(PersonalSuite, StoredSuite):
    """Products' ids hidden nine times of ten, so that words, buckets and a cross must say what they are."""

    adapter = TwoTowerAdapter(
        buyer={"user_history": HISTORY},
        product={"title": TITLE, "colour": COLOUR, "price": PRICE},
        crosses={"coloured_price": {"side": "product", "columns": ["colour", "price"], "n": 16, "dim": 4}},
        model={"repeat_head": False, "buyer_tower": []},
        training={"item_id_dropout": 0.9},
    )
    starts_at_random = True
