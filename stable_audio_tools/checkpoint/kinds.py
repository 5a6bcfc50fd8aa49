"""Kinds of weights files: told apart by their keys, and made into one another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from stable_audio_tools.errors import CheckpointError

Kind = Literal["wrapped", "diffusion", "autoencoder", "lm", "adapter", "unknown"]
StateDict = dict[str, Tensor]

DESCRIPTIONS: Mapping[Kind, str] = {
    "wrapped": "a training checkpoint (wrapped, with optimizer states)",
    "diffusion": "a whole diffusion model (unwrapped)",
    "autoencoder": "an autoencoder (unwrapped)",
    "lm": "a language model (unwrapped)",
    "adapter": "an adapter (LoRA or the like)",
    "unknown": "a state dict of some other model",
}
MODELS: Mapping[Kind, str] = {"diffusion": "a diffusion model", "autoencoder": "an autoencoder"}
WANTED_BY: Mapping[Kind, str] = {
    "wrapped": "resume it with --ckpt-path of train.py, or make a model of it with unwrap_model.py",
    "diffusion": "--pretrained-ckpt-path of train.py and --ckpt-path of sat generate take it",
    "autoencoder": "--pretransform-ckpt-path takes it, or --pretrained-ckpt-path when training an autoencoder",
    "lm": "--pretrained-ckpt-path of train.py and --ckpt-path of sat generate take it",
    "adapter": "--lora of sat generate takes it, --adapter-from of train.py goes on with it, sat lora merge makes a model of it",
    "unknown": "",
}


ADAPTED = re.compile(r"\.(lora|hada|lokr|hira|oft|boft|hra)_")  # in all keys of an adapter


class WrappedLayout(NamedTuple):
    """Where a training wrapper keeps its model.

    Attributes:
        model: Prefix of the model's keys.
        ema: Prefix of the averaged copy.
        covers: Prefix of the model's keys that the average covers; empty for all.
    """

    model: str
    ema: str
    covers: str


WRAPPED_LAYOUTS = (
    WrappedLayout("autoencoder.", "autoencoder_ema.ema_model.", ""),
    WrappedLayout("diffusion.", "diffusion_ema.ema_model.", "model."),
    WrappedLayout("diffae.", "diffae_ema.ema_model.", ""),
    WrappedLayout("model.", "model_ema.ema_model.", ""),  # of a language model
)


BACKBONES_OF_A_MODEL = ("model.model.", "model.net.")  # the latter is Dance Diffusion's


class Checkpoint(NamedTuple):
    """A weights file.

    Attributes:
        path: Where it was read from.
        kind: What it is.
        state_dict: Its tensors, as stored.
        extra: What else a training checkpoint holds (``global_step``, ``model_config``, ...); empty for others.
    """

    path: str
    kind: Kind
    state_dict: StateDict
    extra: Mapping[str, Any]

    @property
    def description(self) -> str:
        """What it is, in words."""
        return DESCRIPTIONS[self.kind]

    def wrong_kind(self, wanted: str, flag: str) -> CheckpointError:
        """The error for a file of the wrong kind.

        Args:
            wanted: What should have been given.
            flag: The option it was given to.
        """
        hint = f"; {WANTED_BY[self.kind]}" if WANTED_BY[self.kind] else ""
        return CheckpointError(f"{self.path}: is {self.description}, but {flag} wants {wanted}{hint}")


def kind_of(state_dict: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> Kind:
    """What a state dict belongs to, judged by its keys."""
    keys = list(state_dict)
    tops = {key.split(".")[0] for key in keys}
    if "pytorch-lightning_version" in (extra or {}) or "optimizer_states" in (extra or {}):
        return "wrapped"
    if any(key.startswith(layout.ema) for key in keys for layout in WRAPPED_LAYOUTS):
        return "wrapped"
    if keys and all(ADAPTED.search(key) for key in keys):
        return "adapter"
    if "lm" in tops:
        return "lm"
    if any(key.startswith("model.lm.") for key in keys):
        return "wrapped"
    if {"encoder", "diffusion"} <= tops:  # a diffusion autoencoder
        return "diffusion"
    if {"encoder", "decoder"} <= tops:
        return "autoencoder"
    if "model" in tops and ("conditioner" in tops or "pretransform" in tops or any(key.startswith(BACKBONES_OF_A_MODEL) for key in keys)):
        return "diffusion"
    if keys and any(all(key.startswith(layout.model) for key in keys) for layout in WRAPPED_LAYOUTS if layout.model != "model."):
        return "wrapped"
    return "unknown"


def unwrap_state_dict(state_dict: Mapping[str, Tensor], *, use_ema: bool = True, path: str = "checkpoint") -> StateDict:
    """The model inside a training checkpoint.

    Args:
        state_dict: Of a training checkpoint.
        use_ema: Take averaged weights where there are some.
        path: For messages.

    Raises:
        CheckpointError: If no training wrapper of this library (or the reference's) wrote it.
    """
    for layout in WRAPPED_LAYOUTS:
        model = {key.removeprefix(layout.model): value for key, value in state_dict.items() if key.startswith(layout.model)}
        if not model:
            continue
        average = {
            layout.covers + key.removeprefix(layout.ema): value
            for key, value in state_dict.items()
            if use_ema and key.startswith(layout.ema)
        }
        unknown = sorted(set(average) - set(model))
        if unknown:
            raise CheckpointError(f"{path}: its averaged weights have keys that its model lacks: {some(unknown)}")
        return {**model, **average}
    tops = sorted({key.split(".")[0] for key in state_dict})
    raise CheckpointError(f"{path}: no model found in this training checkpoint; its keys begin with {some(tops)}")


def refuse_other_model(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> None:
    """Refuse the training checkpoint of another kind of model.

    Args:
        checkpoint: A training checkpoint.
        own: State dict of the model that the config describes, or of its training wrapper.

    Raises:
        CheckpointError: Saying what it is of.
    """
    found, wanted = _kind_inside(checkpoint.state_dict), _kind_inside(own)
    if found != wanted and found in MODELS and wanted in MODELS:
        raise CheckpointError(f"{checkpoint.path}: is a training checkpoint of {MODELS[found]}, but the config describes {MODELS[wanted]}")


def _kind_inside(state_dict: Mapping[str, Tensor]) -> Kind:
    """What the model is, whether it is wrapped or not."""
    kind = kind_of(state_dict)
    if kind not in ("wrapped", "unknown"):
        return kind
    prefix = next((layout.model for layout in WRAPPED_LAYOUTS if any(key.startswith(layout.model) for key in state_dict)), "")
    return kind_of({key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)})


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first few of several names, and how many there are."""
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
