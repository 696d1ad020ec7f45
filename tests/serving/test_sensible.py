"""RELIABILITY B9: what lies at the edge of a catalog or of a history is answered sensibly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from endcap.contracts.release import MANIFEST, ReleaseManifest
from endcap.releases.bundle import describe_files, encode_manifest, open_release
from endcap.retrieval.build import write_candidates
from endcap.serving.errors import RequestError
from endcap.serving.predictor import Predictor
from tests.serving.conftest import Server
from tests.serving.test_predictor import answers
from tests.serving.test_predictor import write_release as write_tiny


def ask(server: Server, **asked: Any) -> Any:
    answer = server.predict({"instances": [{"user_id": "nobody"} | asked], "k": 5})
    assert answer.status == 200, answer.body
    return answer.body["predictions"][0]


def test_b9_unknown_products_of_a_history_are_passed_over(server: Server) -> None:
    known = ask(server, k=3000, user_history=["p3", "p4", "p3"])
    assert ask(server, k=3000, user_history=["gone", "p3", "p4", "never sold", "p3"]) == known
    assert ask(server, k=3000, user_history=[]) != known


def test_b9_a_history_of_unknown_products_alone_is_an_empty_one(server: Server) -> None:
    assert ask(server, user_history=["gone", "never sold"]) == ask(server, user_history=[])


def test_b9_a_user_without_history_is_answered(server: Server) -> None:
    for user in ("bob", "cyd", "nobody", ""):  # known with an empty one, known without a snapshot, unknown
        found = ask(server, user_id=user)
        assert len(set(found["product_ids"])) == 5
        assert found["scores"] == sorted(found["scores"], reverse=True)


def test_b9_products_without_events_are_found(server: Server) -> None:
    """Each product of the catalog stands in the answer of all of them, bought or not."""
    answer = server.predict({"instances": [{"user_id": "ann"}], "k": 3000})
    assert len(set(answer.body["predictions"][0]["product_ids"])) == 3000


def write_one(folder: Path) -> Path:
    """A release of one product, 10 at (1, 0)."""
    write_tiny(folder)
    write_candidates(folder, [10], np.array([[1, 0]], dtype=np.float32))
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ReleaseManifest)
    assert manifest.retrieval is not None
    retrieval = msgspec.structs.replace(manifest.retrieval, num_items=1, top_k=1)
    changed = msgspec.structs.replace(manifest, retrieval=retrieval, files=describe_files(folder))
    (folder / MANIFEST).write_bytes(encode_manifest(changed))
    return folder


def test_b9_a_catalog_of_one_product(tmp_path: Path) -> None:
    folder = write_one(tmp_path / "one")
    asked: list[dict[str, Any]] = [
        {"user_id": 1, "tastes": [2, 0]},
        {"user_id": 1, "tastes": [2, 0], "user_history": [10, 99]},
        {"user_id": 1, "tastes": [-2, 0], "k": 1},
        {"user_id": 1, "tastes": [2, 0], "exclude": [10]},
        {"user_id": 1, "tastes": [2, 0], "only": [99]},
    ]
    assert answers(folder, *asked) == [([10], [2.0]), ([10], [3.0]), ([10], [-2.0]), ([], []), ([], [])]


def test_b9_k_larger_than_the_catalog_is_refused_with_its_size(tmp_path: Path, server: Server) -> None:
    predictor = Predictor(open_release(write_one(tmp_path / "one")))
    with pytest.raises(
        RequestError, match=r"k: expected 1 to 1, the number of products in the catalog; found 2\."
    ) as no:
        predictor.decoder.decode(b'{"instances": [{"user_id": 1}], "k": 2}')
    assert no.value.status == 400
    answer = server.predict({"instances": [{"user_id": "ann", "k": 3001}]})
    assert (answer.status, "1 to 3,000" in answer.error) == (400, True)


def test_b9_fewer_than_k_are_answered_where_there_are_fewer(server: Server) -> None:
    found = ask(server, only=["p1", "p2", "gone"], exclude=["p2"])
    assert found["product_ids"] == ["p1"]
