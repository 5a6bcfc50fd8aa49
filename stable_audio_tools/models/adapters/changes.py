"""What an adapter does to one layer: from the layer's own weights to the adapted ones.

The forms that can be trained are computed by ``peft``, whose layer is built around an empty copy of the model's. The model keeps its own
layers: generating costs nothing more than without an adapter.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.families import ADAPTERS

NAME = "default"  # peft's name of the one adapter that its layers have here
EPSILON = 1e-12


class Weights(NamedTuple):
    """Weight (out, in, ...) and bias (out,) of a layer; ``g`` and ``v`` of one whose weight is normalised by them."""

    weight: Tensor
    bias: Tensor | None
    norm: tuple[Tensor, Tensor] | None = None

    def float(self) -> Weights:
        """In float32."""
        return Weights(self.weight.float(), None if self.bias is None else self.bias.float())

    def on(self, device: torch.device) -> Weights:
        """On a device."""
        return Weights(self.weight.to(device), None if self.bias is None else self.bias.to(device))


class Change(Protocol):
    """The contract: a map from the weights of a layer to the adapted ones, at full strength."""

    is_additive: bool  # adds to the weight what does not depend on it

    def adapted(self, base: Weights) -> Weights:
        """The adapted weights in float32, from those of the layer in float32, which are left alone."""
        ...


class PeftChange:
    """The change of an adapter of a registered kind.

    Args:
        kind: Its name.
        config: Its options.
        layer: The layer, for its sizes.
        tensors: Its weights, by peft's names for them.

    Raises:
        CheckpointError: If the tensors are not those of such an adapter on such a layer.
    """

    def __init__(self, kind: str, config: Mapping[str, Any], layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.is_additive: bool = ADAPTERS.part(kind).facts["additive"]
        holder = nn.Module()
        holder.layer = _empty_copy(layer)
        with torch.random.fork_rng(devices=[]):  # peft draws weights, which are replaced
            inject(ADAPTERS.build(kind, config), holder)
        self._layer: Any = holder.layer
        fill(self._layer, tensors)
        self._forget_weights()

    @torch.no_grad()
    def adapted(self, base: Weights) -> Weights:
        layer = self._layer.to(base.weight.device)
        inner = layer.get_base_layer()
        inner.weight.data = base.weight.clone()
        if base.bias is not None:
            inner.bias.data = base.bias.clone()
        layer.merge()
        result = Weights(inner.weight.data, base.bias if inner.bias is None else inner.bias.data)
        layer.merged_adapters.clear()
        getattr(layer, "_caches", {}).clear()
        self._forget_weights()
        return result

    def _forget_weights(self) -> None:
        inner = self._layer.get_base_layer()
        inner.weight.data = torch.empty(0)
        if inner.bias is not None:
            inner.bias.data = torch.empty(0)


class LowRankChange:
    """Low-rank change with trained lengths of rows, columns or both: the forms of other programs that peft does not compute.

    Args:
        down: (r, in...)
        up: (out, r)
        scale: Of their product.
        rows: (out,) Lengths of the rows.
        columns: (in,) Lengths of the columns.
        is_bias_scaled: The bias is stretched like the row that it belongs to.
    """

    def __init__(
        self,
        down: Tensor,
        up: Tensor,
        scale: float,
        *,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        is_bias_scaled: bool = False,
    ) -> None:
        self.down, self.up, self.scale = down.float().flatten(1), up.float().flatten(1), scale
        self.rows, self.columns = (None if lengths is None else lengths.float().flatten() for lengths in (rows, columns))
        self.is_bias_scaled = is_bias_scaled
        self.is_additive = rows is None and columns is None

    @torch.no_grad()
    def adapted(self, base: Weights) -> Weights:
        device = base.weight.device
        weight = base.weight.flatten(1) + self.scale * (self.up @ self.down).to(device)  # (out, in)
        bias = base.bias
        if self.rows is not None:
            stretch = self.rows.to(device) / (weight.norm(dim=1) + EPSILON)
            weight = weight * stretch[:, None]
            bias = bias * stretch if bias is not None and self.is_bias_scaled else bias
        if self.columns is not None:
            weight = weight * (self.columns.to(device) / (weight.norm(dim=0) + EPSILON))
        return Weights(weight.view_as(base.weight), bias)


# ---- peft's layers ----------------------------------------------------------------------------------------------------------------


def inject(config: Any, model: nn.Module) -> None:
    """Let peft replace the layers that its config names.

    Raises:
        ConfigError: If peft refuses, with its reason.
    """
    import peft

    try:
        with _quiet():
            peft.inject_adapter_in_model(config, model, adapter_name=NAME)
            _dilate(model)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"adapter: {error}") from error


def _dilate(model: nn.Module) -> None:
    """Give convolutions their dilation: peft (0.21) makes a LoRA's convolution without that of the layer that it is for."""
    from peft.tuners.lora.layer import Conv1d, Conv2d

    for module in model.modules():
        if isinstance(module, (Conv1d, Conv2d)):
            inner: Any = module.lora_A[NAME]
            inner.dilation = module.get_base_layer().dilation


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")  # of CUDA extensions that it can do without
        yield


def parts_of(layer: nn.Module) -> dict[str, nn.Parameter]:
    """What peft's layer adds to the one inside it, by name."""
    added = {name: tensor for name, tensor in layer.named_parameters() if not name.startswith("base_layer.")}
    return {name.replace(f".{NAME}", "", 1): tensor for name, tensor in added.items()}


def fill(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give peft's layer its weights.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    parts = parts_of(layer)
    if set(parts) != set(tensors):
        raise CheckpointError(f"has {', '.join(sorted(tensors)) or 'nothing'} instead of {', '.join(sorted(parts))}")
    for name, tensor in tensors.items():
        if parts[name].shape != tensor.shape:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(parts[name].shape)}")
        with torch.no_grad():
            parts[name].copy_(tensor)


def _empty_copy(layer: nn.Module) -> nn.Module:
    """A layer of the same sizes, whose weights are whatever memory holds."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, bias=bias)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    return nn.utils.skip_init(kind, layer.in_channels, layer.out_channels, layer.kernel_size, bias=bias)  # pyright: ignore[reportArgumentType]
