"""The diffusion loss, with networks whose error is known."""

import pytest
import torch

from stable_audio_tools.sampling.objectives import objective
from stable_audio_tools.training.diffusion.loss import diffusion_loss

T = torch.tensor([0.2, 0.9])


class Known:
    """Predicts the target exactly, plus an error (D, L)."""

    def __init__(self, name, latents, noise, error):
        self.diffusion_objective, self.latents, self.noise, self.error = name, latents, noise, error
        self.given = {}

    def __call__(self, x_t, t, cond, **backbone):
        self.given = {"t": t, "cond": cond, **backbone}
        noised = objective(self.diffusion_objective).add_noise(self.latents, self.noise, t)
        torch.testing.assert_close(x_t, noised.x_t)
        return noised.target + self.error


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    return {"latents": torch.randn(2, 3, 8, generator=generator), "noise": torch.randn(2, 3, 8, generator=generator)}


@pytest.fixture(params=["v", "rectified_flow", "rf_denoiser"])
def name(request):
    return request.param


def test_a_network_that_knows_the_target_has_no_loss(name, drawn):
    model = Known(name, error=torch.zeros(3, 8), **drawn)
    result = diffusion_loss(model, drawn["latents"], T, {"a": 1}, noise=drawn["noise"], cfg_dropout_prob=0.1)
    assert float(result.loss) == 0
    assert model.given["cond"] == {"a": 1} and model.given["cfg_dropout_prob"] == 0.1
    assert model.given["t"].tolist() == result.t.tolist()


def test_loss_is_the_mean_square_of_the_error_per_item_and_over_all(name, drawn):
    error = torch.stack([torch.full((3, 8), 1.0), torch.full((3, 8), 3.0)])
    result = diffusion_loss(Known(name, error=error, **drawn), drawn["latents"], T, {}, noise=drawn["noise"])
    assert result.per_item.tolist() == pytest.approx([1, 9], rel=1e-5)
    assert float(result.loss) == pytest.approx(5, rel=1e-5)


def test_padding_does_not_count(name, drawn):
    error = torch.ones(2, 3, 8)
    error[0, :, 6:] = 100
    error[1] *= 2
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 6:] = False
    result = diffusion_loss(Known(name, error=error, **drawn), drawn["latents"], T, {}, mask=mask, noise=drawn["noise"])
    assert result.per_item.tolist() == pytest.approx([1, 4], rel=1e-5)
    assert float(result.loss) == pytest.approx((6 * 1 + 8 * 4) / 14, rel=1e-5), "every position counts alike, not every item"
    everything = torch.ones(2, 8, dtype=torch.bool)
    options = {"noise": drawn["noise"]}
    whole = diffusion_loss(Known(name, error=error, **drawn), drawn["latents"], T, {}, mask=everything, **options)
    none = diffusion_loss(Known(name, error=error, **drawn), drawn["latents"], T, {}, **options)
    torch.testing.assert_close(whole.loss, none.loss)


def test_an_item_that_is_all_padding_is_no_division_by_zero(name, drawn):
    model = Known(name, error=torch.ones(3, 8), **drawn)
    result = diffusion_loss(model, drawn["latents"], T, {}, mask=torch.zeros(2, 8, dtype=torch.bool), noise=drawn["noise"])
    assert (float(result.loss), result.per_item.tolist()) == (0, [0, 0])


def test_noise_comes_from_torchs_stream(drawn):
    latents = drawn["latents"]
    torch.manual_seed(3)
    noise = torch.randn_like(latents)
    torch.manual_seed(3)
    assert float(diffusion_loss(Known("v", latents, noise, torch.zeros(3, 8)), latents, T, {}).loss) == 0


def test_a_half_precision_prediction_is_compared_in_float32(drawn):
    class Half(Known):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs).bfloat16()

    result = diffusion_loss(Half("v", error=torch.full((3, 8), 1e3), **drawn), drawn["latents"], T, {}, noise=drawn["noise"])
    assert result.loss.dtype == torch.float32 and float(result.loss) == pytest.approx(1e6, rel=0.02)
