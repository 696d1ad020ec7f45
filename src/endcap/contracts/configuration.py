"""Composed configuration in, one checked object out: every knob of a training run, each with its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from endcap.contracts.baselines import BaselinesConfig
from endcap.contracts.features import PURCHASE, FeatureConfig, Signal, Strict
from endcap.contracts.trackers import TrackersConfig, without_credentials

MetricName = Literal[
    "recall@5", "recall@10", "recall@50", "recall@100", "ndcg@10", "mrr", "hit_rate@10", "map@10", "auc@100"
]  # fmt: skip
"""Metrics that are measured for every customer."""

_MEASURED = (
    r"^(all_purchases|new_to_customer)/"
    r"(recall@(5|10|50|100)|ndcg@10|mrr|hit_rate@10|map@10|auc(@100)?|coverage@(5|10|50|100))$"
)


class SplitConfig(Strict):
    """How purchases are divided into train, eval and test."""

    kind: Literal["time", "leave_last_out", "random"] = "time"
    """`time`: the last purchases are the test period, those before them the eval period. `leave_last_out`: of each customer
    the last basket is test, the one before it eval. `random`: as `leave_last_out`, but each customer is wholly of train, of eval or of
    test, drawn by a digest of their id."""
    eval_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Share of all purchases in the eval period, on which everything is tuned; for `random` the share of customers."""
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Share of all purchases in the test period, looked at once; for `random` the share of customers."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Which customers `random` draws; apart from the run's seed, so that runs with different seeds share their features."""

    @model_validator(mode="after")
    def _fields_are_of_the_kind(self) -> Self:
        meant = {"time": {"eval_fraction", "test_fraction"}, "leave_last_out": set[str](), "random": _SPLIT_FIELDS}
        for name in sorted(_SPLIT_FIELDS - meant[self.kind]):
            if getattr(self, name) != type(self).model_fields[name].default:
                kinds = " or ".join(kind for kind, names in meant.items() if name in names)
                raise ValueError(f"{name} says nothing with kind={self.kind}: leave it out, or set kind={kinds}")
        return self


_SPLIT_FIELDS = {"eval_fraction", "test_fraction", "seed"}


class Layer(Strict):
    """One dense layer of a tower."""

    units: int = Field(ge=1, le=8192)
    """Width of the layer's output."""
    activation: Literal["relu", "gelu", "silu", "tanh", "linear"] = "relu"
    """Applied after the layer."""
    batch_norm: bool = False
    """Whether the layer's outputs are standardised over the rows of a step before the activation (Ioffe and Szegedy, ICML
    2015); answers take the training's running means and variances."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the outputs dropped while training."""
    l2: float = Field(0.0, ge=0)
    """Times the sum of the squares of the layer's weights is added to the loss; its biases go free."""


class ModelConfig(Strict):
    """Shape of the model."""

    model_type: Literal["retrieval", "ranking", "multitask"] = "retrieval"
    """`retrieval`: a query tower and an item tower that meet in an inner product. `ranking`: a rating head on the two towers
    predicts the target of a customer's line of a product. `multitask`: both at once, on the same towers."""
    buyer_tower: list[Layer]
    """Dense layers of the query tower, before its projection to `output_embedding_dim`."""
    product_tower: list[Layer]
    """Dense layers of the item tower, before its projection to `output_embedding_dim`."""
    output_embedding_dim: int = Field(97, ge=2, le=2048)
    """Width of query and item vectors; the last dimension carries the product's bias."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of a tower's inputs dropped while training."""
    num_members: int = Field(1, ge=1, le=16)
    """So many pairs of towers are trained, each from a start of its own, and their scores and ratings averaged. Their vectors
    lie end to end, each `output_embedding_dim` wide but for the item map, which stands once; training takes so many times as
    long."""
    item_map_dim: int = Field(0, ge=0, le=2048)
    """Of `output_embedding_dim` the part that an item map takes: EASE's weights from products of the history to all others,
    solved from the training period's purchases, in so many dimensions. 0: none."""
    item_map_l2: float = Field(200.0, gt=0)
    """Penalty on the squares of the map's weights, in users."""
    item_map_scale: float = Field(0.15, gt=0)
    """How far the map moves the scores of products: one standard deviation over the catalog."""
    neighbors: int = Field(0, ge=0, le=1000)
    """Strongest neighbors of each product of the history that get a score of their own, by what is met together in a
    session of the training period: in purchases, and in the types of events that fill histories. 0: none."""
    neighbor_scale: float = Field(1.0, gt=0)
    """What neighbors' scores are multiplied with before they are added to the inner products."""
    neighbor_popularity: float = Field(0.1, ge=0, le=1)
    """How much less a neighbor counts for being met often: its sessions to the minus this."""
    neighbor_shrink: float = Field(3.0, ge=0)
    """Shared sessions below which a link is trusted less."""
    neighbor_fade: float = Field(0.1, ge=0)
    """How much less older products of the history lead: one and the days before the last of them, to the minus this."""
    neighbor_weights: dict[Signal, float] = Field(default_factory=dict)
    """How much meeting a product in an event of a type leads to its neighbors; 1 for types that aren't named."""
    repeat_head: bool = True
    """Whether products of the user's history get a learned score of their own, added to the inner product."""
    rating_head: list[Layer] = Field(default_factory=list)
    """Dense layers of the rating head, beside its linear term; without any, one linear layer over vectors and numbers."""
    ranker: Literal["network", "lightgbm"] = "network"
    """What answers in `rank.onnx`: the rating head, or boosted trees on the same raw columns."""
    task_weighting: Literal["fixed", "learned"] = "fixed"
    """How a multitask step adds its two losses: by the two weights below, or by uncertainties that are learned with the
    model (Kendall, Gal and Cipolla, CVPR 2018)."""
    retrieval_weight: float = Field(1.0, ge=0)
    """Of the retrieval loss in a multitask step."""
    ranking_weight: float = Field(1.0, ge=0)
    """Of the rating loss in a multitask step."""
    retrieval_algorithm: Literal["brute_force"] = "brute_force"
    """How candidates are searched when serving."""
    top_k: int = Field(100, ge=1, le=1000)
    """Products answered when a request names no `k`."""

    @property
    def tower_dim(self) -> int:
        """Width of what the towers learn: without the map and the bias."""
        return self.output_embedding_dim - self.item_map_dim - 1

    @model_validator(mode="after")
    def _map_leaves_room(self) -> Self:
        if self.tower_dim < 1:
            raise ValueError(
                f"item_map_dim is {self.item_map_dim} of output_embedding_dim {self.output_embedding_dim}: leave at least "
                "2 for the towers and the bias"
            )
        return self

    @model_validator(mode="after")
    def _tasks_have_weight(self) -> Self:
        if self.model_type == "multitask" and self.retrieval_weight == 0 and self.ranking_weight == 0:
            raise ValueError("retrieval_weight and ranking_weight are both 0, which leaves nothing to learn; raise one")
        if self.model_type == "retrieval" and self.ranker != "network":
            raise ValueError(
                f"ranker={self.ranker} says nothing with model_type=retrieval; expected ranking or multitask"
            )
        return self


class QuestionConfig(Strict):
    """Which training questions are asked, and when: a page is looked at some time after the last basket, not at its till."""

    lag_days: float = Field(19.0, ge=0)
    """A question is asked at a random moment between the customer's last basket and this one, at most so long before."""
    min_gap_days: float = Field(0.5, ge=0)
    """Baskets sooner after the one before are parts of it: no question is asked for them."""
    event_types: dict[Signal, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=lambda: {PURCHASE: 1.0})
    """What is learned to foresee, each type with the weight of its questions beside a purchase's, such as `{purchase: 1,
    add_to_cart: 0.3, view_item: 0.1}`; 0: not at all. What is measured are purchases alone."""

    @property
    def asked_types(self) -> dict[str, float]:
        """Types of events that questions are made of, with their weights."""
        return {name: weight for name, weight in self.event_types.items() if weight}

    @model_validator(mode="after")
    def _asks_for_purchases(self) -> Self:
        if PURCHASE not in self.asked_types:
            raise ValueError(f"event_types needs a weight above 0 for {PURCHASE}, which is what a release is judged by")
        return self


class TrainingConfig(Strict):
    """How the model is fitted."""

    num_epochs: int = Field(5, ge=1, le=10_000)
    """Most passes over the training questions."""
    batch_size: int = Field(256, ge=2)
    """Most questions a step; all of a step stand on one day, so that they share its catalog. Several processes share them."""
    num_negatives: int = Field(1024, ge=1)
    """Products drawn as negatives for a step, shared by its questions, in proportion to popularity^0.75."""
    negatives: Literal["popularity", "uniform", "mixed"] = "popularity"
    """Which products are drawn: in proportion to popularity^0.75, all alike, or uniform ones beside what the step's other
    questions bought."""
    num_hard: int = Field(0, ge=0)
    """Hard negatives: of the drawn products each question meets only so many, those that the model scores highest for it. 0:
    all."""
    loss: Literal["sampled_softmax", "in_batch", "bpr", "bce"] = "sampled_softmax"
    """`sampled_softmax`: softmax over positives, the customer's own products and the negatives, with logQ correction.
    `in_batch`: the same with what the step's other questions bought as the only negatives. `bpr`: each positive above each
    negative. `bce`: positives are 1, negatives 0."""
    rating_loss: Literal["mse", "huber", "bce", "listwise"] = "mse"
    """Of the rating head. `mse`: squared error of the standardised target. `huber`: the same, but linear beyond
    `huber_delta`. `bce`: cross-entropy, for targets between 0 and 1. `listwise`: which of a basket's lines come to more
    (ListNet, Cao et al., ICML 2007)."""
    huber_delta: float = Field(1.0, gt=0)
    """Error from which `huber` grows along a line, in deviations of the target."""
    optimizer: Literal["adamw", "adam", "sgd", "adagrad"] = "adamw"
    """`adamw`: Adam with decoupled weight decay. `sgd` has momentum 0.9."""
    learning_rate: float = Field(3e-3, gt=0, le=1)
    """Peak step size."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the step size goes on after the warm-up: along a cosine or a line to 0 at `num_epochs`, or as it is."""
    warmup_steps: int = Field(50, ge=0)
    """Steps over which the step size rises from nearly 0."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decay of weights towards 0, per unit of learning rate; tables with sparse gradients have none."""
    max_gradient_norm: float = Field(0.0, ge=0)
    """Longest gradient of all dense weights together; a longer one is shortened to it. 0: any length."""
    whole_catalog: int = Field(5_000, ge=0)
    """Of catalogs with more products a step encodes only those that its questions have, bought or drew."""
    sparse_rows: int = Field(50_000, ge=1)
    """Tables of ids with more rows get sparse gradients and `sparse_optimizer`: a step touches only the rows it uses."""
    sparse_optimizer: Literal["rowwise_adagrad", "sparse_adam"] = "rowwise_adagrad"
    """For tables with sparse gradients. `rowwise_adagrad` keeps one number a row, `sparse_adam` two a weight."""
    sparse_learning_rate: float | None = Field(None, gt=0, le=10)
    """Peak step size for tables with sparse gradients; `learning_rate` when not given."""
    half_life_days: float = Field(40.0, gt=0)
    """A question so many days before the end of training counts half."""
    weight_average: float = Field(0.99, ge=0, lt=1)
    """Decay of the running average of weights, which is what is evaluated and released; 0: the last weights."""
    id_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of questions whose user id is hidden, so that unknown customers are served well."""
    history_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of questions asked as by a stranger: id, history and what tells of past purchases hidden."""
    profile_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of questions whose history is shown while the rest of what tells of past purchases is hidden: what a request
    with `user_history` alone looks like."""
    item_id_dropout: float = Field(0.05, ge=0, lt=1)
    """Share of products whose id is hidden in a step, so that their description alone says where a new one belongs."""
    new_item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of products shown in a step as if nobody had bought them yet: without id, with the numbers of a product without
    sales. Products that come after training are placed higher for it, the others a little less exactly."""
    patience: int = Field(2, ge=1)
    """Epochs without a better eval metric after which training stops."""
    metric: MetricName = "ndcg@10"
    """Eval metric that chooses the best epoch: the mean of its values on all purchases and on products new to the
    customer, since a release must win on both."""
    refit: bool = True
    """Whether to train again on train + eval, for the number of epochs that the eval period chose, before the test."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Minutes of training after which it is written down where it stands, to go on from there when it was stopped; besides
    at the end of an epoch. Never so often that it takes more than a fiftieth of the time."""
    checkpoint_steps: int = Field(0, ge=0)
    """Steps after which it is written down in any case; 0: by time alone."""
    num_checkpoints: int = Field(2, ge=1)
    """So many of the last checkpoints are kept while a stage is trained, and the best after an epoch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: on the processor, on a GPU (`cuda`; an error where there is none), or on a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the towers compute in; weights, losses and the optimizer stay in float32 either way."""
    compile: bool = False
    """Whether the towers are compiled (`torch.compile`) while they are trained: on a processor that takes a C++ compiler, on a GPU
    triton. What is measured and released computes as it is."""
    num_threads: int = Field(1, ge=1)
    """CPU threads of the tensor library. One is fastest for small models: tiny moments of the optimizer are flushed to
    zero in the first thread alone, and arithmetic on them takes tens of times as long in the others."""


class EvaluationConfig(Strict):
    """What is measured and what a release must reach."""

    metric: MetricName = "ndcg@10"
    """Test metric on which the model must beat every baseline to be blessed."""
    num_resamples: int = Field(1000, ge=100)
    """Bootstrap resamples of customers behind each interval."""
    popular_days: int = Field(30, ge=1)
    """Window of the `popular lately` baseline."""
    baselines: BaselinesConfig = BaselinesConfig()
    """Settings of the baselines that are tried on the eval period."""
    min_customers: int = Field(100, ge=1)
    """Fewest test customers for a verdict that can bless."""
    thresholds: dict[Annotated[str, Field(pattern=_MEASURED)], float] = Field(default_factory=dict)
    """Lowest test value a metric may have, such as `all_purchases/recall@100: 0.5`; empty: the baselines alone decide."""
    max_rating_loss: float = Field(0.01, ge=0, lt=1)
    """How far above that of boosted trees the RMSE of a ranking model may be, as a share of it."""
    champion_margin: float = Field(0.0, ge=0, lt=1)
    """How far above the champion the paired interval of the metric must lie, where a champion is compared."""
    max_slice_loss: float = Field(0.0, ge=0, lt=1)
    """What a slice of customers may lose to the best baseline or the champion: it fails when its paired interval lies below
    minus this."""
    max_item_slice_loss: float = Field(0.05, ge=0, lt=1)
    """The same for groups of products or purchases. They share the places of one list, so what one gains another loses."""
    max_answer_time_ms: float | None = Field(None, gt=0)
    """Longest time that 95 of 100 answers of the exported files may take in one process; without, it is only told: a busy
    machine would decide the verdict."""
    slice_columns: list[str] = Field(default_factory=list)
    """Columns to show figures by beside activity and age: whatever is told of customers (`country`), of products (`category`)
    or of a purchase itself (`device`)."""
    min_slice_customers: int = Field(50, ge=1)
    """Fewest customers of a slice whose loss counts."""


class ReleaseConfig(Strict):
    """What is packed."""

    name: str = Field("recommender", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Name of the model in URLs and in 04_releases."""
    mlflow_uri: str | None = Field(None, min_length=1)
    """Tracking URI of an MLflow whose model registry mirrors ours; without, nothing is mirrored."""

    _address = field_validator("mlflow_uri")(without_credentials)


class Configuration(Strict):
    """One training run, whole."""

    experiment: str
    """Which file below conf/experiment set this up."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Start of every random stream."""
    features: FeatureConfig
    split: SplitConfig = SplitConfig()
    questions: QuestionConfig = QuestionConfig()
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    release: ReleaseConfig = ReleaseConfig()
    trackers: TrackersConfig = TrackersConfig()

    def described(self) -> dict[str, Any]:
        """All that decides the result, as JSON has it: without what only hears of it."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"trackers"})

    @field_validator("experiment")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("name the experiment, such as experiment=baseline")
        return value

    @model_validator(mode="after")
    def _repeat_head_has_history(self) -> Self:
        if self.model.repeat_head and not self.features.history:
            raise ValueError("model.repeat_head needs a buyer column with a `sequence` transform")
        return self

    @model_validator(mode="after")
    def _item_map_has_history(self) -> Self:
        if self.model.item_map_dim and not self.features.history:
            raise ValueError("model.item_map_dim needs a buyer column with a `sequence` transform")
        return self

    @model_validator(mode="after")
    def _neighbors_have_history(self) -> Self:
        if self.model.neighbors and not self.features.history:
            raise ValueError("model.neighbors needs a buyer column with a `sequence` transform")
        if any(weight < 0 for weight in self.model.neighbor_weights.values()):
            raise ValueError("model.neighbor_weights are 0 or more")
        return self

    @model_validator(mode="after")
    def _rating_has_target(self) -> Self:
        if self.model.model_type == "retrieval":
            return self
        if self.features.target is None:
            raise ValueError(
                f"model.model_type={self.model.model_type} predicts features.target, and there is none: add one, such as "
                "target: {column: value, log: {}}"
            )
        if self.training.rating_loss == "bce" and self.features.target.log is not None:
            raise ValueError(
                "training.rating_loss=bce takes a target between 0 and 1 as it is: leave features.target.log out"
            )
        return self
