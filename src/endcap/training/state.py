"""Modules, optimizers and random streams in, plain tensors and JSON values out, and back to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from endcap.contracts.errors import ArtifactError

_FUSED = "fused"
_STEP = "step"
_LENGTH_BYTES = 8


@dataclass
class State:
    """What training needs to go on: tensors by name, and values that JSON can hold."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, part: State) -> None:
        """Take up another state under a name."""
        self.tensors |= {f"{name}/{key}": tensor for key, tensor in part.tensors.items()}
        self.values[name] = part.values

    def part(self, name: str) -> State:
        """What was put under a name. Raises ArtifactError when nothing was."""
        if name not in self.values:
            raise ArtifactError(f"The checkpoint has no part {name}; found {', '.join(self.values)}. Train anew.")
        own = {key.removeprefix(f"{name}/"): x for key, x in self.tensors.items() if key.startswith(f"{name}/")}
        return State(own, self.values[name])


def packed(state: State | None) -> bytes:
    """A state, or that there is none, as bytes that another process reads."""
    if state is None:
        return b""
    values = json.dumps(state.values).encode()
    return len(values).to_bytes(_LENGTH_BYTES, "big") + values + save(state.tensors)


def unpacked(content: bytes) -> State | None:
    """What was packed."""
    if not content:
        return None
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    return State(load(content[start:]), json.loads(content[_LENGTH_BYTES:start]))


def of_module(module: nn.Module, without: nn.Module | None = None) -> State:
    """Weights and buffers; those that `without` shares are left out."""
    shared = set() if without is None else {x.data_ptr() for x in without.state_dict().values() if x.numel()}
    tensors = {name: x.contiguous() for name, x in module.state_dict().items() if x.data_ptr() not in shared}
    return State(tensors)


def restore_module(module: nn.Module, state: State) -> None:
    """Set weights and buffers in place; those that the state leaves out stay. Raises ArtifactError where shapes differ."""
    own = module.state_dict()
    with torch.no_grad():
        for name, saved in state.tensors.items():
            if name not in own or own[name].shape != saved.shape:
                found = tuple(own[name].shape) if name in own else "nothing"
                raise ArtifactError(
                    f"The checkpoint has {name} of shape {tuple(saved.shape)}, the model {found}: it was written by another "
                    "configuration or other data. Train anew."
                )
            own[name].copy_(saved)


def of_optimizers(optimizers: Iterable[torch.optim.Optimizer]) -> State:
    """What optimizers remember of each weight."""
    state = State(values={"numbers": {}})
    for place, weights, remembered in _remembered(optimizers):
        del weights
        for name, value in remembered.items():
            if isinstance(value, Tensor):
                state.tensors[f"{place}/{name}"] = value.contiguous()
            else:
                state.values["numbers"][f"{place}/{name}"] = value
    return state


def restore_optimizers(optimizers: Iterable[torch.optim.Optimizer], state: State) -> None:
    """Set what optimizers remember."""
    optimizers = list(optimizers)
    found: dict[str, dict[str, Any]] = {}
    for key, value in [*state.tensors.items(), *state.values["numbers"].items()]:
        place, _, name = key.rpartition("/")
        found.setdefault(place, {})[name] = value
    for place, weights, remembered in _remembered(optimizers):
        remembered.clear()
        is_fused = optimizers[int(place.partition("/")[0])].defaults.get(_FUSED)
        for name, value in found.get(place, {}).items():
            if isinstance(value, Tensor):
                # Steps are counted where the kernel reads them: beside the weight, or on the host.
                value = value.clone() if name == _STEP and not is_fused else value.to(weights.device, copy=True)
            remembered[name] = value


def _remembered(optimizers: Iterable[torch.optim.Optimizer]) -> Iterable[tuple[str, Tensor, dict[str, Any]]]:
    for number, optimizer in enumerate(optimizers):
        weights = [weights for group in optimizer.param_groups for weights in group["params"]]
        for place, one in enumerate(weights):
            yield f"{number}/{place}", one, optimizer.state[one]


def of_random_streams(streams: Mapping[str, np.random.Generator | torch.Generator]) -> State:
    """Where random streams stand."""
    state = State()
    for name, stream in streams.items():
        if isinstance(stream, torch.Generator):
            state.tensors[name] = stream.get_state()
        else:
            state.values[name] = stream.bit_generator.state
    return state


def restore_random_streams(streams: Mapping[str, np.random.Generator | torch.Generator], state: State) -> None:
    """Set where random streams stand."""
    for name, stream in streams.items():
        if isinstance(stream, torch.Generator):
            stream.set_state(state.tensors[name])
        else:
            stream.bit_generator.state = state.values[name]
