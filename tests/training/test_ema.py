"""The moving average, against its formula written out step by step."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.ema import EMA


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def move(self):
        with torch.no_grad():
            self.weight += 1
            self.mean -= 1
            self.count += 1


def formula(values, *, beta=0.9999, power=0.75, inv_gamma=1.0, update_every=1, update_after_step=1):
    """The average after each call, for the values that the model has at each call."""
    average, is_initialised = values[0], False
    for step, value in enumerate(values):
        if step % update_every == 0:
            if step <= update_after_step:
                average = value
            else:
                if not is_initialised:
                    average, is_initialised = value, True
                epoch = max(step + 1 - update_after_step - 1, 0)
                decay = 0.0 if epoch <= 0 else min(max(1 - (1 + epoch / inv_gamma) ** -power, 0.0), beta)
                average = average + (1 - decay) * (value - average)
        yield average


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.5},
        {"power": 2 / 3, "inv_gamma": 3.0},
        {"update_every": 3, "update_after_step": 5},
        {"beta": 0.99, "update_every": 10, "update_after_step": 10, "power": 2 / 3},
        {"update_after_step": 0},
    ],
)
def test_average_follows_the_formula(options):
    model = Model()
    ema = EMA(model, **options)
    weights, averages, means = [], [], []
    for _ in range(60):
        weights.append(float(model.weight[0].detach()))
        ema.update()
        averages.append(float(ema.ema_model.weight[0].detach()))
        means.append(float(ema.ema_model.mean[0]))
        model.move()
    assert averages == pytest.approx(list(formula(weights, **options)), abs=1e-12)
    assert means == pytest.approx(list(formula([-float(step) for step in range(60)], **options)), abs=1e-12)
    assert int(ema.ema_model.count) == 0, "whole numbers have no average"
    assert (int(ema.step), bool(ema.initted)) == (60, True)


def test_decay_warms_up_to_beta():
    ema = EMA(Model(), beta=0.9999)
    decays = [ema.decay_at(step) for step in range(0, 400_000, 1000)]
    assert decays[0] == 0 and decays == sorted(decays) and decays[-1] == 0.9999
    assert [ema.decay_at(step) for step in (0, 1, 2)] == [0, 0, 0]
    assert ema.decay_at(3) == pytest.approx(1 - 2**-0.75)
    ema.update()
    assert ema.decay == ema.decay_at(1)


def test_the_followed_model_is_no_part_of_it_and_is_left_alone():
    model = Model()
    before = copy.deepcopy(model.state_dict())
    ema = EMA(model)
    for _ in range(5):
        ema.update()
    assert set(ema.state_dict()) == {"initted", "step", "ema_model.weight", "ema_model.mean", "ema_model.count"}
    assert (ema.initted.shape, ema.initted.dtype, ema.step.shape, ema.step.dtype) == ((1,), torch.float32, (1,), torch.int64)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_it_stays_in_eval_mode():
    ema = EMA(Model().train())
    assert not ema.train().training and not ema.ema_model.training


def test_going_on_from_its_state_changes_nothing():
    model = Model()
    ema, other = EMA(model), None
    for step in range(20):
        ema.update()
        if other is not None:
            other.update()
            assert torch.equal(ema.ema_model.weight, other.ema_model.weight) and int(other.step) == int(ema.step)
        if step in (0, 1, 7):
            state = copy.deepcopy(ema.state_dict())
            other = EMA(Model())
            other._online = [model]
            other.update()  # it knows another step by heart
            other.load_state_dict(state)
        model.move()


def test_updating_reads_nothing_back_from_the_device(monkeypatch):
    """On a GPU, int(tensor) and bool(tensor) wait for everything that was queued before them."""
    ema = EMA(Model())
    ema.update()

    def refuse(self, *args):
        raise AssertionError("waits for the device")

    for name in ("__int__", "__bool__", "__float__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for _ in range(4):
        ema.update()
        assert ema.decay >= 0
    monkeypatch.undo()
    assert int(ema.step) == 5


def test_an_average_on_the_cpu_does_not_move_and_lends_its_weights():
    model = Model()
    ema = EMA(model)
    ema.configure(on_cpu=True, update_every=2, beta=0.5)
    assert (ema.update_every, ema.beta) == (2, 0.5)
    ema.to("meta")  # stands for a device; buffers go there, the average stays
    assert ema.ema_model.weight.device.type == "cpu" and ema.step.device.type == "meta"
    ema = EMA(model)
    ema.configure(on_cpu=True)
    for _ in range(4):
        ema.update()
        model.move()
    online, averaged = model.weight.detach().clone(), ema.ema_model.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(model.weight, averaged)
    assert torch.equal(model.weight, online) and not torch.equal(online, averaged)


@pytest.mark.filterwarnings("ignore")
def test_processes_do_not_send_the_average_which_may_be_elsewhere(tiny_diffusion):
    """Meta stands for the CPU beside a GPU: torch refuses models that are on two kinds of devices, unless it is told to ignore a part."""
    config = tiny_diffusion(ema={"on_cpu": True})
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    wrapper.ema.ema_model.to("meta")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        spread = DistributedDataParallel(wrapper)
        average = {name for name, _ in [*wrapper.named_parameters(), *wrapper.named_buffers()] if name.startswith("diffusion_ema.")}
        assert average and average <= spread.parameters_to_ignore
        assert all(name.startswith("diffusion_ema.") for name in spread.parameters_to_ignore)
    finally:
        dist.destroy_process_group()


def test_options_of_the_average_are_those_of_the_config(train_briefly, tiny_diffusion, tiny_autoencoder):
    wrapper = train_briefly(tiny_diffusion(ema={"beta": 0.9, "update_every": 3, "on_cpu": True}), demos=True).wrapper
    assert (wrapper.ema.beta, wrapper.ema.update_every, wrapper.ema.on_cpu, wrapper.ema.power) == (0.9, 3, True, 0.75)
    with pytest.raises(ConfigError, match=r"^training\.ema: there is no average of the weights: set use_ema to true"):
        train_briefly(tiny_autoencoder(use_ema=False, ema={"beta": 0.9}))
