from collections import deque

import numpy as np
import pytest
import torch

from stable_audio_tools.audio import from_int16, to_int16
from stable_audio_tools.audio.pcm import join_blocks
from stable_audio_tools.errors import AudioError


def test_int16_survives_the_round_trip_in_all_values():
    values = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    assert to_int16(from_int16(values)).equal(values)


def test_rounding_is_to_nearest_and_symmetric():
    audio = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    assert (to_int16(audio) - audio * 32767).abs().max() <= 0.5
    assert to_int16(-audio).equal(-to_int16(audio))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_full_scale_and_clipping_in_every_float(dtype):
    assert to_int16(torch.tensor([1.0, -1.0, 9.0, -9.0], dtype=dtype)).tolist() == [32767, -32767, 32767, -32768]


def test_wrong_dtypes_are_refused():
    with pytest.raises(AudioError, match=r"to_int16: expected a float tensor, got torch\.int16; int16 audio needs no conversion"):
        to_int16(torch.zeros(3, dtype=torch.int16))
    with pytest.raises(AudioError, match=r"from_int16: expected an int16 tensor, got torch\.int32; convert other integers"):
        from_int16(torch.zeros(3, dtype=torch.int32))


def test_blocks_are_joined_in_order_and_freed():
    whole = np.arange(20, dtype=np.float32).reshape(2, 10)
    blocks = deque([whole[:, :3], whole[:, 3:3], whole[:, 3:]])
    np.testing.assert_array_equal(join_blocks(blocks, 2), whole)
    assert not blocks
    assert join_blocks(blocks, 2).shape == (2, 0)
