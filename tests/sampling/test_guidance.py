"""Classifier-free guidance as a formula."""

import pytest
import torch

from stable_audio_tools.sampling.guidance import Denoised, guide

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


# ---- projection and limit --------------------------------------------------------------------------------------------------------


def by_the_book(c, u, data_x, sigma, scale, apg=1.0, threshold=0.0):
    """The published form for flows: on denoised data, and back by dividing by sigma."""
    denoised_c, denoised_u = data_x - sigma * c, data_x - sigma * u
    change = denoised_c - denoised_u
    if threshold:
        norm = change.flatten(1).norm(dim=1)[:, None, None]
        change = change * torch.minimum(torch.ones(()), threshold / norm)
    unit = denoised_c / denoised_c.flatten(1).norm(dim=1)[:, None, None]
    across = change - (change * unit).sum(dim=(1, 2), keepdim=True) * unit
    change = apg * across + (1 - apg) * change
    return (data_x - (denoised_c + (scale - 1) * change)) / sigma


X = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.3, 0.8])[:, None, None]
SEEN = Denoised(X - SIGMA * C, SIGMA)


@pytest.mark.parametrize("apg", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1e6])
def test_equals_the_published_form_without_its_division(apg, threshold):
    expected = by_the_book(C, U, X, SIGMA, 5.0, apg, threshold)
    torch.testing.assert_close(guide(C, U, 5.0, apg_scale=apg, norm_threshold=threshold, denoised=SEEN), expected, atol=1e-4, rtol=1e-4)


def test_projected_guidance_never_points_along_the_data():
    change = guide(C, U, 9.0, apg_scale=1.0, denoised=SEEN) - C
    assert float((change * SEEN.data).sum(dim=(1, 2)).abs().max()) < 1e-3


def test_is_finite_without_noise():
    """The published form divides by sigma, which is 0 at the end of time."""
    silent = Denoised(X, torch.zeros(2, 1, 1))
    assert torch.isfinite(guide(C, U, 9.0, apg_scale=1.0, norm_threshold=1.0, denoised=silent)).all()


def test_padding_neither_counts_nor_changes():
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)[:, None]
    out = guide(C, U, 9.0, apg_scale=1.0, denoised=Denoised(SEEN.data, SIGMA, mask))
    alone = guide(C[:1, :, :3], U[:1, :, :3], 9.0, apg_scale=1.0, denoised=Denoised(SEEN.data[:1, :, :3], SIGMA[:1]))
    torch.testing.assert_close(out[:1, :, :3], alone)
    assert torch.equal(out[0, :, 3:], C[0, :, 3:])


def test_a_scale_per_item():
    scales = torch.tensor([1.0, 5.0])[:, None, None]
    out = guide(C, U, scales)
    torch.testing.assert_close(out, torch.stack([C[0], guide(C, U, 5.0)[1]]))
