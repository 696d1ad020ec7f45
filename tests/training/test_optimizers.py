"""Steps by hand: the row-wise Adagrad, the schedule, and which weights go where."""

import pytest
import torch
from torch import nn

from endcap.contracts.configuration import TrainingConfig
from endcap.training.optimizers import Optimizers, RowWiseAdagrad, rate_factor


class Shop(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=True)
        self.dense = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.table.weight.copy_(torch.arange(8.0).reshape(4, 2))
            self.dense.weight.copy_(torch.tensor([[3.0, 4.0]]))

    def forward(self, rows):
        return self.dense(self.table(rows)).sum()


def test_row_wise_adagrad_by_hand():
    table = nn.Parameter(torch.arange(8.0).reshape(4, 2))
    optimizer = RowWiseAdagrad([table], lr=0.5)

    def step(rows, values):
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), torch.tensor(values), table.shape, check_invariants=True
        )
        optimizer.step()

    step([1, 1], [[3.0, 2.0], [0.0, 2.0]])  # together (3, 4): the mean of squares is 12.5
    first = torch.tensor([2.0, 3.0]) - 0.5 * torch.tensor([3.0, 4.0]) / 12.5**0.5
    torch.testing.assert_close(table[1].detach(), first)
    step([1], [[1.0, 1.0]])
    torch.testing.assert_close(table[1].detach(), first - 0.5 * torch.ones(2) / 13.5**0.5)
    torch.testing.assert_close(table[[0, 2, 3]].detach(), torch.tensor([[0.0, 1.0], [4.0, 5.0], [6.0, 7.0]]))


@pytest.mark.parametrize("sparse", ["rowwise_adagrad", "sparse_adam"])
@pytest.mark.parametrize("dense", ["adamw", "adam", "sgd", "adagrad"])
def test_a_step_moves_the_rows_it_used_and_no_others(dense, sparse):
    shop = Shop()
    settings = TrainingConfig(optimizer=dense, sparse_optimizer=sparse, learning_rate=0.1, weight_decay=0.0)
    optimizers = Optimizers(shop, settings)
    before = shop.table.weight.detach().clone()
    optimizers.zero_grad()
    shop(torch.tensor([2])).backward()
    optimizers.step(1.0)
    moved = (shop.table.weight.detach() != before).any(1)
    assert moved.tolist() == [False, False, True, False]
    assert (shop.dense.weight != torch.tensor([[3.0, 4.0]])).all()


def test_a_table_may_learn_faster_than_the_rest():
    shop = Shop()
    settings = TrainingConfig(
        optimizer="sgd", learning_rate=1e-6, weight_decay=0.0, sparse_learning_rate=1.0
    )  # fmt: skip
    optimizers = Optimizers(shop, settings)
    optimizers.zero_grad()
    shop(torch.tensor([2])).backward()
    optimizers.step(0.5)
    gradient = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(shop.table.weight[2].detach(), torch.tensor([4.0, 5.0]) - 0.5 * gradient / 12.5**0.5)
    torch.testing.assert_close(shop.dense.weight.detach(), torch.tensor([[3.0, 4.0]]), atol=1e-5, rtol=0)


def test_long_gradients_are_shortened():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    optimizers = Optimizers(
        layer, TrainingConfig(optimizer="sgd", learning_rate=1.0, weight_decay=0.0, max_gradient_norm=1.0)
    )
    optimizers.zero_grad()
    layer(torch.tensor([30.0, 40.0])).sum().backward()
    optimizers.step(1.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-0.6, -0.8]]))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 0.853553, 0.5, 0.146447, 0.0, 0.0]),
        ("linear", [0.5, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    settings = TrainingConfig(schedule=schedule, warmup_steps=2)
    assert [rate_factor(settings, step, 4) for step in range(6)] == pytest.approx(expected, abs=1e-6)
    assert rate_factor(TrainingConfig(schedule=schedule, warmup_steps=0), 0, 4) == 1.0
