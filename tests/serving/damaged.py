"""A release and seeds in, one line a seed out: what loading says of the release with one of its files damaged by that seed.

A program of its own, for native code that reads a damaged file may end its process. The manifest's digests are made anew,
as by somebody who wants the damage to be loaded.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import MANIFEST, ReleaseManifest
from endcap.releases.bundle import describe_files, encode_manifest, open_release
from endcap.serving.errors import RequestError
from endcap.serving.predictor import Predictor

MARK = "DAMAGED"
"""Begins the lines that count: libraries print, too."""


def damage(raw: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some flipped, a stretch of them zero or missing, or cut off; most of it near the ends, where formats say what they are."""
    found = bytearray(raw)
    near = [int(rng.integers(min(256, len(raw)))), len(raw) - 1 - int(rng.integers(min(256, len(raw))))]
    place = [*near, int(rng.integers(len(raw)))][int(rng.integers(3))]
    kind = int(rng.integers(5))
    if kind <= 1:
        for offset in rng.integers(0, 32, int(rng.integers(1, 8))).tolist():
            found[min(place + offset, len(raw) - 1)] ^= int(rng.integers(1, 256))
    elif kind == 2:
        found[place] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        size = int(rng.integers(1, 64))
        found[place : place + size] = bytes(min(size, len(raw) - place))
    else:
        del found[place:]
    return bytes(found)


def seal(folder: Path) -> None:
    """The manifest with the digests of the files as they are."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ReleaseManifest)
    (folder / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=describe_files(folder))))


def outcome_of(folder: Path, request: bytes, items: bytes) -> str:
    """What comes of loading it and, where it loads, of a request and of added products."""
    try:
        predictor = Predictor(open_release(folder))
        predictor.warm()
    except (ArtifactError, InputError):
        return "refused"
    try:
        asked = predictor.decoder.decode(request)
        if predictor.retriever is not None:
            predictor.retriever.recommend(asked.queries, lambda *_: None)
    except Exception as error:  # as the batcher does: the request is answered with 500, or refused
        return f"answers-with-an-error {type(error).__name__}"
    try:
        predictor.add_items(msgspec.json.decode(items))
    except (ArtifactError, RequestError):
        return "answers takes-no-products"
    return "answers"


def main(release: Path, num_seeds: int, request: bytes, items: bytes, names: list[str]) -> None:
    """Damage each of the files by each seed in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        shutil.copytree(release, folder)
        manifest = (folder / MANIFEST).read_bytes()
        for name in names:
            raw = (folder / name).read_bytes()
            for seed in range(num_seeds):
                # Before it is tried, so that the last line tells what ended the process.
                print(f"\n{MARK} {name} {seed}", flush=True)
                (folder / name).write_bytes(damage(raw, np.random.default_rng(seed)))
                if name != MANIFEST:
                    seal(folder)
                print(f"\n{MARK} {name} {seed} {outcome_of(folder, request, items)}", flush=True)
            (folder / name).write_bytes(raw)
            (folder / MANIFEST).write_bytes(manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode(), sys.argv[5:])
