"""A whole run with secrets planted everywhere: trackers hear of it, and nothing that is written holds a secret."""

import io
import json
import os
from contextlib import nullcontext

import msgspec
import pytest
from rich.console import Console

from endcap.cli.reporting import JsonLinesReporter, TerminalReporter
from endcap.contracts.errors import InputError
from endcap.contracts.trackers import TrackersConfig
from endcap.flows import tracking
from endcap.flows.train_run import train_run
from endcap.releases.bundle import open_release, seal_release
from endcap.releases.registry import Registry
from endcap.training.trackers.telling import Tracked
from endcap.workspace.manifests import Run
from endcap.workspace.redaction import redact
from endcap.workspace.secrets import resolve
from tests.training.trackers.told import Told
from tests.training.trackers.wandb_log import whole

KEY = "0123456789abcdef0123456789abcdefplanted2"
PASSWORD = 'pässwörd/"planted3"'  # noqa: S105 - planted
UNSEEN = KEY[::-1]
"""One that nothing looks up, so that no redaction knows it."""
FORMS = [KEY, "planted2", "planted3"]


class Leaking:
    """Fails as careless clients do: with the secret in its message."""

    name = "leaking"

    def start(self, run):
        raise ConnectionError(f"GET https://ann:{PASSWORD}@mlflow.example/?key={KEY} failed")

    metrics = artifact = model = finish = lambda *_: None


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Secrets in the environment and in a file, and the overrides that refer to them."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "mlflow-password").write_text(PASSWORD)
    monkeypatch.setenv("ENDCAP_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("PLANTED_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    return (
        "trackers.wandb={enabled: true, mode: offline, api_key: 'secret://planted-key', log_model: true}",
        "trackers.mlflow={uri: 'http://127.0.0.1:9', username: ann, password: 'secret://mlflow-password'}",
    )


def files_with(folder, forms):
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(form.encode() in path.read_bytes() for form in forms)
    ]


@pytest.fixture
def leaking(monkeypatch):
    """One more tracker for every run: a careless one."""
    asked = tracking.trackers_of
    monkeypatch.setattr(tracking, "trackers_of", lambda config: [*asked(config), Leaking()])


def check_what_was_written(workspace, run_id, tmp_path, said):
    """No secret anywhere but where it was put; each tracker that failed said once; what W&B's files hold."""
    lines = [json.loads(line) for line in said.out.splitlines()]
    failed = [(line["tracker"], line["error"]) for line in lines if line["event"].startswith("a tracker failed")]
    assert sorted(name for name, _ in failed) == ["MLflow", "leaking"]
    assert dict(failed)["leaking"] == (
        "ConnectionError: GET https://ann:<secret://mlflow-password>@mlflow.example/?key=<secret://planted-key> failed"
    )
    (log,) = (workspace.runs / run_id).rglob("*.wandb")
    records = whole(log)
    told = {item.key: json.loads(item.value_json) for one in records for item in one.run.config.update}
    assert told["trackers"]["wandb"]["api_key"] == "secret://planted-key"
    assert told["endcap"]["run_id"] == run_id
    names = {name for one in records for item in one.history.item for name in (item.key, *item.nested_key)}
    assert {"epoch", "loss"} <= names
    assert {one.artifact.type for one in records if one.HasField("artifact")} == {"run", "report", "model"}
    manifest = json.loads((workspace.runs / run_id / "manifest.json").read_bytes())
    assert manifest["configuration"]["trackers"]["mlflow"]["password"] == "secret://mlflow-password"  # noqa: S105
    for form in FORMS:
        assert form not in said.out + said.err
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == ""  # as it was before
    assert files_with(tmp_path, FORMS) == [tmp_path / "secrets" / "mlflow-password"]
    assert files_with(workspace.path, FORMS) == []


def test_what_is_told_and_written_of_a_run_holds_no_secret(
    planted, leaking, trained_shop, copy_of, configured, tmp_path, capfd
):
    workspace, configuration = copy_of(trained_shop.workspace), configured(*planted)
    release = open_release(workspace.releases / "recommender" / "1")
    run = Run(workspace, "train", run_id=trained_shop.result.run_id)
    with tracking.tracked(configuration.trackers, JsonLinesReporter()) as heard:
        tracking.start(heard, run, configuration, {"events": 1}, 1)
        heard.metric(1, "loss", 0.5)
        described = configuration.model_dump(mode="json", exclude_none=True)
        run.finish(configuration=described | {"slip": KEY}, remarks=[f"asked with {KEY}", f"and {PASSWORD}"])
        (registration,) = Registry.of(workspace).registrations("recommender")
        tracking.tell_of_release(heard, workspace, run, release, registration)
    check_what_was_written(workspace, run.run_id, tmp_path, capfd.readouterr())
    manifest = json.loads((run.folder / "manifest.json").read_bytes())
    assert manifest["remarks"] == ["asked with <secret://planted-key>", "and <secret://mlflow-password>"]
    assert manifest["configuration"]["slip"] == "<secret://planted-key>"


def test_a_release_that_is_sealed_holds_no_secret(planted, trained_shop, copy_of, tmp_path):
    resolve("secret://planted-key")
    workspace = copy_of(trained_shop.workspace)
    sealed = workspace.releases / "recommender" / "1"
    manifest = open_release(sealed).manifest
    (sealed / "manifest.json").unlink()
    leaky = msgspec.structs.replace(manifest.lineage, configuration={"slip": [KEY]})
    again = seal_release(
        sealed, workspace.releases / "recommender" / "2", msgspec.structs.replace(manifest, lineage=leaky)
    )
    assert open_release(again.path).manifest.lineage.configuration == {"slip": ["<secret://planted-key>"]}


@pytest.mark.slow
def test_a_whole_run_writes_no_secret(planted, leaking, ingested_shop, copy_of, configured, tmp_path, capfd):
    workspace = copy_of(ingested_shop)
    result = train_run(workspace, configured(*planted), JsonLinesReporter())
    check_what_was_written(workspace, result.run_id, tmp_path, capfd.readouterr())


def test_who_hears_of_a_run_is_no_part_of_it(configured):
    plain, heard = configured(), configured("trackers.wandb.enabled=true")
    assert plain != heard
    assert plain.described() == heard.described()


@pytest.mark.parametrize(
    "override",
    [
        f"trackers.wandb.api_key={UNSEEN}",
        f"trackers.wandb={{api_key: {UNSEEN}}}",
        f"trackers.mlflow.password='{UNSEEN}",
        f"trackers.wandb.api_key.more={UNSEEN}",
        f"trackers.mlflow.uri=https://ann:{UNSEEN}@mlflow.example",
        f"release.mlflow_uri=https://ann:{UNSEEN}@mlflow.example",
    ],
)
def test_a_secret_itself_in_the_configuration_is_refused_and_not_repeated(override, configured):
    with pytest.raises(InputError) as found:
        configured(override)
    assert UNSEEN not in redact(str(found.value))


def test_a_terminal_is_told_no_secret_either(planted):
    resolve("secret://planted-key")
    sink = io.StringIO()
    report = TerminalReporter(Console(file=sink, width=400))
    report.event(f"asked with {KEY}", error=f"refused {KEY}")
    report.progress("work", 1, 1, f"key {KEY}")
    assert "refused <secret://planted-key>" in sink.getvalue()
    assert KEY not in sink.getvalue()


@pytest.mark.parametrize(
    ("raised", "outcome"), [(None, "finished"), (InputError("wrong"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_the_end_of_a_run_is_told_as_it_was(raised, outcome, monkeypatch):
    ends = []
    monkeypatch.setattr(Tracked, "finish", lambda self, outcome: ends.append(outcome))
    with (
        pytest.raises(type(raised)) if raised is not None else nullcontext(),
        tracking.tracked(TrackersConfig(), Told()),
    ):
        if raised is not None:
            raise raised
    assert ends == [outcome]


def test_of_several_processes_the_first_tells(monkeypatch):
    asked = []
    monkeypatch.setattr(tracking, "trackers_of", lambda config: asked.append(config) or [])
    for rank, num_asked in (("1", 0), ("0", 1), ("", 2)):
        monkeypatch.setenv("RANK", rank)
        with tracking.tracked(TrackersConfig(), Told()):
            assert len(asked) == num_asked


def test_a_jobs_environment_says_who_hears_and_where():
    config = TrackersConfig.model_validate({"mlflow": {"uri": "http://m"}, "vertex": {"region": "us-central1"}})
    found = config.in_job(
        experiment_name="two-tower",
        wandb_enabled=True,
        vertex_experiment="tower",
        project_id="acme",
        region="europe-west4",
        model_dir="gs://acme/models",
    )
    assert found.mlflow.experiment == "two-tower"
    assert found.wandb.enabled
    assert (found.vertex.experiment, found.vertex.project, found.vertex.region) == ("tower", "acme", "us-central1")
    assert found.release_dir == "gs://acme/models"
    assert found.in_job(wandb_enabled=False).wandb.enabled is False
    assert config.in_job() == config
