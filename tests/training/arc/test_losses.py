"""The game of adversarial post-training, with scores whose losses are known."""

import math

import pytest
import torch

from stable_audio_tools.training.arc.losses import PERTURBATION, relativistic_loss, sensitivity


def test_equal_scores_lose_as_much_as_a_coin():
    scores = torch.randn(3, 2, 5)
    assert float(relativistic_loss(scores, scores)) == pytest.approx(math.log(2))
    assert float(relativistic_loss(scores, scores, hinge=True)) == 1


def test_only_the_difference_counts():
    better, worse = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 2
    assert float(relativistic_loss(better, worse)) == pytest.approx(expected)
    assert float(relativistic_loss(better + 7, worse + 7)) == pytest.approx(expected)
    assert float(relativistic_loss(better, worse, hinge=True)) == pytest.approx((0 + 4) / 2)


def test_sensitivity_of_a_linear_score_is_its_slope_squared():
    """A score that is ``slope`` times the sum over N inputs changes by N * (slope * perturbation)^2 on average."""
    torch.manual_seed(0)
    x = torch.randn(4000, 2, 8)

    def score(x):
        return 3 * x.sum(dim=(1, 2))[:, None]

    assert float(sensitivity(score, x, score(x))) == pytest.approx(16 * (3 * PERTURBATION) ** 2, rel=0.1)
    assert float(sensitivity(torch.zeros_like, x, torch.zeros_like(x))) == 0
