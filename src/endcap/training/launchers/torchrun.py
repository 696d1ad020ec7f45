"""A program in, so many processes of it out: torchrun's own agent on this machine, which answers with one exit code."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from endcap.contracts.errors import InputError
from endcap.contracts.job import Cluster
from endcap.contracts.stopping import stop_on_signals

_TOGETHER_S: Final = 1
"""The agent knows whole seconds alone: ends so far apart may be of one cause."""


@dataclass(frozen=True)
class Ended:
    """How processes that trained together ended: 0, or the exit code of the one that the others ended for."""

    exit_code: int
    said: str = ""
    """Where that one could say nothing itself."""


def run_processes(program: Sequence[str], num: int, cluster: Cluster | None = None) -> Ended:
    """Run `python PROGRAM…` `num` times at once with torchrun's variables, until all have ended; none is started again.

    With a cluster the processes of all its machines train together. When one process fails the others are asked to end;
    when this one is asked to end they are, and have 30 s (TORCH_ELASTIC_SHUTDOWN_TIMEOUT). The exit code is then 128 and
    the signal, where torchrun's own is 1, so that launchers tell a machine that was taken away from a fault. Raises
    Stopped when it is asked to end before any was started, InputError in a process that torchrun started.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(
            f"Found --processes {num} in a process that torchrun started: expected one or the other. Leave out --processes, or "
            "start python in the place of torchrun."
        )
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    with stop_on_signals():
        try:
            elastic_launch(_config(num, cluster), sys.executable)(*program)
        except SignalException as stopped:
            return Ended(128 + stopped.sigval)
        except ChildFailedError as error:
            return ended_by({rank: (failure.exitcode, failure.timestamp) for rank, failure in error.failures.items()})
    return Ended(0)


def ended_by(failures: Mapping[int, tuple[int, int]]) -> Ended:
    """What failed first, of exit codes and seconds by rank in the order of their being noticed.

    A signal from outside breaks the others' connections, so that they may be noticed to fail at the same time.
    """
    first_s = min(at_s for _, at_s in failures.values())
    first = [(code, rank) for rank, (code, at_s) in failures.items() if at_s <= first_s + _TOGETHER_S]
    code, rank = next((one for one in first if one[0] < 0 and one[0] != -signal.SIGTERM), first[0])
    if code >= 0:
        return Ended(code)
    return Ended(128 - code, f"Process {rank} was ended by {signal.Signals(-code).name}, and the others with it.")


def _config(num: int, cluster: Cluster | None) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    # What the processes say goes where this one's words go; without a folder, nothing is kept in files.
    given: dict[str, Any] = {"nproc_per_node": num, "max_restarts": 0, "logs_specs": DefaultLogsSpecs(os.devnull)}
    if cluster is None or cluster.world_size == 1:
        # As torchrun --standalone, but for the address: the machine's own name may be known to nobody.
        return LaunchConfig(
            1,
            1,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            **given,
        )
    return LaunchConfig(
        cluster.world_size,
        cluster.world_size,
        run_id="endcap",
        rdzv_backend="static",
        rdzv_endpoint=f"{cluster.master_addr}:{cluster.master_port}",
        rdzv_configs={"rank": cluster.rank},
        **given,
    )
