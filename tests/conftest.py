"""One small shop, its invoices written by rule, ingested and trained once for every test that needs a real release."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Silent
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace
from tests.job_services import vertex, vertex_config
from tests.object_stores import gcs_location, gcs_server, s3_location, s3_server

if TYPE_CHECKING:
    from endcap.flows.train_run import TrainResult

__all__ = ["gcs_location", "gcs_server", "s3_location", "s3_server", "vertex", "vertex_config"]

# Looking for garbage among all that the libraries leave in memory takes long, and next to nothing is found.
gc.set_threshold(20_000, 50, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the tests that share the dearest fixtures: of those left at the end, many are handed to another process.

    What their file has made would be made once more there.
    """
    items.sort(key=lambda item: not item.nodeid.startswith("tests/flows/"))


NUM_CUSTOMERS, NUM_PRODUCTS, NUM_DAYS = 60, 120, 100
FIRST_MIDNIGHT = datetime(2011, 1, 3)
NOUNS = ("HEART", "LANTERN", "TEACUP", "CUSHION", "CLOCK", "BÜGEL", "TIN", "CANDLE")
COLOURS = (
    "RED",
    "BLUE",
    "GREEN",
    "PINK",
    "CREAM",
    "WHITE",
    "BLACK",
    "GOLD",
    "IVORY",
    "JADE",
    "LILAC",
    "MINT",
    "ROSE",
    "SKY",
    "GREY",
)

# Small enough to train in about a second; every transform of the demo's FeatureConfig stays.
TINY = (
    "training.num_epochs=2",
    "training.batch_size=64",
    "training.num_negatives=20",
    "model.output_embedding_dim=9",
    "model.top_k=20",
    "model.buyer_tower=[{units: 8}]",
    "model.product_tower=[{units: 8}]",
    "features.product.item_id.embedding.dim=8",
    "features.product.title.text.dim=4",
    "features.product.price.bucketize={n: 4, dim: 2}",
    "features.buyer.user_id.embedding.dim=4",
    "features.buyer.country.embedding.dim=2",
    "features.buyer.user_history.sequence.max_length=12",
    "evaluation.min_customers=5",
    "evaluation.num_resamples=100",
)


def invoice_lines() -> pa.Table:
    """Invoices in time order: each customer has four favourites, bought again and again, and now and then something else.

    A product of an even number is often bought along with the next one.
    """
    rng = np.random.default_rng(20110103)
    price = np.round(rng.uniform(0.5, 12.0, NUM_PRODUCTS), 2)
    popularity = 1.0 / np.arange(10, NUM_PRODUCTS + 10)
    popularity /= popularity.sum()
    lines: list[dict[str, Any]] = []
    for customer in range(NUM_CUSTOMERS):
        favourites = rng.choice(NUM_PRODUCTS, 4, replace=False, p=popularity)
        every_days = rng.uniform(5, 15)
        # One customer in ten comes for the first time late, so that some of the test period's customers are unknown.
        day = rng.uniform(0, 12) if customer % 10 else rng.uniform(78, 98)
        while day < NUM_DAYS:
            wanted = {int(item) for item in favourites if rng.random() < 0.6}
            if rng.random() < 0.5 or not wanted:
                wanted.add(int(rng.choice(NUM_PRODUCTS, p=popularity)))
            wanted |= {item + 1 for item in wanted if item % 2 == 0 and rng.random() < 0.5}
            moment = FIRST_MIDNIGHT + timedelta(seconds=int(day * 86_400))
            lines += [
                {
                    "StockCode": f"{20_000 + item}",
                    "Description": f"{COLOURS[item // len(NOUNS)]} {NOUNS[item % len(NOUNS)]} NO {item}",
                    "Quantity": int(rng.integers(1, 13)),
                    "InvoiceDate": moment,
                    "UnitPrice": float(price[item]) * (1.1 if day > 60 and item % 7 == 0 else 1.0),
                    "CustomerID": float(12_000 + customer),
                    "Country": ("United Kingdom", "Norway", "Côte d'Ivoire")[customer % 3],
                }
                for item in sorted(wanted)
            ]
            day += every_days * rng.uniform(0.6, 1.4)
    lines.sort(key=lambda line: (line["InvoiceDate"], line["CustomerID"]))
    number, last = 500_000, None
    for line in lines:
        if (line["InvoiceDate"], line["CustomerID"]) != last:
            number, last = number + 1, (line["InvoiceDate"], line["CustomerID"])
        line["InvoiceNo"] = str(number)
    schema = pa.schema([
        ("InvoiceNo", pa.string()), ("StockCode", pa.string()), ("Description", pa.string()), ("Quantity", pa.int64()),
        ("InvoiceDate", pa.timestamp("us")), ("UnitPrice", pa.float64()), ("CustomerID", pa.float64()),
        ("Country", pa.string()),
    ])  # fmt: skip
    return pa.Table.from_pylist(lines, schema=schema)


def _configured(*more: str, workspace_conf: Path | None = None) -> Configuration:
    return load_configuration([*TINY, *more], workspace_conf)


@dataclass(frozen=True)
class TrainedShop:
    """A workspace in which one model was trained; not to be changed: copy it."""

    workspace: Workspace
    configuration: Configuration
    result: TrainResult


@pytest.fixture(scope="session")
def tiny_overrides() -> Sequence[str]:
    """Overrides that make the demo's configuration small."""
    return TINY


@pytest.fixture(scope="session")
def configured() -> Callable[..., Configuration]:
    """A function that gives the small configuration with further overrides."""
    return _configured


@pytest.fixture(scope="session")
def shop_lines() -> pa.Table:
    """The shop's invoice lines, as `endcap ingest --source online_retail` reads them."""
    return invoice_lines()


@pytest.fixture(scope="session")
def shop_invoices(shop_lines: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's invoices as a file."""
    path = tmp_path_factory.mktemp("invoices") / "invoices.parquet"
    pq.write_table(shop_lines, path)
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that gives the process a copy of a folder which only one of those that test side by side has made."""
    own = tmp_path_factory.getbasetemp()
    everybodys = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], None]) -> Path:
        whole, part = everybodys / f"once-{name}", everybodys / f"once-{name}.part"
        with (everybodys / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(part, ignore_errors=True)
                make(part)
                part.rename(whole)
        copy = tmp_path_factory.mktemp(name) / "shop"
        shutil.copytree(whole, copy)
        return copy

    return made


@pytest.fixture(scope="session")
def ingested_shop(shop_invoices: Path, made_once: Callable[..., Path]) -> Workspace:
    """A workspace that holds the shop's tables and nothing else; not to be changed: copy it."""
    return Workspace.open(made_once("ingested", lambda path: _ingest_into(path, shop_invoices)))


def _ingest_into(path: Path, invoices: Path) -> None:
    from endcap.ingest.pipeline import ingest  # not by the process that only hands out tests

    ingest(Workspace.init(path), "online_retail", invoices)


@pytest.fixture(scope="session")
def trained_once(ingested_shop: Workspace, made_once: Callable[..., Path]) -> Callable[..., TrainedShop]:
    """A function that trains the shop by a configuration, in one of the processes that test side by side."""

    from endcap.flows.train_run import train_run  # takes seconds, which the process that only hands out tests spares

    def trained(name: str, configuration: Configuration) -> TrainedShop:
        def make(path: Path) -> None:
            shutil.copytree(ingested_shop.path, path)
            train_run(Workspace.open(path), configuration, Silent())

        workspace = Workspace.open(made_once(name, make))
        # Its release is there: it is measured, and nothing is written.
        return TrainedShop(workspace, configuration, train_run(workspace, configuration, Silent()))

    return trained


@pytest.fixture(scope="session")
def trained_shop(trained_once: Callable[..., TrainedShop]) -> TrainedShop:
    """The shop with a trained release."""
    return trained_once("trained", _configured())


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Workspace], Workspace]:
    """A function that copies a workspace into the test's own folder."""

    def copy(workspace: Workspace) -> Workspace:
        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(workspace.path, target)
        return Workspace.open(target)

    return copy
