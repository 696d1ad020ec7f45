"""TensorFlow Serving's flags, as entry scripts spell them."""

from __future__ import annotations

import pytest

from endcap.cli.tensorflow_flags import translate
from endcap.contracts.errors import InputError


def test_the_entry_script_of_tensorflow_servings_image() -> None:
    said = ["--port=8500", "--rest_api_port=8501", "--model_name=shop", "--model_base_path=/models/shop"]
    assert translate(said) == (
        ["--grpc-port=8500", "--port=8501", "--model-name=shop", "--base-path=/models/shop"],
        [],
    )


def test_values_behind_a_space_and_switches() -> None:
    said = ["--rest_api_port", "8501", "--enable_batching", "--batching_parameters_file", "b.txt", "--port", "9"]
    assert translate(said)[0] == ["--port=8501", "--batching", "--batching-parameters-file=b.txt", "--grpc-port=9"]
    assert translate(["--enable_batching=true"])[0] == ["--batching"]
    assert translate(["--enable_batching=false", "--auth", "none"])[0] == ["--auth", "none"]
    with pytest.raises(InputError, match="--enable_batching: expected true or false; found 'maybe'"):
        translate(["--enable_batching=maybe"])


def test_our_own_spelling_stays_as_it_is() -> None:
    said = ["shop/1", "--port", "8501", "--model-name", "shop", "-w", "x_y"]
    assert translate(said) == (said, [])


def test_flags_of_tensorflows_runtime_are_passed_over_and_told() -> None:
    said = ["--tensorflow_session_parallelism=4", "--rest_api_num_threads", "8", "--model_name=m", "--auth=none"]
    assert translate(said) == (
        ["--model-name=m", "--auth=none"],
        ["tensorflow_session_parallelism", "rest_api_num_threads"],
    )
