"""The release manifest: what a release folder holds, and the exact shape of `manifest.json`.

Read by the server at start-up, so this module imports nothing but msgspec.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

MANIFEST = "manifest.json"
QUERY_GRAPH = "query.onnx"
ITEM_GRAPH = "item.onnx"
RANK_GRAPH = "rank.onnx"
MERGED_GRAPH = "model.onnx"
CANDIDATE_VECTORS = "candidates/vectors.npy"
CANDIDATE_IDS = "candidates/item_ids.npy"
ITEMS = "items.parquet"
USER_FEATURES = "features.parquet"
FALLBACK_POPULAR = "fallback/popular.json"
RULES = "rules.yaml"
REPORT = "report/index.html"

REGISTRY = ".registry"
"""The folder of what is known of releases, below a workspace's releases."""

FORMAT_VERSION = 1

DEFAULT_SIGNATURE = "serving_default"
RANKING_SIGNATURE = "serve_ranking"

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
    """How `query.onnx` and `rank.onnx` take a user's recent products.

    The three inputs are `[batch, length]`, padded with `""`, 0.0 and 0, oldest product first, at most `max_length`
    distinct products. `boosts_output`, when set, is an output of the same shape: a score added to the inner
    product of each product of the history. `values_input`, when set, is one more of the inputs: the last known target of
    each product, such as what was paid for it, 0.0 where there is none. `neighbor_items_output` and `neighbor_boosts_output`, when set,
    are two outputs `[batch, any]`: rows of the candidates, -1 for none, and scores added to the inner products of these; a row may stand
    there more than once, and then all of its scores are added.
    """

    items_input: str
    ages_input: str
    counts_input: str
    max_length: int
    boosts_output: str | None = None
    values_input: str | None = None
    type_inputs: tuple[str, ...] = ()
    """Further inputs of the same shape: how often each type of event named the product; all 0 where nobody knows."""
    neighbor_items_output: str | None = None
    neighbor_boosts_output: str | None = None

    @property
    def outputs(self) -> list[str]:
        """The outputs that add to scores, those that there are: of the history's products, then rows and scores of neighbors."""
        every = (self.boosts_output, self.neighbor_items_output, self.neighbor_boosts_output)
        return [name for name in every if name is not None]

    @property
    def inputs(self) -> dict[str, DType | None]:
        """The inputs and their types, where these are settled: products come as the catalog has them, counts as either."""
        inputs: dict[str, DType | None] = {self.items_input: None, self.ages_input: None, self.counts_input: None}
        values: dict[str, DType | None] = {self.values_input: "FLOAT"} if self.values_input else {}
        return inputs | values | dict.fromkeys(self.type_inputs)


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


class ProductInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of `rank.onnx` that tells of the pair's product.

    `tensor` is as the graph takes it: `[batch]`, or `[batch, length]` for lists. Its name is the column's, but
    `product.NAME` where the buyer has an input of that name; its `default` stands for a missing value. `column` is where
    `items.parquet` has it.
    """

    tensor: Tensor
    column: str


class Ranking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How `rank.onnx` scores pairs: row i of every input belongs to pair i, and so does `prediction_output[i]`.

    Its inputs are the buyer's, as `query.onnx` takes them, and the product's. `target` is the column that is predicted, and
    `units` says in a few words what a prediction is a number of. `item_input` is the one of `product_inputs` that
    carries the product's id. `history` says which of the buyer's inputs are the history; it has no boosts, and
    perhaps values.
    """

    prediction_output: str
    target: str
    units: str
    primary_id: str
    item_input: str
    item_id_type: Literal["STRING", "INT64"]
    product_inputs: list[ProductInput]
    history: History | None = None


class Blessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate's verdict and why."""

    status: Literal["BLESSED", "NOT_BLESSED"]
    reasons: list[str]


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the release comes from. `dataset_version` is the number of the dataset that `data_versions` make up; 0: unknown."""

    run_id: str
    git_sha: str
    seed: int
    data_versions: dict[str, int]
    configuration: dict[str, Any]
    library_versions: dict[str, str]
    dataset_version: int = 0


class ReleaseManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `manifest.json` says. Written last: a folder without it is no release.

    A release has `retrieval`, `ranking` or both, each with its files and its signature; without `retrieval`,
    `serving_default` is `serve_ranking` under another name.
    """

    format_version: int
    name: str
    created_at: str
    as_of: str
    files: dict[str, FileEntry]
    signatures: dict[str, Signature]
    retrieval: Retrieval | None
    lineage: Lineage
    metrics: dict[str, float]
    blessing: Blessing
    ranking: Ranking | None = None

    @property
    def parts(self) -> list[str]:
        """Names of the files without which the release can't answer as it says."""
        retrieval = [QUERY_GRAPH, CANDIDATE_VECTORS, CANDIDATE_IDS] if self.retrieval else []
        return retrieval + ([RANK_GRAPH, ITEMS] if self.ranking else [])
