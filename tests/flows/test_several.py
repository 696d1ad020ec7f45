"""One job of several processes, of which another is gone."""

from contextlib import contextmanager

import pytest

from endcap.contracts.errors import TransientError
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
