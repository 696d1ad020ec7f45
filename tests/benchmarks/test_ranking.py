"""What the benchmark of predicted spend searches, and what it refuses."""

from pathlib import Path

import pytest

from benchmarks.quality.ranking import SPACES, overrides_of, value_of, workspace_of
from endcap.contracts.errors import InputError
from endcap.workspace.configuration import load_configuration
from endcap.workspace.search_space import Choice


@pytest.mark.parametrize("name", SPACES)
def test_the_experiment_s_own_settings_lie_within_what_is_searched(name: str) -> None:
    """The first trial of either side is the experiment's own."""
    own = load_configuration(["experiment=ranking"])
    for key, span in SPACES[name].searched.items():
        value = value_of(own, key)
        assert value in span.values if isinstance(span, Choice) else span.low <= value <= span.high, key


@pytest.mark.parametrize("name", SPACES)
def test_settings_found_are_overrides_of_the_experiment(name: str) -> None:
    found = {
        key: span.values[-1] if isinstance(span, Choice) else int(span.high) if span.is_whole else span.high
        for key, span in SPACES[name].searched.items()
    }
    configuration = load_configuration(["experiment=ranking", *overrides_of(found)])
    assert {key: value_of(configuration, key) for key in found} == found


def test_neither_file_nor_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is neither a workspace nor a file"):
        workspace_of(tmp_path / "nothing", tmp_path / "made")
