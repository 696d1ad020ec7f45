"""TensorFlow Serving's files, as its users have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.contracts.errors import InputError
from endcap.serving.configuration_files import read_batching, read_models
from endcap.serving.settings import All, BatchingSettings, Latest, Specific
from endcap.serving.sources import OneRelease, check_allowed

BATCHING = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
pad_variable_length_inputs: true
"""
MODELS = """
model_config_list {
  config { name: "shoes" base_path: "/models/shoes" model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 4 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 4 } }
  config { name: "bags" base_path: "/models/bags" model_version_policy { latest { num_versions: 2 } } }
  config { name: "hats" base_path: "/models/hats" model_version_policy { all {} } }
  config { name: "coats" base_path: "/models/coats" }
}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "file.txt"
    path.write_text(text)
    return path


def test_batching_parameters(tmp_path: Path) -> None:
    assert read_batching(written(tmp_path, BATCHING)) == BatchingSettings(128, 0, 1_000_000, 8, True)
    assert read_batching(written(tmp_path, "")) == BatchingSettings(pad_variable_length_inputs=False)
    assert read_batching(written(tmp_path, "allowed_batch_sizes: [1, 8, 32]")).max_batch_size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size is 0; expected a positive number"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros is -1"),
        ("max_batch_size { value: 64 } allowed_batch_sizes: [8, 32]", "expected them to rise up to max_batch_size"),
        ("max_batch_size: 64", "is no BatchingParameters in protocol buffers' text form: 1:17"),
        ("most_at_once { value: 1 }", 'no field named "most_at_once"'),
    ],
)
def test_wrong_batching_parameters(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_batching(written(tmp_path, text))
    with pytest.raises(InputError, match="can't be read"):
        read_batching(tmp_path / "none.txt")


def test_lists_of_models(tmp_path: Path) -> None:
    models = read_models(written(tmp_path, MODELS), lambda place: OneRelease(Path(place)))
    assert [(model.name, model.place) for model in models] == [
        (name, f"/models/{name}") for name in ("shoes", "bags", "hats", "coats")
    ]
    assert [model.policy for model in models] == [Specific((3, 4)), Latest(2), All(), Latest()]
    assert [dict(model.labels) for model in models] == [{"stable": 3, "canary": 4}, {}, {}, {}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected model_config_list"),
        ('model_config_list { config { name: "a" } }', "a config has no base_path"),
        ('model_config_list { config { base_path: "/a" } }', "a config has no name"),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_version_policy { specific {} } } }',
            "expected versions in it",
        ),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "onnx" } }', "expected endcap"),
        (
            'model_config_list { config { name: "a" base_path: "/a" } config { name: "a" base_path: "/b" } }',
            "two models have one name",
        ),
    ],
)
def test_wrong_lists_of_models(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_models(written(tmp_path, text), lambda place: OneRelease(Path(place)))


def test_s7_models_are_taken_from_the_places_that_were_named(tmp_path: Path) -> None:
    root, other = tmp_path / "models", tmp_path / "other"
    for folder in (root / "a", other):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(other)
    check_allowed(str(root / "a"), [str(root)])
    check_allowed(f"{root}/b/../a", [str(root)])
    check_allowed("gs://shop/models/a", ["gs://shop/models/"])
    for place in (
        str(other),
        f"{root}/../other",
        str(root / "link"),
        f"{root}-of-others",
        "gs://shop/models-of-others",
        "gs://shop/models/../other",
        "s3://shop/models/a",
    ):
        with pytest.raises(InputError, match="is no place that this server may take models from"):
            check_allowed(place, [str(root), "gs://shop/models"])
