"""A job's environment: what is taken, what is refused, and how much is said of it."""

import json

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.job import OPTIONAL, PLATFORM, REQUIRED
from endcap.workspace.job_environment import job_workspace, read_job_environment, shown
from endcap.workspace.layout import Workspace
from endcap.workspace.redaction import redact

CLOUD = {
    "PROJECT_ID": "acme-shop",
    "REGION": "europe-west4",
    "ARTIFACT_BUCKET": "acme-artifacts",
    "STAGING_PREFIX": "gs://acme-artifacts/staging",
    "EXPERIMENT_NAME": "two-tower",
    "DATASET_RECSYS": "recsys",
    "DATASET_DRIFT": "drift",
    "REQUESTS_TABLE": "recsys.requests",
    "FEEDBACK_TABLE": "recsys.feedback",
    "DRIFT_TABLE": "drift.hourly",
    "MODEL_DIR": "gs://acme-artifacts/models",
    "CHECKPOINT_DIR": "s3://acme-artifacts/checkpoints",
    "VERTEX_EXPERIMENT": "two-tower",
}


def cluster(kind="workerpool0", index=0, **pools):
    pools = pools or {"workerpool0": ["main-0:2222"]}
    return json.dumps({"cluster": pools, "environment": "cloud", "task": {"type": kind, "index": index}})


def refused(environ, tmp_path):
    with pytest.raises(InputError) as caught:
        read_job_environment(environ, tmp_path)
    return str(caught.value)


def test_without_any_of_its_variables_there_is_no_job(tmp_path):
    assert read_job_environment({"PATH": "/bin", "HOME": "/root", "WANDB_API_KEY": "k"}, tmp_path) is None


def test_a_cloud_jobs_environment_is_taken_as_it_is(tmp_path):
    job = read_job_environment({**CLOUD, "WANDB_ENABLED": "True", "RUN_ID": "r-1", "REQUEST_ID": "q"}, tmp_path)
    assert job.is_strict
    assert job.artifact_bucket == "gs://acme-artifacts"
    for name in set(CLOUD) - {"ARTIFACT_BUCKET"}:
        assert getattr(job, name.lower()) == CLOUD[name]
    assert (job.wandb_enabled, job.run_id, job.request_id, job.cluster) == (True, "r-1", "q", None)


def test_a_local_job_needs_nothing_more_than_one_variable(tmp_path):
    job = read_job_environment({"EXPERIMENT_NAME": "mine"}, tmp_path)
    assert not job.is_strict
    assert (job.project_id, job.experiment_name, job.requests_table) == ("local", "mine", "recsys.requests")
    for place in (job.artifact_bucket, job.staging_prefix, job.model_dir, job.checkpoint_dir, job.warehouse):
        assert place.startswith(f"{tmp_path}/")
    assert (job.wandb_enabled, job.vertex_experiment, job.given) == (None, None, {"EXPERIMENT_NAME"})


def test_defaults_follow_what_is_given(tmp_path):
    job = read_job_environment({"ARTIFACT_BUCKET": "/data/art", "DATASET_RECSYS": "shop"}, tmp_path)
    assert (job.model_dir, job.staging_prefix) == ("/data/art/models", "/data/art/staging")
    assert job.feedback_table == "shop.feedback"


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({"MODEL_DIR": "gs://acme-artifacts/models"}, "MODEL_DIR is remote"),
        ({"STAGING_PREFIX": "s3://acme-artifacts/in"}, "STAGING_PREFIX is remote"),
        ({"ARTIFACT_BUCKET": "acme-artifacts"}, "ARTIFACT_BUCKET is remote"),
        ({"AIP_CHECKPOINT_DIR": "/gcs/checkpoints"}, "AIP_CHECKPOINT_DIR is set"),
        ({"AIP_TENSORBOARD_LOG_DIR": "/gcs/logs"}, "AIP_TENSORBOARD_LOG_DIR is set"),
        ({"CLUSTER_SPEC": cluster()}, "CLUSTER_SPEC is set"),
    ],
)
def test_in_a_cloud_everything_is_required_and_said_at_once(tmp_path, one, why):
    said = refused(one, tmp_path)
    standing_in = {"CHECKPOINT_DIR"} if "AIP_CHECKPOINT_DIR" in one else set()
    missing = set(REQUIRED) - set(one) - standing_in
    assert said.startswith(f"The job's environment has {len(missing)} problems:")
    for name in missing:
        assert f"\n  {name} is missing; expected " in said
        assert f"such as {name}=" in said
    assert said.endswith(f"All are required, since {why}.")
    assert "WANDB_ENABLED" not in said


@pytest.mark.parametrize("name", [*REQUIRED, *OPTIONAL, *PLATFORM])
@pytest.mark.parametrize("value", ["", "  "])
def test_set_but_empty_is_an_error_anywhere(tmp_path, name, value):
    said = refused({name: value}, tmp_path)
    assert f"{name} is set but empty; expected " in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROJECT_ID", "Acme Shop"),
        ("REGION", "europe-west4-a"),
        ("ARTIFACT_BUCKET", "Acme_Artifacts"),
        ("ARTIFACT_BUCKET", "http://acme-artifacts/x"),
        ("STAGING_PREFIX", "gs:/acme-artifacts/staging"),
        ("STAGING_PREFIX", "gs://acme-artifacts/../other"),
        ("STAGING_PREFIX", "ftp://host/staging"),
        ("EXPERIMENT_NAME", "two tower"),
        ("DATASET_RECSYS", "rec-sys"),
        ("DATASET_DRIFT", "a.b"),
        ("REQUESTS_TABLE", "requests"),
        ("FEEDBACK_TABLE", "acme.recsys.feedback"),
        ("DRIFT_TABLE", "drift hourly"),
        ("MODEL_DIR", " /models"),
        ("CHECKPOINT_DIR", "s3:/x"),
        ("WANDB_ENABLED", "on?"),
        ("VERTEX_EXPERIMENT", "Two_Tower"),
        ("RUN_ID", "../run"),
        ("REQUEST_ID", "a b"),
        ("AIP_MODEL_DIR", "gs://"),
        ("CLUSTER_SPEC", "{"),
        ("CLUSTER_SPEC", "[]"),
        ("CLUSTER_SPEC", cluster(index=1)),
        ("CLUSTER_SPEC", cluster(index=-1)),
        ("CLUSTER_SPEC", cluster(index="0")),
        ("CLUSTER_SPEC", cluster(kind="workerpool2", workerpool0=["a:1"], workerpool2=["b:1"])),
        ("CLUSTER_SPEC", cluster(workerpool0=["a:notaport"])),
        ("CLUSTER_SPEC", cluster(workerpool1=["a:1"])),
    ],
)
def test_a_malformed_value_is_an_error_with_what_was_found(tmp_path, name, value):
    lines = refused({name: value}, tmp_path).splitlines()
    (line,) = [line for line in lines if line.startswith(f"  {name} is ")]
    assert line.startswith(f"  {name} is {shown(value)}; expected ")
    assert f"such as {name}=" in line


def test_all_problems_of_a_local_job_stand_in_one_message(tmp_path):
    said = refused({"REGION": "", "WANDB_ENABLED": "perhaps", "MODEL_DIR": "gs:/b"}, tmp_path)
    assert said.splitlines()[0] == "The job's environment has 3 problems:"
    assert len(said.splitlines()) == 4


def test_what_vertex_says_stands_in_for_what_is_not_set(tmp_path):
    theirs = {"AIP_MODEL_DIR": "gs://job/model", "AIP_CHECKPOINT_DIR": "gs://job/checkpoints"}
    environ = {name: value for name, value in CLOUD.items() if name not in ("MODEL_DIR", "CHECKPOINT_DIR")}
    job = read_job_environment({**environ, **theirs, "AIP_TENSORBOARD_LOG_DIR": "gs://job/logs"}, tmp_path)
    assert (job.model_dir, job.checkpoint_dir, job.tensorboard_dir) == (*theirs.values(), "gs://job/logs")
    job = read_job_environment({**CLOUD, **theirs}, tmp_path)
    assert (job.model_dir, job.checkpoint_dir) == (CLOUD["MODEL_DIR"], CLOUD["CHECKPOINT_DIR"])


@pytest.mark.parametrize(
    ("kind", "index", "rank"), [("workerpool0", 0, 0), ("workerpool1", 0, 1), ("workerpool1", 2, 3)]
)
def test_a_cluster_becomes_rank_world_size_and_master(tmp_path, kind, index, rank):
    pools = {
        "workerpool0": ["main-0:2222"],
        "workerpool1": ["w-0:2222", "w-1:2222", "w-2:2222"],
        "workerpool3": ["e:1"],
    }
    job = read_job_environment({**CLOUD, "CLUSTER_SPEC": cluster(kind, index, **pools)}, tmp_path)
    expected = {"RANK": str(rank), "WORLD_SIZE": "4", "MASTER_ADDR": "main-0", "MASTER_PORT": "2222"}
    assert job.cluster.environment() == expected


@pytest.mark.parametrize(
    "value",
    ["s3://user:hunter2@host/x", "https://store.example/x?token=hunter2", "hunter2" * 6, "local_hunter2_" + "f" * 40],
)
def test_what_looks_like_a_secret_is_not_said(tmp_path, value):
    assert "hunter2" not in shown(value)
    assert "hunter2" not in refused({"WANDB_ENABLED": value, "MODEL_DIR": value + "\\"}, tmp_path)


def test_long_values_are_cut():
    assert len(shown("a b " * 100)) < 100


def test_the_key_of_user_keys_is_taken_by_reference_alone(tmp_path, monkeypatch):
    key = "5eedb175" * 8
    said = refused({"USER_KEY_SECRET": key}, tmp_path)
    assert "USER_KEY_SECRET is something else (not shown here); expected the name of a secret, never its value" in said
    assert key not in said
    monkeypatch.setenv("SHOP_KEY", key)
    job = read_job_environment({"USER_KEY_SECRET": "secret://shop-key"}, tmp_path)
    one, other = job_workspace(job, tmp_path / "one"), job_workspace(job, tmp_path / "other")
    assert one.user_key("ann") == other.user_key("ann") != Workspace.init(tmp_path / "own").user_key("ann")
    assert job_workspace(job, tmp_path / "one") == one
    with pytest.raises(InputError, match="is a workspace with another key") as caught:
        job_workspace(job, tmp_path / "own")
    assert key not in str(caught.value)
    assert redact(f"with {key}") == "with <secret://shop-key>"
    monkeypatch.setenv("SHOP_KEY", key[:-1])
    with pytest.raises(InputError, match="secret://shop-key holds something else than a workspace's key") as caught:
        job_workspace(job, tmp_path / "one")
    assert key[:-1] not in str(caught.value)
