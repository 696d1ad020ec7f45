"""Ranges in Hydra's grammar, by hand."""

import pytest

from endcap.contracts.errors import InputError
from endcap.workspace.search_space import Choice, Span, parse_search_space


def test_ranges_and_fixed_overrides():
    space = parse_search_space(
        [
            "experiment=baseline", "a.b=tag(log,interval(1e-4,1e-2))", "c=choice(1,x,true)", "d=int(interval(1,8))", "e=range(2,8,3)",
            "f=0.5,0.7",
        ]
    )  # fmt: skip
    assert space.fixed == ("experiment=baseline",)
    assert space.searched == {
        "a.b": Span(1e-4, 1e-2, is_log=True),
        "c": Choice((1, "x", True)),
        "d": Span(1, 8, is_whole=True),
        "e": Choice((2, 5)),
        "f": Choice((0.5, 0.7)),
    }


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["seed=3"], "Nothing is to be searched"),
        ([], "Nothing is to be searched"),
        (["a=interval(3,1)"], "goes from 3.0 to 1.0; expected a lower end and a higher one"),
        (["a=tag(log,interval(0,1))"], "expected a lower end above 0"),
        (["a=choice(1)"], "expected two different values"),
        (["a=choice(1,1)"], "expected two different values"),
        (["a=choice([1],[2])"], "expected numbers, texts"),
        (["a=range(1,2)"], "expected two values or more"),
        (["a=glob(*)"], "no range that can be searched"),
        (["a=choice(1,"], "is no override"),
    ],
)
def test_what_is_no_range_is_said(overrides, said):
    with pytest.raises(InputError, match=said):
        parse_search_space(overrides)
