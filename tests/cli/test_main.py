"""The verbs, as they are typed: what they print, for people and for machines."""

import gc
import json
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest
import yaml
from typer import Context
from typer.main import get_group

import endcap as package
from endcap.cli import main as cli
from endcap.cli.app import app, app_of
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError
from endcap.releases.bundle import open_release
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import read_manifest

VERBS = [
    "init",
    "ingest",
    "features",
    "backfill",
    "train",
    "quicktest",
    "search",
    "evaluate",
    "compare",
    "config",
    "releases",
    "serve",
    "demo",
]
KEYS = {"run_id", "request_id", "experiment", "step", "metric", "value", "ts", "level", "event"}


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def json_lines(text):
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.keys() >= KEYS, line
        assert datetime.fromisoformat(line["ts"]).tzinfo is not None
        assert line["level"] == "info"
        assert (line["metric"] is None) == (line["value"] is None) == (line["step"] is None)
    return lines


def test_help_lists_the_verbs_in_the_order_of_the_data(endcap):
    said = endcap("--help")
    assert said.code == 0
    places = [said.out.index(f"\n  {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_and_takes_h(endcap, verb):
    said = endcap(verb, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: endcap " + verb)
    assert endcap(verb, "-h") == said


def test_version(endcap):
    assert endcap("--version").out == f"endcap {package.__version__}\n"


def test_the_container_program_is_endcap_train(tmp_path):
    helped = python("-m", "train.main", "--help", COLUMNS="80")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout == python("-m", "endcap", "train", "--help", COLUMNS="80").stdout
    assert helped.stdout.startswith("Usage: endcap train ")
    Workspace.init(tmp_path)
    overrides = ["training.num_epohcs=3", "--workspace", str(tmp_path)]
    refused = python("-m", "train.main", *overrides)
    same = python("-m", "endcap", "train", *overrides)
    assert (refused.returncode, refused.stdout) == (same.returncode, same.stdout) == (2, "")
    assert refused.stderr == same.stderr
    assert refused.stderr.startswith("error: The override 'training.num_epohcs=3' has an unknown key")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("endcap", ["torch", "numpy", "pyarrow", "duckdb", "ibis", "typer", "onnxruntime"]),
        ("endcap.cli.main", ["torch", "numpy", "pyarrow", "duckdb", "ibis", "pandas", "onnxruntime", "hydra"]),
        ("endcap.serving", ["torch", "ibis", "duckdb", "pandas", "django", "hydra", "typer", "rich"]),
        ("endcap.serving.opening", ["numpy", "onnxruntime", "asyncio", "ssl"]),  # they come while digests are computed
        ("endcap.serving.predictor", ["torch", "ibis", "duckdb", "pandas"]),
        ("endcap.serving.server", ["torch", "grpc", "pyarrow", "yaml", "email", "tempfile", "secrets"]),
    ],
)
def test_what_a_light_import_leaves_out(module, forbidden):
    code = f"import sys, {module}; print(sorted(sys.modules.keys() & set({forbidden!r})))"
    said = python("-c", code)
    assert (said.returncode, said.stdout, said.stderr) == (0, "[]\n", "")


def test_help_answers_without_anything_heavy():
    code = (
        "import sys\nfrom endcap.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'pyarrow', 'duckdb', 'hydra', 'onnxruntime'}))"
    )
    assert python("-c", code).stdout.endswith("[]\n")


def test_each_verb_is_the_same_without_the_others():
    whole = get_group(app)
    names = whole.list_commands(None)
    assert set(names) >= set(VERBS)
    for name in names:
        alone = get_group(app_of(name))
        assert alone.list_commands(None) == [name]
        one, same = alone.commands[name], whole.commands[name]
        assert one.get_help(Context(one, info_name=name)) == same.get_help(Context(same, info_name=name))
    for word in ("", "--help", "serv"):
        assert app_of(word) is app


def test_the_collector_goes_on_after_a_server_that_could_not_start(endcap, tmp_path):
    assert endcap("serve", tmp_path, "--port", 0, "--grpc-port", 0).code == 2
    assert gc.isenabled()


def test_init_says_what_comes_next_and_changes_nothing_the_second_time(endcap, tmp_path):
    first = endcap("init", tmp_path / "shop")
    assert first.code == 0
    assert "endcap ingest --source files --mapping mapping.yaml FILE --workspace" in first.out
    marker = (tmp_path / "shop" / "endcap.yaml").read_bytes()
    assert endcap("init", tmp_path / "shop") == first
    assert (tmp_path / "shop" / "endcap.yaml").read_bytes() == marker


def test_ingest_accounts_for_every_row_and_says_when_nothing_changed(endcap, tmp_path, shop_invoices, shop_lines):
    endcap("init", tmp_path / "shop")
    arguments = ("ingest", shop_invoices, "--source", "online_retail", "-w", tmp_path / "shop")
    said = endcap(*arguments, "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    for what in ("rows read", "purchases"):
        assert re.search(rf"^ +{shop_lines.num_rows:,} +{what}\b", said.out, re.MULTILINE)
    assert "Nothing changed" not in said.out
    assert "Nothing changed: the tables hold exactly this already." in (endcap(*arguments, "--log-format", "text").out)
    lines = json_lines(endcap(*arguments).out)  # no terminal here: what "auto" tells is for machines
    assert lines[-1]["event"] == "ingested"
    assert (lines[-1]["rows"], lines[-1]["changed"]) == (shop_lines.num_rows, False)


def test_config_is_yaml_that_reads_back(endcap, tmp_path, tiny_overrides):
    said = endcap("config", *tiny_overrides, "seed=12", "-w", tmp_path)
    assert (said.code, said.err) == (0, "")
    configuration = Configuration.model_validate(yaml.safe_load(said.out))
    assert configuration == load_configuration([*tiny_overrides, "seed=12"])


def test_config_reads_the_workspaces_own_files(endcap, tmp_path):
    Workspace.init(tmp_path)
    path = tmp_path / "conf" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# @package _global_\ndefaults: [/features: online_retail, /model: two_tower, _self_]\nexperiment: mine\nseed: 77\n"
    )
    said = endcap("config", "experiment=mine", "-w", tmp_path)
    assert yaml.safe_load(said.out)["seed"] == 77


def test_features_says_where_they_are(endcap, trained_shop, copy_of, tiny_overrides):
    workspace = copy_of(trained_shop.workspace)
    said = endcap("features", *tiny_overrides, "-w", workspace.path, "--log-format", "text")
    (folder,) = (path for path in workspace.features.iterdir() if path.is_dir())
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == f"Feature tables: {folder}"


def test_the_environment_names_the_workspace(endcap, trained_shop, monkeypatch):
    monkeypatch.setenv("ENDCAP_WORKSPACE", str(trained_shop.workspace.path))
    assert "recommender/1" in endcap("releases").out


def test_releases_are_listed_with_their_verdicts(endcap, trained_shop, tmp_path):
    release = trained_shop.result.release
    said = endcap("releases", "-w", trained_shop.workspace.path)
    assert (said.code, said.err) == (0, "")
    for part in ("recommender/1", release.manifest.blessing.status, release.digest[:12]):
        assert part in said.out
    assert f"{release.manifest.metrics['all_purchases/recall@100']:.4f}" in said.out
    Workspace.init(tmp_path)
    assert "has no release yet. Make one with: endcap train" in endcap("releases", "-w", tmp_path).out


def test_training_again_finds_the_release(endcap, trained_shop, tiny_overrides):
    said = endcap("train", *tiny_overrides, "-w", trained_shop.workspace.path, "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    assert "nothing to train" in said.out
    assert f"Release: {trained_shop.result.release.path}" in said.out
    lines = json_lines(endcap("train", *tiny_overrides, "-w", trained_shop.workspace.path, "--log-format", "json").out)
    assert {(line["run_id"], line["experiment"]) for line in lines} == {(trained_shop.result.run_id, "baseline")}


def told(metrics):
    """A manifest's metrics under the names of epochs: all purchases go without saying."""
    return {name.removeprefix("all_purchases/"): value for name, value in metrics.items()}


def test_evaluate_for_people_and_for_machines(endcap, trained_shop, copy_of):
    workspace = copy_of(trained_shop.workspace)
    release = workspace.releases / "recommender" / "1"
    said = endcap("evaluate", release, "-w", workspace.path, "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    for part in ("all purchases", "products new to the customer", "popular lately", "Report: "):
        assert part in said.out
    lines = json_lines(endcap("evaluate", release, "-w", workspace.path, "--log-format", "json").out)
    measured = {line["metric"]: line["value"] for line in lines if line["metric"]}
    assert measured == told(trained_shop.result.release.manifest.metrics)
    assert {line["step"] for line in lines if line["metric"]} == {0}
    (run_id,) = {line["run_id"] for line in lines}
    assert (workspace.reports / run_id / "index.html").is_file()


def test_training_with_another_seed_makes_the_next_version_in_json_lines(endcap, trained_shop, copy_of, tiny_overrides):
    """What a log collector sees of a whole run: every line with the run's name, epochs counted from 1, tests as 0."""
    workspace = copy_of(trained_shop.workspace)
    said = endcap("train", *tiny_overrides, "seed=8", "-w", workspace.path, "--log-format", "json")
    assert (said.code, said.err) == (0, "")
    lines = json_lines(said.out)
    release = open_release(workspace.releases / "recommender" / "2")
    first = trained_shop.result.release
    assert release.manifest.lineage.seed == 8
    assert release.manifest.metrics != first.manifest.metrics
    assert open_release(workspace.releases / "recommender" / "1").digest == first.digest
    run_id = release.manifest.lineage.run_id
    assert read_manifest(workspace, run_id).metrics == release.manifest.metrics
    assert {(line["run_id"], line["experiment"]) for line in lines} == {(run_id, "baseline")}
    measured = [(line["step"], line["metric"], line["value"]) for line in lines if line["metric"]]
    assert {metric: value for step, metric, value in measured if step == 0} == told(release.manifest.metrics)
    losses = [value for _, metric, value in measured if metric == "loss"]
    assert [step for step, metric, _ in measured if metric == "mean/ndcg@10"] == [1, 2]
    assert losses
    assert all(value > 0 for value in losses)
    assert lines[-1]["event"] == "release sealed"
    assert lines[-1]["digest"] == release.digest[:12]


@pytest.mark.parametrize("error", [InputError("wrong input"), ArtifactError("damaged file")])
def test_errors_on_purpose_end_with_code_2_and_their_message_alone(endcap, monkeypatch, error, tmp_path):
    def fail(path):
        raise error

    monkeypatch.setattr(Workspace, "init", fail)
    said = endcap("init", tmp_path)
    assert (said.code, said.out, said.err) == (2, "", f"error: {error}\n")


def test_an_interrupt_ends_with_code_130(endcap, monkeypatch, tmp_path):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "init", interrupted)
    said = endcap("init", tmp_path)
    assert said.code == cli.EXIT_INTERRUPTED == 130
    assert said.out == ""
