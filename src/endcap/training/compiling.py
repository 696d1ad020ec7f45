"""A member of a model in, the same with its parts compiled out; or why this machine can't compile."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import nn

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import InputError
from endcap.models.towers import Towers

_Member = TypeVar("_Member", bound=Towers)


def check_compiler(settings: TrainingConfig, device: torch.device) -> None:
    """Raise InputError where compiling is asked for and what it needs isn't there."""
    if not settings.compile:
        return
    if device.type == "cpu":
        name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        needed = None if shutil.which(name) else f"a C++ compiler; found no {name} on the PATH (CXX names another)"
    else:
        needed = None if find_spec("triton") else "triton; found no such package"
    if needed is not None:
        raise InputError(
            f"training.compile=true on this machine's {device.type} needs {needed}. Install it, or train with "
            "training.compile=false."
        )


def compiled(member: _Member) -> _Member:
    """A view of `member` that computes the same from the same weights; `member` itself, its names and its copies stay as they are."""
    view = copy.copy(member)
    # Shapes differ from step to step: histories are ragged, batches end with a day.
    view._modules = {name: part and _compiled(part) for name, part in member._modules.items()}
    return view


def _compiled(part: nn.Module) -> nn.Module:
    made: nn.Module = torch.compile(part, dynamic=True)  # type: ignore[assignment]
    return made
