"""Model configs of conditional diffusion models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

from stable_audio_tools.config.base import Component, PositiveInt, Strict, part_mistakes
from stable_audio_tools.config.model.base import ModelConfig
from stable_audio_tools.config.model.conditioning import INJECTED_IDS, ConditioningModel, demo_conflicts, unknown_ids, wrong_widths
from stable_audio_tools.config.model.parts import (
    PretransformBlock,
    audio_of,
    backbone_multiple,
    denoised_conflicts,
    first_value,
    product_of,
    ratio_of,
)
from stable_audio_tools.config.training.arc import ARC
from stable_audio_tools.config.training.diffusion import DiffusionCondTraining
from stable_audio_tools.families import BACKBONES, OBJECTIVES, SHIFTS
from stable_audio_tools.registry import Mistake


class ModularLocalCond(Strict):
    """A local condition that may be absent."""

    id: str
    dim: PositiveInt


SAMPLING_VERSIONS = ("0.0.19", "0.0.20")


NEW_NETWORK_KEYS = ("local_add_cond_dim", "timestep_features_type", "timestep_features_dim", "timestep_features_logsnr", "norm_type")


class DiffusionBlock(Component):
    """The denoising network, and how conditions reach it.

    ``sampling_version`` says whose numbers generation has where the versions of the reference differ: guidance (0.0.20 projects it), the
    grid of flow samplers, and masks of negative conditions. Without it, it is 0.0.20 for configs that say something only that version
    knows, and 0.0.19 for all others.
    """

    family: ClassVar[str] = "BACKBONES"
    diffusion_objective: str = "v"
    cross_attention_cond_ids: list[str] = []
    global_cond_ids: list[str] = []
    input_concat_ids: list[str] = []
    prepend_cond_ids: list[str] = []
    local_add_cond_ids: list[str] = []
    modular_local_cond_configs: list[ModularLocalCond] = []
    distribution_shift_options: dict[str, Any] | None = None
    sampling_distribution_shift_options: dict[str, Any] | None = None
    mask_padding_attention: bool = False
    use_effective_length_for_schedule: bool = False
    sampling_version: Literal["0.0.19", "0.0.20"] | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from objective_conflicts(self.diffusion_objective, self.config)
        if self.mask_padding_attention and self.is_registered and not self.fact("hides_padding"):
            text = f"a {self.type!r} network cannot hide padding from itself; only {', '.join(BACKBONES.names(hides_padding=True))} can"
            yield Mistake(("mask_padding_attention",), text, "conflict")
        for key in ("distribution_shift_options", "sampling_distribution_shift_options"):
            given = getattr(self, key)
            if given is not None:
                name, options = shift_of(given)
                yield from part_mistakes(SHIFTS, name, (key, "type"), options, (key,))

    def ids(self) -> dict[str, list[str]]:
        """Conditions by the key that lists them."""
        keys = ("cross_attention_cond_ids", "global_cond_ids", "input_concat_ids", "prepend_cond_ids", "local_add_cond_ids")
        return {key: getattr(self, key) for key in keys}

    def version(self) -> str:
        """`sampling_version`, or what follows from the other keys."""
        if self.sampling_version is not None:
            return self.sampling_version
        attention = self.config.get("attn_kwargs")
        is_new = (
            self.local_add_cond_ids or self.modular_local_cond_configs or self.sampling_distribution_shift_options is not None
            or self.mask_padding_attention or self.use_effective_length_for_schedule or "type" in (self.distribution_shift_options or {})
            or any(key in self.config for key in NEW_NETWORK_KEYS)
            or (isinstance(attention, Mapping) and cast("Mapping[str, Any]", attention).get("qk_norm") == "rms")
        )  # fmt: skip
        return SAMPLING_VERSIONS[bool(is_new)]


def objective_conflicts(objective: str, config: Mapping[str, Any]) -> Iterator[Mistake]:
    """Where model and network do not name the same, known objective."""
    yield from part_mistakes(OBJECTIVES, objective, ("diffusion_objective",), None, ())
    inner = config.get("diffusion_objective", objective)
    if inner != objective:
        yield Mistake(
            ("config", "diffusion_objective"), f"is {inner!r}, but diffusion_objective beside config is {objective!r}", "conflict"
        )


def shift_of(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of a distribution shift. Without ``type`` it is the one that version 0.0.19 knew."""
    return options.get("type", "full"), {key: value for key, value in options.items() if key != "type"}


class DiffusionCondModel(Strict):
    """``model`` of a conditional diffusion model."""

    diffusion: DiffusionBlock
    io_channels: PositiveInt
    pretransform: PretransformBlock | None = None
    conditioning: ConditioningModel | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._id_conflicts()
        yield from self._cond_width_conflicts()
        yield from self._channel_conflicts()
        yield from self._concat_conflicts()
        for index, name in enumerate(self.diffusion.global_cond_ids):
            block = next((block for block in (self.conditioning.configs if self.conditioning else ()) if block.id == name), None)
            if block is not None and block.fact("steps") == "many" and block.value("max_length") != 1:
                text = f"{name!r} is a sequence (a {block.type!r} conditioner), but a global condition is one vector"
                yield Mistake(("diffusion", "global_cond_ids", index), text, "conflict")

    def _concat_conflicts(self) -> Iterator[Mistake]:
        ids, channels = self.diffusion.input_concat_ids, self.diffusion.value("input_concat_dim")
        if any(name not in [*INJECTED_IDS, *(self.conditioning.ids() if self.conditioning else [])] for name in ids):
            return  # reported elsewhere
        if channels is not None and bool(ids) != bool(channels):
            is_set = "input_concat_dim" in self.diffusion.config
            text = f"{', '.join(ids)} are concatenated (input_concat_ids)" if ids else "input_concat_ids is empty"
            text = f"is {channels}, but {text}" if is_set else f"needs config.input_concat_dim, which is {channels}"
            yield Mistake(("diffusion", "config", "input_concat_dim") if is_set else ("diffusion", "input_concat_ids"), text, "conflict")
            return
        steps = [block.fact("steps") for block in (self.conditioning.configs if self.conditioning else ()) if block.id in ids]
        if ids and channels and len(steps) == len(ids) and all(type(step) is int for step in steps) and sum(steps) != channels:
            text = f"is {channels}, but {', '.join(ids)} have {sum(steps)} channels to concatenate (one for each step of an embedding)"
            yield Mistake(("diffusion", "config", "input_concat_dim"), text, "conflict")

    def _id_conflicts(self) -> Iterator[Mistake]:
        yield from unknown_ids(self.conditioning, "diffusion", self.diffusion.ids())

    def _cond_width_conflicts(self) -> Iterator[Mistake]:
        diffusion = self.diffusion
        key, _ = first_value(diffusion, "cond_token_dim", "context_embedding_features") or ("cond_token_dim", None)
        ids = {key: diffusion.cross_attention_cond_ids, "prepend_cond_dim": diffusion.prepend_cond_ids}
        yield from wrong_widths(self.conditioning, "diffusion", diffusion, ids)
        if self.conditioning is None:
            return
        widths = self.conditioning.widths()
        ids = diffusion.global_cond_ids
        key, wanted = first_value(diffusion, "global_cond_dim", "context_features") or ("", None)
        if wanted is not None and ids and all(name in widths for name in ids) and sum(widths[name] for name in ids) != wanted:
            total = " + ".join(str(widths[name]) for name in ids)
            yield Mistake(
                ("diffusion", "config", key),
                f"is {wanted}, but global_cond_ids {', '.join(ids)} have {total} channels",
                "conflict",
            )

    def _channel_conflicts(self) -> Iterator[Mistake]:
        yield from denoised_conflicts(self.pretransform, self.diffusion, self.io_channels)

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return product_of(ratio_of(self.pretransform), backbone_multiple(self.diffusion))


class DiffusionCondConfig(ModelConfig):
    """A conditional diffusion model."""

    model_type: Literal["diffusion_cond"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionCondModel
    training: DiffusionCondTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        is_latent = self.training is not None and self.training.pre_encoded
        return audio_of(self.model.pretransform, None if is_latent else self.model.io_channels)

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.training is not None and self.training.arc is not None:
            yield from self._arc_conflicts(self.training.arc)
        demo = self.training.demo if self.training else None
        if demo is not None and not demo.demo_cond_from_batch:
            yield from demo_conflicts(self.model.conditioning, demo.demo_cond)

    def _arc_conflicts(self, arc: ARC) -> Iterator[Mistake]:
        diffusion = self.model.diffusion
        if diffusion.diffusion_objective == "v":
            yield Mistake(("training", "arc"), 'needs a flow: diffusion_objective "rectified_flow" or "rf_denoiser", not "v"', "conflict")
        if diffusion.is_registered and diffusion.type != "dit" and arc.use_model_as_discriminator:
            text = f"is true, but scores are made from the blocks of a 'dit', and this is a {diffusion.type!r}"
            yield Mistake(("training", "arc", "use_model_as_discriminator"), text, "conflict")
        depth, layer = diffusion.value("depth"), arc.discriminator.dit_hidden_layer
        if arc.use_model_as_discriminator and type(depth) is int and layer >= depth:
            text = f"is {layer}, but the model has blocks 0 to {depth - 1}"
            yield Mistake(("training", "arc", "discriminator", "dit_hidden_layer"), text, "conflict")

    def is_length_fixed(self) -> bool:
        ratio = ratio_of(self.model.pretransform)
        return self.model.diffusion.fact("multiple_keys") == ("patch_size",) and bool(ratio) and (self.sample_size or 0) % (ratio or 1) == 0
