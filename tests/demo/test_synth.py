import time

import numpy as np
import pytest

from stable_audio_tools.demo import captions, synth
from stable_audio_tools.demo.anything import EVENTS, TREATMENTS, anything
from stable_audio_tools.demo.canvas import Canvas, buzz, unit_rms
from stable_audio_tools.demo.classes import select_classes
from stable_audio_tools.errors import ConfigError

SEEDS = range(12)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def spectrum_peak_hz(samples: np.ndarray, sample_rate: int = synth.SAMPLE_RATE) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * sample_rate / len(samples))


@pytest.mark.parametrize("name", synth.CLASSES)
def test_a_sound_has_the_promised_level_length_and_edges(name: str):
    for seed in SEEDS:
        samples = synth.render(name, rng(seed))
        assert samples.dtype == np.float32 and samples.shape == (synth.NUM_SAMPLES,)
        assert np.isfinite(samples).all()
        assert 10 ** (-6.01 / 20) <= np.abs(samples).max() <= 10 ** (-0.99 / 20)
        assert abs(samples[0]) < 1e-6 and np.abs(samples[-8:]).max() < 1e-3  # no click at either end
        assert np.abs(samples[: round(0.02 * synth.SAMPLE_RATE)]).max() > 0.01  # begins at once
        assert abs(samples.mean()) < 0.02


@pytest.mark.parametrize("name", synth.CLASSES)
def test_the_same_dice_give_the_same_sound_and_others_another(name: str):
    first, again, other = (synth.make_sound(name, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.caption == again.caption
    similarity = np.corrcoef(first.samples, other.samples)[0, 1]
    assert abs(similarity) < 0.95


@pytest.mark.parametrize("name", synth.CLASSES)
def test_sounds_scale_with_the_sample_rate(name: str):
    samples = synth.render(name, rng(3), sample_rate=44100, num_samples=30000)
    assert samples.shape == (30000,)
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0.5


def test_all_classes_together_are_quick():
    start = time.perf_counter()
    for name in synth.CLASSES:
        synth.render(name, rng(0))
    assert time.perf_counter() - start < 1.0  # about 0.06 s on an idle core


def test_every_class_has_a_voice_and_names():
    assert set(synth.VOICES) == set(captions.NOUNS) == set(synth.CLASSES)
    assert len(synth.CLASSES) >= 12


def test_unknown_sounds_are_refused_with_a_guess():
    for function in (synth.make_sound, captions.caption):
        with pytest.raises(ConfigError, match="unknown sound 'snaer'; did you mean 'snare'"):
            function("snaer", rng(0))
    with pytest.raises(ConfigError, match="unknown sound 'xylophone'; known: kick, snare, "):
        captions.test_prompt("xylophone", 0)


@pytest.mark.parametrize("name", synth.CLASSES)
def test_captions_are_varied_and_all_known(name: str):
    dice, possible = rng(0), captions.all_captions(name)
    said = [captions.caption(name, dice, traits=("low", "long")) for _ in range(300)]
    assert set(said) <= possible
    assert len(set(said)) > 40


def test_every_trait_that_a_voice_reports_has_words():
    reported = {trait for name in synth.CLASSES for seed in SEEDS for trait in synth.VOICES[name](Canvas(rng(seed), 22050, 4096)).traits}
    assert reported <= set(captions.TRAIT_WORDS)
    assert len(reported) >= 10


def test_a_trait_that_is_said_is_true():
    for seed in range(40):
        sound = synth.make_sound("tom", rng(seed))
        if {"low", "deep"} & set(sound.caption.replace(",", "").split()):
            assert spectrum_peak_hz(sound.samples) < 150
        if {"high", "high-pitched"} & set(sound.caption.replace(",", "").split()):
            assert spectrum_peak_hz(sound.samples) > 150


@pytest.mark.parametrize("name", synth.CLASSES)
def test_no_training_caption_equals_a_test_prompt_but_all_its_words_are_known(name: str):
    every = {caption.lower() for other in synth.CLASSES for caption in captions.all_captions(other)}
    words = {word.strip(",:") for caption in captions.all_captions(name) for word in caption.split()}
    prompts = [captions.test_prompt(name, index) for index in range(len(captions.PROMPTS) * len(captions.NOUNS[name]))]
    assert len(set(prompts)) == len(prompts)
    for prompt in prompts:
        assert prompt.lower() not in every
        assert {word.strip(",:") for word in prompt.split()} <= words


def test_captions_and_prompts_belong_to_their_own_class_only():
    texts = [(name, text) for name in synth.CLASSES for text in captions.all_captions(name)]
    texts += [(name, captions.test_prompt(name, index)) for name in synth.CLASSES for index in range(24)]
    selection = select_classes([text for _, text in texts], captions.CLASS_SPEC)
    assert selection.num_ambiguous == selection.num_unmatched == 0
    for members in selection.classes:
        assert {texts[index][0] for index in members.indices} == {members.name}


def test_articles_follow_the_sound():
    assert "an open hat" in captions.all_captions("open hat")
    assert "just an 808 style kick" in captions.all_captions("kick")


def test_partials_are_the_sum_of_damped_sines():
    canvas = Canvas(rng(0), 8000, 1000)
    phase = 2 * np.pi * rng(0).random(2)
    direct = sum(
        level * np.exp(-np.log(1000) * canvas.time / t60) * np.cos(2 * np.pi * hz * canvas.time + start)
        for hz, t60, level, start in zip((440, 1234), (0.3, 0.1), (1.0, 0.5), phase, strict=True)
    )
    np.testing.assert_allclose(canvas.partials([440, 1234], [0.3, 0.1], [1.0, 0.5]), direct, atol=1e-10)


def test_held_partials_are_undamped_sines_on_whole_periods():
    canvas = Canvas(rng(0), 8000, 1000)
    start = 2 * np.pi * rng(0).random(2)
    direct = np.cos(2 * np.pi * 400 * canvas.time + start[0]) + 0.5 * np.cos(2 * np.pi * 1200 * canvas.time + start[1])
    np.testing.assert_allclose(canvas.held([400, 1203], [1.0, 0.5]), direct, atol=1e-10)


def test_a_string_is_the_loop_that_it_claims_to_be():
    canvas, damping, whole, share = Canvas(rng(1), 8000, 2000), 0.3, 20, 0.8
    string = canvas.string(8000 / (whole + share + damping), t60_seconds=0.2, damping=damping, pick_position=0.5)
    burst, tuning = np.zeros(2000), (1 - share) / (1 + share)
    burst[: whole + 1] = rng(1).uniform(-1, 1, whole + 1)
    burst[10:] -= burst[:-10].copy()
    direct, looped = np.zeros(2002), np.zeros(2002)  # two zeros in front of the beginning, reached as [-1] and [-2]
    for n in range(2000):
        late = [direct[n - whole - back] if n >= whole + back else 0.0 for back in range(3)]
        lost = [(1 - damping) * late[back] + damping * late[back + 1] for back in range(2)]
        looped[n] = tuning * lost[0] + lost[1] - tuning * looped[n - 1]
        direct[n] = burst[n] + 10 ** (-3 * (whole + share) / (8000 * 0.2)) * looped[n]
    np.testing.assert_allclose(string, direct[:2000], atol=1e-3)


@pytest.mark.parametrize("pitch", [151.3, 333.3, 701.9])
def test_a_string_is_in_tune_and_dark_at_the_end(pitch: float):
    canvas = Canvas(rng(0), 22050, 65536)
    string = canvas.string(pitch, t60_seconds=3.0, damping=0.3, pick_position=0.3)
    spectrum = np.abs(np.fft.rfft(string * np.hanning(65536)))
    near = (canvas.bins > 0.8 * pitch) & (canvas.bins < 1.2 * pitch)
    assert canvas.bins[near][spectrum[near].argmax()] == pytest.approx(pitch, rel=0.003)  # 5 cents
    assert spectrum[canvas.bins > 10000].max() < 0.02 * spectrum.max()


@pytest.mark.parametrize("odd", [False, True])
def test_a_buzz_has_geometric_harmonics_and_unit_level(odd: bool):
    phase = 2 * np.pi * 16 * np.arange(4096) / 4096
    wave = buzz(phase, 0.7, odd=odd)
    harmonics = np.abs(np.fft.rfft(wave))[16::16][:8]
    present = harmonics[::2] if odd else harmonics
    np.testing.assert_allclose(present[1:] / present[:-1], 0.49 if odd else 0.7, rtol=1e-3)
    if odd:
        assert harmonics[1::2].max() < 1e-6 * harmonics[0]
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(1.0, rel=1e-3)


def test_a_band_keeps_what_is_inside_and_is_causal():
    canvas = Canvas(rng(0), 22050, 22050)
    tones = [np.sin(canvas.phase(hz)) for hz in (100, 1000, 8000)]
    levels = [np.sqrt(2 * np.mean(canvas.band(tone, 500, 2000) ** 2)) for tone in tones]
    assert levels[1] > 0.9 and levels[0] < 0.02 and levels[2] < 0.02
    impulse = np.zeros(22050)
    impulse[11025] = 1.0
    response = canvas.band(impulse, 500, 2000)
    assert np.abs(response[:11000]).max() < 1e-3 * np.abs(response).max()


def test_a_moving_filter_follows_its_centre():
    canvas = Canvas(rng(0), 22050, 22050)
    swept = canvas.swept(canvas.noise(), np.geomspace(400, 6000, 22050), width_octaves=0.2)
    assert spectrum_peak_hz(swept[:3000]) < 1000
    assert spectrum_peak_hz(swept[-3000:]) > 3500
    flat = canvas.swept(tone := np.sin(canvas.phase(1000)), np.full(22050, 1000.0), width_octaves=100.0)
    np.testing.assert_allclose(flat, tone, atol=1e-3)  # a filter that lets everything pass is an identity


@pytest.mark.parametrize("event", [event for event, _ in EVENTS], ids=lambda event: event.__name__)
def test_every_event_makes_a_sound(event):
    for seed in SEEDS:
        signal = event(Canvas(rng(seed), 22050, 8192))
        assert signal.shape == (8192,)
        assert np.isfinite(signal).all() and np.abs(signal).max() > 1e-9


@pytest.mark.parametrize("treatment", [treatment for treatment, _ in TREATMENTS], ids=lambda treatment: treatment.__name__)
def test_every_treatment_keeps_the_shape_and_changes_the_sound(treatment):
    canvas = Canvas(rng(0), 22050, 8192)
    signal = canvas.noise(200, 4000) * canvas.decay(0.2)
    treated = treatment(canvas, signal)
    assert treated.shape == signal.shape and np.isfinite(treated).all()
    assert np.abs(unit_rms(treated) - unit_rms(signal)).max() > 1e-3


def test_anything_is_reproducible_audible_and_within_range():
    for seed in range(60):
        samples = anything(rng(seed), num_samples=16384)
        assert samples.dtype == np.float32 and samples.shape == (16384,)
        assert 0.03 < np.abs(samples).max() < 0.97
    np.testing.assert_array_equal(samples, anything(rng(59), num_samples=16384))


def test_anything_is_varied():
    sounds = [anything(rng(seed), num_samples=8192) for seed in range(60)]
    power = np.abs(np.fft.rfft(sounds, axis=1)) ** 2
    centroids = (power * np.arange(power.shape[1])).sum(1) / power.sum(1) * (22050 / 8192)
    assert np.percentile(centroids, 10) < 500 and np.percentile(centroids, 90) > 3000
