"""Masks of training items: what is hidden, where, and how often."""

import random

import pytest
import torch

from stable_audio_tools.sampling.inpainting import causal_mask, random_inpaint_mask, segments_mask, spans_mask

LENGTH = 40


def masks(probabilities, contents, seed=0, **options):
    random.seed(seed)
    sequence = torch.randn(len(contents), 3, LENGTH, generator=torch.Generator().manual_seed(seed))
    padding = torch.arange(LENGTH) < torch.tensor(contents)[:, None]
    seen, mask = random_inpaint_mask(sequence, padding, mask_type_probabilities=probabilities, **options)
    torch.testing.assert_close(seen, sequence * mask)
    assert mask.shape == (len(contents), 1, LENGTH) and set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask[:, 0]


def runs(mask):
    """Start and end of every hidden run."""
    hidden = (mask == 0).tolist()
    starts = [i for i, value in enumerate(hidden) if value and (i == 0 or not hidden[i - 1])]
    ends = [i + 1 for i, value in enumerate(hidden) if value and (i == len(hidden) - 1 or not hidden[i + 1])]
    return list(zip(starts, ends, strict=True))


def test_everything_is_hidden_with_its_padding():
    assert not masks([0, 1, 0], [40, 25, 0]).any()


@pytest.mark.parametrize("kind", [[1, 0, 0], [0, 0, 1], [0, 0, 0, 1]])
def test_other_kinds_hide_content_only_and_nothing_of_an_empty_item(kind):
    for seed in range(20):
        mask = masks(kind, [40, 25, 1, 0], seed)
        for row, content in zip(mask, (40, 25, 1, 0), strict=True):
            assert row[content:].all()
        hidden = masks(kind, [40, 25, 1, 0], seed, mask_padding=True)
        for row, content in zip(hidden, (40, 25, 1, 0), strict=True):
            assert not row[content:].any()


def test_causal_masks_hide_all_after_some_point():
    random.seed(0)
    starts = set()
    for _ in range(200):
        found = runs(causal_mask(LENGTH, 25))
        assert len(found) <= 1 and all(end == 25 for _, end in found)
        starts |= {start for start, _ in found}
    assert starts >= set(range(25))  # everywhere, now and then


def test_segments_are_no_longer_than_their_share_of_the_content():
    random.seed(0)
    for _ in range(200):
        mask = segments_mask(LENGTH, 30, 1)
        assert len(runs(mask)) == 1
        assert segments_mask(LENGTH, 30, 10)[30:].all()
    assert max(int((1 - segments_mask(LENGTH, 30, 1)).sum()) for _ in range(300)) == 30


def test_spans_hide_the_share_that_was_drawn_in_few_runs():
    random.seed(0)
    for _ in range(200):
        mask = spans_mask(LENGTH, 30, 4, (0.5, 0.5))
        assert 15 * 0.6 <= float((1 - mask).sum()) <= 15 and len(runs(mask)) <= 4
        assert float((1 - spans_mask(LENGTH, 30, 1, (0.5, 0.5))).sum()) == 15
    assert float((1 - spans_mask(LENGTH, 1)).sum()) == 1


def test_kinds_come_as_often_as_asked():
    mask = masks([0.0, 0.3, 0.7], [40] * 2000)
    share = float((mask.sum(dim=1) == 0).float().mean())
    assert abs(share - (0.3 + 0.7 / 41)) < 0.04


def test_draws_repeat_with_pythons_stream_alone():
    before = torch.get_rng_state()
    assert torch.equal(masks([0.3, 0.3, 0.2, 0.2], [40, 30, 20], 5), masks([0.3, 0.3, 0.2, 0.2], [40, 30, 20], 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_refuses_other_numbers_of_kinds():
    with pytest.raises(ValueError, match="needs 3 or 4 numbers, got 2"):
        masks([0.5, 0.5], [40])


def test_kept_path():
    from stable_audio_tools.models.inpainting import random_inpaint_mask as kept

    assert kept is random_inpaint_mask
