import io

import pytest
import torch

from stable_audio_tools.audio import load, probe
from stable_audio_tools.errors import AudioError


def in_memory(path, name="here.tar#it.wav"):
    file = io.BytesIO(path.read_bytes())
    file.name = name
    return file


def test_an_open_file_is_read_as_its_path_is(every_format):
    file, info = in_memory(every_format), probe(every_format)
    assert probe(file)._replace(path=info.path) == info
    assert probe(file).path == "here.tar#it.wav"
    assert torch.equal(load(file).samples, load(every_format).samples)
    for start, length in ((0, 1), (info.num_frames // 3, 3000), (info.num_frames - 1, 100)):
        span = {"start": start, "num_frames": length}
        assert torch.equal(load(file, **span).samples, load(every_format, **span).samples)
    resampled = {"start": 5000, "num_frames": 2000, "sample_rate": 32000}
    assert torch.equal(load(file, **resampled).samples, load(every_format, **resampled).samples)


def test_messages_use_the_name_of_an_open_file(encoded):
    half = io.BytesIO(encoded["pcm16.wav"].read_bytes()[:100_000])
    half.name = "shard-0.tar#drums/kick.wav"
    with pytest.raises(AudioError, match=r"^shard-0.tar#drums/kick.wav: header promises \d+ frames, the file holds"):
        load(half)
    with pytest.raises(AudioError, match=r"^audio in memory: is not audio that can be decoded"):
        load(io.BytesIO(b"nothing"))
    with pytest.raises(AudioError, match=r"^audio in memory: is not audio that can be decoded"):
        probe(io.BytesIO())
