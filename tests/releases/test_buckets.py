"""The registry in a bucket: documents are created once, and of publishers who race one wins, whatever gets lost."""

import threading

import pytest

from endcap.releases.registry import AliasConflictError, Registry
from endcap.releases.storage import AlreadyThereError, LocationStore
from endcap.workspace.layout import Workspace
from tests.releases.sealed import sealed


@pytest.fixture(params=["gcs", "s3"])
def bucket(request):
    return request.getfixturevalue(f"{request.param}_location"), request.getfixturevalue(f"{request.param}_server")


def test_a_document_in_a_bucket_is_read_back_and_never_replaced(bucket):
    store = LocationStore(bucket[0] / "registry")
    assert store.read("a/b.json") is None
    assert store.names("a") == []
    store.create("a/b.json", b"first")
    with pytest.raises(AlreadyThereError, match="Read what is there"):
        store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert (store.names("a"), store.names("")) == (["b.json"], ["a"])


def test_of_publishers_who_race_in_a_bucket_one_wins(bucket, tmp_path):
    place, server = bucket
    registry = Registry(LocationStore(place))
    registry.register(sealed(Workspace.init(tmp_path / "shop"), 1))
    server.rules.inject("lost", "aliases.*json|POST .*/upload/")
    outcomes, ready = [], threading.Barrier(4)

    def publish(name):
        ready.wait()
        try:
            registry.move_alias("recommender", "champion", 1, moved_by=name, expected_generation=0)
            outcomes.append(name)
        except AliasConflictError:
            outcomes.append("conflict")

    publishers = [threading.Thread(target=publish, args=(name,)) for name in ("ann", "bob", "cat", "dan")]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    history = registry.history("recommender", "champion")
    assert [move.moved_by for move in history] == [name for name in outcomes if name != "conflict"]
    assert outcomes.count("conflict") == 3
