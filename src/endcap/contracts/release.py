"""The release manifest: what a release folder holds, and the exact shape of `manifest.json`.

Read by the server at start-up, so this module imports nothing but msgspec.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

MANIFEST = "manifest.json"
QUERY_GRAPH = "query.onnx"
ITEM_GRAPH = "item.onnx"
MERGED_GRAPH = "model.onnx"
CANDIDATE_VECTORS = "candidates/vectors.npy"
CANDIDATE_IDS = "candidates/item_ids.npy"
ITEMS = "items.parquet"
USER_FEATURES = "features.parquet"
FALLBACK_POPULAR = "fallback/popular.json"
RULES = "rules.yaml"
REPORT = "report/index.html"

FORMAT_VERSION = 1

DType = Literal["STRING", "INT64", "FLOAT"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Digest and size of one file of the release."""

    sha256: str
    num_bytes: int


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named input or output of a signature.

    `shape` counts the batch dimension; -1 is any length. An input with `required` false may be left out of a
    request: the server takes the user's value from the feature snapshot, else `default`.
    """

    name: str
    dtype: DType
    shape: list[int]
    required: bool = True
    default: str | int | float | None = None


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and outputs of one way to call the release."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How `query.onnx` takes a user's recent products.

    The three inputs are `[batch, length]`, padded with `""`, 0.0 and 0, oldest product first, at most `max_length`
    distinct products. `boosts_output`, when set, is an output of the same shape: a score added to the inner
    product of each product of the history.
    """

    items_input: str
    ages_input: str
    counts_input: str
    max_length: int
    boosts_output: str | None = None


class Retrieval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How candidates are searched: inner product of `vector_output` with `candidates/vectors.npy`."""

    algorithm: Literal["brute_force"]
    vector_output: str
    dim: int
    num_items: int
    top_k: int
    item_id_type: Literal["STRING", "INT64"]
    primary_id: str
    history: History | None = None


class Blessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate's verdict and why."""

    status: Literal["BLESSED", "NOT_BLESSED"]
    reasons: list[str]


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the release comes from."""

    run_id: str
    git_sha: str
    seed: int
    data_versions: dict[str, int]
    configuration: dict[str, Any]
    library_versions: dict[str, str]


class ReleaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `manifest.json` says. Written last: a folder without it is no release."""

    format_version: int
    name: str
    created_at: str
    as_of: str
    files: dict[str, FileEntry]
    signatures: dict[str, Signature]
    retrieval: Retrieval
    lineage: Lineage
    metrics: dict[str, float]
    blessing: Blessing
