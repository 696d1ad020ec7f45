"""`endcap synth`, as it is typed: files, figures, a workspace's key, what is refused."""

import json

import pyarrow.parquet as pq

from endcap.workspace.layout import Workspace

SMALL = ("--events", "600", "--days", 2, "--users", "40", "--items", "30")


def test_files_and_figures(endcap, tmp_path):
    out = tmp_path / "shop"
    said = endcap("synth", out, *SMALL, "--log-format", "json")
    assert (said.code, said.err) == (0, "")
    (made,) = [json.loads(line) for line in said.out.splitlines() if '"made up"' in line]
    truth = json.loads((out / "truth.json").read_text(encoding="utf-8"))
    assert {name: made[name] for name in ("num_events", "num_duplicates", "num_items")} == {
        name: truth[name] for name in ("num_events", "num_duplicates", "num_items")
    }
    assert {path.name for path in out.iterdir()} == {
        "events",
        "logs",
        "items.parquet",
        "item_versions.parquet",
        "mapping.yaml",
        "truth.json",
    }
    told = endcap("synth", tmp_path / "other", *SMALL, "--format", "csv", "--log-format", "text")
    assert f"Next: endcap ingest --source files --mapping {tmp_path / 'other' / 'mapping.yaml'} " in told.out
    assert {path.suffix for path in (tmp_path / "other" / "events").iterdir()} == {".csv"}


def test_a_workspace_hashes_the_users_of_the_logs(endcap, tmp_path):
    workspace = Workspace.init(tmp_path / "ws")
    assert endcap("synth", tmp_path / "shop", *SMALL, "--workspace", workspace.path).code == 0
    events = pq.read_table(tmp_path / "shop" / "events").to_pylist()
    people = {row["guest_id"]: row["user_id"] for row in events if row["guest_id"] and row["user_id"]}
    users = {row["user_id"] or people.get(row["guest_id"], row["guest_id"]) for row in events}
    keys = set(pq.read_table(tmp_path / "shop" / "logs" / "requests")["user_key"].to_pylist())
    known = {workspace.user_key(user) for user in users}
    # Who is a guest all through these days but logs in later is in the log as the user that nobody has seen yet.
    assert len(keys & known) > 0.8 * len(keys) > 10


def test_wrong_input_ends_with_code_2(endcap, tmp_path):
    for arguments, message in (
        (("--events", "many"), "is no count"),
        (("--start", "soon"), "is no date; expected one such as"),
        (("--days", 0, "--late", 2), "days is 0; expected 1 to"),
        (("--workspace", tmp_path / "none"), "is no workspace"),
    ):
        said = endcap("synth", tmp_path / "shop", *arguments)
        assert (said.code, (tmp_path / "shop").exists()) == (2, False)
        assert message in said.err
