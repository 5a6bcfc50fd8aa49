"""Attaching an adapter to a model in order to train it: ``peft`` replaces the chosen layers by its own, around them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.models.adapters.changes import fill, inject, parts_of
from stable_audio_tools.models.adapters.files import AdapterFile
from stable_audio_tools.models.adapters.targets import choose_layers
from stable_audio_tools.models.layers.conv import own_weight_norm

Attached = dict[str, dict[str, nn.Parameter]]


def attach(
    model: nn.Module, kind: str, config: Mapping[str, Any], targets: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> Attached:
    """Attach a fresh adapter, which changes nothing yet. Everything else in the model is frozen.

    Weight-normalised layers that it is attached to are plain ones from then on: their weight is fixed, so nothing is to be normalised.

    Args:
        model: The model, with its weights.
        kind: One of ``sat list adapters``.
        config: Options of the kind.
        targets: Patterns of names of layers; None is every layer of the network that the kind can adapt.
        exclude: Patterns of names that are left out.

    Returns:
        The adapter's parameters: layer -> name -> parameter.

    Raises:
        ConfigError: If a pattern matches no layer, or a layer's sizes do not suit the kind.
    """
    layers = choose_layers(model, kind, targets, exclude)
    if kind == "dora":
        _refuse_empty_rows(layers)
    for name, layer in layers.items():
        if own_weight_norm(layer) is not None:
            model.set_submodule(name, _plain(layer))
    peft_config = ADAPTERS.build(kind, config)
    peft_config.target_modules = "|".join(re.escape(name) for name in layers)
    model.requires_grad_(False)
    inject(peft_config, model)
    attached = {name: parts_of(model.get_submodule(name)) for name in layers}
    for named in attached.values():
        for parameter in named.values():
            parameter.requires_grad_(True)
    return attached


def _plain(layer: Any) -> nn.Module:
    """A convolution of torch that computes what a weight-normalised one does: peft makes its own layers of the type that it finds."""
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "bias": layer.bias is not None}
    weight = layer.weight.detach()
    made: Any = nn.utils.skip_init(kind, layer.in_channels, layer.out_channels, layer.kernel_size, device=weight.device, **options)
    made.weight = nn.Parameter(weight)
    made.bias = layer.bias
    return made


def _refuse_empty_rows(layers: Mapping[str, Any]) -> None:
    """A row of zeros has no direction: its adapted weights would be NaN."""
    empty = [name for name, layer in layers.items() if bool((layer.weight.detach().flatten(1).norm(dim=1) == 0).any())]
    if empty:
        names = f"{', '.join(empty[:4])}{' ...' if len(empty) > 4 else ''}"
        raise ConfigError(
            f"adapter 'dora': {names}: the weight has rows of zeros, which have no direction to change; is the model trained "
            "(--pretrained-ckpt-path)? If it is, leave the layer out with exclude, or take 'lora'"
        )


class RandomLayers:
    """Lets a part of the adapted layers do without the adapter in training, another one in every batch. In eval mode all have it.

    Args:
        model: The model.
        attached: What was attached to it.
        share: Of the layers that do without; at least one has it always, or there would be nothing to learn.
    """

    def __init__(self, model: nn.Module, attached: Attached, share: float) -> None:
        self._share = share
        self._layers: list[Any] = [model.get_submodule(name) for name in attached]
        for layer in self._layers:
            layer.is_left_out = False
            layer.register_forward_pre_hook(_obey)

    def draw(self, key: str) -> None:
        """Choose anew. The same ``key`` gives the same layers, so that a resumed run goes on as it would have."""
        stream = random.Random(key)
        left_out = [stream.random() < self._share for _ in self._layers]
        if all(left_out):
            left_out[stream.randrange(len(left_out))] = False
        for layer, is_left_out in zip(self._layers, left_out, strict=True):
            layer.is_left_out = is_left_out


def _obey(layer: Any, args: Any) -> None:
    layer._disable_adapters = layer.training and layer.is_left_out


def start_from(attached: Attached, model: nn.Module, adapter: AdapterFile, kind: str) -> None:
    """Give an attached adapter the weights of a file.

    Raises:
        CheckpointError: If the file is of another kind, or of other layers or sizes.
    """
    if adapter.kind != kind:
        raise CheckpointError(f"{adapter.path}: is an adapter of kind {adapter.kind!r}, but the one to train is {kind!r}")
    if set(adapter.tensors) != set(attached):
        extra, missing = sorted(set(adapter.tensors) - set(attached)), sorted(set(attached) - set(adapter.tensors))
        what = [f"{text}: {', '.join(names[:3])}" for text, names in (("only the file has", extra), ("it lacks", missing)) if names]
        raise CheckpointError(f"{adapter.path}: is for other layers than those to train; {'; '.join(what)}")
    for name, tensors in adapter.tensors.items():
        try:
            fill(model.get_submodule(name), tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{adapter.path}: {name}: {error}") from error


def tensors_of(attached: Attached) -> dict[str, dict[str, Tensor]]:
    """Copies of an attached adapter's weights."""
    return {layer: {name: tensor.detach().cpu().clone() for name, tensor in named.items()} for layer, named in attached.items()}
