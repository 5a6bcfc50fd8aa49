"""Filter banks: areas, centres, and pitch classes."""

import torch

from stable_audio_tools.training.losses.filterbanks import chroma, slaney_mel


def test_mel_bands_have_equal_area_and_rise():
    bands = slaney_mel(44100, 8192, 40)
    assert bands.shape == (40, 4097)
    torch.testing.assert_close(bands.sum(dim=1) * 44100 / 8192, torch.ones(40), atol=2e-3, rtol=0)
    centres = bands.argmax(dim=1)
    assert bool((centres[1:] > centres[:-1]).all())


def test_mel_is_linear_up_to_a_kilohertz_and_logarithmic_above():
    """Slaney's scale has 15 steps of 66.7 Hz, then 27 steps per factor 6.4."""
    centres = slaney_mel(32000, 65536, 61).argmax(dim=1) * 32000 / 65536
    low = centres[centres < 900]
    assert float((low[1:] - low[:-1]).std()) < 0.5
    high = centres[centres > 1200]
    assert float((high[1:] / high[:-1]).std()) < 1e-3


def test_a_note_belongs_to_its_pitch_class_in_every_octave():
    bands = chroma(44100, 16384)
    assert bands.shape == (12, 8193)
    for octave in range(5):
        for pitch_class, a in ((9, 110.0), (0, 130.8128)):
            assert int(bands[:, round(a * 2**octave * 16384 / 44100)].argmax()) == pitch_class
