"""Losses as modules over a dict: weights, masks, decay, and what checkpoints keep of them."""

import pytest
import torch
from torch import nn

from stable_audio_tools.training.losses import (
    AuralossLoss,
    L1Loss,
    LossWithTarget,
    MSELoss,
    MultiLoss,
    TargetValueLoss,
    ValueLoss,
)

A, B = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 4.0, 7.0]]])
INFO = {"a": A, "b": B, "value": torch.tensor(3.0), "mask": torch.tensor([[True, True, False]])}


class Difference(nn.Module):
    def forward(self, x, y):
        return (x - y).sum()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (ValueLoss("value", "v", 2.0), 6.0),
        (TargetValueLoss("value", 5.0, "t", weight=0.5), 1.0),
        (L1Loss("a", "b", weight=3.0), 6.0),
        (L1Loss("a", "b", mask_key="mask"), 1.0),
        (MSELoss("a", "b"), 20 / 3),
        (MSELoss("a", "b", mask_key="mask"), 2.0),
        (MSELoss("a", "b", mask_key="no such mask"), 20 / 3),
        (LossWithTarget(Difference(), "a", "b", "d"), -6.0),
        (AuralossLoss(Difference(), "a", "b", "d"), 6.0),
    ],
)
def test_values(loss, expected):
    assert float(loss(INFO)) == pytest.approx(expected)


def test_a_mask_of_frames_holds_for_all_channels():
    info = {"a": torch.zeros(2, 3, 4), "b": torch.ones(2, 3, 4), "mask": torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])}
    info["b"][0, :, 1:] = 100
    assert float(MSELoss("a", "b", mask_key="mask")(info)) == 1


def test_the_kth_call_in_training_has_decayed_k_times():
    loss = ValueLoss("value", "v", 2.0, decay=0.5)
    assert [float(loss(INFO)) for _ in range(3)] == [3.0, 1.5, 0.75]
    assert float(loss.eval()(INFO)) == 0.75, "validation does not count"
    resumed = ValueLoss("value", "v", 2.0, decay=0.5)
    resumed.load_state_dict(loss.state_dict())
    assert float(resumed(INFO)) == 0.375


def test_without_decay_the_weight_is_the_configs_and_not_the_checkpoints():
    loss = ValueLoss("value", "v", 2.0)
    loss.load_state_dict({"weight": torch.tensor(9.0)})
    assert float(loss(INFO)) == 6.0


def test_decay_between_forward_and_backward_is_harmless():
    loss = ValueLoss("x", "v", decay=0.5)
    x = torch.tensor(1.0, requires_grad=True)
    first, second = loss({"x": x}), loss({"x": x})
    (first + second).backward()
    assert float(x.grad) == 0.75


def test_several_terms_add_up_by_name():
    losses = MultiLoss([L1Loss("a", "b", name="l1"), ValueLoss("value", "v", 2.0), ValueLoss("value", "v", 1.0)])
    total, terms = losses(INFO)
    assert float(total) == 11.0 and {name: float(term) for name, term in terms.items()} == {"l1": 2.0, "v": 9.0}
    assert set(losses.state_dict()) == {f"losses.{index}.weight" for index in range(3)}
    assert float(MultiLoss([])({})[0]) == 0


def test_a_name_that_is_missing_is_an_error():
    with pytest.raises(KeyError, match="reals"):
        MultiLoss([L1Loss("reals", "b")])(INFO)
