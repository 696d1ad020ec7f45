"""`endcap submit`, as it is typed."""

import json

import pytest

from endcap.contracts.job import OPTIONAL, PLATFORM, REQUIRED
from tests.training.launchers.fake_vertex import BROKEN, PREEMPTED

ASKED = ("submit", "--target", "vertex", "--project", "acme-shop", "--region", "us-central1", "--bucket", "gs://acme",
         "--image", "img.example/train:1")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_job_around(monkeypatch, tmp_path):
    for name in (*REQUIRED, *OPTIONAL, *PLATFORM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def to_the_fake(vertex, tmp_path):
    file = tmp_path / "submit.yaml"
    file.write_text(f"api_endpoint: {vertex.endpoint}\nlog_endpoint: {vertex.http}\npoll_seconds: 0.01\n")
    return (*ASKED, "--config", file)


@pytest.mark.parametrize(
    ("options", "machine", "strategy"),
    [
        (
            (),
            {"machine_type": "g2-standard-8", "accelerator_type": "NVIDIA_L4", "accelerator_count": 1},
            "STANDARD",
        ),
        (
            ("--machine", "t4", "--strategy", "spot"),
            {"machine_type": "n1-standard-8", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 1},
            "SPOT",
        ),
        (("--machine", "cpu"), {"machine_type": "n1-standard-8"}, "STANDARD"),
    ],
)
def test_a_dry_run_prints_the_request_and_sends_nothing(endcap, vertex, to_the_fake, options, machine, strategy):
    said = endcap(
        *to_the_fake, *options, "experiment=best", "--run-id", "nightly-1", "--dry-run", "--log-format", "text"
    )
    assert (said.code, said.err) == (0, "")
    request = json.loads(said.out.partition("\nNothing was submitted.")[0])
    pool = request["job_spec"]["worker_pool_specs"][0]
    assert pool["machine_spec"] == machine
    assert request["job_spec"]["scheduling"]["strategy"] == strategy
    assert pool["container_spec"]["args"][0] == "experiment=best"
    assert {"name": "RUN_ID", "value": "nightly-1"} in pool["container_spec"]["env"]
    assert vertex.calls == ["bucket acme"]


def test_what_can_t_be_asked_from_here_is_said(endcap, to_the_fake):
    (told,) = (json.loads(line) for line in endcap(*to_the_fake, "--bucket", "gs://none", "--dry-run").out.splitlines())
    assert told["event"] == "job planned"
    assert told["request"]["job_spec"]["base_output_directory"] == {"output_uri_prefix": "gs://none/endcap"}
    assert "Where gs://none lies could not be asked" in told["unchecked"][0]


def test_refusals_come_before_anything_is_rented(endcap, vertex, to_the_fake):
    vertex.buckets["data"] = {"name": "data", "location": "EUROPE-WEST4"}
    for options, part in (
        (("--region", "europe-north1"), "europe-north1 offers no NVIDIA_L4"),
        (("--bucket", "gs://data"), "gs://data lies in europe-west4, and the job would run in us-central1"),
        (("training.num_epoch=2",), "Did you mean training.num_epochs?"),
        (("--config", "missing.yaml"), "missing.yaml can't be read"),
        (("--attach", "nightly-1"), "outside a workspace"),
    ):
        said = endcap(*to_the_fake, *options)
        assert (said.code, part in said.err, said.out) == (2, True, ""), said
    said = endcap("submit", "--target", "vertex")
    assert said.code == 2
    assert said.err.startswith("error: Nothing was submitted, 4 problems:\n  project is missing")
    assert not vertex.jobs


def test_waiting_goes_through_a_preemption_to_the_metrics(endcap, vertex, to_the_fake):
    vertex.stories.extend([["PENDING", "RUNNING", PREEMPTED], ["RUNNING", "SUCCEEDED"]])
    line = {"event": "metric", "run_id": "nightly-1", "metric": "ndcg@10", "value": 0.25, "step": 0}
    vertex.on_success = lambda job: vertex.log(job.name, line)
    model_dir = to_the_fake[-1].parent / "models"
    with to_the_fake[-1].open("a") as file:
        file.write(f"env: {{MODEL_DIR: {model_dir}}}\n")
    said = endcap(*to_the_fake, "--run-id", "nightly-1", "--wait", "--timeout", 5, "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    for part in ("submitting again", "nightly-1 succeeded after", "in 2 attempts", "ndcg@10", "0.2500"):
        assert part in said.out
    told = [json.loads(text) for text in endcap(*to_the_fake, "--log-format", "json").out.splitlines()]
    assert told[-1]["event"] == "job left to itself"
    assert told[-1]["job"].endswith("customJobs/3")


def test_a_failed_job_is_no_success(endcap, vertex, to_the_fake):
    vertex.stories.append(["RUNNING", BROKEN])
    said = endcap(*to_the_fake, "--wait")
    assert said.code == 2
    assert "failed: The replica workerpool0-0 exited with a non-zero status of 1" in said.err


def test_a_process_here_wants_a_workspace_and_somebody_who_waits(endcap, ingested_shop):
    assert "is no workspace" in endcap("submit", "experiment=baseline").err
    said = endcap("submit", "-w", ingested_shop.path, "--timeout", 1)
    assert (said.code, "add --wait" in said.err) == (2, True)
    told = json.loads(endcap("submit", "-w", ingested_shop.path, "seed=3", "--dry-run").out)
    assert told["request"]["command"][:4] == ["python", "-m", "train.main", "seed=3"]
