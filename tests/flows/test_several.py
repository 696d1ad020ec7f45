"""One job of several processes, of which another is gone or one has no GPU."""

from contextlib import contextmanager

import pytest

from endcap.contracts.errors import InputError, TransientError
from endcap.contracts.stopping import Stop
from endcap.flows import several
from endcap.training.distributed import Ranks

GONE = "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:39340."


@pytest.mark.parametrize(("said", "raised"), [(GONE, TransientError), ("shapes differ", RuntimeError)])
@pytest.mark.parametrize("num", [1, 2])
def test_a_lost_connection_is_no_fault_of_this_process(said, raised, num, configured, ingested_shop, monkeypatch):
    @contextmanager
    def joined(*, on_gpu):
        assert not on_gpu
        yield Ranks(0, num)

    def job():
        raise RuntimeError(said)

    monkeypatch.setattr(several, "joined", joined)
    with pytest.raises(raised if num > 1 else RuntimeError, match=r"39340|shapes differ"):
        several.first_of_several(job, ingested_shop, configured("training.device=cpu"), Stop())


def test_a_process_too_many_for_the_gpus_is_told_before_any_work(configured, ingested_shop, monkeypatch):
    second = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match="asks for GPU number 1 of this machine; found 1 that"):
        several.first_of_several(pytest.fail, ingested_shop, configured(), Stop())
