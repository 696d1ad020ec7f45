"""Columns become vectors: looked up, averaged without padding, passed through, in the order given."""

import pytest
import torch

from endcap.contracts.configuration import Layer
from endcap.contracts.encoded import EncodedColumn
from endcap.models.encoders import BatchNorm, ColumnEncoder, dense_layers, penalty

COLUMNS = [
    EncodedColumn("price.normalize", "price", "number", 0, 1),
    EncodedColumn("title.text", "title", "bag", 4, 2),
    EncodedColumn("user_history.sequence", "user_history", "sequence", 9, 3),
    EncodedColumn("country.embedding", "country", "index", 3, 3),
]


@pytest.fixture
def encoder():
    encoder = ColumnEncoder(COLUMNS)
    with torch.no_grad():
        bag, index = encoder.tables.values()
        bag.weight.copy_(torch.tensor([[100.0, 100.0], [1.0, 2.0], [3.0, 4.0], [5.0, 12.0]]))
        index.weight.copy_(torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    return encoder


def test_encoding_by_hand(encoder):
    encoded = encoder({
        "price.normalize": torch.tensor([[0.25], [-1.0], [0.0]]),
        # A mean over two words, over one word beside padding in any place, and over none.
        "title.text": torch.tensor([[1, 3], [0, 2], [0, 0]]),
        "country.embedding": torch.tensor([2, 1, 0]),
    })  # fmt: skip
    assert encoded.tolist() == [
        [0.25, 3.0, 7.0, 0.0, 1.0, 0.0],
        [-1.0, 3.0, 4.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.5, 0.5],
    ]
    assert encoder.dim == encoded.shape[1]


def test_padding_gets_no_gradient(encoder):
    tensors = {
        "price.normalize": torch.zeros(1, 1),
        "title.text": torch.tensor([[1, 0, 0]]),
        "country.embedding": torch.tensor([0]),
    }
    encoder(tensors).sum().backward()
    bag, index = encoder.tables.values()
    assert bag.weight.grad[0].tolist() == [0.0, 0.0]
    assert bag.weight.grad[1].tolist() == [1.0, 1.0]
    assert index.weight.grad[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("relu", 0.0), ("gelu", -0.0455), ("silu", -0.2384), ("tanh", -0.9640), ("linear", -2.0)],
)
def test_layers_apply_their_activation(activation, expected):
    stack = dense_layers(1, [Layer(units=1, activation=activation)], 1)
    with torch.no_grad():
        for parameter, value in zip(stack.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
            parameter.fill_(value)
    assert stack(torch.tensor([[-2.0]])).item() == pytest.approx(expected, abs=1e-4)


def test_layers_have_the_widths_and_dropouts_of_the_configuration():
    stack = dense_layers(5, [Layer(units=7, dropout=0.5), Layer(units=3, activation="tanh")], 2)
    shapes = [tuple(module.weight.shape) for module in stack if isinstance(module, torch.nn.Linear)]
    assert shapes == [(7, 5), (3, 7), (2, 3)]
    assert [module.p for module in stack if isinstance(module, torch.nn.Dropout)] == [0.5]


def test_a_stack_that_starts_at_zero_says_zero_and_still_learns():
    stack = dense_layers(3, [Layer(units=4, activation="linear")], 2, starts_at_zero=True)
    said = stack(torch.ones(1, 3))
    assert said.tolist() == [[0.0, 0.0]]
    said.sum().backward()
    assert stack[-1].weight.grad.abs().sum() > 0


def test_batch_norm_stands_before_the_activation_and_standardises_over_rows():
    stack = dense_layers(1, [Layer(units=1, batch_norm=True, activation="relu")], 1)
    with torch.no_grad():
        for parameter, value in zip(stack.parameters(), (2.0, 5.0, 1.0, 0.0, 1.0, 0.0), strict=True):
            parameter.fill_(value)  # 2x + 5, standardised, max(0, ·), as it is
    x = torch.tensor([[1.0], [2.0], [6.0]])  # 7, 9, 17: mean 11, variance 56 / 3
    expected = [0.0, 0.0, 6 / (56 / 3) ** 0.5]
    assert stack.train()(x).flatten().tolist() == pytest.approx(expected, rel=1e-4)
    # A tenth of the way from mean 0 and variance 1 to mean 11 and unbiased variance 28.
    once = (17 - 1.1) / (0.9 + 2.8) ** 0.5
    assert stack.eval()(x)[2].item() == pytest.approx(once, rel=1e-4)


def test_a_step_of_one_row_is_standardised_by_what_is_known():
    norm = BatchNorm(2).train()
    norm(torch.tensor([[0.0, 10.0], [4.0, 30.0]]))
    known = [buffer.clone() for buffer in norm.buffers()]
    said = norm(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(said, norm.eval()(torch.tensor([[1.0, 2.0]])))
    assert all(torch.equal(now, before) for now, before in zip(norm.buffers(), known, strict=True))


def test_weights_cost_their_squares_where_a_layer_says_so():
    stack = dense_layers(2, [Layer(units=1, l2=0.5), Layer(units=1, l2=0.1), Layer(units=3)], 1)
    with torch.no_grad():
        for layer, value in zip(stack[::2], (2.0, 3.0, 7.0, 7.0), strict=False):
            layer.weight.fill_(value)
            layer.bias.fill_(9.0)
    assert penalty(stack).item() == pytest.approx(0.5 * (4 + 4) + 0.1 * 9)
    assert penalty(dense_layers(2, [Layer(units=1)], 1)) is None
