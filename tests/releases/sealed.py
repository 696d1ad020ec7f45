"""Small sealed releases for tests of the registry."""

from endcap.contracts.release import FORMAT_VERSION, Blessing, Lineage, ReleaseManifest, Retrieval
from endcap.releases.bundle import seal_release


def sealed(workspace, version, *, status="BLESSED", name="recommender", recall=0.5, content=b"graph", release=None):
    staging = workspace.path / f"staging-{name}-{version}"
    staging.mkdir()
    (staging / "query.onnx").write_bytes(content)
    configuration = {"model": {"model_type": "retrieval"}, "release": release or {}}
    manifest = ReleaseManifest(
        format_version=FORMAT_VERSION,
        name=name,
        created_at="2026-01-01T00:00:00+00:00",
        as_of="2026-01-01T00:00:00+00:00",
        files={},
        signatures={},
        retrieval=Retrieval("brute_force", "vector", 8, 5, 3, "STRING", "user_id"),
        lineage=Lineage(f"train-{version}", "abc", 7, {"events": 2}, configuration, {"numpy": "2"}),
        metrics={"all_purchases/recall@100": recall, "all_purchases/ndcg@10": 0.25},
        blessing=Blessing(status, ["why"]),
    )
    return seal_release(staging, workspace.releases / name / str(version), manifest)
