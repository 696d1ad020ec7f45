"""Whatever is wrong in a configuration is said with its place, what was expected and the nearest right name."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.workspace.configuration import PACKAGED_CONF, available, load_configuration

MINE = """\
# @package _global_
defaults:
  - /features: online_retail
  - /model: two_tower
  - _self_
experiment: mine
"""
TWO_IDS = """\
buyer:
  user_id: {type: STRING, is_primary_id: true, embedding: {}}
  email: {type: STRING, is_primary_id: true, embedding: {}}
product:
  item_id: {type: STRING, is_primary_id: true, embedding: {}}
"""


@pytest.fixture
def conf(tmp_path):
    """A function that writes files of a workspace's conf folder."""

    def write(**files):
        for name, content in files.items():
            path = tmp_path / "conf" / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "conf"

    return write


def refusal(overrides, folder=None):
    with pytest.raises(InputError) as caught:
        load_configuration(overrides, folder)
    return str(caught.value)


def test_the_baseline_and_overrides():
    plain = load_configuration()
    assert plain.experiment == "baseline"
    assert plain == load_configuration(["experiment=baseline"])
    changed = load_configuration(
        ["training.num_epochs=3", "seed=11", "model.buyer_tower=[{units: 5}]", "model.top_k=7"]
    )
    assert (changed.training.num_epochs, changed.seed, changed.model.top_k) == (3, 11, 7)
    assert [layer.units for layer in changed.model.buyer_tower] == [5]
    assert changed.features == plain.features


def test_an_override_may_set_what_no_file_sets():
    assert load_configuration(["evaluation.popular_days=9"]).evaluation.popular_days == 9
    column = "{type: STRING, embedding: {dim: 3}}"
    assert load_configuration([f"features.buyer.city={column}"]).features.buyer["city"].embedding.dim == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("experiment=baselin", ["names no experiment", "'baselin'", "one of baseline", "Did you mean baseline?"]),
        ("model=two_towers", ["names no model", "Did you mean two_tower?"]),
        ("trainig.num_epochs=3", ["unknown key", "has no 'trainig'", "training", "Did you mean training?"]),
        ("training.num_epohcs=3", ["training has no 'num_epohcs'", "Did you mean training.num_epochs?"]),
        ("features.buyer.country.embeding.dim=4", ["Did you mean features.buyer.country.embedding?"]),
        ("model.buyer_tower.0.unit=4", ["has no 'unit'", "Did you mean model.buyer_tower.0.units?"]),
        ("model.buyer_tower.units=4", ["model.buyer_tower is a list", "model.buyer_tower.0"]),
        ("training.num_epochs=many", ["training.num_epochs", "found 'many'", "a valid integer"]),
        ("training.num_epochs=0", ["training.num_epochs", "found 0", "greater than or equal to 1"]),
        ("training.metric=ndgc@10", ["found 'ndgc@10'", "'ndcg@10'", "Did you mean ndcg@10?"]),
        ("evaluation.metric=recal@10", ["evaluation.metric", "found 'recal@10'", "Did you mean recall@10?"]),
        ("evaluation.thresholds.recall=0.5", ["evaluation.thresholds", "found 'recall'", "all_purchases|new_to_customer"]),
        ("model.buyer_tower=[{units: 8, activation: reluu}]", ["model.buyer_tower.0.activation", "Did you mean relu?"]),
        ("features.buyer.country.type=STRNG", ["features.buyer.country.type", "Did you mean STRING?"]),
        ("features.buyer.num_baskets.normalize=null", ["features.buyer.num_baskets", "log needs normalize"]),
        ("features.buyer.num_baskets.clip={p_low: 0.9, p_high: 0.1}", ["p_low must lie below p_high", "p_low=0.9"]),
        ("features.product.item_id.is_primary_id=false", ["product needs exactly one column with is_primary_id"]),
        ("features.buyer.country.is_primary_id=true", ["buyer needs exactly one", "'user_id', 'country'"]),
        ("features.product.seen={type: STRING, sequence: {}}", ["sequence is a buyer transform", "'seen'"]),
        ("features.buyer.seen={type: STRING, sequence: {}}", ["buyer takes one sequence column", "'user_history', 'seen'"]),
        ("features.buyer.country.sequence={}", ["features.buyer.country", "sequence takes lists, which embedding can't"]),
        ("features.crosses.x={columns: [country, user_id]}", ["crosses.x", "buyer user_id is the primary id"]),
        ("features.buyer.country.type=string", ["found 'string', expected 'STRING'", "Did you mean STRING?"]),
        ("features.buyer.country.normalize={}", ["features.buyer.country", "normalize needs a column of type INT64 or"]),
        ("release.name='a/b'", ["release.name", "'a/b'"]),
        ("training=5", ["training", "found 5"]),
        ("seed=-1", ["seed", "found -1"]),
        ("seed=4294967296", ["seed", "less than 4294967296"]),
    ],
)  # fmt: skip
def test_a_wrong_override_is_explained(override, said):
    message = refusal([override])
    for part in ["verride", override, *said]:
        assert part in message.replace("\n", " "), message


@pytest.mark.parametrize("override", ["training.num_epochs", "=3", "", "a b", "training..x=1", "seed=[1", "!"])
def test_what_is_no_override_is_said_to_be_none(override):
    assert "is no override" in refusal([override]) or "unknown key" in refusal([override])


@pytest.mark.parametrize("override", ["~seed", "seed=1,2", "seed=range(1,4)", "hydra.run.dir=elsewhere", "hydra/job=x"])
def test_hydras_own_powers_are_not_handed_out(override):
    assert "is not taken here: write key=value" in refusal([override])


def test_every_problem_is_named_at_once():
    message = refusal(["training.num_epochs=0", "model.top_k=0", "seed=x"])
    assert [line.split(":")[1].strip() for line in message.splitlines()] == [
        "seed",
        "model.top_k",
        "training.num_epochs",
    ]


def test_a_workspaces_experiment(conf):
    folder = conf(experiment__mine=f"{MINE}training: {{num_epochs: 3}}\nseed: 5\n")
    configuration = load_configuration(["experiment=mine", "seed=6"], folder)
    assert (configuration.experiment, configuration.training.num_epochs, configuration.seed) == ("mine", 3, 6)
    found = available("experiment", [folder, PACKAGED_CONF])
    assert {"baseline", "mine"} <= set(found)
    assert found == sorted(found)
    assert load_configuration([], folder) == load_configuration()
    assert f"one of {', '.join(found)}. Did you mean mine?" in refusal(["experiment=mie"], folder)


def test_a_workspaces_files_come_before_the_packaged_ones(conf):
    folder = conf(
        features__online_retail=TWO_IDS.replace(
            "is_primary_id: true, embedding: {}}\nproduct", "embedding: {}}\nproduct"
        ),
        experiment__baseline=MINE.replace("mine", "baseline") + "seed: 99\nmodel: {repeat_head: false}\n",
    )
    configuration = load_configuration([], folder)
    assert configuration.seed == 99
    assert sorted(configuration.features.buyer) == ["email", "user_id"]
    assert configuration.model.top_k == load_configuration().model.top_k


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        ("training: {num_epohcs: 3}", "training.num_epohcs", "unknown key.*Did you mean num_epochs\\?"),
        ("trainin: {num_epochs: 3}", "trainin", "unknown key.*Did you mean training\\?"),
        ("training: {num_epochs: many}", "training.num_epochs", "found 'many', expected a valid integer"),
        ("training: {loss: bprr}", "training.loss", "found 'bprr', expected 'sampled_softmax'"),
        ("training: {metric: mrrr}", "training.metric", "Did you mean mrr\\?"),
        ("model: {buyer_tower: [{units: 8}, {units: 4, activation: gelo}]}", "model.buyer_tower.1.activation", "gelu\\?"),
        ("model: {buyer_tower: [{}]}", "model.buyer_tower.0.units", "missing; expected int"),
        ("features: {buyer: {country: {normalize: {}}}}", "features.buyer.country", "normalize needs a column of type"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_key(conf, more, key, said):
    folder = conf(experiment__mine=f"{MINE}{more}\n")
    message = refusal(["experiment=mine"], folder)
    assert message.startswith(f"{folder / 'experiment' / 'mine.yaml'}: {key}: "), message
    assert len(message.splitlines()) == 1
    assert re.search(said, message), message


def test_the_file_that_is_in_force_is_named(conf):
    folder = conf(features__online_retail=TWO_IDS, model__two_tower="buyer_tower: []\ntop_k: zero\n")
    lines = sorted(refusal([], folder).splitlines())
    assert lines[0].startswith(f"{folder}/features/online_retail.yaml: features: buyer needs exactly one")
    assert lines[1].startswith(f"{folder}/model/two_tower.yaml: model.product_tower: missing; expected list")
    assert lines[2].startswith(f"{folder}/model/two_tower.yaml: model.top_k: found 'zero'")
    packaged = refusal(["model.output_embedding_dim=1", "training.batch_size=1", "+surprise.key=1"])
    assert [line.split(": ")[0] for line in packaged.splitlines()] == [
        "the override model.output_embedding_dim=1",
        "the override training.batch_size=1",
        "the override +surprise.key=1",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: [1\n", "line 2"),
        (f"{MINE}seed: 1\nseed: 2\n", "line 8: found duplicate key seed"),
        ("a:\n\tb: 1\n", "line 2"),
        (b"experiment: \xff\xfe\n", "is not in UTF-8"),
        (b"experiment: a\x00\n", "special characters are not allowed"),
        (MINE.split("\n", 1)[1], "its first line has to be `# @package _global_`"),
        ("- a\n- b\n", "its first line has to be"),
        ("", "its first line has to be"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(conf, content, said):
    folder = conf(experiment__mine=content)
    message = refusal(["experiment=mine"], folder)
    assert f"{folder / 'experiment' / 'mine.yaml'}" in message
    assert said in message


def test_a_file_that_names_another_that_is_not_there(conf):
    message = refusal(["experiment=mine"], conf(experiment__mine=MINE.replace("two_tower", "three_tower")))
    assert "experiment/mine" in message
    assert "model/three_tower" in message


def test_a_history_is_needed_for_the_repeat_head(conf):
    folder = conf(
        features__online_retail=TWO_IDS.replace("email: {type: STRING, is_primary_id: true", "email: {type: STRING")
    )
    assert "model.repeat_head needs a buyer column with a `sequence` transform" in refusal([], folder)


KEYS = st.sampled_from(["seed", "training.num_epochs", "model.buyer_tower", "model", "features.buyer.country", "x", "+y.z",
                        "evaluation.thresholds", "experiment", "++seed", "model.buyer_tower.0.units", "features.product"])  # fmt: skip
VALUES = st.sampled_from(["1", "-1", "null", "true", "[]", "{}", "[1,2]", "{a: 1}", "'x'", "1.5", "nan", "???", "${seed}",
                          "${nothing}", "", "[{units: 3}]", "{type: STRING}", "1e400", "a b", "é", "[", "'"])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES) | st.tuples(st.text(max_size=6), st.text(max_size=4)), min_size=1, max_size=3))
def test_any_overrides_give_a_configuration_or_a_message(pairs):
    try:
        configuration = load_configuration([f"{key}={value}" for key, value in pairs])
    except InputError:
        return
    assert Configuration.model_validate(configuration.model_dump(mode="json", exclude_none=True)) == configuration


def test_a_configuration_survives_yaml():
    configuration = load_configuration(["seed=3", "model.buyer_tower=[{units: 5, activation: tanh}]"])
    written = yaml.safe_dump(configuration.model_dump(mode="json", exclude_none=True))
    assert Configuration.model_validate(yaml.safe_load(written)) == configuration


@pytest.mark.parametrize("model", ["ranking", "multitask"])
def test_a_grocers_columns_with_a_target_go_with_every_model_that_predicts(model):
    plain = load_configuration(["experiment=completejourney"]).features
    spend = load_configuration([f"experiment={model}", "features=completejourney_spend"]).features
    assert plain.target is None
    assert spend.target is not None
    assert spend.buyer.keys() - plain.buyer.keys() == {"user_mean_target"}
    assert spend.product.keys() - plain.product.keys() == {"item_mean_target"}
    assert plain.buyer.items() <= spend.buyer.items()
    assert plain.product.items() <= spend.product.items()
    assert plain.crosses == spend.crosses
