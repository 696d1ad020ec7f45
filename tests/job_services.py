"""Services that a job may be sent to, and the environment that it has in a cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from endcap.contracts.submission import SubmissionConfig

if TYPE_CHECKING:
    from tests.training.launchers.fake_vertex import FakeVertex


def job_environment(place: object) -> dict[str, str]:
    """Of a job whose every place lies below `place`."""
    return {
        "PROJECT_ID": "acme-shop", "REGION": "europe-west4", "ARTIFACT_BUCKET": str(place), "RUN_ID": "train-one",
        "STAGING_PREFIX": f"{place}/staging", "EXPERIMENT_NAME": "nightly", "DATASET_RECSYS": "recsys",
        "DATASET_DRIFT": "drift", "REQUESTS_TABLE": f"{place}/logs/requests", "DRIFT_TABLE": "drift.hourly",
        "FEEDBACK_TABLE": f"{place}/logs/feedback", "MODEL_DIR": f"{place}/models", "REQUEST_ID": "asked-7",
        "CHECKPOINT_DIR": f"{place}/checkpoints", "VERTEX_EXPERIMENT": "nightly",
    }  # fmt: skip


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVertex]:
    """Services that hold one bucket in us-central1."""
    from tests.training.launchers.fake_vertex import FakeVertex, running  # the clients take seconds to import

    with running(FakeVertex(buckets={"acme": {"name": "acme", "location": "US-CENTRAL1"}})) as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.http)
        yield fake


@pytest.fixture
def vertex_config(vertex: FakeVertex) -> Callable[..., SubmissionConfig]:
    """A function that gives a submission to these services."""

    def made(**more: object) -> SubmissionConfig:
        given = {
            "project": "acme-shop", "region": "us-central1", "bucket": "acme", "image_uri": "img.example/train:1",
            "base_output_directory": "gs://acme/endcap", "poll_seconds": 0.01, "api_endpoint": vertex.endpoint,
            "log_endpoint": vertex.http,
        }  # fmt: skip
        return SubmissionConfig.model_validate({**given, **more})

    return made


def staged_interactions(lines: pa.Table) -> pa.Table:
    """Invoice lines, each a purchase, in the staging form."""
    return pa.table({
        "user_id": pc.cast(pc.cast(lines["CustomerID"], pa.int64()), pa.string()),
        "item_id": lines["StockCode"],
        "event_type": pa.array(["purchase"] * lines.num_rows),
        "event_time": lines["InvoiceDate"],
        "quantity": lines["Quantity"],
        "price": lines["UnitPrice"],
        "basket_id": lines["InvoiceNo"],
    })  # fmt: skip
