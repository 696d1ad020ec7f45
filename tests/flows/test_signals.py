"""A shop's views and carts trained on and served: evaluation, server and a list of products alone agree."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.release import CANDIDATE_IDS, USER_FEATURES
from endcap.contracts.reporting import Silent
from endcap.flows.scoring import ExportedModel
from endcap.flows.train_run import train_run
from endcap.ingest.pipeline import ingest
from endcap.serving.predictor import Predictor
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

K = 10
DAY_S = 86_400
COUNTS = tuple(f"user_history_num_{name}" for name in ("purchase", "add_to_cart", "view_item"))
SMALL = (
    "experiment=clickstream",
    "training.num_epochs=1",
    "training.batch_size=64",
    "training.num_negatives=10",
    "model.output_embedding_dim=9",
    "model.top_k=10",
    "model.buyer_tower=[{units: 8}]",
    "model.product_tower=[{units: 8}]",
    "features.product.item_id.embedding.dim=8",
    "features.product.title.text.dim=4",
    "evaluation.min_customers=5",
    "evaluation.num_resamples=100",
)
MAPPING = "columns: {user_id: who, item_id: sku, event_type: what, ts: {column: at, format: s}}\n"


def clicks():
    rng = np.random.default_rng(5)
    rows = ["who,sku,what,at"]
    for user in range(30):
        for visit in np.sort(rng.choice(60, 6, replace=False)):
            start = 1_767_225_600 + int(visit) * DAY_S + int(rng.integers(0, DAY_S // 2))
            looked = [f"s{(user % 5) * 6 + int(item)}" for item in rng.choice(6, 3, replace=False)]
            rows += [f"u{user},{item},view_item,{start + 60 * place}" for place, item in enumerate(looked)]
            rows += [f"u{user},{looked[-1]},add_to_cart,{start + 200}", f"u{user},{looked[-1]},purchase,{start + 300}"]
    return "\n".join(rows)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    (folder / "clicks.csv").write_text(clicks())
    (folder / "mapping.yaml").write_text(MAPPING)
    workspace = Workspace.init(tmp_path_factory.mktemp("shop") / "w")
    ingest(workspace, "files", folder / "clicks.csv", options={"mapping": str(folder / "mapping.yaml")})
    return train_run(workspace, load_configuration(SMALL), Silent()).release


def answers(release, *instances):
    predictor = Predictor(release)
    request = predictor.decoder.decode(json.dumps({"instances": list(instances)}).encode())
    found = predictor.retriever.recommend(request.queries, lambda *_: None)
    return [[predictor.retriever.item_ids[row] for row in one.rows] for one in found]


def test_what_is_evaluated_is_what_is_served(release):
    users = pq.read_table(release.file(USER_FEATURES)).slice(0, 12)
    assert max(max(row) for row in users["user_history_num_view_item"].to_pylist()) > 1
    moment = 1_772_500_000_000_000
    inputs = release.manifest.signatures["serving_default"].inputs
    assert release.manifest.retrieval.history.type_inputs == COUNTS
    place = users.schema.get_field_index("event_time_us")
    now = pa.array([moment] * users.num_rows, pa.int64())
    rows = users.append_column("event_time_us", now) if place < 0 else users.set_column(place, "event_time_us", now)
    model = ExportedModel(release.path, release.manifest.retrieval, inputs)
    ids = np.load(release.file(CANDIDATE_IDS), allow_pickle=False).tolist()
    ranked = model.rank("m", "m", rows.append_column("earlier", rows["user_history"]), np.arange(len(ids)), K)
    batch = [[ids[number] for number in row] for row in ranked.all_purchases]
    asked = [{"user_id": user, "event_time_us": moment} for user in users["user_id"].to_pylist()]
    assert answers(release, *asked) == batch

    # Counts by type matter: without them the answers are others.
    for name in COUNTS:
        zeros = pa.array([[0] * len(row) for row in rows[name].to_pylist()], pa.list_(pa.int64()))
        rows = rows.set_column(rows.schema.get_field_index(name), name, zeros)
    blind = model.rank("m", "m", rows.append_column("earlier", rows["user_history"]), np.arange(len(ids)), K)
    assert [[ids[number] for number in row] for row in blind.all_purchases] != batch


def test_a_list_of_products_alone_is_answered(release):
    known, nobody = answers(
        release,
        {"user_id": "u1", "user_history": ["s7", "s8"]},
        {"user_id": "nobody", "user_history": ["s7", "s8", "s7"]},
    )
    assert len(known) == len(nobody) == K
    assert known != answers(release, {"user_id": "u1"})[0]
