"""Compiled training learns what plain training learns, keeps its weights' names, and is refused where nothing can compile."""

import pytest
import torch

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.models.towers import Towers
from endcap.training.compiling import check_compiler
from endcap.training.data import Catalog, questions_of
from endcap.training.loop import fit_model
from endcap.training.trainer import Trainer

DAY_US = 86_400_000_000
# Adam would make steps of what rounding leaves of gradients that are zero, such as that of a constant added to all scores.
STEADY = {"id_dropout": 0, "history_dropout": 0, "profile_dropout": 0, "item_id_dropout": 0, "optimizer": "sgd"}


@pytest.mark.parametrize(
    ("kind", "needed"), [("cpu", r"a C\+\+ compiler; found no nowhere-g\+\+"), ("cuda", "triton;")]
)
def test_what_compiling_needs_is_asked_for_first(kind, needed, small, monkeypatch):
    monkeypatch.setenv("CXX", "nowhere-g++")
    monkeypatch.setattr("endcap.training.compiling.find_spec", lambda name: None)
    check_compiler(small().training, torch.device(kind))
    with pytest.raises(InputError, match=f"training.compile=true on this machine's {kind} needs {needed}"):
        check_compiler(small(compile=True).training, torch.device(kind))
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr("endcap.training.compiling.find_spec", lambda name: name)
    check_compiler(small(compile=True).training, torch.device(kind))


def test_it_is_refused_before_anything_is_trained(
    small, fit_features, question_table, product_table, random_questions, monkeypatch
):
    monkeypatch.setenv("CXX", "nowhere-g++")
    products, table = product_table([100, 101, 102]), question_table(random_questions)
    fitted = fit_features(table, products.slice(24))
    data = (fitted, Catalog(fitted, products), questions_of(fitted, table), 103 * DAY_US)
    with pytest.raises(InputError, match=r"training\.compile=true"):
        fit_model(small(compile=True, device="cpu"), *data, Silent(), num_epochs=1)


@pytest.mark.slow
# torch's compiler calls what torch has deprecated, and looks at gradients that torch warns of; it hides the latter itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("tables", [{}, {"whole_catalog": 0, "sparse_rows": 5}], ids=["dense", "sparse"])
def test_compiled_steps_learn_the_same(tables, small, fit_features, question_table, product_table, random_questions):
    products, table = product_table([100, 101, 102]), question_table(random_questions)
    fitted = fit_features(table, products.slice(24))
    found = {}
    for is_compiled in (False, True):
        configuration = small(model={"dropout": 0.0}, **STEADY, **tables, compile=is_compiled)
        torch.manual_seed(7)
        model = Towers(fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model)
        trainer = Trainer(
            model, configuration.training, Catalog(fitted, products), questions_of(fitted, table), 103 * DAY_US, 7
        )
        for _ in range(3):
            trainer.run_epoch(lambda *_: None)
        found[is_compiled] = (trainer.losses, model.state_dict(), trainer.average.state_dict(), trainer.state())
    torch._dynamo.reset()
    (plain, *plain_weights, plain_state), (losses, *weights, state) = found[False], found[True]
    assert losses == pytest.approx(plain, rel=1e-4)
    assert state.tensors.keys() == plain_state.tensors.keys()
    for one, other in zip(weights, plain_weights, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)
