"""Small sealed releases for tests of the registry."""

from endcap.contracts.release import (
    CANDIDATE_IDS,
    CANDIDATE_VECTORS,
    DEFAULT_SIGNATURE,
    FORMAT_VERSION,
    ITEMS,
    QUERY_GRAPH,
    RANK_GRAPH,
    RANKING_SIGNATURE,
    Blessing,
    Lineage,
    ProductInput,
    Ranking,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.releases.bundle import seal_release

RETRIEVAL = Retrieval("brute_force", "vector", 8, 5, 3, "STRING", "user_id")
RANKING = Ranking(
    "prediction", "value", "the shop's currency", "user_id", "item_id", "STRING",
    [ProductInput(Tensor("item_id", "STRING", [-1]), "item_id")],
)  # fmt: skip


def sealed(
    workspace, version, *, status="BLESSED", name="recommender", recall=0.5, content=b"graph", release=None,
    model_type="retrieval",
):  # fmt: skip
    retrieval = None if model_type == "ranking" else RETRIEVAL
    ranking = None if model_type == "retrieval" else RANKING
    parts = ([QUERY_GRAPH, CANDIDATE_VECTORS, CANDIDATE_IDS] if retrieval else []) + (
        [RANK_GRAPH, ITEMS] if ranking else []
    )
    staging = workspace.path / f"staging-{name}-{version}"
    for part in parts:
        (staging / part).parent.mkdir(parents=True, exist_ok=True)
        (staging / part).write_bytes(content)
    signature = Signature([Tensor("user_id", "STRING", [-1])], [])
    configuration = {"model": {"model_type": model_type}, "release": release or {}}
    metrics = {"all_purchases/recall@100": recall, "all_purchases/ndcg@10": 0.25} if retrieval else {}
    metrics |= {"rmse": 0.75, "rmse_own_units": 12.5} if ranking else {}
    manifest = ReleaseManifest(
        format_version=FORMAT_VERSION,
        name=name,
        created_at="2026-01-01T00:00:00+00:00",
        as_of="2026-01-01T00:00:00+00:00",
        files={},
        signatures=dict.fromkeys([DEFAULT_SIGNATURE, *([RANKING_SIGNATURE] if ranking else [])], signature),
        retrieval=retrieval,
        lineage=Lineage(f"train-{version}", "abc", 7, {"events": 2}, configuration, {"numpy": "2"}),
        metrics=metrics,
        blessing=Blessing(status, ["why"]),
        ranking=ranking,
    )
    return seal_release(staging, workspace.releases / name / str(version), manifest)
