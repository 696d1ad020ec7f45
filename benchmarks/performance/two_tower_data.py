"""Purchases in, the two files that both sides of the two-tower benchmark start from out: interactions and products.

`interactions.parquet` has one row a purchased product, with what was known of the customer at that moment;
`held_out.parquet` the last of them in time; `products.parquet` one row a product.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HELD_OUT = 20_000
_YEAR_US = 365 * 86_400_000_000
_LINES = """
    CREATE TABLE lines AS SELECT CustomerID::BIGINT::VARCHAR AS user_id, Country AS country, StockCode AS item_id,
        epoch_us(InvoiceDate) AS event_time_us, Description AS title, UnitPrice AS price
    FROM read_parquet(?) WHERE CustomerID IS NOT NULL AND Quantity > 0 AND UnitPrice > 0
"""
_INTERACTIONS = """
    WITH baskets AS (SELECT user_id, event_time_us, count(*) AS n FROM lines GROUP BY ALL),
    known AS (
        SELECT user_id, event_time_us,
            coalesce(sum(n) OVER past, 0)::BIGINT AS num_products,
            (event_time_us - lag(event_time_us) OVER past) / 864e8 AS days_since_last_purchase
        FROM baskets
        WINDOW past AS (
            PARTITION BY user_id ORDER BY event_time_us ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    )
    SELECT user_id, any_value(country) AS country, event_time_us, any_value(days_since_last_purchase) AS
        days_since_last_purchase, any_value(num_products) AS num_products, item_id
    FROM lines JOIN known USING (user_id, event_time_us) GROUP BY user_id, event_time_us, item_id
    ORDER BY event_time_us, user_id, item_id
"""
_PRODUCTS = """
    SELECT item_id, arg_max(title, event_time_us) AS title, arg_max(price, event_time_us) AS price
    FROM lines GROUP BY item_id ORDER BY item_id
"""


def write_shop(invoices: Path, folder: Path, held_out: int = HELD_OUT, num_rows: int | None = None) -> int:
    """The demo shop's purchases by known customers, or the first of them; returns how many there are to learn from."""
    with duckdb.connect() as connection:
        connection.execute(_LINES, [str(invoices)])
        interactions = connection.execute(_INTERACTIONS).to_arrow_table()
        products = connection.execute(_PRODUCTS).to_arrow_table()
    return _write(interactions.slice(0, num_rows), products, folder, held_out)


def write_made_up(num_rows: int, num_users: int, num_items: int, folder: Path, held_out: int = HELD_OUT) -> int:
    """Purchases one by one, as a clickstream has them; a customer mostly buys from a neighborhood of the catalog."""
    rng = np.random.default_rng(7)
    user = (num_users * rng.random(num_rows) ** 2).astype(np.int64)
    home = rng.integers(0, num_items, num_users)[user]
    near = (home + rng.integers(0, max(num_items // 200, 1), num_rows)) % num_items
    popular = (num_items * rng.random(num_rows) ** 4).astype(np.int64)
    item = np.where(rng.random(num_rows) < 0.5, near, popular)
    moment = np.sort(rng.integers(0, _YEAR_US, num_rows))
    order = np.lexsort((moment, user))
    first = np.concatenate(([True], user[order][1:] != user[order][:-1]))
    place = np.arange(num_rows) - np.maximum.accumulate(np.where(first, np.arange(num_rows), 0))
    gap = np.diff(moment[order], prepend=0) / 864e8
    num_products, days = np.empty(num_rows, np.int64), np.empty(num_rows)
    num_products[order], days[order] = place, np.where(first, np.nan, gap)
    countries = np.char.add("country ", rng.integers(0, 40, num_users).astype(str)).astype(object)
    words = np.char.add("word", rng.integers(0, 3_000, (num_items, 5)).astype(str))
    interactions = pa.table({
        "user_id": np.char.add("customer-", user.astype(str)),
        "country": pa.array(countries[user], pa.string()),
        "event_time_us": moment + 1_600_000_000_000_000,
        "days_since_last_purchase": pa.array(days, from_pandas=True),
        "num_products": num_products,
        "item_id": np.char.add("product-", item.astype(str)),
    })  # fmt: skip
    products = pa.table({
        "item_id": np.char.add("product-", np.arange(num_items).astype(str)),
        "title": pa.array([" ".join(row) for row in words]),
        "price": np.round(rng.lognormal(2.0, 1.0, num_items), 2),
    })  # fmt: skip
    return _write(interactions, products, folder, held_out)


def _write(interactions: pa.Table, products: pa.Table, folder: Path, held_out: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    num_rows = interactions.num_rows - held_out
    pq.write_table(interactions.slice(0, num_rows), folder / "interactions.parquet")
    pq.write_table(interactions.slice(num_rows), folder / "held_out.parquet")
    pq.write_table(products, folder / "products.parquet")
    return num_rows
