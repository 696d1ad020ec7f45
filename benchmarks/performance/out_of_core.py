"""Made-up interactions on disk in, questions per second and resident peaks out: mapped from disk, and all in memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from benchmarks.report import Report
from endcap.contracts.configuration import ModelConfig, TrainingConfig
from endcap.contracts.encoded import EncodedColumn
from endcap.ingest.synthetic import parse_count
from endcap.models.towers import Towers
from endcap.training.data import Questions, Ragged
from endcap.training.stored import MANIFEST, open_questions
from endcap.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
DIM = 32
TARGETS = HISTORY = 10
NUM_DAYS = 30
BATCH = 4096
DAY_US = 86_400_000_000
AT_ONCE = 1 << 18
MIB = 2**20


class LargeCatalog:
    """Products that are nothing but their ids."""

    id_column = "item_id.embedding"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def on(self, day: int, rows: Tensor | None = None) -> dict[str, Tensor]:
        """The products' numbers."""
        del day
        return {self.id_column: torch.arange(self.num_items + 1) if rows is None else rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.out_of_core", description=__doc__)
    parser.add_argument("--interactions", default="100M", help="bought products to learn from")
    parser.add_argument("--users", default="5M")
    parser.add_argument("--items", default="500k")
    parser.add_argument("--steps", type=int, default=300, help=f"steps of {BATCH} questions that are timed")
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer from 2M interactions")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    num_users, num_items = parse_count(options.users), parse_count(options.items)
    if options.job:
        folder, where = options.job
        print(json.dumps(train(Path(folder), num_users, num_items, options.steps, in_memory=where == "memory")))
        return
    count = parse_count("2M" if options.quick else options.interactions)
    title = f"Training on {count:,} interactions of {num_users:,} users and {num_items:,} products x {DIM}"
    report = Report(title=title, libraries=["torch", "numpy"])
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        questions = Path(folder) / "questions"
        make_questions(questions, count // TARGETS, num_users, num_items)
        size = sum(path.stat().st_size for path in questions.iterdir())
        found = {where: _child(questions, where, options) for where in ("disk", "memory")}
    for where, sample in found.items():
        report.add("train", f"endcap, questions {'on' if where == 'disk' else 'in'} {where}", f"{count:,}", **sample)
    report.add("files", "endcap", f"{count:,}", mib=size / MIB)
    report.ratios["training.out_of_core_rate"] = round(
        found["disk"]["questions_per_second"] / found["memory"]["questions_per_second"], 3
    )
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def _child(questions: Path, where: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.performance.out_of_core", "--users", options.users]
    command += ["--items", options.items, "--steps", str(options.steps), "--job", str(questions), where]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def make_questions(folder: Path, num_questions: int, num_users: int, num_items: int) -> None:
    """Write questions piece by piece: skewed products, histories and targets of ten each."""
    folder.mkdir()
    rng = np.random.default_rng(7)

    def file(name: str, dtype: Any, length: int) -> Any:
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(length,))

    def skewed(length: int) -> Any:
        return 1 + (num_items * rng.random(length) ** 3).astype(np.int64)

    users, day, bought = (file(name, np.int64, num_questions) for name in ("tensor0", "day", "bought_us"))
    items = [
        file(f"history{n}.values", t, num_questions * HISTORY) for n, t in enumerate((np.int64, *[np.float32] * 2))
    ]
    targets = file("targets.values", np.int64, num_questions * TARGETS)
    for start in range(0, num_questions, AT_ONCE):
        stop = min(start + AT_ONCE, num_questions)
        users[start:stop] = rng.integers(1, num_users + 1, stop - start)
        day[start:stop] = np.sort(rng.integers(0, NUM_DAYS, stop - start))
        bought[start:stop] = day[start:stop] * DAY_US
        entries, bought_items = slice(start * HISTORY, stop * HISTORY), slice(start * TARGETS, stop * TARGETS)
        items[0][entries] = skewed((stop - start) * HISTORY)
        items[1][entries] = rng.integers(1, 60, (stop - start) * HISTORY)
        items[2][entries] = 1
        targets[bought_items] = skewed((stop - start) * TARGETS)
    for name, width in (*[(f"history{n}", HISTORY) for n in range(3)], ("targets", TARGETS)):
        file(f"{name}.offsets", np.int64, num_questions + 1)[:] = np.arange(num_questions + 1) * width
    names = ["history", "history.age_days", "history.count"]
    content = {
        "num_questions": num_questions, "tensors": ["user_id.embedding"], "stranger": [], "history": names,
        "id_column": "user_id.embedding",
    }  # fmt: skip
    (folder / MANIFEST).write_bytes(msgspec.json.encode(content))


def train(folder: Path, num_users: int, num_items: int, num_steps: int, *, in_memory: bool) -> dict[str, float]:
    """Train some steps and tell the rate; peaks are of memory of the process's own, and of all that is resident."""
    # Before there are other threads, which take it over: tiny numbers of the optimizer cost tens of times as much.
    torch.set_flush_denormal(True)
    questions = open_questions(folder)
    if in_memory:
        questions = _copied(questions)
    buyer = [
        EncodedColumn("user_id.embedding", "user_id", "index", num_users + 1, DIM),
        EncodedColumn("history", "history", "sequence", num_items + 1, 0),
    ]
    product = [EncodedColumn("item_id.embedding", "item_id", "index", num_items + 1, DIM)]
    shape = ModelConfig(buyer_tower=[{"units": 64}], product_tower=[], output_embedding_dim=DIM + 1, repeat_head=False)  # type: ignore[list-item]
    settings = TrainingConfig(
        batch_size=BATCH, num_epochs=1, sparse_learning_rate=0.05, weight_average=0, num_threads=2
    )
    torch.manual_seed(7)
    model = Towers(buyer, product, "item_id", shape)
    tables_mib = sum(p.numel() * p.element_size() for p in model.parameters()) / MIB
    trainer = Trainer(model, settings, LargeCatalog(num_items), questions, NUM_DAYS * DAY_US, 7)  # type: ignore[arg-type]
    watch = _Peaks()
    seconds = _timed(trainer, num_steps)
    peak_own, peak_resident = watch.stop()
    return {
        "questions_per_second": num_steps * BATCH / seconds,
        "interactions_per_second": num_steps * BATCH * TARGETS / seconds,
        "tables_mib": tables_mib,
        "peak_own_mib": peak_own,
        "peak_resident_mib": peak_resident,
    }


class _Enough(Exception):  # noqa: N818 (no error)
    """As many steps as were asked for."""


def _timed(trainer: Trainer, num_steps: int) -> float:
    """Seconds of some steps; the first, which makes the optimizers' state, comes before the clock starts."""
    moments: list[float] = []

    def progress(*_: object) -> None:
        moments.append(time.perf_counter())
        if len(moments) > num_steps:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run_epoch(progress)
    if len(moments) <= num_steps:
        raise SystemExit(f"An epoch has {len(moments) + 1} steps only; give fewer --steps or more --interactions.")
    return moments[-1] - moments[0]


def _copied(questions: Questions) -> Questions:
    def ragged(value: Ragged) -> Ragged:
        return Ragged(value.offsets.copy(), value.values.clone())

    assert questions.history is not None
    return Questions(
        tensors={name: tensor.clone() for name, tensor in questions.tensors.items()},
        stranger={},
        history={name: ragged(value) for name, value in questions.history.items()},
        targets=ragged(questions.targets),
        day=questions.day.copy(),
        bought_us=questions.bought_us.copy(),
        id_column=questions.id_column,
    )


class _Peaks:
    """The most memory this process had: its own (anonymous), and resident in all, mapped files included."""

    def __init__(self) -> None:
        self._own = self._resident = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.is_set():
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            self._own = max(self._own, int(status.partition("RssAnon:")[2].split()[0]))
            self._resident = max(self._resident, int(status.partition("VmRSS:")[2].split()[0]))
            time.sleep(0.05)

    def stop(self) -> tuple[float, float]:
        """Both in MiB."""
        self._done.set()
        self._thread.join()
        return self._own / 1024, self._resident / 1024


if __name__ == "__main__":
    main()
