"""The log of summed scores is torch's own on the cells that count, with its gradients."""

import torch

from endcap.training.log_sums import log_sum_of_scores

ROWS, PLACES = torch.tensor([0, 2, 0, 3, 3, 3]), torch.tensor([1, 0, 1, 0, 1, 2])  # all cells of row 3, one cell twice


def made_up() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    query_BD = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    vector_SD = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    return query_BD, vector_SD, torch.randn(3, dtype=torch.float64)


def plain(query_BD: torch.Tensor, vector_SD: torch.Tensor, bias_S: torch.Tensor) -> torch.Tensor:
    score_BS = query_BD @ vector_SD.T + bias_S
    taken_BS = torch.zeros(4, 3, dtype=torch.bool)
    taken_BS[ROWS, PLACES] = True
    return torch.logsumexp(score_BS.masked_fill(taken_BS, -torch.inf), 1)


def test_values_and_gradients_are_those_of_logsumexp():
    query_BD, vector_SD, bias_S = made_up()
    found_B = log_sum_of_scores(query_BD, vector_SD, bias_S, ROWS, PLACES)
    wanted_B = plain(query_BD, vector_SD, bias_S)
    torch.testing.assert_close(found_B, wanted_B)
    weight_B = torch.tensor(
        [1.0, -2.0, 0.5, 0.0], dtype=torch.float64
    )  # nothing comes back to a row of which nothing counts
    found = torch.autograd.grad((found_B * weight_B)[:3].sum(), [query_BD, vector_SD])
    wanted = torch.autograd.grad((wanted_B * weight_B)[:3].sum(), [query_BD, vector_SD])
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_question_of_which_nothing_counts_has_no_sum_and_moves_nothing():
    query_BD, vector_SD, bias_S = made_up()
    found_B = log_sum_of_scores(query_BD, vector_SD, bias_S, ROWS, PLACES)
    assert found_B[3] == -torch.inf
    torch.exp(found_B).sum().backward()
    assert torch.isfinite(vector_SD.grad).all()
    assert query_BD.grad[3].abs().sum() == 0


def test_scores_beyond_any_exponent_stay_finite():
    query_BD = torch.full((1, 1), 1000.0)
    found_B = log_sum_of_scores(query_BD, torch.ones(2, 1), torch.zeros(2), ROWS[:0], PLACES[:0])
    torch.testing.assert_close(found_B, torch.tensor([1000.0 + 0.6931472]))
