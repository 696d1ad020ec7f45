"""A job in, done by the first of the processes that torchrun started; the others take part in its trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import TransientError
from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.training.devices import CPU, device_of
from endcap.training.distributed import Ranks, Task, joined, local_rank, says_gone
from endcap.training.epochs import Keeping
from endcap.workspace.layout import Workspace

Result = TypeVar("Result")


def first_of_several(
    job: Callable[[], Result], workspace: Workspace, configuration: Configuration, stop: Stop
) -> Result | None:
    """What the job gives; None in the processes that only took part. Alone, nothing but the job happens.

    The workspace is one folder of the machine, or of each machine, with the same data in force. Raises TransientError when
    another process is gone.
    """
    # Each process looks for its own GPU before it joins the others: one too many is told at once.
    with joined(on_gpu=device_of(configuration.training, local_rank()) != CPU) as among:
        try:
            if among.is_first:
                result = job()
                among.lead(Task.END)
                return result
            take_part(among, workspace, configuration, stop)
            return None
        except RuntimeError as error:
            if among.is_alone or not says_gone(error):
                raise
            raise TransientError(
                f"Another of the {among.num} processes ended before the job was done, and said why itself where it could "
                f"({error}). The same command goes on from the last checkpoint."
            ) from error


def take_part(among: Ranks, workspace: Workspace, configuration: Configuration, stop: Stop) -> None:
    """Train with the first process whenever it does, until its job is done."""
    while True:
        task, num_epochs = among.follow()
        if task == Task.END:
            return
        if among.local_rank:  # one process of each machine makes what is missing there
            among.wait()
        tables = build_features(workspace, configuration, Silent())
        if not among.local_rank:
            among.wait()
        if task == Task.TUNE:
            fitting.tune(tables, configuration, Silent(), Keeping(stop=stop))
        else:
            fitting.refit(tables, configuration, num_epochs, Silent(), keeping=Keeping(stop=stop))
