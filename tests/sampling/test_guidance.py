"""Classifier-free guidance as a formula."""

import pytest
import torch

from stable_audio_tools.sampling.guidance import guide

C, U = torch.randn(2, 2, 8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("scale", "expected"), [(0, U), (1, C), (2, 2 * C - U), (-1, 2 * U - C)])
def test_is_linear_in_the_scale(scale, expected):
    torch.testing.assert_close(guide(C, U, scale), expected)


def test_full_rescaling_restores_the_spread_of_every_frame():
    torch.testing.assert_close(guide(C, U, 7.0, rescale_phi=1.0).std(dim=1), C.std(dim=1))
    assert (guide(C, U, 7.0).std(dim=1) > 1.5 * C.std(dim=1)).all()


def test_rescaling_is_a_mixture_and_keeps_the_direction():
    none, half, full = (guide(C, U, 7.0, rescale_phi=phi) for phi in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + full) / 2)
    torch.testing.assert_close(torch.cosine_similarity(full, none, dim=1), torch.ones(2, 5))
