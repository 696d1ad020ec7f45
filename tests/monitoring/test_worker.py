"""What probes and Prometheus hear of a worker, over real HTTP."""

import json
import socket
import urllib.error
import urllib.request

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.monitoring.worker import WorkerHealth, listening


class Kept(Silent):
    def __init__(self):
        self.heard = []

    def event(self, event, **fields):
        self.heard.append((event, fields))

    def metric(self, step, metric, value):
        self.heard.append((step, metric, value))


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_probes_hear_what_was_reported_and_the_report_goes_on():
    kept, now = Kept(), [100.0]
    health = WorkerHealth(kept, stalled_after_s=60, clock=lambda: now[0])
    with listening(health, "127.0.0.1", 0) as port:
        health.event("run started", run_id="r")
        health.progress("training", 3, 4)
        health.metric(2, "ndcg@10", 0.25)
        health.metric(0, "ndcg@10", 0.5)
        now[0] += 10
        assert get(port, "/healthz") == (
            200,
            json.dumps({"status": "ok", "stage": "training", "silent_seconds": 10.0}),
        )
        status, text = get(port, "/metrics")
        assert status == 200
        for line in (
            'endcap_job_metric{metric="ndcg@10",split="validation"} 0.25',
            'endcap_job_metric{metric="ndcg@10",split="test"} 0.5',
            'endcap_job_stage_done_ratio{stage="training"} 0.75',
            "endcap_job_epoch 2.0",
            "endcap_job_events_total 1.0",
            "endcap_job_silent_seconds 10.0",
        ):
            assert line in text.splitlines()
        assert get(port, "/other")[0] == 404
        now[0] += 51
        status, told = get(port, "/healthz")
        assert (status, json.loads(told)["status"]) == (503, "stalled")
        health.progress("training", 4, 4)
        assert get(port, "/healthz")[0] == 200
    assert kept.heard == [
        ("run started", {"run_id": "r"}), (2, "ndcg@10", 0.25), (0, "ndcg@10", 0.5),
    ]  # fmt: skip
    with pytest.raises(urllib.error.URLError):
        get(port, "/healthz")


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"--health-port {port} of 127.0.0.1 can't be had"),
            listening(WorkerHealth(Silent()), "127.0.0.1", port),
        ):
            pass
