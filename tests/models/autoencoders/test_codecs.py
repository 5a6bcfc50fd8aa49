"""Every encoder, decoder and bottleneck in a whole autoencoder: shapes, chunks, batches, tokens, one training step."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS as BOTTLENECK_FAMILY
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from stable_audio_tools.models.factory import create_pretransform_from_config
from stable_audio_tools.training import create_training_wrapper_from_config

WIDTH = 8  # of all latents

OOBLECK = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
TAAE = {"channels": 16, "c_mults": [1, 2], "strides": [2, 4], "transformer_depths": [1, 1], "sliding_window": [4, 3], "layer_scale": False}
SAME = {"channels": 16, "c_mults": [1], "strides": [4], "transformer_depths": [2], "dim_heads": 8, "ff_mult": 2}
SEANET = {"n_filters": 4, "dimension": WIDTH, "lstm": 0}
LOCAL = {"heads": [2, 2], "depths": [1, 1], "local_attn_window_size": 8}

# kind: (encoder type, encoder options, decoder type, decoder options, pretransform)
CODECS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any] | None]] = {
    "oobleck": ("oobleck", OOBLECK, "oobleck", OOBLECK, None),
    "dac": (
        "dac",
        {"d_model": 4, "strides": [2, 4], "latent_dim": WIDTH},
        "dac",
        {"channels": 16, "rates": [4, 2], "latent_dim": WIDTH},
        None,
    ),
    "seanet": ("seanet", {**SEANET, "ratios": [2, 4]}, "seanet", {**SEANET, "ratios": [4, 2]}, None),
    "taae": ("taae", TAAE, "taae", TAAE, None),
    "local_attn": (
        "local_attn",
        {**LOCAL, "out_channels": WIDTH, "embed_dims": [8, 16], "ratios": [2, 4]},
        "local_attn",
        {**LOCAL, "in_channels": WIDTH, "embed_dims": [16, 8], "ratios": [4, 2]},
        None,
    ),
    "same": ("same", {**SAME, "sliding_window": [1, 1]}, "same", {**SAME, "sliding_window": [1, 1]}, {"patch_size": 2}),
    "same_in_chunks": (
        "same",
        {**SAME, "chunk_size": 12, "chunk_midpoint_shift": False},
        "same",
        {**SAME, "chunk_size": 8, "chunk_midpoint_shift": True},
        {"patch_size": 2},
    ),
}
REACH = {"oobleck": 40, "dac": 40, "seanet": 10, "taae": 24, "local_attn": 20, "same": 4, "same_in_chunks": 6}  # latent frames

BOTTLENECKS: dict[str, dict[str, Any]] = {
    "rvq": {"dim": WIDTH, "codebook_size": 16, "num_quantizers": 3, "kmeans_iters": 3},
    "rvq_vae": {"dim": WIDTH, "codebook_size": 16, "num_quantizers": 3, "kmeans_iters": 3},
    "dac_rvq": {"input_dim": WIDTH, "codebook_size": 16, "n_codebooks": 3, "codebook_dim": 4},
    "dac_rvq_vae": {"input_dim": WIDTH, "codebook_size": 16, "n_codebooks": 3, "codebook_dim": 4},
    "fsq": {"levels": [5, 5], "num_codebooks": 2, "dim": WIDTH},
    "dithered_fsq": {"levels": 5, "dim": WIDTH},
    "wasserstein": {"noise_augment_dim": 0},
    "softnorm": {"dim": WIDTH, "auto_scale": True},
    "tanh": {},
    "l2_norm": {},
    "vae": {},
}
DISCRETE = ("rvq", "rvq_vae", "dac_rvq", "dac_rvq_vae", "fsq", "dithered_fsq")
CHANNELS = {"seanet": "channels"}


def codec_config(codec: str = "oobleck", bottleneck: str | None = "tanh", audio_channels: int = 1, **options: Any) -> dict[str, Any]:
    """A whole config, 8 samples per latent frame; ``options`` are the bottleneck's."""
    encoder_type, encoder, decoder_type, decoder, pretransform = CODECS[codec]
    encoder, decoder = copy.deepcopy(encoder), copy.deepcopy(decoder)
    wide = audio_channels * (pretransform["patch_size"] if pretransform else 1)
    encoder[CHANNELS.get(encoder_type, "in_channels")] = wide
    decoder[CHANNELS.get(decoder_type, "out_channels")] = wide
    doubled = bottleneck in ("vae", "rvq_vae", "dac_rvq_vae")
    width_key = {"seanet": "dimension", "local_attn": "out_channels"}.get(encoder_type, "latent_dim")
    encoder[width_key] = WIDTH * (2 if doubled else 1)
    if decoder_type not in ("seanet", "local_attn"):
        decoder["latent_dim"] = WIDTH + options.get("noise_augment_dim", 0)
    model: dict[str, Any] = {
        "encoder": {"type": encoder_type, "config": encoder},
        "decoder": {"type": decoder_type, "config": decoder},
        "latent_dim": WIDTH,
        "downsampling_ratio": 8,
        "io_channels": audio_channels,
    }
    if bottleneck is not None:
        model["bottleneck"] = {"type": bottleneck, "config": {**BOTTLENECKS[bottleneck], **options}}
    if pretransform is not None:
        model["pretransform"] = {"type": "patched", "config": {**pretransform, "channels": audio_channels}}
    return {
        "model_type": "autoencoder",
        "sample_rate": 8000,
        "sample_size": 512,
        "audio_channels": audio_channels,
        "model": model,
        "training": {
            "learning_rate": 1e-3,
            "loss_configs": {
                "spectral": {"config": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64]}, "weights": {"mrstft": 1.0}},
                "time": {"weights": {"l1": 1.0}},
            },
        },
    }


@pytest.fixture
def build(randomise):
    def make(*args: Any, **options: Any) -> AudioAutoencoder:
        torch.manual_seed(0)
        model = randomise(create_model_from_config(codec_config(*args, **options)))
        return model.eval().requires_grad_(False)

    return make


def test_every_part_is_tested_here():
    assert {value[0] for value in CODECS.values()} | {"spectral", "taae_v2"} == set(ENCODERS.names())
    assert {value[2] for value in CODECS.values()} | {"spectral", "taae_v2"} == set(DECODERS.names())
    assert set(BOTTLENECKS) == set(BOTTLENECK_FAMILY.names())
    assert [name for name in BOTTLENECKS if BOTTLENECK_FAMILY.build(name, BOTTLENECKS[name]).is_discrete] == list(DISCRETE)


# ---- encoders and decoders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio_channels", [1, 2])
@pytest.mark.parametrize("codec", CODECS)
def test_shapes(build, codec, audio_channels):
    model = build(codec, audio_channels=audio_channels)
    latents = model.encode(torch.randn(2, audio_channels, 8 * 24))
    assert latents.shape == (2, WIDTH, 24) and model.decode(latents).shape == (2, audio_channels, 8 * 24)


@pytest.mark.parametrize("frames", [20, 70, 95, 150])
@pytest.mark.parametrize("codec", CODECS)
def test_chunked_equals_whole(build, codec, frames):
    """Half the overlap covers what a frame sees; with and without whole chunks; a clip shorter than a chunk works too."""
    model = build(codec)
    options = {"chunked": True, "chunk_size": 2 * REACH[codec] + 18, "overlap": 2 * REACH[codec]}
    audio = torch.randn(2, 1, frames * 8) * 0.5
    latents = model.encode_audio(audio)
    torch.testing.assert_close(model.encode_audio(audio, **options), latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.decode_audio(latents, **options), model.decode_audio(latents), atol=1e-4, rtol=0)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "seanet"])
def test_too_little_overlap_is_seen(build, codec):
    """That the test above can fail: without overlap, there are seams."""
    model = build(codec)
    latents = torch.randn(1, WIDTH, 90)
    seams = model.decode_audio(latents, chunked=True, chunk_size=30, overlap=0) - model.decode_audio(latents)
    assert seams.abs().max() > 1e-4


@pytest.mark.parametrize("extra", [1, 5, 7])
@pytest.mark.parametrize("codec", ["seanet", "same", "same_in_chunks", "local_attn"])
def test_lengths_between_frames(build, codec, extra):
    """These pad the end of what does not fill a frame; chunks do not change that."""
    model = build(codec)
    audio = torch.randn(1, 1, 8 * 90 + extra)
    latents = model.encode_audio(audio)
    assert latents.shape[-1] == 91
    options = {"chunked": True, "chunk_size": 2 * REACH[codec] + 18, "overlap": 2 * REACH[codec]}
    torch.testing.assert_close(model.encode_audio(audio, **options), latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize("codec", CODECS)
def test_batch_equals_loop(build, codec):
    model = build(codec)
    audio = torch.randn(3, 1, 8 * 24)
    latents = model.encode(audio)
    torch.testing.assert_close(torch.cat([model.encode(item) for item in audio.split(1)]), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode(audio, iterate_batch=True), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.decode(latents, iterate_batch=True), model.decode(latents), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("codec", CODECS)
def test_two_builds_of_one_config_are_equal(codec):
    """Nothing turns lists of the config around in place, as the published version did with ratios."""
    config = codec_config(codec)
    before = json.dumps(config)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(create_model_from_config(config).state_dict())
    assert json.dumps(config) == before
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items()) and list(models[0]) == list(models[1])


# ---- bottlenecks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck", DISCRETE)
def test_tokens_become_the_same_audio(build, bottleneck):
    model = build(bottleneck=bottleneck)
    audio = torch.randn(2, 1, 8 * 20)
    latents, info = model.encode(audio, return_info=True)
    tokens = info[model.bottleneck.tokens_id]
    assert model.is_discrete and model.bottleneck.tokens_of(info).shape == (2, model.bottleneck.num_quantizers, 20)
    assert not tokens.is_floating_point() and tokens.min() >= 0 and tokens.max() < model.bottleneck.codebook_size
    torch.testing.assert_close(model.decode_tokens(tokens), model.decode(latents), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.decode_tokens(tokens, iterate_batch=True), model.decode(latents), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bottleneck", ["rvq", "dac_rvq", "fsq", "dithered_fsq"])
def test_tokens_in_chunks(build, bottleneck):
    model = build("seanet", bottleneck)
    audio = torch.randn(1, 1, 8 * 90)
    options = {"chunked": True, "chunk_size": 38, "overlap": 20}
    model.encode(audio)  # starts the codebooks of rvq
    latents, info = model.encode(audio, return_info=True)
    in_chunks, chunked_info = model.encode_audio(audio, return_info=True, **options)
    tokens, chunked_tokens = info[model.bottleneck.tokens_id], chunked_info[model.bottleneck.tokens_id]
    assert (tokens != chunked_tokens).float().mean() < 0.01 and set(info) == set(chunked_info)
    torch.testing.assert_close(in_chunks, latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.decode_tokens(tokens, **options), model.decode(latents), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"noise_augment_dim": 2}, {"noise_augment_dim": 2, "quantize_on_decode": True}])
def test_noise_for_the_decoder_is_added_once(build, options):
    model = build("oobleck", "dac_rvq", **options)
    latents, info = model.encode(torch.randn(1, 1, 80), return_info=True)
    decoded = []
    for decode, value in ((model.decode_tokens, info["codes"]), (model.decode, latents)):
        torch.manual_seed(0)
        decoded.append(decode(value))
    torch.testing.assert_close(*decoded, atol=1e-4, rtol=1e-4)


def test_continuous_latents_have_no_tokens(build):
    with pytest.raises(ConfigError, match="decode_tokens: the bottleneck VAEBottleneck has no tokens; use decode"):
        build(bottleneck="vae").decode_tokens(torch.zeros(1, 1, 4, dtype=torch.long))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bottleneck", DISCRETE)
def test_tokens_of_a_pretransform_have_codebooks_first(randomise, bottleneck, half):
    torch.manual_seed(0)
    block = {"type": "autoencoder", "config": codec_config(bottleneck=bottleneck)["model"], "model_half": half}
    pretransform = create_pretransform_from_config(block, 8000)
    audio = torch.randn(2, 1, 80)
    if half:
        pretransform.model.bfloat16()  # float16 has no convolutions on some CPUs
    with torch.no_grad():
        tokens = pretransform.tokenize(audio)
        assert pretransform.is_discrete and tokens.shape == (2, pretransform.num_quantizers, 10)
        decoded = pretransform.decode_tokens(tokens)
    assert decoded.shape == (2, 1, 80) and decoded.dtype == torch.float32


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_chunked_and_iterated_coding_with_every_bottleneck(build, bottleneck):
    model = build(bottleneck=bottleneck)
    audio = torch.randn(2, 1, 8 * 60)
    for options in ({"chunked": True, "chunk_size": 32, "overlap": 8}, {"iterate_batch": True}):
        latents = model.encode_audio(audio, **options)
        assert latents.shape == (2, WIDTH, 60) and model.decode_audio(latents, **options).shape == audio.shape


# ---- training, saving ----------------------------------------------------------------------------------------------------------------

TRAINED = [(codec, "tanh") for codec in CODECS if codec != "oobleck"] + [("oobleck", bottleneck) for bottleneck in BOTTLENECKS]


@pytest.mark.parametrize(("codec", "bottleneck"), TRAINED)
def test_one_step_lowers_the_loss_of_a_repeated_batch(codec, bottleneck):
    config = codec_config(codec, bottleneck)
    torch.manual_seed(0)
    model = create_model_from_config(config)
    wrapper = create_training_wrapper_from_config(config, model).train()
    audio = torch.sin(torch.arange(512) * torch.tensor([[[0.1]], [[0.23]]])) * 0.5
    with torch.no_grad():
        wrapper.reconstruct(audio)  # starts codebooks

    def loss() -> torch.Tensor:
        torch.manual_seed(1)  # the same samples, dropped codebooks and dither
        terms = wrapper.reconstruction_losses(*wrapper.reconstruct(audio))
        return torch.stack(list(terms.values())).sum()

    before = loss()
    before.backward()
    with torch.no_grad():
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
        assert norm > 0
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 3e-4 * parameter.grad / norm  # so short that the slope decides
    assert loss() < before.detach()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None and p.numel()]
    assert missing == []


@pytest.mark.parametrize(
    ("bottleneck", "terms"),
    [
        ("rvq", {"quantizer_loss": 1.0}),
        ("rvq_vae", {"kl_loss": 1e-6, "quantizer_loss": 1.0}),
        ("dac_rvq", {"codebook_loss": 1.0, "commitment_loss": 0.25}),
        ("dac_rvq_vae", {"kl_loss": 1e-6, "codebook_loss": 1.0, "commitment_loss": 0.25}),
        ("wasserstein", {"mmd_loss": 100.0}),
        ("softnorm", {"softnorm_loss": 1.0}),
    ],
)
def test_bottlenecks_bring_their_losses(bottleneck, terms):
    config = codec_config(bottleneck=bottleneck)
    found = []
    for weights in (None, {name.removesuffix("_loss"): 7.0 for name in terms}):
        if weights:
            config["training"]["loss_configs"]["bottleneck"] = {"weights": weights}
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(config, create_model_from_config(config)).train()
        torch.manual_seed(1)
        found.append(wrapper.reconstruction_losses(*wrapper.reconstruct(torch.randn(2, 1, 512))))
    assert set(terms) <= set(found[0])
    for name, weight in terms.items():
        torch.testing.assert_close(found[0][name] / weight * 7.0, found[1][name])


@pytest.mark.parametrize(("codec", "bottleneck"), [*TRAINED, ("same", "softnorm")])
def test_saved_and_loaded_it_does_the_same(build, codec, bottleneck):
    model = build(codec, bottleneck)
    audio = torch.randn(1, 1, 160)
    torch.manual_seed(0)
    model.decode(model.encode(audio))  # starts codebooks
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = create_model_from_config(codec_config(codec, bottleneck)).eval()
    other.load_state_dict(torch.load(file), strict=True)
    results = []
    for each in (model, other):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(each.decode(each.encode(audio)))
    assert torch.equal(*results)


# ---- configs -------------------------------------------------------------------------------------------------------------------------


def mistakes(config: dict[str, Any]) -> list[str]:
    return [f"{mistake.path}: {mistake.message}" for mistake in check_model_config(config)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_the_check_accepts_them_all(codec, bottleneck):
    assert mistakes(codec_config(codec, bottleneck)) == []


@pytest.mark.parametrize(
    ("codec", "bottleneck", "place", "value", "message"),
    [
        ("seanet", "tanh", ("encoder", "dimension"), 9, "model.encoder.config.dimension: is 9, but must be 8 (latent_dim)"),
        ("seanet", "tanh", ("decoder", "dimension"), 9, "model.decoder.config.dimension: is 9, but must be 8 (latent_dim)"),
        ("seanet", "tanh", ("encoder", "channels"), 2, "model.encoder.config.channels: is 2, but the model has 1 (io_channels)"),
        ("local_attn", "tanh", ("encoder", "out_channels"), 9, "model.encoder.config.out_channels: is 9, but must be 8 (latent_dim)"),
        ("local_attn", "tanh", ("decoder", "in_channels"), 9, "model.decoder.config.in_channels: is 9, but must be 8 (latent_dim)"),
        (
            "local_attn",
            "tanh",
            ("decoder", "out_channels"),
            2,
            "model.decoder.config.out_channels: is 2, but the model has 1 (io_channels)",
        ),
        ("oobleck", "rvq", ("bottleneck", "dim"), 9, "model.bottleneck.config.dim: is 9, but must be 8 (latent_dim)"),
        ("oobleck", "dac_rvq", ("bottleneck", "input_dim"), 9, "model.bottleneck.config.input_dim: is 9, but must be 8 (latent_dim)"),
        ("oobleck", "softnorm", ("bottleneck", "dim"), 9, "model.bottleneck.config.dim: is 9, but must be 8 (latent_dim)"),
        (
            "oobleck",
            "rvq_vae",
            ("encoder", "latent_dim"),
            8,
            "model.encoder.config.latent_dim: is 8, but must be 16 (2 x latent_dim, since a 'rvq_vae' bottleneck needs mean and scale)",
        ),
        (
            "dac",
            "tanh",
            ("decoder", "rates"),
            [4, 4],
            "model.downsampling_ratio: is 8, but decoder.config.rates [4, 4] multiply to 16",
        ),
    ],
)
def test_widths_and_ratios_are_checked(codec, bottleneck, place, value, message):
    config = codec_config(codec, bottleneck)
    config["model"][place[0]]["config"][place[1]] = value
    assert mistakes(config) == [message]


@pytest.mark.parametrize(
    ("codec", "key", "value", "message"),
    [
        ("seanet", "ratios", [2, 4], "[2, 4] is not the mirror image of the encoder's ratios [2, 4], which is [4, 2] here"),
        ("dac", "rates", [2, 4], "[2, 4] is not the mirror image of the encoder's strides [2, 4], which is [4, 2] here"),
        ("oobleck", "strides", [4, 2], "[4, 2] is not the mirror image of the encoder's strides [2, 4], which is [2, 4] here"),
    ],
)
def test_strides_that_are_no_mirror_image_are_warned_about(codec, key, value, message):
    config = codec_config(codec)
    config["model"]["decoder"]["config"][key] = value
    assert mistakes(config) == [f"model.decoder.config.{key}: warning: {message}"]
    assert create_model_from_config(config)(torch.randn(1, 1, 64)).shape == (1, 1, 64)


@pytest.mark.parametrize(("codec", "bottleneck"), [*((codec, "tanh") for codec in CODECS), *(("oobleck", name) for name in BOTTLENECKS)])
def test_half_precision(build, codec, bottleneck):
    """Coarsely the same, and of the type that was asked for."""
    model = build(codec, bottleneck)
    audio = torch.randn(1, 1, 8 * 24).bfloat16()
    model.encode(audio.float())  # starts codebooks
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        latents = model.to(dtype).encode(audio.to(dtype))
        assert latents.dtype == dtype
        results.append((latents.float(), model.decode(latents).float()))
    if bottleneck == "tanh":
        for full, half in zip(*results, strict=True):
            assert (full - half).square().mean() < 1e-2 * full.square().mean()


@pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning")
def test_training_through_lightning(tmp_path):
    """Both players take turns; codebooks move; what was saved is what was trained."""
    from pytorch_lightning import Trainer

    config = codec_config("seanet", "dac_rvq", quantizer_dropout=0.5)
    stft = {"filters": 2, "n_ffts": [64], "hop_lengths": [16], "win_lengths": [64]}
    config["training"]["loss_configs"]["discriminator"] = {
        "type": "encodec", "config": stft, "weights": {"adversarial": 0.1, "feature_matching": 1.0},
    }  # fmt: skip
    torch.manual_seed(0)
    model = create_model_from_config(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wrapper = create_training_wrapper_from_config(config, model)
    batches = torch.utils.data.DataLoader([(torch.randn(2, 1, 512) * 0.1, [{}, {}])] * 4, batch_size=None)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=4, accelerator="cpu", default_root_dir=tmp_path, num_sanity_val_steps=0, **options)
    trainer.fit(wrapper, batches, batches)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"bottleneck.quantizer.quantizers.0.codebook.weight", "encoder.model.0.conv.conv.weight_v"} <= moved
