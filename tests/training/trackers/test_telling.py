"""Trackers hear all in order and in the background; one that fails or hangs is said once and holds up nothing."""

import threading
import time

import pytest

from endcap.training.trackers.protocol import metric_name
from endcap.training.trackers.telling import Tracked
from tests.training.trackers.told import Told, a_model, a_run


class Listening:
    """Keeps all that it hears."""

    name = "listening"

    def __init__(self):
        self.heard = []

    def start(self, run):
        self.heard.append(("start", run.run_id))

    def metrics(self, step, values):
        self.heard.append((step, dict(values)))

    def artifact(self, path, place):
        self.heard.append(("artifact", place))

    def model(self, model):
        self.heard.append(("model", model.version))

    def finish(self, outcome):
        self.heard.append(("finish", outcome))


class Failing(Listening):
    name = "failing"

    def __init__(self, at, error):
        super().__init__()
        self._at, self._error = at, error

    def metrics(self, step, values):
        super().metrics(step, values)
        if self._at == "metrics":
            raise self._error

    def start(self, run):
        super().start(run)
        if self._at == "start":
            raise self._error


class Hanging(Listening):
    name = "hanging"

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()

    def metrics(self, step, values):
        self.go_on.wait(30)


def metrics_of(heard):
    """Of each step, all its metrics together."""
    found = {}
    for step, values in heard:
        if isinstance(step, int):
            found.setdefault(step, {}).update(values)
    return found


def test_all_is_told_in_order_and_passed_on(tmp_path):
    listening, told = Listening(), Told()
    tracked = Tracked([listening], told)
    tracked.metric(1, "before", 0.1)  # a run that isn't told of has no metrics there
    tracked.start(a_run(tmp_path))
    tracked.event("run started", run_id="x")
    for epoch in (1, 2):
        tracked.metric(epoch, "loss", 1.0 / epoch)
        tracked.metric(epoch, "mean/recall@10", 0.1 * epoch)
    tracked.metric(2, "nothing", float("nan"))
    tracked.metric(0, "mean/recall@10", 0.3)
    tracked.artifact(tmp_path, "report")
    tracked.model(a_model(tmp_path))
    tracked.finish("finished")
    assert listening.heard[0] == ("start", a_run(tmp_path).run_id)
    assert listening.heard[-3:] == [("artifact", "report"), ("model", 4), ("finish", "finished")]
    assert metrics_of(listening.heard) == {
        1: {"loss": 1.0, "mean/recall_at_10": 0.1},
        2: {"loss": 0.5, "mean/recall_at_10": 0.2},
        0: {"test/mean/recall_at_10": 0.3},  # a series of its own, which no epoch's value stands in
    }
    assert told.events == [("run started", {"run_id": "x"})]
    assert [name for _, name, _ in told.metrics] == [
        "before", "loss", "mean/recall@10", "loss", "mean/recall@10", "nothing", "mean/recall@10",
    ]  # fmt: skip


def test_a_value_told_twice_for_a_step_is_told_twice(tmp_path):
    listening = Listening()
    tracked = Tracked([listening], Told())
    tracked.start(a_run(tmp_path))
    for value in (0.5, 0.4):
        tracked.metric(1, "loss", value)
    tracked.finish("finished")
    assert [values["loss"] for step, values in listening.heard if step == 1] == [0.5, 0.4]


@pytest.mark.parametrize("at", ["start", "metrics"])
@pytest.mark.parametrize("error", [ConnectionError("https://ann:pw@mlflow.example is down"), SystemExit(1)])
def test_a_failing_one_is_said_once_and_the_others_hear_on(at, error, tmp_path):
    failing, listening, told = Failing(at, error), Listening(), Told()
    tracked = Tracked([failing, listening], told)
    tracked.start(a_run(tmp_path))
    for epoch in range(1, 4):
        tracked.metric(epoch, "loss", 1.0)
    tracked.finish("finished")
    ((event, fields),) = told.events
    assert event == "a tracker failed; the run goes on without it"
    assert fields["tracker"] == "failing"
    assert type(error).__name__ in fields["error"]
    assert "pw" not in fields["error"]
    assert failing.heard[-1] == ("finish", "failed")  # so that it lets go of what it holds
    assert listening.heard[-1] == ("finish", "finished")
    assert set(metrics_of(listening.heard)) == {1, 2, 3}


def test_a_hanging_one_is_left_behind(tmp_path):
    hanging, listening, told = Hanging(), Listening(), Told()
    tracked = Tracked([hanging, listening], told)
    tracked.start(a_run(tmp_path))
    started = time.monotonic()
    tracked.metric(1, "loss", 1.0)
    tracked.finish("stopped", timeout_s=0.2)
    assert time.monotonic() - started < 10
    assert listening.heard[-1] == ("finish", "stopped")
    assert [fields["tracker"] for _, fields in told.events] == ["hanging"]
    hanging.go_on.set()


def test_a_run_never_started_is_none_to_them():
    listening = Listening()
    tracked = Tracked([listening], Told())
    tracked.metric(1, "loss", 1.0)
    tracked.finish("finished")
    assert listening.heard == []


def test_what_a_run_is_made_from_is_flat(tmp_path):
    run = a_run(tmp_path)
    assert run.parameters() == {
        "training.learning_rate": 0.003,
        "training.refit": True,
        "model.buyer_tower": '[{"units": 64}]',
        "model.top_k": 100,
        "seed": 7,
    }
    assert run.facts()["data_version.events"] == 5
    assert metric_name("new_to_customer/hit_rate@10 (x)") == "new_to_customer/hit_rate_at_10__x_"
