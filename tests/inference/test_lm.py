"""Audio from language models: lengths, seeds, continuation."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.lm import encode_init_tokens, generate_lm
from stable_audio_tools.inference.numerics import seeded


@pytest.fixture(scope="module")
def model(randomise: Any) -> Any:
    sizes: dict[str, Any] = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 8}
    rvq = {"type": "dac_rvq", "config": {"input_dim": 8, "n_codebooks": 2, "codebook_dim": 4, "codebook_size": 16}}
    codec = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 2, **sizes}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 2, **sizes}},
        "bottleneck": rvq, "latent_dim": 8, "downsampling_ratio": 8, "io_channels": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = create_model_from_config(
        {
            "model_type": "lm",
            "sample_rate": 8000,
            "model": {
                "pretransform": {"type": "autoencoder", "config": codec},
                "conditioning": {"cond_dim": 8, "configs": [{"id": "n", "type": "int", "config": {"min_val": 0, "max_val": 9}}]},
                "lm": {
                    "type": "continuous_transformer",
                    "prepend_cond_ids": ["n"],
                    "config": {"embed_dim": 32, "depth": 1, "dim_heads": 16, "prepend_cond_dim": 8},
                },
            },
        }
    )
    randomise(model.lm, std=0.3)  # type: ignore[arg-type]
    return model.eval()


def test_length_is_exact_and_items_are_those_of_the_conditions(model: Any) -> None:
    assert generate_lm(model, [{"n": 1}, {"n": 2}], sample_size=45).shape == (2, 2, 45)


def test_seeds_decide_and_no_global_stream_moves(model: Any) -> None:
    before = torch.get_rng_state(), random.getstate()
    first, second, other = (generate_lm(model, [{"n": 1}], sample_size=64, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert torch.get_rng_state().equal(before[0])


def test_audio_of_any_rate_and_channels_is_continued(model: Any) -> None:
    clip = 0.3 * torch.randn(1, 64, generator=torch.Generator().manual_seed(1))  # mono, 16 kHz: 32 samples at 8 kHz
    tokens = encode_init_tokens(model, (16000, clip), torch.device("cpu"))
    assert tokens.shape == (1, 2, 4)
    audio = generate_lm(model, [{"n": 1}, {"n": 2}], sample_size=80, init_audio=(16000, clip), seed=1)
    assert audio.shape == (2, 2, 80)
    with seeded(1):
        continued = model.generate(10, init_data=tokens.expand(2, -1, -1), conditioning=[{"n": 1}, {"n": 2}])
    assert torch.equal(continued[..., :4], tokens.expand(2, -1, -1))
    torch.testing.assert_close(audio, model.decode_tokens(continued))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_size": 0}, "sample_size must be at least 1 sample, got 0"),
        ({"init_audio": (8000, torch.zeros(2, 7))}, "init_audio: must be at least one frame of 8 samples at 8000 Hz"),
        ({"init_audio": (8000, torch.zeros(2, 64))}, "init_audio is 64 samples long, which leaves nothing to generate: sample_size"),
        ({"batch_size": 3}, "disagree about the number of items: batch_size 3, conditioning 1"),
    ],
)
def test_impossible_requests(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_lm(model, **{"conditioning": [{"n": 1}], "sample_size": 64, **options})


def test_continuing_is_reproducible_with_a_codec_that_draws_its_tokens_and_in_half_precision(model: Any) -> None:
    drawing = copy.deepcopy(model)
    drawing.pretransform.model.encoder.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    init = (8000, 0.3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(1)))
    before = torch.get_rng_state()
    first, second = (generate_lm(drawing, [{"n": 1}], sample_size=96, init_audio=init, seed=5) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)
    half = generate_lm(copy.deepcopy(model).bfloat16(), [{"n": 1}], sample_size=96, init_audio=init, seed=5)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
