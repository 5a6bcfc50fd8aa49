"""Going on with training checkpoints of the reference's layout."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models import create_model_from_config

SCHEDULE = {"type": "InverseLR", "config": {"inv_gamma": 10}}
ADAM = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}, "scheduler": SCHEDULE}


class Last(pl.Callback):
    """What the run has when it begins."""

    def on_train_start(self, trainer, pl_module):
        self.weights = {key: value.detach().clone() for key, value in pl_module.state_dict().items()}
        self.step = trainer.global_step
        self.states = [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]


def foreign(path, target, config, *, prefix="diffusion"):
    """The checkpoint as the reference would have written it: weights twice, no random states, and all parameters in the optimizer."""
    ours = torch.load(path, weights_only=True)
    state = dict(ours["state_dict"])
    covered = "model." if prefix == "diffusion" else ""
    for key in list(state):
        if key.startswith(f"{prefix}.{covered}"):
            state[f"{prefix}_ema.online_model.{key.removeprefix(f'{prefix}.{covered}')}"] = state[key]
    state["losses.losses.0.weight"] = torch.ones(())
    theirs = {"state_dict": state, "epoch": 0, "global_step": ours["global_step"], "pytorch-lightning_version": "2.1.0", "callbacks": {},
              "loops": {"fit_loop": {}}, "optimizer_states": ours["optimizer_states"], "lr_schedulers": ours["lr_schedulers"]}  # fmt: skip
    if prefix == "diffusion":
        parameters = dict(create_model_from_config(config).named_parameters(prefix=prefix))
        names = [key for key in state if key in parameters]
        trained = [name for name in names if parameters[name].requires_grad]
        assert len(trained) < len(names)
        old = theirs["optimizer_states"][0]
        numbers = {name: number for number, name in enumerate(trained)}
        moved = {names.index(name): old["state"][number] for name, number in numbers.items() if number in old["state"]}
        group = {**old["param_groups"][0], "params": list(range(len(names)))}
        theirs["optimizer_states"] = [{"state": moved, "param_groups": [group]}]
    torch.save(theirs, target)
    return target


@pytest.fixture(scope="module")
def finished(train_briefly, tiny_diffusion):
    last = Last()
    config = tiny_diffusion(optimizer_configs={"diffusion": ADAM})
    path = train_briefly(config, max_steps=4).checkpoint
    train_briefly(config, max_steps=5, ckpt_path=path, callbacks=[last])
    return config, path, last


def test_weights_averages_step_optimizer_and_schedule_go_on(train_briefly, finished, tmp_path, caplog):
    config, path, expected = finished
    last = Last()
    result = train_briefly(config, max_steps=6, ckpt_path=foreign(path, tmp_path / "epoch=0-step=4.ckpt", config), callbacks=[last])
    assert (last.step, result.step) == (4, 6)
    assert all(torch.equal(last.weights[key], value) for key, value in expected.weights.items())
    assert last.rates == expected.rates
    for number, state in expected.states[0]["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(last.states[0]["state"][number][key]), torch.as_tensor(value))
    told = (
        "goes on from step 4 with its weights and averages and optimizer states; the data begin anew; not used: diffusion_ema.online_model"
    )
    assert told in caplog.text and "losses.losses" in caplog.text


def test_optimizer_states_that_do_not_fit_are_left_and_said(train_briefly, finished, tmp_path, caplog):
    config, path, expected = finished
    target = foreign(path, tmp_path / "epoch=0-step=4.ckpt", config)
    content = torch.load(target, weights_only=True)
    content["optimizer_states"][0]["param_groups"][0]["params"].append(9999)
    torch.save(content, target)
    last = Last()
    train_briefly(config, max_steps=5, ckpt_path=target, callbacks=[last])
    assert last.step == 4 and last.states[0]["state"] == {} and last.rates == pytest.approx(expected.rates)
    assert "but not its optimizer states (it updates " in caplog.text


def test_an_autoencoder_with_an_adversary_goes_on(train_briefly, tiny_autoencoder, tmp_path, caplog):
    config = tiny_autoencoder(adversary=True)
    path = train_briefly(config, max_steps=4).checkpoint
    last = Last()
    target = foreign(path, tmp_path / "epoch=0-step=4.ckpt", config, prefix="autoencoder")
    assert train_briefly(config, max_steps=7, ckpt_path=target, callbacks=[last]).step == 7
    assert last.step == 4 and all(state["state"] for state in last.states)


def test_another_model_is_refused(train_briefly, finished, tmp_path):
    config, path, _ = finished
    target = foreign(path, tmp_path / "epoch=0-step=4.ckpt", config)
    content = torch.load(target, weights_only=True)
    del content["state_dict"]["diffusion.model.model.to_timestep_embed.0.bias"]
    torch.save(content, target)
    with pytest.raises(
        CheckpointError, match=r"does not fit this run: its model lacks diffusion\.model\.model\.to_timestep_embed\.0\.bias"
    ):
        train_briefly(config, ckpt_path=target)
