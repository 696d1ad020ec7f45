"""A job on Vertex AI, from its request to its end, through the official client."""

from __future__ import annotations

from collections import deque

import pytest
from google.cloud import aiplatform_v1 as api

from endcap.contracts.errors import InputError, TransientError
from endcap.contracts.submission import MACHINES
from endcap.training.launchers.protocol import Job, Phase
from endcap.training.launchers.vertex import VertexLauncher
from endcap.training.launchers.vertex_log import CloudLog
from endcap.training.launchers.vertex_request import as_mapping, checked_plain, custom_job, was_preempted
from endcap.training.launchers.waiting import JobFailedError, Waiting
from tests.training.launchers.fake_vertex import BROKEN, PREEMPTED

JOB = Job(
    "train-20260131T020000Z-5C9206",
    ("experiment=best", "training.num_epochs=3"),
    environment={"RUN_ID": "train-20260131T020000Z-5C9206", "MODEL_DIR": "gs://acme/endcap/model"},
    labels={"experiment": "best"},
)
NAME = "projects/acme-shop/locations/us-central1/customJobs"


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self):
        self.events, self.metrics = [], []

    def event(self, event, **fields):
        self.events.append((event, fields))

    def metric(self, step, metric, value):
        self.metrics.append((step, metric, value))

    def progress(self, stage, done, total, note=""):
        pass

    @property
    def names(self):
        return [event for event, _ in self.events]


def launcher(config):
    return VertexLauncher(config, sleep=lambda _: None)


def test_the_request_is_the_contract_s(vertex_config):
    config = vertex_config(
        service_account="trainer@acme-shop.iam.gserviceaccount.com", labels={"team": "search"}, timeout_minutes=90
    )
    assert as_mapping(custom_job(config, JOB, 1)) == {
        "display_name": "train-20260131T020000Z-5C9206",
        "labels": {
            "team": "search",
            "experiment": "best",
            "endcap_run_id": "train-20260131t020000z-5c9206",
            "endcap_attempt": "1",
        },
        "job_spec": {
            "worker_pool_specs": [
                {
                    "machine_spec": {
                        "machine_type": "g2-standard-8",
                        "accelerator_type": "NVIDIA_L4",
                        "accelerator_count": 1,
                    },
                    "replica_count": "1",
                    "container_spec": {
                        "image_uri": "img.example/train:1",
                        "args": ["experiment=best", "training.num_epochs=3"],
                        "env": [
                            {"name": "MODEL_DIR", "value": "gs://acme/endcap/model"},
                            {"name": "RUN_ID", "value": "train-20260131T020000Z-5C9206"},
                        ],
                    },
                    "disk_spec": {"boot_disk_type": "pd-ssd", "boot_disk_size_gb": 100},
                }
            ],
            "scheduling": {"timeout": "5400s", "restart_job_on_worker_restart": True, "strategy": "STANDARD"},
            "service_account": "trainer@acme-shop.iam.gserviceaccount.com",
            "base_output_directory": {"output_uri_prefix": "gs://acme/endcap"},
        },
    }


def test_machines_strategies_and_replicas(vertex_config):
    def spec(**more):
        return as_mapping(custom_job(vertex_config(**more), JOB, 2))["job_spec"]

    found = spec(machine=MACHINES["t4"].model_dump(), strategy="SPOT")
    assert found["worker_pool_specs"][0]["machine_spec"] == {
        "machine_type": "n1-standard-8", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 1,
    }  # fmt: skip
    assert found["scheduling"]["strategy"] == "SPOT"
    found = spec(machine=MACHINES["cpu"].model_dump(), replica_count=4)
    assert [pool["replica_count"] for pool in found["worker_pool_specs"]] == ["1", "3"]
    assert found["worker_pool_specs"][1]["machine_spec"] == {"machine_type": "n1-standard-8"}
    assert spec(strategy="FLEX_START", max_wait_minutes=30)["scheduling"] == {
        "restart_job_on_worker_restart": True, "strategy": "FLEX_START", "max_wait_duration": "1800s",
    }  # fmt: skip


def test_a_preempted_job_is_submitted_again_until_it_succeeds(vertex, vertex_config):
    vertex.stories.extend([["PENDING", "RUNNING", PREEMPTED], ["QUEUED", "RUNNING", "RUNNING", "SUCCEEDED"]])
    told = iter([{"event": "run started", "run_id": JOB.run_id, "experiment": "best"}, "not JSON\n"])
    last = {"event": "metric", "metric": "ndcg@10", "value": 0.25, "step": 0}

    def look(job):
        if (line := next(told, None)) is not None:
            vertex.log(job.name, line)

    vertex.on_look = look
    vertex.on_success = lambda job: vertex.log(job.name, {"metric": "ndcg@10", "value": 0.2, "step": 1}, last)
    heard, handles = Heard(), []
    waiting = Waiting(
        launcher(vertex_config(strategy="SPOT")), JOB, heard, max_resubmissions=6, poll_s=0.01,
        on_start=lambda handle, attempt: handles.append((handle, attempt)),
    )  # fmt: skip
    ended = waiting.run()
    assert handles == [(f"{NAME}/1", 1), (f"{NAME}/2", 2)]
    assert (ended.handle, ended.num_attempts, ended.run_id) == (f"{NAME}/2", 2, JOB.run_id)
    assert heard.names == [
        "job submitted", "job pending", "run started", "job running", "not JSON", "job preempted", "submitting again",
        "job submitted", "job pending", "job running", "job succeeded",
    ]  # fmt: skip
    assert heard.metrics == [(1, "ndcg@10", 0.2), (0, "ndcg@10", 0.25)]
    assert ended.metrics == {"ndcg@10": 0.25}
    first, second = vertex.jobs.values()
    assert (first.display_name, second.display_name) == (JOB.run_id, f"{JOB.run_id}-2")
    assert second.labels["endcap_attempt"] == "2"
    assert first.job_spec.worker_pool_specs[0].container_spec == second.job_spec.worker_pool_specs[0].container_spec


def test_a_job_that_is_broken_is_not_submitted_again(vertex, vertex_config):
    vertex.stories.append(["PENDING", "RUNNING", BROKEN])
    with pytest.raises(JobFailedError, match="exited with a non-zero status of 1"):
        Waiting(launcher(vertex_config()), JOB, Heard(), max_resubmissions=6, poll_s=0.01).run()
    assert len(vertex.jobs) == 1


def test_preempted_too_often_says_how_to_go_on(vertex, vertex_config):
    vertex.stories.extend([[PREEMPTED]] * 3)
    with pytest.raises(JobFailedError, match=r"in all 3 attempts.*the same --run-id"):
        Waiting(launcher(vertex_config()), JOB, Heard(), max_resubmissions=2, poll_s=0.01).run()
    assert len(vertex.jobs) == 3


def test_the_time_over_cancels(vertex, vertex_config):
    heard = Heard()
    waiting = Waiting(launcher(vertex_config()), JOB, heard, timeout_s=0.2, poll_s=0.01)
    with pytest.raises(JobFailedError, match="wasn't done after"):
        waiting.run()
    assert vertex.jobs[f"{NAME}/1"].state == api.JobState.JOB_STATE_CANCELLED
    assert heard.names[-1] == "job cancelled"
    assert vertex.jobs[f"{NAME}/1"].job_spec.scheduling.timeout.total_seconds() == 1  # the service's own limit, too


def test_ctrl_c_cancels(vertex, vertex_config):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Waiting(launcher(vertex_config()), JOB, Heard(), sleep=interrupted).run()
    assert vertex.jobs[f"{NAME}/1"].state == api.JobState.JOB_STATE_CANCELLED


def test_somebody_else_s_cancelling_is_no_preemption(vertex, vertex_config):
    vertex.stories.append(["RUNNING", "CANCELLED"])
    with pytest.raises(JobFailedError, match="customJobs/1 cancelled"):
        Waiting(launcher(vertex_config()), JOB, Heard(), max_resubmissions=6, poll_s=0.01).run()


@pytest.mark.parametrize(("fault", "num_tries"), [("before", 2), ("after", 1)])
def test_an_unanswered_creation_never_makes_two(vertex, vertex_config, fault, num_tries):
    vertex.faults["CreateCustomJob"] = deque([fault])
    assert launcher(vertex_config()).start(JOB, 1) == f"{NAME}/1"
    assert vertex.calls.count("CreateCustomJob") == num_tries
    assert len(vertex.jobs) == 1


def test_a_job_under_way_is_taken_up_and_one_that_is_over_is_not(vertex, vertex_config):
    place = launcher(vertex_config())
    assert place.start(JOB, 1) == place.start(JOB, 1) == f"{NAME}/1"
    place.cancel(f"{NAME}/1")
    assert place.start(JOB, 1) == f"{NAME}/2"


def test_silence_is_borne_for_a_while(vertex, vertex_config):
    vertex.stories.append(["RUNNING", "SUCCEEDED"])
    vertex.faults["GetCustomJob"] = deque(["", *["before"] * 5])
    heard = Heard()
    assert Waiting(launcher(vertex_config()), JOB, heard, poll_s=0.01).run().num_attempts == 1
    assert heard.names.count("the place doesn't answer; asking again") == 1
    vertex.faults["GetCustomJob"].extend(["before"] * 20)
    with pytest.raises(TransientError, match="20 times in a row"):
        Waiting(launcher(vertex_config()), JOB, Heard(), poll_s=0.001).run()


def test_refusals_of_the_service_are_told(vertex, vertex_config):
    with pytest.raises(InputError, match="Vertex AI refuses the job's creation: expected an image"):
        launcher(vertex_config().model_copy(update={"image_uri": ""})).start(JOB, 1)
    with pytest.raises(InputError, match="There is no projects/acme-shop/locations/us-central1/customJobs/9"):
        launcher(vertex_config()).status(f"{NAME}/9")


def test_a_log_that_can_t_be_read_fails_nothing(vertex, vertex_config):
    vertex.log_status = 403
    vertex.stories.append(["RUNNING", "RUNNING", "SUCCEEDED"])
    heard = Heard()
    Waiting(launcher(vertex_config()), JOB, heard, poll_s=0.01).run()
    assert heard.names.count("the job's log can't be read; going on without") == 1
    assert vertex.calls.count("entries:list") == 1


def test_each_line_is_told_once_whatever_the_pages(vertex):
    log = CloudLog("acme-shop", f"{NAME}/7", vertex.http)
    vertex.log(f"{NAME}/7", *({"event": f"e{number}"} for number in range(5)))
    vertex.log(f"{NAME}/8", {"event": "another job's"})
    assert [line["event"] for line in log.entries()] == [f"e{number}" for number in range(5)]
    vertex.log(f"{NAME}/7", "late")
    assert list(log.entries()) == [{"message": "late"}]
    assert list(log.entries()) == []


def test_where_a_bucket_lies_is_asked(vertex, vertex_config):
    vertex.buckets["elsewhere"] = {"name": "elsewhere", "location": "EU", "locationType": "multi-region"}
    place = launcher(vertex_config())
    assert place.bucket_problem("acme") is None
    assert "gs://elsewhere lies in eu, and the job would run in us-central1" in str(place.bucket_problem("elsewhere"))
    with pytest.raises(InputError, match="There is no gs://nowhere"):
        place.bucket_problem("nowhere")


@pytest.mark.parametrize(
    ("code", "message", "is_spot", "expected"),
    [
        (*PREEMPTED, False, True),
        (*BROKEN, True, False),
        (3, "exited with a non-zero status of 1430", True, False),
        (8, "Resources are insufficient: STOCKOUT in us-central1", False, True),
        (14, "", False, True),
        (13, "Internal error occurred", False, False),
        (3, "exited with a non-zero status of 137", True, True),
        (3, "exited with a non-zero status of 137", False, False),
        (9, "status of 137. Replicas low on memory: workerpool0", True, False),
        (10, "The VM was preempted", False, True),
    ],
)
def test_what_counts_as_taken_away(code, message, is_spot, expected):
    assert was_preempted(code, message, is_spot=is_spot) is expected


def test_states_between_are_of_a_job_under_way(vertex, vertex_config):
    vertex.stories.append(["PAUSED", "CANCELLING", "EXPIRED"])
    place = launcher(vertex_config())
    handle = place.start(JOB, 1)
    assert [place.status(handle).phase for _ in range(3)] == [Phase.RUNNING, Phase.RUNNING, Phase.FAILED]


def test_plain_http_is_for_this_machine_alone():
    assert checked_plain("http://127.0.0.1:80")
    with pytest.raises(InputError, match="expected https://"):
        checked_plain("http://training.example")
