"""A training configuration in, the device that it asks for out, and batches moved there."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import InputError
from endcap.models.segments import RaggedSegments
from endcap.models.towers import History

CPU = torch.device("cpu")


def device_of(settings: TrainingConfig, local_rank: int = 0) -> torch.device:
    """Where to compute. Raises InputError when a GPU is asked for and there is none, or fewer than processes."""
    num_found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.device == "cpu" or (settings.device == "auto" and not num_found):
        return CPU
    if local_rank >= num_found:
        raise InputError(
            f"training.device={settings.device} asks for GPU number {local_rank} of this machine; found {num_found} that "
            f"can be used ({_what_is_there()}). Check that the machine has an accelerator, its driver (nvidia-smi), and that "
            "the image holds a CUDA build of torch; or train on the processor on purpose with training.device=cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _what_is_there() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} for CUDA {torch.version.cuda}"


def autocast(settings: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """What the towers compute in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; from memory that the device reads by itself, while the processor goes on."""
    if x.device == device:
        return x
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def all_moved(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Columns on the device."""
    return tensors if device == CPU else {name: moved(x, device) for name, x in tensors.items()}


def history_moved(history: History | None, device: torch.device) -> History | None:
    """Histories on the device."""
    if history is None or device == CPU or not isinstance(history.segments, RaggedSegments):
        return history
    counted_EK = history.counted_EK
    return History(
        moved(history.item_E, device),
        moved(history.age_days_E, device),
        moved(history.count_E, device),
        history.segments.on(device),
        None if counted_EK is None else moved(counted_EK, device),
    )
