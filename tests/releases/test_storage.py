"""Documents are created once, whole or not at all."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from endcap.releases.storage import AlreadyThereError, FolderStore


def test_a_document_is_read_back_and_never_replaced(tmp_path):
    store = FolderStore(tmp_path / "registry")
    assert store.read("a/b.json") is None
    assert store.names("a") == []
    store.create("a/b.json", b"first")
    with pytest.raises(AlreadyThereError, match="exists already and is never changed"):
        store.create("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    assert store.names("a") == ["b.json"]
    assert store.names("") == ["a"]
    assert [path.name for path in (tmp_path / "registry" / "a").iterdir()] == ["b.json"]


def test_of_many_writers_one_wins(tmp_path):
    store = FolderStore(tmp_path)

    def write(number):
        try:
            store.create("one", str(number).encode() * 5000)
        except AlreadyThereError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(40)) if number is not None]
    assert len(winners) == 1
    assert store.read("one") == str(winners[0]).encode() * 5000


def test_what_a_dead_writer_left_is_not_listed(tmp_path):
    (tmp_path / ".half.tmp").write_bytes(b"?")
    assert FolderStore(tmp_path).names("") == []
