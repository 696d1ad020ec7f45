"""What torchrun says of a process in, what the processes of one training share out: rows, vectors with gradients, decisions.

Every process draws the same random numbers for the whole batch and then takes its own part of the questions and of the
products, so that the batch is the one that a single process would have made.
"""

# Shape suffixes: R = rows of all processes, D = any width, T = any length

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from endcap.contracts.errors import InputError

_NUMBERS: Final = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
_PATIENCE: Final = timedelta(days=2)
"""How long the others wait for the first process while it makes features or measures a release."""


class Task(Enum):
    """What the first process does next, in which the others take part."""

    END = 0
    TUNE = 1
    REFIT = 2


class _SumAcross(torch.autograd.Function):
    """Sums over processes, on the way back too: what each made of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Gather(torch.autograd.Function):
    """The rows of every process end to end; on the way back each gets the sum of what all made of its rows."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, num_rows: int, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.num_rows = ranks, num_rows
        sizes = [len(range(num_rows)[ranks.part(num_rows, rank)]) for rank in range(ranks.num)]
        return ranks.end_to_end(x_RD, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None, None]:
        total_RD = grad_RD.clone()
        dist.all_reduce(total_RD, group=ctx.ranks.group)
        own_RD: Tensor = total_RD[ctx.ranks.part(ctx.num_rows)]
        return own_RD, None, None


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, seen from one of them; alone, everything is as it is."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    group: dist.ProcessGroup | None = None
    """Apart from the one that sums gradients: the order within each group is the same everywhere, between them it isn't."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes, reports and decides."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.num == 1

    def part(self, num_rows: int, rank: int | None = None) -> slice:
        """Which of so many rows are this process's, or another's: parts are contiguous, uneven by at most one."""
        each, more = divmod(num_rows, self.num)
        place = self.rank if rank is None else rank
        start = place * each + min(place, more)
        return slice(start, start + each + (place < more))

    def gather(self, x_RD: Tensor, num_rows: int) -> Tensor:
        """Rows of which each process has its `part` of `num_rows`, end to end, with their gradients."""
        if self.is_alone:
            return x_RD
        result: Tensor = _Gather.apply(x_RD, num_rows, self)  # type: ignore[no-untyped-call]
        return result

    def gather_any(self, x_T: Tensor) -> Tensor:
        """Numbers of which each process has as many as it has, end to end, without gradients."""
        if self.is_alone:
            return x_T
        sizes = torch.zeros(self.num, dtype=torch.int64, device=x_T.device)
        sizes[self.rank] = len(x_T)
        dist.all_reduce(sizes, group=self.group)
        return self.end_to_end(x_T, sizes.tolist())

    def union(self, parts: Iterable[Tensor]) -> Tensor:
        """Every number of any process once, rising."""
        own: Tensor = torch.unique(torch.cat(list(parts)))
        if self.is_alone:
            return own
        everything: Tensor = torch.unique(self.gather_any(own))
        return everything

    def end_to_end(self, x_RD: Tensor, sizes: list[int]) -> Tensor:
        """Rows of every process, of which each has so many, in the order of ranks."""
        longest = max(sizes)
        padded = x_RD.new_zeros(longest, *x_RD.shape[1:])
        padded[: len(x_RD)] = x_RD
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, with its gradient."""
        if self.is_alone:
            return x
        result: Tensor = _SumAcross.apply(x, self.group)  # type: ignore[no-untyped-call]
        return result

    def sum_rows(self, grad: Tensor) -> Tensor:
        """The sum of sparse gradients of one table: the rows of every process, repeats and all."""
        if self.is_alone:
            return grad
        grad = grad.coalesce()
        rows, values = self.gather_any(grad.indices()[0]), self.gather_any(grad.values())
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, grad.shape)

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all get the same answer, and must ask at the same place."""
        if self.is_alone:
            return flag
        said = torch.tensor([int(flag)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self.group)
        return bool(said.item())

    def tell(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The first process's numbers, everywhere; all know the names."""
        if self.is_alone:
            return dict(numbers)
        values = torch.tensor([numbers[name] for name in sorted(numbers)], dtype=torch.float64)
        dist.broadcast(values, src=0, group=self.group)
        return dict(zip(sorted(numbers), values.tolist(), strict=True))

    def tell_bytes(self, content: bytes) -> bytes:
        """The first process's, everywhere."""
        size = torch.tensor([len(content)])
        dist.broadcast(size, src=0, group=self.group)
        told = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_first:
            told = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else told
        dist.broadcast(told, src=0, group=self.group)
        return told.numpy().tobytes()

    def lead(self, task: Task, num_epochs: int = 0) -> None:
        """In the first process: tell the others what it does next. They tell each other when they are ready."""
        if not self.is_alone and self.is_first:
            dist.broadcast(torch.tensor([task.value, num_epochs]), src=0, group=self.group)
            if task != Task.END:
                self.wait()

    def follow(self) -> tuple[Task, int]:
        """In the others: what the first process does next, and the epochs of a refit; however long that takes."""
        told = torch.zeros(2, dtype=torch.int64)
        dist.broadcast(told, src=0, group=self.group)
        return Task(int(told[0])), int(told[1])

    def wait(self) -> None:
        """Until all are here."""
        if not self.is_alone:
            self.any(False)


class Shared:
    """A module whose gradients are summed over processes: dense ones while they come, those of sparse tables afterwards."""

    def __init__(self, module: nn.Module, among: Ranks, device: torch.device) -> None:
        """`module` gives this process's part of a loss; its weights are the same everywhere and lie on `device`."""
        self._module, self._ranks = module, among
        self._tables = [
            table.weight for table in module.modules() if isinstance(table, nn.Embedding) and table.sparse
        ]  # fmt: skip
        self._call: nn.Module = module
        if among.is_alone:
            return
        sparse = {id(weight) for weight in self._tables}
        names = [name for name, weight in module.named_parameters() if id(weight) in sparse]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)  # type: ignore[no-untyped-call]
        # A ranking model leaves the repeat head out, and batch norms sum for themselves what they know of all rows.
        self._call = DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device],
            forward_sync_buffers=False,
            find_unused_parameters=True,
        )

    def __call__(self, *arguments: Any) -> Tensor:
        """This process's part of the loss."""
        part: Tensor = self._call(*arguments)
        return part

    def backward(self, part: Tensor) -> None:
        """Gradients of the sum of all parts."""
        # The mean over processes is what comes of the gradients.
        (part * self._ranks.num).backward()  # type: ignore[no-untyped-call]
        for table in self._tables:
            if table.grad is not None and not self._ranks.is_alone:
                table.grad = self._ranks.sum_rows(table.grad) / self._ranks.num


def says_gone(error: RuntimeError) -> bool:
    """Whether it is what a process hears of another one that is gone."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


_ALONE: Final = Ranks()
_joined: Ranks = _ALONE


def ranks() -> Ranks:
    """The processes that this one trains with: itself alone outside of `joined`."""
    return _joined


@contextmanager
def joined(*, on_gpu: bool = False) -> Iterator[Ranks]:
    """Join the other processes by the environment that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.

    Without WORLD_SIZE, or with 1, the process is alone. Raises InputError when the environment is malformed.
    """
    global _joined
    numbers = _numbers_of_environment()
    if numbers["WORLD_SIZE"] == 1:
        yield _joined
        return
    # What lies in memory goes over gloo, what lies on a GPU over NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    _joined = Ranks(
        numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"], dist.new_group(timeout=_PATIENCE)
    )  # fmt: skip
    try:
        yield _joined
    finally:
        _joined = _ALONE
        dist.destroy_process_group()


def local_rank() -> int:
    """Which of the processes of this machine this one is, by the environment. Raises InputError when that is malformed."""
    return _numbers_of_environment()["LOCAL_RANK"]


def _numbers_of_environment() -> dict[str, int]:
    found = {name: os.environ.get(name, str(default)) for name, default in _NUMBERS.items()}
    wrong = [f"{name}={value!r}, expected a number" for name, value in found.items() if not value.isdecimal()]
    numbers = {name: int(value) for name, value in found.items() if value.isdecimal()}
    if not wrong and not 0 <= numbers["RANK"] < numbers["WORLD_SIZE"]:
        wrong.append(f"RANK={numbers['RANK']} of WORLD_SIZE={numbers['WORLD_SIZE']}, expected 0 to one less than it")
    if not wrong and numbers["WORLD_SIZE"] > 1:
        wrong += [f"no {name}" for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if wrong:
        raise InputError(
            f"The environment of distributed training is malformed: found {'; '.join(wrong)}. Start the processes with "
            "torchrun, which sets it, or set none of these."
        )
    return numbers
