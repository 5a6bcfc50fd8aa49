"""Chunked coding equals one whole pass."""

from fractions import Fraction

import pytest
import torch

from stable_audio_tools.errors import AudioError
from stable_audio_tools.models.autoencoders.chunking import map_chunks

ONE = Fraction(1)


def chunked(signal, transform, chunk, overlap, ratio=ONE):
    return map_chunks(signal, transform, chunk_length=chunk, overlap_length=overlap, ratio=ratio, trim=int(overlap // 2 * ratio))


@pytest.mark.parametrize("length", [1, 9, 10, 11, 17, 18, 40, 41, 99])
@pytest.mark.parametrize(("chunk", "overlap"), [(10, 0), (10, 2), (10, 5), (10, 9)])
def test_the_identity_in_chunks_is_the_identity(length, chunk, overlap):
    signal = torch.randn(2, 3, length)
    assert torch.equal(chunked(signal, lambda x: x, chunk, overlap), signal)


@pytest.mark.parametrize("length", [30, 31, 48, 100])
@pytest.mark.parametrize(("reach", "overlap"), [(0, 0), (1, 2), (3, 6), (3, 7), (4, 9)])
def test_equals_the_whole_if_half_the_overlap_covers_the_reach(length, reach, overlap):
    smooth = torch.nn.AvgPool1d(2 * reach + 1, 1, reach)
    signal = torch.randn(1, 2, length)
    torch.testing.assert_close(chunked(signal, smooth, 12, overlap), smooth(signal))


def test_differs_from_the_whole_if_it_does_not():
    smooth = torch.nn.AvgPool1d(9, 1, 4)
    signal = torch.randn(1, 2, 50)
    assert not torch.allclose(chunked(signal, smooth, 12, 4), smooth(signal))


@pytest.mark.parametrize("ratio", [Fraction(3), Fraction(1, 4)])
def test_other_rates_on_the_way_out(ratio):
    def transform(x):
        return x.repeat_interleave(3, dim=-1) if ratio > 1 else x[..., ::4]

    signal = torch.randn(1, 2, 76)
    torch.testing.assert_close(
        map_chunks(signal, transform, chunk_length=16, overlap_length=8, ratio=ratio, trim=int(4 * ratio)), transform(signal)
    )


def test_a_transform_that_gives_a_little_less_leaves_no_gap():
    def transform(x):  # like a decoder with odd strides
        return x.repeat_interleave(3, dim=-1)[..., :-2] + 1

    signal = torch.rand(1, 1, 50)
    assert torch.equal(map_chunks(signal, transform, chunk_length=12, overlap_length=4, ratio=Fraction(3), trim=6), transform(signal))


def test_follows_what_the_transform_gives():
    out = map_chunks(torch.randn(1, 2, 40), lambda x: x[:, :1].double(), chunk_length=10, overlap_length=2, ratio=ONE, trim=1)
    assert out.dtype == torch.float64 and out.shape == (1, 1, 40)


def test_a_signal_of_one_chunk_is_transformed_once():
    calls = []
    chunked(torch.randn(1, 1, 10), lambda x: calls.append(x.shape[-1]) or x, 10, 4)
    chunked(torch.randn(1, 1, 3), lambda x: calls.append(x.shape[-1]) or x, 10, 4)
    assert calls == [10, 3]


@pytest.mark.parametrize(("chunk", "overlap"), [(10, 10), (10, 11), (10, -1)])
def test_impossible_overlaps(chunk, overlap):
    with pytest.raises(AudioError, match=f"overlap must be at least 0 and smaller than chunk_size, got {overlap} and {chunk}"):
        chunked(torch.randn(1, 1, 50), lambda x: x, chunk, overlap)
