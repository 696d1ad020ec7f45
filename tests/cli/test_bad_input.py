"""Whatever a newcomer gets wrong: exit code 2, a message to act on, no traceback, nothing half-written."""

import json
import re
import shutil
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.release import CANDIDATE_VECTORS, ITEM_GRAPH, MANIFEST, QUERY_GRAPH
from endcap.workspace.layout import Workspace


def contents(path):
    """Every file and folder, but for those that are made again anyway."""
    return {
        entry.relative_to(path): entry.read_bytes() if entry.is_file() else None
        for entry in path.rglob("*")
        if ".scratch" not in entry.parts
    }


@pytest.fixture
def refused(endcap):
    """A function that runs a command, expects it to be refused, and gives the message."""

    def run(*arguments):
        said = endcap(*arguments)
        assert said.code == 2, said
        assert said.err.startswith("error: "), said.err
        assert "Traceback" not in said.out + said.err
        return said.err

    return run


@pytest.fixture
def empty(tmp_path):
    return Workspace.init(tmp_path / "empty").path


def ingest(path, workspace):
    return ("ingest", path, "--source", "online_retail", "--workspace", workspace)


def test_a_missing_file(refused, empty, tmp_path):
    before = contents(empty)
    assert f"{tmp_path / 'no.parquet'} does not exist. Give the path of a Parquet file" in refused(
        *ingest(tmp_path / "no.parquet", empty)
    )
    assert contents(empty) == before


def test_an_empty_file(refused, empty, tmp_path):
    (tmp_path / "empty.parquet").touch()
    before = contents(empty)
    assert "is empty (0 bytes); a Parquet file was expected" in refused(*ingest(tmp_path / "empty.parquet", empty))
    assert contents(empty) == before


def test_a_file_without_rows(refused, empty, shop_lines, tmp_path):
    pq.write_table(shop_lines.slice(0, 0), tmp_path / "none.parquet")
    assert "has no rows" in refused(*ingest(tmp_path / "none.parquet", empty))


def test_a_file_of_another_kind(refused, empty, tmp_path):
    (tmp_path / "shop.csv").write_text("a,b\n1,2\n")
    assert "can't be read as Parquet" in refused(*ingest(tmp_path / "shop.csv", empty))


def test_a_wrong_column_type(refused, empty, shop_lines, tmp_path):
    place = shop_lines.schema.get_field_index("Quantity")
    texts = shop_lines.set_column(place, "Quantity", shop_lines["Quantity"].cast(pa.string()))
    pq.write_table(texts, tmp_path / "texts.parquet")
    before = contents(empty)
    message = refused(*ingest(tmp_path / "texts.parquet", empty))
    assert "column Quantity holds string, expected" in message
    assert contents(empty) == before


def test_a_missing_column(refused, empty, shop_lines, tmp_path):
    pq.write_table(shop_lines.rename_columns(
        ["stockcode" if name == "StockCode" else name for name in shop_lines.column_names]
    ), tmp_path / "renamed.parquet")  # fmt: skip
    message = refused(*ingest(tmp_path / "renamed.parquet", empty))
    assert "column StockCode is missing, expected text" in message
    assert "did you mean stockcode there?" in message


def test_an_unknown_source(refused, empty, shop_invoices):
    message = refused("ingest", shop_invoices, "--source", "shopify", "-w", empty)
    assert "There is no source 'shopify'; the sources are: online_retail" in message


@pytest.mark.parametrize("command", ["features", "train", "releases", "evaluate", "ingest"])
def test_a_folder_that_is_no_workspace(refused, tmp_path, shop_invoices, command):
    folder = tmp_path / "somewhere"
    folder.mkdir()
    more = {"evaluate": [tmp_path], "ingest": [shop_invoices, "--source", "online_retail"]}.get(command, [])
    assert f"{folder} is no workspace: it has no endcap.yaml. Make one with: endcap init" in refused(
        command, *more, "-w", folder
    )
    assert list(folder.iterdir()) == []
    nowhere = tmp_path / "nowhere"
    assert "there is no such folder" in refused(command, *more, "-w", nowhere)
    assert not nowhere.exists()


def test_a_workspace_that_is_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "is a file; a workspace is a folder" in refused("init", tmp_path / "file")


@pytest.mark.parametrize("command", ["features", "train"])
def test_a_workspace_without_data(refused, empty, command):
    before = contents(empty)
    assert "holds no data yet. Fill it with: endcap ingest --source online_retail FILE" in refused(command, "-w", empty)
    assert contents(empty) == before


def test_columns_that_the_data_lacks(refused, trained_shop, copy_of, tiny_overrides):
    workspace = copy_of(trained_shop.workspace).path
    before = contents(workspace)
    message = refused(
        "train", "-w", workspace, *tiny_overrides, "features.buyer.contry={type: STRING, embedding: {dim: 4}}"
    )
    assert "features.buyer.contry: the data has no such column; it has " in message
    assert "Did you mean country?" in message
    assert contents(workspace) == before


def test_a_column_of_another_type_than_configured(refused, trained_shop, copy_of, tiny_overrides):
    workspace = copy_of(trained_shop.workspace).path
    before = contents(workspace)
    message = refused("train", "-w", workspace, *tiny_overrides, "features.buyer.country.type=INT64")
    assert "features.buyer.country: the configuration says INT64, the data has string" in message
    assert contents(workspace) == before


@pytest.mark.parametrize("command", ["features", "train", "config"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("experiment=baselin", "Did you mean baseline?"),
        ("training.num_epohcs=3", "Did you mean training.num_epochs?"),
        ("training.num_epochs=many", "training.num_epochs: found 'many', expected a valid integer"),
        ("evaluation.metric=ndgc@10", "Did you mean ndcg@10?"),
        ("training.num_epochs", "is no override"),
    ],
)
def test_a_wrong_override(refused, ingested_shop, command, override, said):
    before = contents(ingested_shop.path)
    message = refused(command, override, "-w", ingested_shop.path)
    assert override in message
    assert said in message
    assert contents(ingested_shop.path) == before


def test_a_wrong_file_of_the_workspace(refused, empty):
    path = empty / "conf" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# @package _global_\ndefaults: [/features: online_retail, /model: two_tower, _self_]\nexperiment: mine\nsead: 1\n"
    )
    message = refused("config", "experiment=mine", "-w", empty)
    assert f"{path}: sead: unknown key" in message
    assert "Did you mean seed?" in message


def test_a_data_set_too_small_to_split(refused, shop_lines, tmp_path):
    pq.write_table(shop_lines.slice(0, 1), tmp_path / "one.parquet")
    workspace = Workspace.init(tmp_path / "shop")
    from endcap.ingest.pipeline import ingest

    ingest(workspace, "online_retail", tmp_path / "one.parquet")
    assert "time split leaves a period empty: found 1 purchases" in refused("train", "-w", workspace.path)
    assert list(workspace.releases.rglob("*")) == []


def test_a_shop_to_which_nobody_comes_back(refused, shop_lines, tmp_path, tiny_overrides):
    place = shop_lines.schema.get_field_index("CustomerID")
    once = shop_lines.slice(0, 60).set_column(place, "CustomerID", pa.array([float(12_000 + n) for n in range(60)]))
    pq.write_table(once, tmp_path / "once.parquet")
    workspace = Workspace.init(tmp_path / "shop")
    from endcap.ingest.pipeline import ingest

    ingest(workspace, "online_retail", tmp_path / "once.parquet")
    message = refused("train", "-w", workspace.path, *tiny_overrides)
    assert "Nobody bought both in the eval period and before it: found " in message
    assert "Nobody bought both in the test period and before it: found " in message
    assert list(workspace.releases.rglob("*")) == []


def test_weights_that_sum_to_zero(refused, trained_shop, copy_of, tiny_overrides):
    workspace = copy_of(trained_shop.workspace).path
    message = refused("train", "-w", workspace, *tiny_overrides, "training.half_life_days=1e-9")
    assert "training.half_life_days: with 1e-09 the weights of all " in message
    assert "sum to zero, since the last was bought " in message


def test_a_loss_that_is_no_number(refused, trained_shop, copy_of, tiny_overrides):
    workspace = copy_of(trained_shop.workspace).path
    steps = ("training.optimizer=sgd", "training.loss=bpr", "training.learning_rate=1", "training.warmup_steps=0")
    message = refused("train", "-w", workspace, *tiny_overrides, *steps)
    assert re.search(r"The loss is (nan|inf) at step \d+, in a batch of \d+ questions of 2011-0", message)
    assert "found weights up to " in message
    assert "(in column " in message


def test_columns_that_say_nothing_are_told_and_trained_with(endcap, shop_lines, tmp_path):
    countries = pa.nulls(shop_lines.num_rows, pa.string())
    one_word = pa.array(["HEART"] * shop_lines.num_rows)
    for column, values in (("Country", countries), ("Description", one_word)):
        shop_lines = shop_lines.set_column(shop_lines.schema.get_field_index(column), column, values)
    pq.write_table(shop_lines, tmp_path / "dull.parquet")
    workspace = Workspace.init(tmp_path / "shop")
    from endcap.ingest.pipeline import ingest

    ingest(workspace, "online_retail", tmp_path / "dull.parquet")
    said = endcap("features", "check", "online_retail", "--data", workspace.path, "--json")
    assert said.code == 0
    remarks = json.loads(said.out)["remarks"]
    assert any(
        remark.startswith("features.buyer.country: missing in all ") and remark.endswith("Fill it, or leave it out.")
        for remark in remarks
    )
    assert any(
        remark.startswith("features.product.title.text: no word stands in min_count=2 different texts")
        for remark in remarks
    )


@pytest.fixture
def damaged(trained_shop, copy_of):
    """A function that changes one byte of a part of a copy of the release; gives workspace and release."""

    def damage(name):
        workspace = copy_of(trained_shop.workspace)
        release = workspace.releases / "recommender" / "1"
        content = bytearray((release / name).read_bytes())
        content[len(content) // 2] ^= 1
        (release / name).write_bytes(bytes(content))
        return workspace.path, release

    return damage


@pytest.mark.parametrize("name", [QUERY_GRAPH, CANDIDATE_VECTORS])
def test_a_release_with_a_changed_byte(refused, damaged, name):
    workspace, release = damaged(name)
    for command in (
        ("serve", release, "--port", 0),
        ("evaluate", release, "-w", workspace),
        ("releases", "-w", workspace),
    ):
        message = refused(*command)
        assert f"{name} is not the file that was released" in message
        assert "Nothing was loaded" in message


def test_a_release_that_lacks_a_part_or_its_manifest(refused, trained_shop, copy_of, monkeypatch):
    release = copy_of(trained_shop.workspace).releases / "recommender" / "1"
    (release / ITEM_GRAPH).unlink()
    assert f"lacks {ITEM_GRAPH}, which its manifest lists" in refused("serve", release, "--port", 0)
    monkeypatch.chdir(release.parents[2])  # where one stands in a workspace, a name is enough
    assert f"lacks {ITEM_GRAPH}, which its manifest lists" in refused("serve", "recommender/1", "--port", 0)
    assert "champion of recommender names no release" in refused("serve", "recommender@champion", "--port", 0)
    (release / MANIFEST).write_text("{")
    assert "can't be read as a release manifest" in refused("serve", release, "--port", 0)
    (release / MANIFEST).unlink()
    assert f"is no release: it has no {MANIFEST}" in refused("serve", release, "--port", 0)
    shutil.rmtree(release)
    assert "is no release: it does not exist" in refused("serve", release, "--port", 0)


def test_a_port_in_use(refused, trained_shop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused("serve", trained_shop.result.release.path, "--port", port)
    assert f"Port {port} of 127.0.0.1 is in use by another program" in message
    assert "--port" in message


def test_an_open_address_without_a_word_on_tokens(refused, trained_shop):
    message = refused("serve", trained_shop.result.release.path, "--host", "0.0.0.0", "--port", 0)  # noqa: S104
    assert "--auth token" in message


def test_a_demo_without_data_leaves_no_workspace(refused, tmp_path):
    message = refused("demo", tmp_path / "demo", "--data", tmp_path / "no.parquet")
    assert "does not exist" in message
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["serve"], ["ingest"], ["serve", "x", "--port", "70000"], ["train", "--no-such-option"],
     ["ingest", "file"], ["train", "--log-format", "xml"], ["serve", "x", "--auth", "maybe"]],
)  # fmt: skip
def test_a_command_that_is_not_understood(endcap, arguments):
    said = endcap(*arguments)
    assert said.code == 2
    assert "Usage: endcap" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
