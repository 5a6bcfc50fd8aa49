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


@pytest.mark.parametrize("length", range(20, 60))
@pytest.mark.parametrize(("chunk", "overlap"), [(16, 8), (18, 8), (12, 4), (17, 7)])
def test_chunks_start_on_the_grid_of_a_transform_that_has_one(length, chunk, overlap):
    def transform(x):  # the mean of every four steps from the start on, the last ones with silence
        padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % 4))
        return padded.unflatten(-1, (-1, 4)).mean(dim=-1, keepdim=True).expand(-1, -1, -1, 4).flatten(-2)[..., : x.shape[-1]]

    signal = torch.randn(1, 2, length)
    lengths = []

    def watched(x):
        lengths.append(x.shape[-1])
        return transform(x)

    # Each seam is trimmed by at least three steps: a group of four that a chunk's end cuts is taken from the next chunk.
    out = map_chunks(signal, watched, chunk_length=chunk, overlap_length=overlap, ratio=ONE, trim=overlap // 2, alignment=4)
    assert max(lengths) < chunk + 4 or len(lengths) == 1
    if overlap // 2 >= 3:
        torch.testing.assert_close(out, transform(signal))
    assert out.shape == signal.shape


def test_lengths_that_are_rounded_up():
    """Half a step at the end, at a rate of 1/4, can become a whole one."""

    def transform(x):
        return torch.nn.functional.pad(x, (0, -x.shape[-1] % 4))[..., ::4]

    for length in range(20, 60):
        signal = torch.randn(1, 1, length)
        out = map_chunks(signal, transform, chunk_length=16, overlap_length=8, ratio=Fraction(1, 4), trim=1, alignment=4)
        assert torch.equal(out, transform(signal))
