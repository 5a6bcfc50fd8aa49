"""A GPU computes what a CPU does: attention, autoencoders, one step of a diffusion transformer."""

import pytest
import torch

from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.layers.attention_backends import attend, attend_in_window, use_attention_backend

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def exact_products():
    """Products in float32, not in the 19 bits of TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def qkv(device, dtype=torch.float32, length=70):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, length, 32, generator=generator).to(device, dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_backends_agree(cuda, dtype, is_causal):
    expected = attend(*qkv("cpu"), is_causal=is_causal)
    for backend in ("auto", "fused", "explicit"):
        with use_attention_backend(backend):
            found = attend(*qkv(cuda, dtype), is_causal=is_causal)
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2  # averages of unit variance
        torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=0)


def test_windows_agree(cuda):
    expected = attend_in_window(*qkv("cpu", length=400), left=5, right=3)
    torch.testing.assert_close(attend_in_window(*qkv(cuda, length=400), left=5, right=3).cpu(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bottleneck", ["tanh", "l2_norm"])
def test_an_autoencoder_codes_alike(cuda, oobleck_config, randomise, bottleneck):
    model = randomise(create_model_from_config(oobleck_config(bottleneck=bottleneck))).eval().requires_grad_(False)
    audio = torch.randn(2, 1, 256)
    latents = model.encode(audio)
    decoded = model.decode(latents)
    model.to(cuda)
    torch.testing.assert_close(model.encode(audio.to(cuda)).cpu(), latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.decode(latents.to(cuda)).cpu(), decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_sinusoidal_emb": True}, {"sliding_window": [2, 2]}, {"global_cond_type": "adaLN"}])
def test_one_step_of_a_transformer_is_alike(cuda, dit_config, randomise, options):
    model = randomise(create_model_from_config(dit_config(**options))).eval().requires_grad_(False)
    x, t, metadata = torch.randn(2, 8, 16), torch.tensor([0.3, 0.9]), [{"prompt": "kick", "seconds_total": 2}] * 2
    expected = model(x, t, model.conditioner(metadata, "cpu"), cfg_scale=3.0)
    model.to(cuda)
    found = model(x.to(cuda), t.to(cuda), model.conditioner(metadata, cuda), cfg_scale=3.0)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_one_training_step_is_alike(cuda, oobleck_config, randomise):
    model = randomise(create_model_from_config(oobleck_config(bottleneck="tanh")))
    audio, grads = torch.randn(2, 1, 256), []
    for device in ("cpu", cuda):
        model.to(device).zero_grad()
        model(audio.to(device)).square().mean().backward()
        grads.append({name: parameter.grad.cpu() for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5 + 1e-4 * float(grad.abs().max()), rtol=0)
