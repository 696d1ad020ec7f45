"""A folder with a model in, how Endcap and the peer are started for it out, and whether they answer alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.performance.processes import ServerProcess, free_port
from benchmarks.performance.synthetic import Size, Weights, city_name, customer_id, write_release

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
SEED = 7
# Scores of the two systems are float32 sums in different orders.
SCORE_TOLERANCE = 2e-5

Start = Callable[[], ServerProcess]


def write_models(folder: Path, peer_python: Path, weights: Weights, size: Size) -> None:
    """The same weights as a release and as the peer's SavedModel."""
    folder.mkdir(exist_ok=True)
    write_release(folder / "release", weights, size, SEED)
    np.savez(folder / "weights.npz", **weights)
    subprocess.run(
        [
            peer_python,
            PEERS / "tensorflow" / "build_saved_model.py",
            folder / "weights.npz",
            folder / "saved_model",
            str(size.top_k),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "weights.npz").unlink()


def our_command(release: Path, port: int) -> list[str]:
    """How a user starts the server, with the interpreter that runs this."""
    return [sys.executable, "-m", "endcap", "serve", str(release), "--port", str(port)]


def our_start(release: Path) -> Start:
    """Starts Endcap on the release."""

    def start() -> ServerProcess:
        port = free_port()
        return ServerProcess("endcap", our_command(release, port), port, {}, release.parent / "endcap.log", ROOT)

    return start


def peer_start(folder: Path, peer_python: Path) -> Start:
    """Starts the peer on the SavedModel in the folder."""

    def start() -> ServerProcess:
        port = free_port()
        gunicorn = str(peer_python.with_name("gunicorn"))
        command = [gunicorn, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "4", "app:application"]
        # No GPU is looked for; the log stays readable.
        environment = {
            "SAVED_MODEL": str(folder / "saved_model"),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        return ServerProcess("tensorflow", command, port, environment, folder / "tensorflow.log", PEERS / "tensorflow")

    return start


@contextmanager
def running(start: Start) -> Iterator[ServerProcess]:
    """A server, until the block ends."""
    server = start()
    try:
        yield server
    finally:
        server.stop()


def instance(number: int, size: Size) -> dict[str, Any]:
    """The features of one customer, as predict.lua writes them."""
    return {"customer_id": customer_id(number), "city": city_name(number % size.num_cities), "age": 18 + number % 60}


def customers_checked(size: Size, num_checked: int) -> list[int]:
    """Numbers of so many customers."""
    return [(place * 7919) % size.num_customers for place in range(num_checked)]


def compare_answers(ours: ServerProcess, peer: ServerProcess, size: Size, num_checked: int) -> dict[str, int]:
    """How many customers get the same products in the same order; the others must differ within ties alone.

    Raises AssertionError when scores differ by more than the tolerance, or a product is missing that isn't tied.
    """
    numbers = customers_checked(size, num_checked)
    num_equal = 0
    for start in range(0, num_checked, 50):
        body = {"instances": [instance(number, size) for number in numbers[start : start + 50]]}
        found = [server.ask(body)["predictions"] for server in (ours, peer)]
        for mine, theirs in zip(*found, strict=True):
            num_equal += is_same_answer(mine, theirs)
    return {"compared_customers": num_checked, "same_products_and_order": num_equal}


def is_same_answer(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether products and order are equal. Raises AssertionError for a difference that isn't a tie."""
    my_scores, their_scores = np.array(mine["scores"]), np.array(theirs["scores"])
    tolerance = SCORE_TOLERANCE * max(1.0, float(np.abs(their_scores).max()))
    assert np.abs(my_scores - their_scores).max() <= tolerance, "scores differ"
    if mine["product_ids"] == theirs["product_ids"]:
        return True
    score_by_id = dict(zip(mine["product_ids"], my_scores, strict=True))
    for product, score in zip(theirs["product_ids"], their_scores, strict=True):
        # Absent: only a product tied with the last place may be.
        assert abs(score_by_id.get(product, my_scores[-1]) - score) <= tolerance, "products differ beyond ties"
    return False


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of what the peer is made of."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    installed: dict[str, str] = json.loads(output)
    wanted = ("tensorflow", "tensorflow_cpu", "tensorflow-cpu", "flask", "Flask", "gunicorn")
    return {name: number for name, number in installed.items() if name in wanted}


def say(message: str) -> None:
    """Tell whoever waits what is being done."""
    print(f"… {message}", file=sys.stderr, flush=True)
