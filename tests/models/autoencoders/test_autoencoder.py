"""AudioAutoencoder: encode, decode, chunks, preparation of audio."""

import pytest
import torch

from stable_audio_tools.audio import load, resample
from stable_audio_tools.errors import AudioError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.autoencoders import AudioAutoencoder

RATIO = 8


@pytest.fixture
def build(oobleck_config):
    def make(**options):
        torch.manual_seed(0)
        return create_model_from_config(oobleck_config(**options)).eval().requires_grad_(False)

    return make


def test_attributes_that_scripts_read(build):
    model = build(audio_channels=2)
    assert isinstance(model, AudioAutoencoder)
    assert (model.downsampling_ratio, model.sample_rate, model.latent_dim, model.io_channels) == (8, 8000, 4, 2)
    assert (model.in_channels, model.out_channels, model.min_length, model.soft_clip, model.is_discrete) == (2, 2, 8, False, False)
    assert model.pretransform is None


@pytest.mark.parametrize("bottleneck", ["vae", "tanh", "l2_norm", None])
def test_shapes_and_info(build, bottleneck):
    model = build(bottleneck=bottleneck)
    latents, info = model.encode(torch.randn(2, 1, 80), return_info=True)
    assert latents.shape == (2, 4, 10)
    assert info["pre_bottleneck_latents"].shape == (2, 8 if bottleneck == "vae" else 4, 10)
    assert ("kl" in info) is (bottleneck == "vae")
    assert model.decode(latents).shape == (2, 1, 80)
    assert model(torch.randn(2, 1, 80)).shape == (2, 1, 80)


def test_skipping_the_bottleneck(build):
    model = build(bottleneck="l2_norm")
    audio = torch.randn(1, 1, 80)
    raw = model.encode(audio, skip_bottleneck=True)
    torch.testing.assert_close(raw, model.encoder(audio))
    torch.testing.assert_close(model.decode(raw, skip_bottleneck=True), model.decoder(raw))
    torch.testing.assert_close(model.decode(raw), model.decoder(torch.nn.functional.normalize(raw, dim=1)))


@pytest.mark.parametrize("length", [8, 40, 8 * 63, 8 * 64, 8 * 65, 8 * 150])
@pytest.mark.parametrize("strides", [(2, 4), (3, 5)])
def test_chunked_equals_whole(build, length, strides):
    """Half the overlap, 24 frames, covers what a latent frame sees."""
    model = build(bottleneck="tanh", strides=strides)
    frames = length // RATIO
    audio = torch.randn(2, 1, frames * model.downsampling_ratio) * 0.5
    latents = model.encode_audio(audio)
    options = {"chunked": True, "chunk_size": 64, "overlap": 48}
    torch.testing.assert_close(model.encode_audio(audio, **options), latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.decode_audio(latents, **options), model.decode_audio(latents), atol=1e-4, rtol=0)


def test_chunks_are_smaller_than_the_whole(build):
    model = build(bottleneck="tanh")
    lengths = []
    model.encoder.register_forward_hook(lambda module, args, out: lengths.append(args[0].shape[-1]))
    model.encode_audio(torch.randn(1, 1, RATIO * 100), chunked=True, chunk_size=32, overlap=8)
    assert len(lengths) == 4 and max(lengths) == 32 * RATIO


def test_chunks_keep_their_options(build):
    model = build()
    audio = torch.randn(1, 1, RATIO * 100)
    mean = model.encode_audio(audio, sample=False)
    torch.testing.assert_close(model.encode_audio(audio, chunked=True, chunk_size=64, overlap=48, sample=False), mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("direction", ["encode_audio", "decode_audio"])
def test_overlap_must_be_smaller_than_the_chunk(build, direction):
    signal = torch.randn(1, 1 if direction == "encode_audio" else 4, 800)
    with pytest.raises(AudioError, match="overlap must be at least 0 and smaller than chunk_size"):
        getattr(build(), direction)(signal, chunked=True, chunk_size=32, overlap=32)


def test_iterating_over_the_batch_changes_nothing_not_even_the_noise(build):
    model = build()
    audio = torch.randn(3, 1, 160)
    results = []
    for iterate in (False, True):
        torch.manual_seed(5)
        latents, info = model.encode(audio, return_info=True, iterate_batch=iterate)
        results.append((latents, info["kl"], model.decode(latents, iterate_batch=iterate)))
    for whole, one_by_one in zip(*results, strict=True):
        torch.testing.assert_close(whole, one_by_one, atol=1e-5, rtol=1e-5)


def test_soft_clip_bounds_the_output(oobleck_config):
    config = oobleck_config()
    config["model"]["decoder"] |= {"soft_clip": True}
    config["model"]["decoder"]["config"] |= {"final_tanh": False}
    torch.manual_seed(0)
    model = create_model_from_config(config)
    latents = torch.randn(1, 4, 10) * 100
    torch.testing.assert_close(model.decode(latents), torch.tanh(model.decoder(latents)))


def test_pretransform_inside(oobleck_config):
    config = oobleck_config(bottleneck="tanh", pretransform={"type": "patched", "config": {"channels": 1, "patch_size": 4}})
    config["model"]["encoder"]["config"] |= {"in_channels": 4}
    config["model"]["decoder"]["config"] |= {"out_channels": 4}
    config["model"]["downsampling_ratio"] = 32
    model = create_model_from_config(config)
    audio = torch.randn(2, 1, 320)
    latents = model.encode(audio)
    assert latents.shape == (2, 4, 10) and model.decode(latents).shape == (2, 1, 320)
    torch.testing.assert_close(model.encode(model.pretransform.encode(audio), skip_pretransform=True), latents)
    torch.testing.assert_close(model.encode(audio, iterate_batch=True), latents)


def test_different_channels_in_and_out(oobleck_config):
    config = oobleck_config(audio_channels=2, in_channels=1, out_channels=2)
    config["model"]["encoder"]["config"] |= {"in_channels": 1}
    model = create_model_from_config(config)
    assert (model.in_channels, model.out_channels) == (1, 2)
    batch = model.preprocess_audio_for_encoder(torch.randn(2, 64), 8000)
    assert batch.shape == (1, 1, 64) and model(batch).shape == (1, 2, 64)


# ---- preparation ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(100,), (1, 100), (2, 100), (1, 1, 100), (1, 2, 100)])
@pytest.mark.parametrize("channels", [1, 2])
def test_one_clip_of_any_shape(build, shape, channels):
    clip = torch.randn(shape)
    batch = build(audio_channels=channels).preprocess_audio_for_encoder(clip, 8000)
    assert batch.shape == (1, channels, 104)
    rows = clip.reshape(-1, 100)
    expected = rows.mean(dim=0, keepdim=True) if channels == 1 else rows.expand(2, 100)
    torch.testing.assert_close(batch[0, :, :100], expected)
    assert not batch[..., 100:].any()


def test_lists_of_clips_of_many_kinds(build):
    """Rate, length and channels each; every clip keeps its pitch and its level."""
    model = build(audio_channels=2)
    rates, seconds = [8000, 16000, 44100], [0.1, 0.25, 0.2]
    clips = [
        torch.sin(2 * torch.pi * 440 * torch.arange(int(rate * length)) / rate).expand(1 + index % 2, -1)
        for index, (rate, length) in enumerate(zip(rates, seconds, strict=True))
    ]
    batch = model.preprocess_audio_list_for_encoder(clips, rates)
    assert batch.shape == (3, 2, 2000)  # the longest, 0.25 s
    for row, length in zip(batch, seconds, strict=True):
        count = int(8000 * length)
        expected = torch.sin(2 * torch.pi * 440 * torch.arange(count) / 8000)
        assert (row[:, 100 : count - 100] - expected[100 : count - 100]).abs().max() < 1e-2
        assert not row[:, count + 1 :].any()


def test_one_rate_for_all(build):
    clips = [torch.randn(1, 300), torch.randn(1, 500)]
    model = build()
    batch = model.preprocess_audio_list_for_encoder(clips, 16000)
    assert torch.equal(batch, model.preprocess_audio_list_for_encoder(clips, [16000, 16000]))
    torch.testing.assert_close(batch[1, :, :250], resample(clips[1], 16000, 8000)[:, :250])


@pytest.mark.parametrize(
    ("clips", "rates", "message"),
    [
        ([torch.zeros(1, 10)], [8000, 8000], "as many sample rates as clips.*got 2 and 1"),
        ([], 8000, "at least one clip, got 0 and 0"),
        ([torch.zeros(2, 1, 10)], 8000, r"must be \(T,\), \(C, T\) or \(1, C, T\), got \(2, 1, 10\)"),
    ],
)
def test_impossible_lists(build, clips, rates, message):
    with pytest.raises(AudioError, match=message):
        build().preprocess_audio_list_for_encoder(clips, rates)


def test_real_music_of_different_formats(build, shared):
    files = sorted(path for path in (shared / "data" / "real-music").rglob("*") if path.suffix in {".wav", ".flac", ".mp3", ".ogg"})[:3]
    clips = [load(path, num_frames=4000) for path in files]
    model = build(audio_channels=2)
    batch = model.preprocess_audio_list_for_encoder([clip.samples for clip in clips], [clip.sample_rate for clip in clips])
    assert batch.shape[:2] == (len(files), 2) and batch.shape[-1] % RATIO == 0
    assert torch.isfinite(model.decode(model.encode(batch))).all()


# ---- audio that cannot be encoded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 7), r"the audio has 7 samples, but one latent frame takes 8; pad it, as preprocess_audio_for_encoder does"),
        ((1, 1, 0), "the audio has 0 samples, but one latent frame takes 8"),
        ((1, 2, 64), r"expected audio of the shape \(batch, 1, samples\), got \(1, 2, 64\)"),
        ((64,), r"expected audio of the shape \(batch, 1, samples\), got \(64,\); preprocess_audio_for_encoder makes it of a clip"),
    ],
)
def test_audio_of_a_wrong_shape(oobleck_config, shape, message):
    model = create_model_from_config(oobleck_config())
    with pytest.raises(AudioError, match=message):
        model.encode(torch.zeros(shape))
    with pytest.raises(AudioError, match=message):
        model.encode_audio(torch.zeros(shape), chunked=True)


def test_transformed_audio_of_a_wrong_shape(oobleck_config):
    config = oobleck_config(pretransform={"type": "patched", "config": {"channels": 1, "patch_size": 4}}, downsampling_ratio=32)
    config["model"]["encoder"]["config"]["in_channels"] = config["model"]["decoder"]["config"]["out_channels"] = 4
    model = create_model_from_config(config)
    with pytest.raises(AudioError, match=r"has 7 samples, but one latent frame takes 8"):
        model.encode(torch.zeros(1, 4, 7), skip_pretransform=True)
    with pytest.raises(AudioError, match=r"shape \(batch, 4, samples\), got \(1, 1, 64\)"):
        model.encode(torch.zeros(1, 1, 64), skip_pretransform=True)


def test_the_shortest_clip_becomes_one_frame(oobleck_config):
    model = create_model_from_config(oobleck_config())
    assert model.encode(torch.zeros(1, 1, 8)).shape[-1] == 1
    assert model.encode(model.preprocess_audio_for_encoder(torch.zeros(1), 8000)).shape[-1] == 1


def test_an_error_that_is_not_the_audios_stays_what_it_is(oobleck_config):
    model = create_model_from_config(oobleck_config())
    model.encoder.layers[0].weight_v.data = torch.zeros(3, 3)
    with pytest.raises(RuntimeError):
        model.encode(torch.zeros(1, 1, 64))
