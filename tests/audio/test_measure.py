import numpy as np
import pytest
import soundfile

from stable_audio_tools.audio import load, loudness_lufs, measure, probe
from stable_audio_tools.audio.decode import decode
from stable_audio_tools.audio.measure import _Meter
from stable_audio_tools.errors import AudioError


def test_every_format_measures_as_its_full_decode(every_format):
    found, whole = measure(every_format), load(every_format)
    assert found.info == probe(every_format)
    assert found.peak == float(whole.samples.abs().max())
    assert found.loudness_lufs == pytest.approx(loudness_lufs(whole.samples, whole.sample_rate), abs=1e-6)


def test_blocks_join_to_the_full_decode(every_format):
    blocks = decode(every_format, lambda decoder: list(decoder.blocks()))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), load(every_format).samples.numpy())
    assert len(blocks) > 1


@pytest.fixture
def written(tmp_path):
    def write(samples, rate=8000):
        soundfile.write(tmp_path / "x.wav", np.asarray(samples, dtype=np.float32), rate, subtype="FLOAT")
        return measure(tmp_path / "x.wav")

    return write


def test_silence_is_counted_in_frames_of_10_ms(written):
    found = written(np.r_[0.5 * np.ones(800), np.full(2400, 0.0009), 0.5 * np.ones(400), np.zeros(4400)])
    assert found.silence_share == pytest.approx(0.85)
    assert found.audible_frames == 3600


def test_a_silent_file_has_no_audible_part(written):
    found = written(np.zeros(1000))
    assert (found.silence_share, found.audible_frames, found.peak, found.loudness_lufs) == (1, 0, 0, -np.inf)


def test_one_loud_channel_is_not_silence(written):
    assert written(np.stack([np.zeros(805), 0.1 * np.ones(805)], axis=1)).silence_share == 0


def test_clipping_is_three_samples_at_full_scale_in_a_row(written):
    samples = np.zeros(1000)
    samples[10:12] = 1  # a peak
    samples[20:23] = -1
    samples[30:40] = 1.5
    assert written(samples).clipped_share == pytest.approx(13 / 1000)


def test_clipping_is_counted_over_the_borders_of_blocks():
    rng = np.random.default_rng(0)
    samples = np.where(rng.random((2, 3000)) < 0.7, 1.0, 0.1).astype(np.float32)
    whole, pieces = _Meter(8000, 2), _Meter(8000, 2)
    whole.add(samples)
    for part in np.split(samples, np.sort(rng.choice(2999, 1500, replace=False)) + 1, axis=1):
        pieces.add(part)
    assert pieces._num_clipped == whole._num_clipped > 500
    assert (pieces._num_silent, pieces._last_loud) == (whole._num_silent, whole._last_loud)


def test_bad_files_are_refused_as_loading_refuses_them(shared):
    for name in ("float32_with_nan_and_inf.wav", "truncated_half.flac", "html_error_page.mp3"):
        path = shared / "data/bad-audio/derived" / name
        with pytest.raises(AudioError) as from_load:
            load(path)
        with pytest.raises(AudioError) as from_measure:
            measure(path)
        assert str(from_measure.value) == str(from_load.value)
