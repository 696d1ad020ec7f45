"""Every kind of split leads to a judged release, and a build that would leak leaves nothing."""

import pytest

from endcap.contracts.errors import ArtifactError
from endcap.contracts.reporting import Silent
from endcap.features import dataset
from endcap.flows.features import build_features
from endcap.flows.train_run import train_run


@pytest.mark.parametrize("kind", ["leave_last_out", pytest.param("random", marks=pytest.mark.slow)])
def test_a_release_is_trained_and_judged(ingested_shop, copy_of, configured, kind):
    workspace = copy_of(ingested_shop)
    shares = ["split.eval_fraction=0.2", "split.test_fraction=0.3"] if kind == "random" else []
    configuration = configured(f"split.kind={kind}", "training.num_epochs=1", *shares)
    result = train_run(workspace, configuration, Silent())
    tables = build_features(workspace, configuration, Silent())
    assert tables.split.kind == kind
    asked = tables.table("test")
    assert len(set(asked["user_id"].to_pylist())) == asked.num_rows > 5
    text = (result.release.path / "report" / "report.md").read_text()
    assert f"{asked.num_rows} customers, " in text
    assert "the data ends" in text
    assert "the test period begins" not in text


def test_a_leak_fails_the_build_and_leaves_nothing(ingested_shop, copy_of, configured, monkeypatch):
    workspace = copy_of(ingested_shop)
    write = dataset._write

    def leaky(table, path):
        if path.name == "test.parquet":
            place = table.schema.get_field_index("user_history")
            table = table.set_column(place, "user_history", table["targets"])
        write(table, path)

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "_write", leaky)
        with pytest.raises(ArtifactError, match=r"Leak: test\.user_history .* Nothing of this build was kept"):
            build_features(workspace, configured(), Silent())
    assert list(workspace.features.iterdir()) == []
    assert build_features(workspace, configured(), Silent()).table("test").num_rows > 0
