"""Runs of another program, which write training checkpoints in the published layout.

Of the library they use the model and its losses; loop, optimizers, schedules, averages and files are their own, in plain torch.
"""

import copy
import random
from contextlib import nullcontext

import numpy as np
import torch

from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config

PREFIXES = {"autoencoder": "autoencoder", "diffusion_autoencoder": "diffae", "lm": "model"}  # of others it is "diffusion"
SCHEDULE = {"inv_gamma": 10.0, "power": 0.5, "warmup": 0.5, "final_lr": 0.0}
RATE = 1e-3


class Trainer:
    """What a training wrapper asks of the trainer that it is in."""

    optimizers = ()
    global_step = 0
    is_last_batch = True
    loggers = ()


def draw_as_in(step, wrapper):
    """Random numbers that depend on the step only."""
    torch.manual_seed(1000 + step)
    random.seed(1000 + step)
    np.random.seed(1000 + step)
    wrapper.renew_streams()


class Run:
    """A run from random weights on one batch.

    Args:
        config: Of the model.
        dataset_config: Whose items are all the same.
        schedule: Whether there is one.
    """

    def __init__(self, config, dataset_config, *, schedule=True):
        self.config, self.kind, self.step = config, config["model_type"], 0
        self.prefix = PREFIXES.get(self.kind, "diffusion")
        torch.manual_seed(0)
        self.model = create_model_from_config(config)
        self.wrapper = wrapper = create_training_wrapper_from_config(config, self.model)
        wrapper.log = wrapper.log_dict = lambda *args, **kwargs: None
        wrapper._trainer, wrapper.play = Trainer(), self.play
        wrapper.train()
        shape = {"sample_size": config["sample_size"], "sample_rate": config["sample_rate"], "audio_channels": config["audio_channels"]}
        self.batch = next(iter(create_dataloader_from_config(dataset_config, batch_size=2, num_workers=0, shuffle=False, **shape)))
        self.average = copy.deepcopy(self.averaged_part())
        self.average_step = 0
        self.schedule = SCHEDULE if schedule else None
        self.parameters = self.numbered_parameters()  # name, parameter; by optimizer
        kind = torch.optim.Adam if self.kind in ("diffusion_uncond", "diffusion_autoencoder") else torch.optim.AdamW
        options = {"betas": (0.9, 0.95), "weight_decay": 0.1} if self.kind == "lm" else {}
        self.optimizers = [kind([parameter for _, parameter in named], lr=RATE, **options) for named in self.parameters]
        self.clocks = [0] * len(self.optimizers)
        self.set_rates()

    # ---- what is trained, in the order of published runs -----------------------------------------------------------------------------

    def averaged_part(self):
        return self.model.model if self.prefix == "diffusion" else self.model

    def numbered_parameters(self):
        """All of the model, also what is frozen; then all of the adversary."""
        players = [list(self.model.named_parameters(prefix=self.prefix))]
        adversary = getattr(self.wrapper, "discriminator", None)
        if self.kind == "autoencoder" and adversary is not None:
            players.append(list(adversary.named_parameters(prefix="discriminator")))
        elif adversary is not None:  # a whole model, with a pretransform that is never used, and a head
            here = dict(adversary.named_parameters())
            body = [(f"discriminator.{name}", here.get(name, value)) for name, value in self.model.named_parameters()]
            players.append(body + list(self.wrapper.discriminator_head.named_parameters(prefix="discriminator_head")))
        return players

    def set_rates(self):
        if self.schedule is None:
            return
        for clock, optimizer in zip(self.clocks, self.optimizers, strict=True):
            shape = self.schedule
            decay = RATE * (1 + clock / shape["inv_gamma"]) ** -shape["power"]
            optimizer.param_groups[0]["lr"] = (1 - shape["warmup"] ** (clock + 1)) * max(shape["final_lr"], decay)

    # ---- steps -------------------------------------------------------------------------------------------------------------------------

    def train(self, steps):
        for _ in range(steps):
            self.wrapper._trainer.global_step = self.step
            draw_as_in(self.step, self.wrapper)
            loss = self.wrapper.training_step(self.batch, 0)
            if loss is not None and loss.requires_grad:  # one player, whose step is left to the loop
                self.update(0, loss)
            self.step += 1

    def play(self, player, batch_idx, terms_of, others_rest=None):
        """The step of one of two players."""
        with others_rest or nullcontext():
            terms, _ = terms_of()
            self.update(player, torch.stack([term.float() for term in terms.values()]).sum())

    def update(self, player, loss):
        optimizer = self.optimizers[player]
        optimizer.zero_grad()
        loss.backward()
        if player == 0:
            self.follow()
        optimizer.step()
        self.clocks[player] += 1
        self.set_rates()

    @torch.no_grad()
    def follow(self):
        """One update of the average: copied twice, then averaged with a decay that grows."""
        pairs = list(zip(self.average.parameters(), self.averaged_part().parameters(), strict=True))
        pairs += [pair for pair in zip(self.average.buffers(), self.averaged_part().buffers(), strict=True) if pair[0].is_floating_point()]
        options = {"beta": 0.9999, "power": 0.75, **(self.config["training"].get("ema") or {})}
        self.average_step += 1
        age = self.average_step - 2
        decay = min(max(1 - (1 + age) ** -options["power"], 0.0), options["beta"]) if age > 0 else 0.0
        for average, online in pairs:
            if self.average_step <= 2:
                average.copy_(online)
            if self.average_step > 2 or age == 0:
                average.lerp_(online, 1 - decay)

    # ---- the file ----------------------------------------------------------------------------------------------------------------------

    def state_dict(self, *, twice):
        """What is stored, in the order in which it is; ``twice``: the online weights beside the average, too."""
        state, wrapper, prefix = {}, self.wrapper, self.prefix

        def add(module, at):
            state.update({f"{at}.{key}": value.clone() for key, value in module.state_dict().items()})

        is_arc = hasattr(wrapper, "discriminator_head")
        if is_arc:
            state["model_last_layer"] = self.model.model.model.transformer.project_out.weight.detach().clone()
        add(self.model, prefix)
        if wrapper.ema is not None:
            state[f"{prefix}_ema.initted"] = torch.tensor([float(self.average_step > 1)])
            state[f"{prefix}_ema.step"] = torch.tensor([self.average_step])
            if twice:
                add(self.averaged_part(), f"{prefix}_ema.online_model")
            add(self.average, f"{prefix}_ema.ema_model")
        if self.kind == "autoencoder":
            for name in ("discriminator", "sdstft", "lrstft", "losses_gen", "losses_disc", "teacher_model"):
                if getattr(wrapper, name, None) is not None:
                    add(getattr(wrapper, name), name)
        else:
            state["losses.losses.0.weight"] = torch.ones(())
        for name in ("teacher_model", "discriminator") if is_arc else ():
            module = getattr(wrapper, name)
            for key, value in self.model.state_dict().items():
                state[f"{name}.{key}"] = module.state_dict().get(key, value).clone()
        if is_arc:
            add(wrapper.discriminator_head, "discriminator_head")
        return state

    def save(self, path, *, twice=None, leaves_out_frozen=False):
        """Write the file.

        Args:
            path: Where to.
            twice: Whether the online weights are stored beside the average; None is as published runs of the kind do.
            leaves_out_frozen: Whether optimizers know only what is trained, as in later versions.
        """
        twice = self.kind in ("autoencoder", "diffusion_uncond", "lm") if twice is None else twice
        states = []
        for optimizer, named in zip(self.optimizers, self.parameters, strict=True):
            state = optimizer.state_dict()
            group = {key: value for key, value in state["param_groups"][0].items() if key != "decoupled_weight_decay"}  # of newer versions
            kept = [number for number, (_, value) in enumerate(named) if value.requires_grad or not leaves_out_frozen]
            entries = {new: state["state"][old] for new, old in enumerate(kept) if old in state["state"]}
            initial = {"initial_lr": RATE} if self.schedule else {}
            states.append({"state": entries, "param_groups": [{**group, **initial, "params": list(range(len(kept)))}]})
        clocks = [
            {
                **self.schedule, "base_lrs": [RATE], "last_epoch": clock, "verbose": False, "_step_count": clock + 1,
                "_get_lr_called_within_step": False, "_last_lr": [optimizer.param_groups[0]["lr"]],
            }
            for clock, optimizer in zip(self.clocks, self.optimizers, strict=True)
            if self.schedule
        ]  # fmt: skip
        content = {
            "epoch": 3, "global_step": self.step, "pytorch-lightning_version": "2.1.0", "state_dict": self.state_dict(twice=twice),
            "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"ModelCheckpoint{'every_n_train_steps': 5}": {"best_model_path": ""}},
            "optimizer_states": states, "lr_schedulers": clocks, "MixedPrecision": {"scale": 1024.0}, "model_config": self.config,
        }  # fmt: skip
        torch.save(content, path)
        return path

    def remembered(self):
        """What the optimizers remember, by name."""
        return {
            name: optimizer.state[value]
            for parameters, optimizer in zip(self.parameters, self.optimizers, strict=True)
            for name, value in parameters
            if value in optimizer.state
        }
