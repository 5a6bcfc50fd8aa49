"""ARCTrainingWrapper: makes a flow model generate in few steps, by an adversary that compares what it makes with data.

Source: Novack et al. 2025, arXiv:2505.08175.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from stable_audio_tools.config.model import DiffusionCondConfig
from stable_audio_tools.config.training.diffusion import DiffusionCondTraining
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import ARC_HEADS, WRAPPERS
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.objectives import objective
from stable_audio_tools.sampling.timesteps import TimestepSampler
from stable_audio_tools.training.arc.copies import freeze_after, model_beside, transformer_of
from stable_audio_tools.training.arc.losses import relativistic_loss, sensitivity
from stable_audio_tools.training.arc.warmup import Trajectories, follow
from stable_audio_tools.training.base import of_every_process, of_this_process, padding_mask_of, unbatch
from stable_audio_tools.training.diffusion.cond import DiffusionCondTrainingWrapper, Example, Metadata
from stable_audio_tools.training.diffusion.loss import unexplained
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.players import DISCRIMINATOR, GENERATOR, AlternatingWrapper, listed
from stable_audio_tools.training.schedulers import create_scheduler_from_config

MIN_TRIMMED_FRAMES = 128
ROLLED = "prompt"  # the condition that contrastive losses exchange
Terms = dict[str, Tensor]


class Jumps(NamedTuple):
    """What a generator makes in one step.

    Attributes:
        made: (B, D, L)
        wanted: What it should be, (B, D, L).
        t: Times that it started from, (B,).
    """

    made: Tensor
    wanted: Tensor
    t: Tensor


class ARCTrainingWrapper(AlternatingWrapper, DiffusionCondTrainingWrapper):
    """Post-trains a `ConditionedDiffusionModelWrapper` of a flow.

    Each batch makes one optimizer step: of the adversary in every ``disc_update_interval``-th, else of the model, which is called the
    generator here. A step of one player computes no gradients of the other. Teacher and adversary have conditioners of their own.

    Args:
        model: The generator, which was trained as a flow.
        training: The ``training`` section of its config, with ``arc``.
    """

    reproduced = "what the generator makes in one step (judged by the warm-up; the adversary is not)"
    generator_times: TimestepSampler
    discriminator_times: TimestepSampler

    def __init__(self, model: ConditionedDiffusionModelWrapper, training: DiffusionCondTraining) -> None:
        super().__init__(model, training)
        if training.arc is None:
            raise ConfigError("training.arc: required for adversarial post-training, and missing")
        self.arc = arc = training.arc
        self.log_every_n_steps = training.log_every_n_steps
        self.objective = objective(model.diffusion_objective)
        self.add_timesteps("generator_times", arc.noise_dist.generator)
        self.add_timesteps("discriminator_times", arc.noise_dist.discriminator)
        self.teacher_model: ConditionedDiffusionModelWrapper | None = None
        if arc.use_model_as_teacher or arc.teacher_model is not None:
            key = "teacher_model_ckpt" if arc.teacher_model is None else "teacher_model"
            self.teacher_model = model_beside(model, arc.teacher_model, arc.teacher_model_ckpt, key=key)
            self.teacher_model.requires_grad_(False).eval()
        key = "discriminator_base_ckpt" if arc.discriminator_base_model is None else "discriminator_base_model"
        self.discriminator = model_beside(model, arc.discriminator_base_model, arc.discriminator_base_ckpt, key=key)
        body, adversary = transformer_of(self.discriminator), arc.discriminator
        freeze_after(body, adversary.dit_hidden_layer)
        if adversary.freeze_backbone:
            self.discriminator.requires_grad_(False)
        self.discriminator_head: nn.Module = ARC_HEADS.build(adversary.type, adversary.config, in_channels=body.transformer.dim)
        self._trajectories: Trajectories | None = None
        self._stored: Mapping[str, Any] | None = None
        self._is_judged = False

    # ---- what Lightning asks for --------------------------------------------------------------------------------------------------

    def frozen_modules(self) -> Iterator[nn.Module]:
        yield from super().frozen_modules()
        if self.teacher_model is not None:
            yield self.teacher_model

    @property
    def has_idle_parameters(self) -> bool:
        return True  # those of the player whose turn it is not

    def configure_optimizers(self) -> Any:
        """One optimizer for each player; schedulers as configured, for both or none."""
        configs = self.training_config.optimizer_configs
        if configs is None or configs.discriminator is None:
            raise ConfigError("training.optimizer_configs: arc needs one for 'diffusion' and one for 'discriminator'")
        adversary = chain(self.discriminator.named_parameters(), self.discriminator_head.named_parameters(prefix="head"))
        players = ((configs.diffusion, self.diffusion.named_parameters()), (configs.discriminator, adversary))
        optimizers = [create_optimizer_from_config(config.optimizer.model_dump(), parameters) for config, parameters in players]
        schedulers = [
            create_scheduler_from_config(config.scheduler.model_dump(), optimizer)
            for (config, _), optimizer in zip(players, optimizers, strict=True)
            if config.scheduler is not None
        ]
        return (optimizers, schedulers) if schedulers else optimizers

    def _adversary_parameters(self) -> Iterable[nn.Parameter]:
        return chain(self.discriminator.parameters(), self.discriminator_head.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._is_warming_up:
            state = self._trajectories.state_dict() if self._trajectories is not None else None
            checkpoint["arc_trajectories"] = of_every_process(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._stored = of_this_process(checkpoint.get("arc_trajectories"))

    # ---- the players --------------------------------------------------------------------------------------------------------------

    def generate(self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any], example: Example, *, cfg_dropout_prob: float = 0.0) -> Tensor:
        """The generator's jump from latents at times (B,) to data: (B, D, L) -> (B, D, L)."""
        options: dict[str, Any] = {"cfg_dropout_prob": cfg_dropout_prob} if cfg_dropout_prob else {}
        prediction = self.diffusion(x_t, t, cond=conditions, **options, **example.hidden)
        return self.objective.denoised(x_t, prediction, t[:, None, None])

    def score(self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any], example: Example) -> Tensor:
        """The adversary's scores (B, K, L') of latents (B, D, L) at times (B,): high is real."""
        block = self.arc.discriminator.dit_hidden_layer
        hidden = self.discriminator(x_t, t, cond=conditions, exit_layer_ix=block, **example.hidden)  # (B, P + L, E)
        return self.discriminator_head(hidden.transpose(1, 2))

    def _noised(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self.objective.add_noise(data, noise, t).x_t

    def rehearsals(self, batch: Any) -> Sequence[Callable[[], Any]]:
        """A step of either player, with everything of the batch."""
        reals, metadata = unbatch(batch)
        example = self.example_of(metadata, self.latents_of(reals))
        players = ((self.generator_terms, self._adversary_parameters()), (self.discriminator_terms, self.diffusion.parameters()))
        return [partial(self._rehearse, terms_of, list(others), example) for terms_of, others in players]

    def _rehearse(self, terms_of: Callable[[Example], Terms], others: Iterable[nn.Parameter], example: Example) -> None:
        states = {attribute: getattr(self, attribute).state_dict() for attribute in self._timesteps}
        with _frozen(others):
            terms_of(example)
        for attribute, state in states.items():
            getattr(self, attribute).load_state_dict(state)

    # ---- steps --------------------------------------------------------------------------------------------------------------------

    @property
    def _is_warming_up(self) -> bool:
        return self._is_judged or self.global_step < self.arc.ode_warmup.warmup_steps

    def begin_overfit(self, batch: Any) -> None:
        """From here on every step is one of the warm-up, with the same paths: an adversary's losses do not fall when it is well."""
        self._is_judged = True
        self.jumps(self._example(batch))

    def reproduction_error(self, batch: Any) -> Tensor:
        jumps = self.jumps(self._example(batch))
        return unexplained(jumps.made, jumps.wanted, jumps.t, self.diffusion.diffusion_objective)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One optimizer step of the player whose turn it is."""
        interval = self.arc.disc_update_interval
        if self._is_warming_up:
            player, terms_of = GENERATOR, self.warmup_terms
        elif self.global_step % interval == interval - 1:
            player, terms_of = DISCRIMINATOR, self.discriminator_terms
        else:
            player, terms_of = GENERATOR, self.generator_terms
        others = self._adversary_parameters() if player == GENERATOR else self.diffusion.parameters()
        return self.play(player, batch_idx, lambda: (terms_of(self._example(batch)), {}), _frozen(others))

    def clipped(self, optimizer: torch.optim.Optimizer) -> float:
        is_generators = listed(self.optimizers())[GENERATOR].optimizer is optimizer
        return self.gradient_clip_val or (self.training_config.clip_grad_norm if is_generators else 0.0)

    def _example(self, batch: Any) -> Example:
        reals, metadata = unbatch(batch)
        latents = self.latents_of(reals)
        trim = self.training_config.trim_config
        if trim is not None and trim.trim_prob > 0 and not self._is_warming_up and random.random() < trim.trim_prob:
            metadata, latents = self._trimmed(metadata, latents)
        return self.example_of(metadata, latents)

    def _trimmed(self, metadata: Metadata, latents: Tensor) -> tuple[Metadata, Tensor]:
        """Cut to the length of a random item, at least 128 frames, and what says where padding is with it."""
        length = latents.shape[-1]
        content = padding_mask_of(metadata, length, latents.device)
        lengths = [length] * len(latents) if content is None else content.sum(dim=1).tolist()
        step = int(cast("Any", self.diffusion.model).length_multiple)
        wanted = max(random.choice(lengths) - 1, MIN_TRIMMED_FRAMES)
        wanted = min(-(-wanted // step) * step, length)
        if content is not None:
            metadata = [{**item, "padding_mask": mask[:wanted]} for item, mask in zip(metadata, content, strict=True)]
        return metadata, latents[..., :wanted]

    def warmup_terms(self, example: Example) -> Terms:
        """How far the generator's jumps end from where the teacher arrives; without a teacher, from the data."""
        made, wanted, t = self.jumps(example)
        error = (made.float() - wanted.float()).square().flatten(1).mean(dim=1)  # (B,)
        return {"ode_mse_loss": (error / t.clamp(min=1e-4) ** self.arc.denoiser_loss_t_exponent).mean()}

    def jumps(self, example: Example) -> Jumps:
        """The generator's jumps from noised latents, or from the paths of the teacher, if there is one."""
        warmup = self.arc.ode_warmup
        if self.teacher_model is None:
            t = self.generator_times(len(example.latents), device=self.device)
            x_t = self._noised(example.latents, torch.randn_like(example.latents), t)
        else:
            paths = self._paths(example)
            if paths is None or (self.global_step % warmup.refresh_rate == 0 and not self._is_judged):
                told = self.conditions(self.teacher_model, example)
                paths = follow(self.teacher_model, told, example, steps=warmup.sampling_steps, cfg_scale=warmup.cfg)
            self._trajectories, example = paths, paths.example
            x_t, t = paths.draw()
        return Jumps(self.generate(x_t, t, self.conditions(self.diffusion, example), example), example.latents, t)

    def _paths(self, example: Example) -> Trajectories | None:
        """The paths that are there, also in a checkpoint."""
        if self._trajectories is None and self._stored is not None:
            self._trajectories = Trajectories.from_state_dict(self._stored, example.latents.device)
        self._stored = None
        return self._trajectories

    def generator_terms(self, example: Example) -> Terms:
        """What the generator minimises: how much more real the data seem than what it makes, seen at the same time and noise."""
        self._trajectories = None
        latents = example.latents
        told = self.conditions(self.diffusion, example)
        t, noise = self.generator_times(len(latents), device=self.device), torch.randn_like(latents)
        dropout = self.training_config.cfg_dropout_prob
        fakes = self.generate(self._noised(latents, noise, t), t, told, example, cfg_dropout_prob=dropout)
        t, noise = self.discriminator_times(len(latents), device=self.device), torch.randn_like(latents)
        with torch.no_grad():
            seen = self.conditions(self.discriminator, example)
            if self.arc.forward_sample_prob > 0 and random.random() < self.arc.forward_sample_prob:
                latents = self.generate(torch.randn_like(latents), torch.ones_like(t), told, example)
            real = self.score(self._noised(latents, noise, t), t, seen, example)
        fake = self.score(self._noised(fakes, noise, t), t, seen, example)
        return {"generator_loss": self.arc.discriminator.weights.generator * relativistic_loss(fake, real)}

    def discriminator_terms(self, example: Example) -> Terms:
        """What the adversary minimises: real above fake, the right prompt above a wrong one, and scores that are smooth."""
        options, latents = self.arc.discriminator, example.latents
        with torch.no_grad():
            t, noise = self.generator_times(len(latents), device=self.device), torch.randn_like(latents)
            fakes = self.generate(self._noised(latents, noise, t), t, self.conditions(self.diffusion, example), example)
            t, noise = self.discriminator_times(len(latents), device=self.device), torch.randn_like(latents)
            real_t, fake_t = (self._noised(data, noise, t) for data in (latents, fakes))
        seen = self.conditions(self.discriminator, example)
        real, fake = (self.score(data, t, seen, example) for data in (real_t, fake_t))
        weight = options.weights.discriminator
        terms = {"discriminator_loss": weight * relativistic_loss(real, fake, hinge=options.disc_hinge_loss)}
        if options.contrastive and len(latents) > 1:
            wrong = self.conditions(self.discriminator, example._replace(metadata=rolled(example.metadata)))
            mismatched = self.score(real_t, t, wrong, example)
            terms["contrastive_loss"] = weight * options.weights.contrastive * relativistic_loss(real, mismatched)
        if options.include_grad_penalties:
            pairs = [(real_t, real), (fake_t, fake)] if options.include_r2_penalty else [(real_t, real)]
            changes = [sensitivity(lambda x: self.score(x, t, seen, example), data, scores) for data, scores in pairs]
            terms["gradient_penalty"] = options.grad_penalty_weight * torch.stack(changes).mean()
        return terms


def rolled(metadata: Metadata) -> list[dict[str, Any]]:
    """Every item with the prompt of the next one, the last with that of the first.

    Raises:
        DataError: If an item has none.
    """
    prompts = [item.get(ROLLED) for item in metadata]
    if None in prompts:
        raise DataError(f"training.arc.discriminator.contrastive needs a {ROLLED!r} in the metadata of every item")
    return [{**item, ROLLED: prompt} for item, prompt in zip(metadata, [*prompts[1:], prompts[0]], strict=True)]


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No gradients for these."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@WRAPPERS.register("arc")
def wrap_arc(model: ConditionedDiffusionModelWrapper, config: DiffusionCondConfig) -> ARCTrainingWrapper:
    """The training wrapper of adversarial post-training, for any conditional diffusion model with ``training.arc``."""
    assert config.training is not None
    return ARCTrainingWrapper(model, config.training)
