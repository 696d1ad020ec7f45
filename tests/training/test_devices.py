"""A GPU that was asked for and isn't there is said at once; towers compute in bfloat16 where asked."""

import pytest
import torch

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import InputError
from endcap.training.devices import CPU, autocast, device_of


@pytest.fixture
def gpus(monkeypatch):
    """A function that makes torch find so many GPUs."""

    def found(num):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    return found


def test_a_gpu_that_is_not_there_is_an_error(gpus):
    gpus(0)
    with pytest.raises(InputError, match=r"training.device=cuda asks for GPU number 0 .*found 0 .*training.device=cpu"):
        device_of(TrainingConfig(device="cuda"))


def test_one_gpu_is_not_shared_by_two_processes(gpus):
    gpus(1)
    for device in ("cuda", "auto"):
        with pytest.raises(InputError, match="asks for GPU number 1 of this machine; found 1"):
            device_of(TrainingConfig(device=device), local_rank=1)


def test_each_process_has_its_own_gpu(gpus):
    gpus(2)
    assert device_of(TrainingConfig(device="auto"), local_rank=1) == torch.device("cuda", 1)
    assert device_of(TrainingConfig(device="cpu"), local_rank=1) == CPU


def test_without_a_gpu_auto_is_the_processor(gpus):
    gpus(0)
    assert device_of(TrainingConfig()) == CPU


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_the_towers(precision, dtype):
    with autocast(TrainingConfig(precision=precision), CPU):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
