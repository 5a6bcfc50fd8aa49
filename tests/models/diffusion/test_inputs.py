"""ConditioningInputs: casting, dropping, doubling."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.diffusion.inputs import ConditioningInputs, channels_of, require_conditions, sequence_of, vector_of

FULL = ConditioningInputs(
    cross_attn=torch.randn(3, 4, 5),
    cross_attn_mask=torch.ones(3, 4).bool(),
    global_cond=torch.randn(3, 6),
    input_concat=torch.randn(3, 2, 7),
    prepend=torch.randn(3, 2, 8),
    prepend_mask=torch.ones(3, 2).bool(),
)


def test_cast_leaves_masks_alone():
    half = FULL.to(torch.float16)
    assert {half.cross_attn.dtype, half.global_cond.dtype, half.input_concat.dtype, half.prepend.dtype} == {torch.float16}
    assert half.cross_attn_mask.dtype == half.prepend_mask.dtype == torch.bool
    assert ConditioningInputs().to(torch.float16) == ConditioningInputs()


@pytest.mark.parametrize(
    ("inputs", "guidable"),
    [
        (ConditioningInputs(cross_attn=FULL.cross_attn), True),
        (ConditioningInputs(prepend=FULL.prepend), True),
        (ConditioningInputs(global_cond=FULL.global_cond, input_concat=FULL.input_concat), False),
    ],
)
def test_guidance_needs_something_to_leave_out(inputs, guidable):
    assert inputs.is_guidable is guidable


def test_dropping_zeroes_whole_items_and_leaves_the_rest():
    torch.manual_seed(0)
    inputs = ConditioningInputs(
        cross_attn=torch.ones(2000, 3, 1),
        prepend=torch.ones(2000, 2, 1),
        global_cond=torch.ones(2000, 1),
        input_concat=torch.ones(2000, 1, 1),
    )
    dropped = inputs.dropped(0.3)
    cross, prepend = dropped.cross_attn[..., 0], dropped.prepend[..., 0]
    assert torch.equal(cross, cross[:, :1].expand(-1, 3)) and torch.equal(prepend, prepend[:, :1].expand(-1, 2))
    rates = [1 - float(cross[:, 0].mean()), 1 - float(prepend[:, 0].mean())]
    assert all(abs(rate - 0.3) < 4 * (0.21 / 2000) ** 0.5 for rate in rates)
    both = float(((1 - cross[:, 0]) * (1 - prepend[:, 0])).mean())
    assert abs(both - 0.09) < 0.03  # independent
    assert dropped.global_cond is inputs.global_cond and dropped.input_concat is inputs.input_concat


def test_dropping_draws_first_for_cross_attention_then_for_the_prepended():
    torch.manual_seed(0)
    expected = [torch.bernoulli(torch.full((3, 1, 1), 0.5)) for _ in range(2)]
    torch.manual_seed(0)
    dropped = FULL.dropped(0.5)
    assert torch.equal(dropped.cross_attn, FULL.cross_attn * (1 - expected[0]))
    assert torch.equal(dropped.prepend, FULL.prepend * (1 - expected[1]))


@pytest.mark.parametrize(("probability", "share"), [(0.0, 1), (1.0, 0)])
def test_dropping_none_and_all(probability, share):
    dropped = FULL.dropped(probability)
    assert torch.equal(dropped.cross_attn, FULL.cross_attn * share) and torch.equal(dropped.prepend, FULL.prepend * share)


def test_doubling_puts_the_null_second():
    doubled = FULL.with_null()
    assert torch.equal(doubled.prepend[:3], FULL.prepend) and doubled.prepend.shape[0] == 6 and not doubled.prepend[3:].any()
    assert doubled.cross_attn is FULL.cross_attn  # shorter than the batch: the rest attends to nothing
    for name in ("cross_attn_mask", "global_cond", "input_concat", "prepend_mask"):
        assert torch.equal(getattr(doubled, name), torch.cat([getattr(FULL, name)] * 2))
    assert ConditioningInputs().with_null() == ConditioningInputs()


def test_doubling_leaves_what_both_halves_share():
    local = ConditioningInputs(local_add=torch.randn(3, 2, 7), modular_local={"a": torch.randn(3, 1, 7)}, padding_mask=torch.ones(3, 7) > 0)
    doubled = local.with_null()
    assert doubled.local_add is local.local_add and doubled.modular_local is local.modular_local
    assert doubled.padding_mask.shape == (6, 7)


def test_keys_and_values_without_the_negative_ones():
    heads = {"k": torch.randn(6, 1, 4, 5), "v": torch.randn(6, 1, 4, 5)}
    inputs = ConditioningInputs(keys_values=[heads, None])
    assert inputs.is_guidable
    own = inputs.without_negative(3).keys_values
    assert torch.equal(own[0]["v"], heads["v"][:3]) and own[1] is None


def test_negative_condition_replaces_zeros_where_its_mask_says():
    negative = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.equal(FULL.with_null(negative).cross_attn[3:], negative.float())
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    for kind in (torch.bool, torch.float32):
        null = FULL.with_null(negative, mask.to(kind)).cross_attn[3:]
        assert torch.equal(null, negative.float() * mask[..., None])


# ---- conditions for other numbers of items ---------------------------------------------------------------------------------------------


def test_what_is_for_one_item_is_for_all():
    one, two = torch.randn(1, 3, 4), torch.randn(2, 5, 4)
    embedding, mask = sequence_of({"a": (one, torch.ones(1, 3)), "b": (two, None)}, ["a", "b"])
    assert torch.equal(embedding, torch.cat([one.expand(2, -1, -1), two], dim=1)) and mask.shape == (2, 8)
    assert vector_of({"a": (one[:, :1], None), "b": (two[:, 0], None)}, []) is None
    assert vector_of({"a": (one[:, 0], None), "b": (two[:, 0], None)}, ["a", "b"]).shape == (2, 8)
    assert channels_of({"a": (one,), "b": (torch.randn(2, 2, 4),)}, ["a", "b"]).shape == (2, 5, 4)
    inputs = ConditioningInputs(cross_attn=one, global_cond=two[:, 0], padding_mask=torch.ones(1, 6), modular_local={"m": one})
    fitted = inputs.for_batch(2)
    assert torch.equal(fitted.cross_attn, one.expand(2, -1, -1)) and fitted.global_cond is inputs.global_cond
    assert fitted.padding_mask.shape == (2, 6) and fitted.modular_local["m"].shape[0] == 2


def test_numbers_of_items_that_disagree():
    conditions = {"a": (torch.zeros(2, 1, 4), None), "b": (torch.zeros(3, 1, 4), None), "c": (torch.zeros(1, 1, 4), None)}
    with pytest.raises(ConfigError, match="same number of items, or for one item that stands for all; got 'a' for 2, 'b' for 3, 'c' for 1"):
        require_conditions(conditions, ["a", "b", "c"])
    require_conditions(conditions, ["a", "c"])
    with pytest.raises(ConfigError, match="global_cond is for 2 items, but the batch has 3; give one for each, or one for all"):
        ConditioningInputs(global_cond=torch.zeros(2, 4)).for_batch(3)
    with pytest.raises(ConfigError, match="cross_attn is for 1 items, but the batch has 2; give one for each"):
        ConditioningInputs(keys_values=[{"k": torch.zeros(1, 2, 3, 4)}]).for_batch(2)
