"""Made-up purchases through training steps on a GPU: step times out, beside what moving the bytes or multiplying alone would take.

Two floors that no step can beat: the bytes that it must move (weights, gradients, moments, averages, the rows of large
tables that it touches) at the speed at which this device copies, and the multiplications of its matrices at the speed at
which it multiplies large ones. The share reached is the higher floor over the step's time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.training_jobs import FEATURES, MODEL, on_one_day
from benchmarks.performance.two_tower_data import write_made_up
from benchmarks.report import Report
from endcap.contracts.configuration import TrainingConfig
from endcap.features.fitted import fit
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog
from endcap.training.trainer import Trainer

ABSENT = "No GPU is at hand: torch finds none that it can use, so nothing was measured. Run this where `nvidia-smi` lists one."
MADE_UP = (2_000_000, 200_000, 50_000)
QUICK = (60_000, 5_000, 2_000)
BATCHES = (2048, 8192, 32_768)
NUM_STEPS = 30
_WORD = 4
_DENSE_WORDS = 10
"""A dense weight's step in float32: gradient, weight and two moments read, weight and moments written, average read and
written, gradient cleared."""
_ROW_WORDS = 5
"""A touched row's: read forward, gradient written and read, row read and written."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer: little data, the smallest batch")
    parser.add_argument("--device", default="cuda", help="another one, such as cpu, to try the benchmark itself")
    parser.add_argument("--compile", action="store_true", help="with compiled towers")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(ABSENT)
        return
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    report = Report(title=f"Training steps on {name}", libraries=["torch", "numpy"])
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as place:
        write_made_up(*(QUICK if options.quick else MADE_UP), Path(place), held_out=1_000)
        for precision in ("float32", "bfloat16"):
            for batch_size in BATCHES[:1] if options.quick else BATCHES:
                measure(report, Path(place), batch_size, precision, device, is_compiled=options.compile)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def measure(
    report: Report, folder: Path, batch_size: int, precision: str, device: torch.device, *, is_compiled: bool = False
) -> None:
    """A row: the median step, its floors and the share reached."""
    trainer, model = _trainer(folder, batch_size, precision, device, is_compiled=is_compiled)
    trainer.run_epoch(lambda *_: None)  # kernels are chosen, memory is reserved
    taken: list[float] = []
    moments = [time.perf_counter()]

    def heard(*_: object) -> None:
        _finish(device)
        moments.append(time.perf_counter())
        taken.append(moments[-1] - moments[-2])

    trainer.run_epoch(heard)
    with FlopCounterMode(display=False) as counter:
        trainer.run_epoch(lambda *_: None)
    num_steps = len(trainer.losses) // 3
    flops = counter.get_total_flops() / num_steps
    num_bytes = _bytes_of(model, batch_size)
    step_s = median(taken[-NUM_STEPS:])
    bytes_s, flops_s = num_bytes / copied_per_second(device), flops / multiplied_per_second(device, precision)
    report.add(
        f"two towers, {precision}{', compiled' if is_compiled else ''}", device.type, f"batches of {batch_size:,}",
        step_ms=step_s * 1e3, bytes_floor_ms=bytes_s * 1e3, flops_floor_ms=flops_s * 1e3, share_reached=max(bytes_s, flops_s) / step_s,
        questions_per_s=batch_size / step_s,
    )  # fmt: skip


def _trainer(
    folder: Path, batch_size: int, precision: str, device: torch.device, *, is_compiled: bool
) -> tuple[Trainer, nn.Module]:
    settings = TrainingConfig.model_validate({
        "batch_size": batch_size, "num_epochs": 3, "loss": "in_batch", "warmup_steps": 0, "id_dropout": 0,
        "history_dropout": 0, "profile_dropout": 0, "item_id_dropout": 0, "half_life_days": 1e6, "sparse_rows": 20_000,
        "whole_catalog": 0, "precision": precision, "compile": is_compiled,
    })  # fmt: skip
    torch.manual_seed(7)
    rows, products = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "products.parquet")
    fitted = fit(FEATURES, ibis.memtable(rows), ibis.memtable(products))
    catalog = Catalog(fitted, products.append_column("day", pa.array(np.zeros(products.num_rows, np.int64))))
    questions = on_one_day(fitted, rows)
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), FEATURES.item_id, MODEL).to(device)
    member = model.members[0]
    trainer = Trainer(member, settings, catalog, questions, int(questions.bought_us.max()), 7)  # type: ignore[arg-type]
    return trainer, member


def _bytes_of(model: nn.Module, batch_size: int) -> int:
    """That a step moves at the least; activations aside, which might stay in caches."""
    words = 0
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) and module.sparse:
                words += _ROW_WORDS * min(batch_size, len(weight)) * weight.shape[1]
            else:
                words += _DENSE_WORDS * weight.numel()
    return words * _WORD


def copied_per_second(device: torch.device) -> float:
    """Bytes read and written a second by copying what no cache holds."""
    source = torch.ones((1 << 28 if device.type == "cuda" else 1 << 24) // _WORD, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * _WORD / _seconds(lambda: target.copy_(source), device)


def multiplied_per_second(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one large product of matrices."""
    width = 8192 if device.type == "cuda" else 1024
    x = torch.ones(width, width, device=device, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32)
    return 2 * width**3 / _seconds(lambda: x @ x, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(5):
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
