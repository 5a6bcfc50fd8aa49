"""Residual vector quantization of the Descript Audio Codec."""

import pytest
import torch
import torch.nn.functional as F

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.bottlenecks.dac_rvq import CosineVectorQuantize, DACRVQBottleneck, DACRVQVAEBottleneck


def small(kind=DACRVQBottleneck, **options):
    torch.manual_seed(0)
    return kind(**{"input_dim": 6, "n_codebooks": 4, "codebook_size": 16, "codebook_dim": 3, **options})


def test_codes_are_the_nearest_directions():
    torch.manual_seed(0)
    stage = CosineVectorQuantize(6, 16, 3)
    z = torch.randn(2, 3, 9)
    codes = stage.nearest(z)
    similarity = F.cosine_similarity(z.transpose(1, 2)[:, :, None], stage.codebook.weight[None, None], dim=-1)  # (B, L, V)
    assert torch.equal(codes, similarity.argmax(dim=-1))
    assert torch.equal(stage.nearest(z * 7), codes)


def test_losses_pull_codes_and_projections_together():
    stage = CosineVectorQuantize(6, 16, 3)
    x = torch.randn(2, 6, 9)
    _, commitment, codebook, codes, z = stage(x)
    expected = (z - stage.look_up(codes)).square().mean(dim=(1, 2))
    torch.testing.assert_close(commitment, expected)
    torch.testing.assert_close(codebook, expected)
    (to_code,) = torch.autograd.grad(codebook.sum(), stage.codebook.weight, retain_graph=True)
    used = torch.zeros(16, dtype=torch.bool)
    used[codes.flatten()] = True
    assert to_code[used].abs().sum(dim=1).min() > 0 and not to_code[~used].any()
    assert torch.autograd.grad(codebook.sum(), stage.in_proj.weight_v, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(commitment.sum(), stage.codebook.weight, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(commitment.sum(), stage.in_proj.weight_v)[0].abs().sum() > 0


def test_gradients_pass_straight_through():
    stage = CosineVectorQuantize(6, 16, 3)
    x = torch.randn(2, 6, 9, requires_grad=True)
    (through,) = torch.autograd.grad(stage(x)[0].sum(), x)
    (linear,) = torch.autograd.grad(stage.out_proj(stage.in_proj(x)).sum(), x)
    torch.testing.assert_close(through, linear)


def test_info_says_everything_per_codebook():
    bottleneck = small().eval()
    x = torch.randn(2, 6, 9)
    latents, info = bottleneck.encode(x, return_info=True)
    assert info["pre_quantizer"] is x and torch.equal(info["z"], latents)
    assert info["codes"].shape == (2, 4, 9) and info["latents"].shape == (2, 12, 9)
    residual, total = x, 0.0
    for stage in bottleneck.quantizer.quantizers:
        quantized, commitment, *_ = stage(residual)
        residual, total = residual - quantized, total + commitment.mean()
    torch.testing.assert_close(latents, x - residual)
    torch.testing.assert_close(info["vq/commitment_loss"], total / 4)
    assert isinstance(bottleneck.encode(x), torch.Tensor)


@pytest.mark.parametrize("quantize_on_decode", [False, True])
def test_tokens_are_the_latents(quantize_on_decode):
    bottleneck = small(quantize_on_decode=quantize_on_decode).eval()
    x = torch.randn(2, 6, 9)
    latents, info = bottleneck.encode(x, return_info=True)
    assert (latents is x) is quantize_on_decode
    from_tokens = bottleneck.decode_quantized(bottleneck.decode_tokens(info["codes"]))
    torch.testing.assert_close(from_tokens, bottleneck.decode(latents), atol=1e-5, rtol=1e-5)
    assert isinstance(bottleneck.encode(x), torch.Tensor)


def test_some_of_the_codebooks():
    bottleneck = small().eval()
    x = torch.randn(2, 6, 9)
    latents, info = bottleneck.encode(x, return_info=True, n_quantizers=2)
    everything = bottleneck.encode(x, return_info=True)[1]["codes"]
    assert torch.equal(info["codes"], everything[:, :2])
    torch.testing.assert_close(bottleneck.decode_tokens(everything[:, :2]), latents)
    assert bottleneck.encode(x, return_info=True, n_quantizers=99)[1]["codes"].shape == (2, 4, 9)


def test_training_drops_codebooks_of_a_share_of_the_batch():
    quantizer = small(quantizer_dropout=0.5).quantizer
    torch.manual_seed(0)
    counts = torch.stack([quantizer._random_counts(9) for _ in range(50)])
    assert (counts[:, 4:] == 4).all() and set(counts[:, :4].unique().tolist()) == {1, 2, 3, 4}


def test_dropped_codebooks_add_nothing_and_cost_nothing(monkeypatch):
    bottleneck = small(quantizer_dropout=1.0)
    monkeypatch.setattr(bottleneck.quantizer, "_random_counts", lambda batch: torch.tensor([1, 3]))
    x = torch.randn(2, 6, 9)
    latents, info = bottleneck.encode(x, return_info=True)
    bottleneck.eval()
    for item, count in enumerate((1, 3)):
        alone = bottleneck.encode(x[item : item + 1], n_quantizers=count)
        torch.testing.assert_close(latents[item : item + 1], alone)
    losses = [bottleneck.encode(x[i : i + 1], True, n_quantizers=n)[1]["vq/codebook_loss"] for i, n in enumerate((1, 3))]
    torch.testing.assert_close(info["vq/codebook_loss"], sum(losses) / 2)


def test_one_draw_per_training_step_and_none_in_eval_mode():
    bottleneck, x = small(), torch.randn(3, 6, 9)
    torch.manual_seed(0)
    bottleneck.encode(x)
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.randint(1, 5, (3,))
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(0)
    bottleneck.eval().encode(x)
    state = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), state)


def test_noise_for_the_decoder():
    bottleneck = small(noise_augment_dim=2).eval()
    x = torch.randn(2, 6, 9)
    torch.manual_seed(0)
    out = bottleneck.decode(x)
    torch.manual_seed(0)
    assert torch.equal(out, torch.cat([x, torch.randn(2, 2, 9)], dim=1))


def test_vae_samples_then_quantizes():
    bottleneck = small(DACRVQVAEBottleneck).eval()
    x = torch.randn(2, 12, 9)
    torch.manual_seed(1)
    latents, info = bottleneck.encode(x, return_info=True)
    torch.manual_seed(1)
    sampled = torch.randn(2, 6, 9) * (F.softplus(x[:, 6:]) + 1e-4) + x[:, :6]
    torch.testing.assert_close(info["pre_quantizer"], sampled)
    torch.testing.assert_close(latents, bottleneck.quantizer(sampled).z)
    assert "kl" in info


def test_one_width_per_codebook():
    bottleneck = small(codebook_dim=[2, 3, 4, 5]).eval()
    latents, info = bottleneck.encode(torch.randn(2, 6, 9), return_info=True)
    assert info["latents"].shape == (2, 14, 9)
    torch.testing.assert_close(bottleneck.decode_tokens(info["codes"]), latents)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(codebook_dim=[2, 3]), r"one codebook_dim or as many as codebooks.*got 4, 16, \[2, 3\] and 0.0"),
        (lambda: small(quantizer_dropout=1.5), r"quantizer_dropout in \[0, 1\], got 4, 16, 3 and 1.5"),
        (lambda: small().encode(torch.zeros(1, 5, 2)), "dac_rvq bottleneck: got 5 channels, but input_dim is 6"),
        (lambda: small().encode(torch.zeros(1, 6, 2), n_quantizers=0), "n_quantizers must be at least 1, got 0"),
        (
            lambda: small(DACRVQVAEBottleneck).encode(torch.zeros(1, 6, 2)),
            r"dac_rvq_vae bottleneck: got 6 channels, but 2 \* input_dim is 12",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
