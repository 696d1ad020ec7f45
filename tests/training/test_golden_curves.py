"""The losses of twenty steps stay what they were: a change of the code that moves them is a change of the model.

After a change that is meant to move them: ENDCAP_WRITE_GOLDEN=1 pytest tests/training/test_golden_curves.py.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from endcap.models.towers import Towers
from endcap.training.data import Catalog, questions_of
from endcap.training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curves.json"
DAY_US = 86_400_000_000
SETTINGS = {
    "sampled_softmax": {},
    "in_batch": {"loss": "in_batch", "schedule": "linear"},
    "bpr": {"loss": "bpr", "negatives": "uniform", "optimizer": "adagrad"},
    "bce": {"loss": "bce", "negatives": "mixed", "optimizer": "sgd", "max_gradient_norm": 0.5, "schedule": "constant"},
    "large_tables": {"whole_catalog": 0, "sparse_rows": 5, "sparse_learning_rate": 0.1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_twenty_steps_lose_what_they_lost(name, small, random_questions, question_table, product_table, fit_features):
    products, table = product_table([100, 101, 102]), question_table(random_questions)
    fitted = fit_features(table, products.slice(24))
    configuration = small(**SETTINGS[name], num_epochs=7)
    torch.manual_seed(configuration.seed)
    model = Towers(fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model)
    trainer = Trainer(
        model, configuration.training, Catalog(fitted, products), questions_of(fitted, table), 103 * DAY_US, 7
    )
    while len(trainer.losses) < 20:
        trainer.run_epoch(lambda *_: None)
    curves = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("ENDCAP_WRITE_GOLDEN"):
        curves[name] = [round(loss, 6) for loss in trainer.losses[:20]]
        GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
    assert trainer.losses[:20] == pytest.approx(curves[name], rel=1e-4)
