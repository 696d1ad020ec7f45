"""A release opens whole and untouched, or not at all."""

import json
import shutil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import ArtifactError, EndcapError, InputError
from endcap.contracts.release import (
    FORMAT_VERSION,
    MANIFEST,
    Blessing,
    History,
    Lineage,
    ProductInput,
    Ranking,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.releases.bundle import (
    describe_files,
    encode_manifest,
    next_version,
    open_release,
    seal_release,
    sha256_of,
)

PARTS = {
    "query.onnx": b"\x08\x0agraph",
    "candidates/vectors.npy": bytes(range(256)),
    "candidates/item_ids.npy": "ids ✓".encode(),
    "report/index.html": b"<p>",
    "empty": b"",
}


def manifest_for(**changes):
    fields = {
        "format_version": FORMAT_VERSION,
        "name": "shop",
        "created_at": "2026-01-01T00:00:00+00:00",
        "as_of": "2026-01-01T00:00:00+00:00",
        "files": {},
        "signatures": {
            "serving_default": Signature(
                [Tensor("user_id", "STRING", [-1])], [Tensor("product_ids", "STRING", [-1, 3])]
            )
        },
        "retrieval": Retrieval(
            "brute_force", "vector", 8, 5, 3, "STRING", "user_id", History("h", "h_age_days", "h_count", 4, "boosts")
        ),
        "lineage": Lineage("run-1", "abc", 7, {"events": 2}, {"seed": 7}, {"numpy": "2"}),
        "metrics": {"all_purchases/ndcg@10": 0.25},
        "blessing": Blessing("NOT_BLESSED", ["naïve"]),
    }
    return ReleaseManifest(**(fields | changes))


def stage(folder):
    for name, content in PARTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def release(tmp_path):
    return seal_release(stage(tmp_path / "staging"), tmp_path / "04_releases" / "shop" / "1", manifest_for())


def rewrite_manifest(release, change):
    path = release.path / MANIFEST
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_sealed_and_opened_again(release, tmp_path):
    opened = open_release(release.path)
    assert opened == release
    assert not (tmp_path / "staging").exists()
    assert opened.manifest == manifest_for(files=opened.manifest.files)
    assert list(opened.manifest.files) == sorted(PARTS)
    for name, content in PARTS.items():
        assert opened.file(name).read_bytes() == content
        assert opened.manifest.files[name].num_bytes == len(content)
        assert opened.manifest.files[name].sha256 == sha256_of(release.path / name)
        assert opened.has(name)
    assert opened.digest == sha256_of(release.path / MANIFEST)


def test_a_part_that_is_not_listed_is_refused_by_name(release):
    assert not release.has("rank.onnx")
    with pytest.raises(ArtifactError, match=r"has no part rank\.onnx; it has: candidates/item_ids\.npy, "):
        release.file("rank.onnx")


@pytest.mark.parametrize("name", [name for name, content in PARTS.items() if content])
def test_a_changed_byte_of_any_part_is_refused(release, name):
    path = release.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=rf"{name} is not the file that was released.*Nothing was loaded"):
        open_release(release.path)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_grew_or_went_away_is_refused(release, name):
    path = release.path / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match="is not the file that was released"):
        open_release(release.path)
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"lacks {name}, which its manifest lists"):
        open_release(release.path)
    path.mkdir()
    with pytest.raises(ArtifactError, match=rf"lacks {name}"):
        open_release(release.path)


def test_a_file_that_the_manifest_does_not_list_is_refused(release):
    (release.path / "features.parquet").write_bytes(b"smuggled in")
    with pytest.raises(ArtifactError, match=r"features\.parquet"):
        open_release(release.path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "candidates/../../outside", "a\\..\\..\\outside"])
def test_a_path_outside_the_release_is_refused(release, name):
    (release.path.parent / "outside").write_bytes(b"secret")
    entry = describe_files(release.path.parent)["outside"]
    rewrite_manifest(release, lambda content: content["files"].update({name: msgspec.to_builtins(entry)}))
    with pytest.raises(ArtifactError, match="names a file outside the release"):
        open_release(release.path)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1])
def test_another_format_version_is_refused(release, version):
    rewrite_manifest(release, lambda content: content.update(format_version=version))
    with pytest.raises(ArtifactError, match=rf"format version {version}; this Endcap reads {FORMAT_VERSION}"):
        open_release(release.path)


def test_a_truncated_manifest_is_refused(release):
    path = release.path / MANIFEST
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="can't be read as a release manifest"):
            open_release(release.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("blessing"),
        lambda content: content.update(surprise=1),
        lambda content: content["retrieval"].update(algorithm="magic"),
        lambda content: content["retrieval"].update(dim="8"),
        lambda content: content.update(files=[]),
    ],
)
def test_a_manifest_of_another_shape_is_refused(release, change):
    rewrite_manifest(release, change)
    with pytest.raises(ArtifactError, match="can't be read as a release manifest"):
        open_release(release.path)


def test_what_is_no_release_is_said_to_be_none(release, tmp_path):
    with pytest.raises(InputError, match="it does not exist"):
        open_release(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"it has no {MANIFEST}"):
        open_release(tmp_path)
    with pytest.raises(InputError, match="is no release"):
        open_release(release.path / MANIFEST)


def test_a_staging_folder_is_no_release(tmp_path):
    with pytest.raises(InputError, match="is no release"):
        open_release(stage(tmp_path / "staging"))


def test_a_release_is_never_overwritten(release, tmp_path):
    before = {path: path.read_bytes() for path in release.path.rglob("*") if path.is_file()}
    again = stage(tmp_path / "again")
    with pytest.raises(InputError, match="a release is never overwritten"):
        seal_release(again, release.path, manifest_for(name="other"))
    assert {path: path.read_bytes() for path in release.path.rglob("*") if path.is_file()} == before
    assert (again / "query.onnx").is_file()


RANKING = Ranking(
    "prediction", "value", "the shop's currency", "user_id", "item_id", "STRING",
    [ProductInput(Tensor("item_id", "STRING", [-1]), "item_id")],
)  # fmt: skip
BOTH = dict.fromkeys(("serving_default", "serve_ranking"), Signature([], []))


def ranking_release(folder, parts=("rank.onnx", "items.parquet"), **changes):
    folder.mkdir()
    for part in parts:
        (folder / part).write_bytes(part.encode())
    changes = {"retrieval": None, "ranking": RANKING, "signatures": BOTH} | changes
    return seal_release(folder, folder.with_name("sealed"), manifest_for(**changes))


def test_a_release_that_only_ranks_needs_neither_query_graph_nor_candidates(tmp_path):
    opened = open_release(ranking_release(tmp_path / "staging").path)
    assert (opened.manifest.retrieval, opened.manifest.ranking) == (None, RANKING)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"parts": ("rank.onnx",)}, "asks for items.parquet"),
        ({"parts": ("items.parquet",)}, "asks for rank.onnx"),
        (
            {"retrieval": manifest_for().retrieval},
            "asks for query.onnx, candidates/vectors.npy, candidates/item_ids.npy",
        ),
        ({"signatures": manifest_for().signatures}, "asks for the signature serve_ranking"),
        ({"signatures": {}}, "the signature serving_default, the signature serve_ranking"),
        ({"ranking": None}, "neither retrieval nor ranking"),
    ],
)
def test_what_can_not_answer_as_it_says_is_not_sealed(tmp_path, changes, missing):
    with pytest.raises(ArtifactError, match=missing):
        ranking_release(tmp_path / "staging", **changes)
    assert not (tmp_path / "sealed").exists()


def test_a_manifest_that_says_nothing_of_ranking_opens(release):
    rewrite_manifest(release, lambda content: content.pop("ranking"))
    assert open_release(release.path).manifest.ranking is None


def test_versions_count_up_past_gaps_and_strange_names(tmp_path):
    folder = tmp_path / "shop"
    assert next_version(folder) == 1
    for name in ("1", "9", "10", "champion", ".staging-x", "2.5", "-3"):
        (folder / name).mkdir(parents=True)
    assert next_version(folder) == 11


def test_the_same_parts_and_manifest_have_the_same_digest(release, tmp_path):
    other = seal_release(stage(tmp_path / "second"), tmp_path / "other", manifest_for())
    assert other.digest == release.digest
    named = seal_release(stage(tmp_path / "third"), tmp_path / "named", manifest_for(name="else"))
    assert named.digest != release.digest


def test_the_manifests_bytes_are_readable_and_settled(release):
    raw = (release.path / MANIFEST).read_bytes()
    assert raw == encode_manifest(release.manifest)
    assert raw.endswith(b"}\n")
    assert raw.decode().count("\n") > 40


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(data, tmp_path_factory):
    """A part with another bit is refused; a manifest with another bit is refused or is another release by its digest."""
    folder = tmp_path_factory.getbasetemp() / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    release = seal_release(stage(folder / "staging"), folder / "1", manifest_for())
    name = data.draw(st.sampled_from([*(name for name, content in PARTS.items() if content), MANIFEST, MANIFEST]))
    path = release.path / name
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    if name == MANIFEST:
        try:
            opened = open_release(release.path)
        except EndcapError:
            return
        assert opened.digest != release.digest
        return
    with pytest.raises(ArtifactError):
        open_release(release.path)
