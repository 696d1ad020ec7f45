"""People in front of a list in, what was shown at which place with what probability, and what they clicked, out."""

# ruff: noqa: N803, N806
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from endcap.ingest.synthetic.draws import Floats, Ints, Truths
from endcap.ingest.synthetic.world import World

POOL: Final = 16
"""Candidates that a list is drawn from."""
PLACES: Final = 10
SURFACES: Final = ("home", "category", "cart")
VARIANTS: Final = ("control", "treatment")
_TEMPERATURES: Final = np.array([1.0, 0.6])

# Shape suffixes: R = requests, M = candidates of a request, K = places


@dataclass(frozen=True)
class Lists:
    """One row per request; a place that stayed empty has item -1."""

    items: Ints
    """(R, K), best place first."""
    scores: Floats
    propensities: Floats
    """(R, K): the probability of this product at this place, given those before it."""
    is_clicked: Truths
    """(R, K)."""
    surface: Ints
    variant: Ints


def show_lists(rng: np.random.Generator, world: World, users: Ints, candidates_RM: Ints, max_clicks: Ints) -> Lists:
    """Draw lists by Plackett and Luce's model: place after place, in proportion to exp(score / temperature).

    The perturbation by Gumbel noise gives exactly these draws (Yellott, 1977). People look at a place less often the
    further down it stands, and click what suits them; at most `max_clicks` each.
    """
    people, items = world.people, world.items
    num_requests = len(users)
    variant = (users * 2_654_435_761 >> 7) % len(VARIANTS)
    likes_RM = (items.category[candidates_RM][:, :, None] == people.tastes[users][:, None, :]).any(axis=2)
    fits_RM = items.tier[candidates_RM] == people.tier[users][:, None]
    scores_RM = 0.4 * np.log(items.popularity[candidates_RM] * len(items.popularity)) + 0.8 * likes_RM + 0.5 * fits_RM
    logits_RM = scores_RM / _TEMPERATURES[variant][:, None]
    logits_RM[_repeats(candidates_RM)] = -np.inf
    noise_RM = -np.log(-np.log(rng.random((num_requests, POOL)) + 1e-300) + 1e-300)
    order_RM = np.argsort(-(logits_RM + noise_RM), axis=1, kind="stable")
    sorted_RM = np.take_along_axis(logits_RM, order_RM, axis=1)
    weights_RM = np.exp(sorted_RM - sorted_RM.max(axis=1, keepdims=True))
    left_RM = np.cumsum(weights_RM[:, ::-1], axis=1)[:, ::-1]
    order_RK = order_RM[:, :PLACES]
    shown_RK = np.isfinite(sorted_RM[:, :PLACES])
    items_RK = np.where(shown_RK, np.take_along_axis(candidates_RM, order_RK, axis=1), -1)
    interest_RK = 0.10 + 0.30 * np.take_along_axis(likes_RM, order_RK, axis=1)
    interest_RK += 0.10 * np.take_along_axis(fits_RM, order_RK, axis=1)
    looked_K = 1.0 / np.arange(1, PLACES + 1) ** 0.6
    clicked_RK = shown_RK & (rng.random((num_requests, PLACES)) < interest_RK * looked_K)
    clicked_RK &= np.cumsum(clicked_RK, axis=1) <= max_clicks[:, None]
    return Lists(
        items=items_RK,
        scores=np.take_along_axis(scores_RM, order_RK, axis=1),
        propensities=np.where(shown_RK, weights_RM[:, :PLACES], 1.0) / np.where(shown_RK, left_RM[:, :PLACES], 1.0),
        is_clicked=clicked_RK,
        surface=rng.integers(0, len(SURFACES), num_requests),
        variant=variant,
    )


def _repeats(candidates_RM: Ints) -> npt.NDArray[np.bool_]:
    """Whether a candidate stands at an earlier place of its row too."""
    order_RM = np.argsort(candidates_RM, axis=1, kind="stable")
    sorted_RM = np.take_along_axis(candidates_RM, order_RM, axis=1)
    again_RM = np.zeros(candidates_RM.shape, dtype=np.bool_)
    again_RM[:, 1:] = sorted_RM[:, 1:] == sorted_RM[:, :-1]
    repeats_RM = np.empty_like(again_RM)
    np.put_along_axis(repeats_RM, order_RM, again_RM, axis=1)
    return repeats_RM
