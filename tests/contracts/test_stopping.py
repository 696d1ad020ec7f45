"""Where a signal raises, and where it waits."""

import signal
import subprocess
import sys

import pytest

from endcap.contracts.stopping import Stopped, stop_on_signals, uninterrupted

READING_TEXTS = """
import os, subprocess
import numpy as np, onnxruntime as ort
from onnx import TensorProto, helper
from endcap.contracts.stopping import Stopped, stop_on_signals, uninterrupted

x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [None]) for name in "xy")
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "texts", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = ort.InferenceSession(model.SerializeToString())
texts = np.array(["lamp"] * 200_000, dtype=object)
subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -TERM {os.getpid()}"])
try:
    with stop_on_signals():
        while True:
            with uninterrupted():
                session.run(None, {"x": texts})
except Stopped as stopped:
    raise SystemExit(stopped.exit_code)
"""
"""Nearly all of its time goes to turning texts into a tensor, where a signal that raises ends the process by a fault."""


def asked_in_an_uninterrupted_block(done):
    with stop_on_signals():
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("the block")
        done.append("what follows")


def asked_in_held_work(done):
    with stop_on_signals() as stop:
        with stop.held():
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
            done.append("what follows")
        stop.check()


def test_a_request_that_comes_in_an_uninterrupted_block_raises_after_it():
    done = []
    with pytest.raises(Stopped) as stopped:
        asked_in_an_uninterrupted_block(done)
    assert done == ["the block"]
    assert stopped.value.exit_code == 143


def test_uninterrupted_within_held_work_leaves_a_request_waiting():
    done = []
    with pytest.raises(Stopped):
        asked_in_held_work(done)
    assert done == ["what follows"]


def test_an_uninterrupted_block_that_fails_fails():
    with pytest.raises(ZeroDivisionError), uninterrupted():
        _ = 1 / 0


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_outside_of_what_stops_on_signals_uninterrupted_changes_nothing():
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)


def test_a_graph_that_reads_texts_when_the_signal_comes_ends_as_asked():
    done = subprocess.run([sys.executable, "-c", READING_TEXTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")
