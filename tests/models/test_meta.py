"""Models on the meta device: they compute shapes there, and once they have weights, the same numbers as if built in memory."""

import pytest
import torch

from stable_audio_tools.checkpoint import copy_state_dict, load_model_weights, save_model_weights
from stable_audio_tools.families import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.layers.embeddings import ExpoFourierFeatures, RotaryEmbedding, ScaledSinusoidalEmbedding
from stable_audio_tools.models.layers.tables import Tables
from stable_audio_tools.models.layers.transformer import ContinuousTransformer

AUDIO, LATENTS = (2, 1, 256), (2, 8, 16)
SAME = {"channels": 64, "c_mults": [1], "strides": [4], "latent_dim": 8, "transformer_depths": [1], "dim_heads": 32}
TAAE = {"channels": 16, "c_mults": [1], "strides": [4], "latent_dim": 8, "transformer_depths": [1]}
PARTS = {
    "sinusoidal positions": (lambda: ScaledSinusoidalEmbedding(8), (2, 16, 8)),
    "expo features": (lambda: ExpoFourierFeatures(8), (4,)),
    "transformer": (lambda: ContinuousTransformer(32, 1, dim_heads=16, use_sinusoidal_emb=True), (2, 16, 32)),
    "window": (lambda: ContinuousTransformer(32, 1, dim_heads=16, sliding_window=[4, 4]), (2, 16, 32)),
    "spectral encoder": (lambda: ENCODERS.build("spectral", {"dim": 8, "depth": 1, "n_fft": 64, "hop_length": 16}), AUDIO),
    "spectral decoder": (
        lambda: DECODERS.build("spectral", {"dim": 8, "depth": 1, "n_fft": 64, "hop_length": 16, "latent_dim": 8}),
        LATENTS,
    ),
    "oobleck": (lambda: ENCODERS.build("oobleck", {"in_channels": 1, "channels": 8, "use_snake": True}), (2, 1, 1024)),
    "taae": (lambda: ENCODERS.build("taae", {"in_channels": 1, **TAAE}), AUDIO),
    "same": (lambda: ENCODERS.build("same", {"in_channels": 1, **SAME}), AUDIO),
    "rvq": (lambda: BOTTLENECKS.build("rvq", {"dim": 8, "codebook_size": 4, "num_quantizers": 2, "kmeans_init": False}), LATENTS),
    "dac_rvq": (lambda: BOTTLENECKS.build("dac_rvq", {"input_dim": 8, "n_codebooks": 2, "codebook_size": 4}), LATENTS),
    "fsq": (lambda: BOTTLENECKS.build("fsq", {"levels": [5, 4], "dim": 8}), LATENTS),
    "dithered_fsq": (lambda: BOTTLENECKS.build("dithered_fsq", {"dim": 8, "levels": 5}), LATENTS),
    "wasserstein": (lambda: BOTTLENECKS.build("wasserstein", {}), LATENTS),
    "softnorm": (lambda: BOTTLENECKS.build("softnorm", {"dim": 8}), LATENTS),
    "oversampled patches": (lambda: PRETRANSFORMS.build("patched", {"channels": 1, "patch_size": 4, "oversampling": 2}), AUDIO),
    "wavelet": (lambda: PRETRANSFORMS.build("wavelet", {"channels": 1, "levels": 2, "wavelet": "bior2.2"}), AUDIO),
    "pqmf": (lambda: PRETRANSFORMS.build("pqmf", {"num_bands": 4}), AUDIO),
    "mel": (lambda: PRETRANSFORMS.build("mel", {"n_fft": 128, "hop_length": 32, "num_mels": 8, "latent_dim": 8}, sample_rate=8000), AUDIO),
}


def apply(module, x):
    run = module.encode if hasattr(module, "encode") else module
    return run(x)


def all_tables(module):
    return {
        f"{path}.{name}": buffer
        for path, part in module.named_modules()
        if isinstance(part, Tables)
        for name, buffer in part.named_buffers(recurse=False)
        if name in part._non_persistent_buffers_set
    }


@pytest.mark.parametrize("name", PARTS)
def test_meta_then_weights_is_the_same_part(name, randomise):
    make, shape = PARTS[name]
    torch.manual_seed(0)
    wanted = randomise(make()).eval()
    if name == "mel":
        wanted.fit(torch.randn(2, 1, 512))
    with torch.device("meta"):
        part = make().eval()
        empty = apply(part, torch.empty(shape))
    x = torch.randn(shape)
    expected = apply(wanted, x)
    assert empty.is_meta and empty.shape == expected.shape and empty.dtype == expected.dtype
    assert not [key for key, buffer in part.named_buffers() if not buffer.is_meta]  # nothing that a moved input would not meet
    assert copy_state_dict(part, wanted.state_dict()).is_complete
    assert not [key for key, tensor in [*part.named_parameters(), *part.named_buffers()] if tensor.is_meta]
    torch.testing.assert_close(apply(part, x), expected, rtol=0, atol=0)


def test_every_part_with_tables_is_in_the_list():
    def modules_of(make):
        return {type(part) for part in make().modules() if isinstance(part, Tables)}

    covered = set().union(*(modules_of(make) for make, _ in PARTS.values()))
    assert covered == set(Tables.__subclasses__())


def test_no_module_of_ours_hides_buffers_from_state_dicts_in_another_way():
    for make, _ in PARTS.values():
        for part in make().modules():
            assert not part._non_persistent_buffers_set or isinstance(part, Tables), type(part)


def test_plain_load_state_dict_fills_tables_too():
    with torch.device("meta"):
        part = ScaledSinusoidalEmbedding(8)
    part.load_state_dict({"scale": torch.ones(1)}, assign=True)
    assert torch.equal(part.inv_freq, ScaledSinusoidalEmbedding(8).inv_freq)


def test_tables_follow_the_weights_of_what_is_in_memory():
    part = ScaledSinusoidalEmbedding(8)
    part.inv_freq.mul_(2)
    kept = part.inv_freq.clone()
    part.load_state_dict({"scale": torch.ones(1)}, assign=True)
    assert torch.equal(part.inv_freq, kept)  # only what is empty is computed again


@pytest.mark.parametrize("has_tables", [False, True])
def test_whole_models(tmp_path, dit_config, randomise, has_tables):
    config = dit_config(use_sinusoidal_emb=has_tables)
    wanted = randomise(create_model_from_config(config)).eval()
    path = save_model_weights(wanted.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = create_model_from_config(config).eval()
        metadata = [{"prompt": "a", "seconds_total": 1}] * 2
        conditions = model.conditioner(metadata, "meta")
        assert model(torch.empty(2, 8, 16), torch.empty(2), conditions).shape == (2, 8, 16)
    load_model_weights(model, path)
    assert all_tables(model).keys() == all_tables(wanted).keys() and bool(all_tables(model)) == has_tables
    x, t = torch.randn(2, 8, 16), torch.rand(2)
    inputs = [m.conditioner(metadata, "cpu") for m in (model, wanted)]
    torch.testing.assert_close(model(x, t, inputs[0]), wanted(x, t, inputs[1]), rtol=0, atol=0)


def test_rotary_angles_on_meta():
    with torch.device("meta"):
        assert RotaryEmbedding(8).forward_from_seq_len(5).shape == (5, 8)
