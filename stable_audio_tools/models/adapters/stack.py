"""AdapterStack: adapters in use on a model, each with a strength."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.adapters.changes import Change, Weights
from stable_audio_tools.models.adapters.files import AdapterFile, base_hash, read_adapter
from stable_audio_tools.models.adapters.interchange import WEIGHTS
from stable_audio_tools.models.adapters.targets import LAYERS, is_normalised
from stable_audio_tools.models.layers.conv import own_weight_norm
from stable_audio_tools.registry import closest

logger = logging.getLogger(__name__)


@dataclass
class _Loaded:
    """An adapter in use."""

    file: AdapterFile
    changes: dict[str, Change]
    strength: float


class AdapterStack:
    """Adapters in use on a model, and the model's own weights.

    The model's layers hold ``W + sum of strength * (adapted W - W)``, computed whenever a strength changes: generating is as fast as
    without an adapter, strengths act continuously for every kind of adapter, and the order does not matter. At strength 0 the layers hold
    the model's own weights, bit for bit. Those of adapted layers are kept beside, which needs as much memory again as these layers.

    Args:
        model: The model. Move it where you like, also afterwards, but load no other weights into it while adapters are in use.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._loaded: dict[str, _Loaded] = {}
        self._bases: dict[str, Weights] = {}
        self._merged: list[_Loaded] = []
        self._merged_bases: dict[str, Weights] | None = None

    @property
    def strengths(self) -> dict[str, float]:
        """Strengths by name, in the order of loading."""
        return {name: loaded.strength for name, loaded in self._loaded.items()}

    def file(self, name: str) -> AdapterFile:
        """The file that an adapter was loaded from."""
        return self._get(name).file

    def load(self, file: str | Path | AdapterFile, strength: float = 1.0, *, name: str | None = None) -> str:
        """Use an adapter.

        Args:
            file: Its file.
            strength: 0 is not at all, 1 as it was trained; other numbers, also negative ones, weaken, exaggerate or turn it around.
            name: What to call it; the file's name if not given.

        Returns:
            Its name.

        Raises:
            CheckpointError: If it is no adapter, does not fit the model, or changes nothing; the message names the keys.
            ConfigError: If an adapter of this name is in use.
        """
        adapter = (file if isinstance(file, AdapterFile) else read_adapter(file)).named_for(self._model)
        name = name or _name_of(Path(adapter.path))
        if name in self._loaded:
            raise ConfigError(f"an adapter named {name!r} is in use already; unload it, or call this one something else (name=...)")
        layers = self._layers_of(adapter)
        kept = {layer: self._bases.get(layer) or weights_of(module) for layer, module in layers.items()}
        self._compare_base(adapter, kept)
        changes = {layer: adapter.change(layer, module, kept[layer].weight) for layer, module in layers.items()}
        require_change(adapter, ((changes[layer], kept[layer]) for layer in layers))
        for layer, base in kept.items():
            if layer not in self._bases:
                norm = None if base.norm is None else (base.norm[0].clone(), base.norm[1].clone())
                self._bases[layer] = Weights(base.weight.clone(), None if base.bias is None else base.bias.clone(), norm)
        self._loaded[name] = _Loaded(adapter, changes, 0.0)
        self.set_strength(strength, name)
        return name

    def set_strength(self, strength: float, name: str | None = None) -> None:
        """Set how much an adapter does; without a name, all of them."""
        touched: set[str] = set()
        for loaded in self._loaded.values() if name is None else [self._get(name)]:
            if loaded.strength != strength:
                loaded.strength = float(strength)
                touched |= set(loaded.changes)
        self._apply(touched)

    def unload(self, name: str | None = None) -> None:
        """Stop using an adapter; without a name, all of them. The model's own weights come back exactly."""
        names = list(self._loaded) if name is None else [name]
        touched = {layer for each in names for layer in self._get(each).changes}
        for each in names:
            del self._loaded[each]
        self._apply(touched)
        used = {layer for loaded in self._loaded.values() for layer in loaded.changes}
        self._bases = {layer: base for layer, base in self._bases.items() if layer in used}

    def merge(self, *, keep_base: bool = False) -> None:
        """Make the adapted weights the model's own: nothing is in use afterwards, and strengths are fixed.

        Args:
            keep_base: Keep the weights from before, so that `unmerge` brings them back exactly. Otherwise their memory is free.
        """
        if not self._loaded:
            raise ConfigError("there is no adapter to merge; load one first")
        self._merged = list(self._loaded.values())
        self._merged_bases = self._bases if keep_base else None
        self._loaded, self._bases = {}, {}

    def unmerge(self) -> None:
        """Take out what the last `merge` put in. Without the weights from before, it is subtracted, within rounding.

        Raises:
            ConfigError: If nothing is merged, other adapters are in use, or what is in cannot be told without the weights from before.
        """
        if not self._merged or self._loaded:
            what = "unload the adapters in use first" if self._loaded else "nothing is merged"
            raise ConfigError(f"cannot unmerge: {what}")
        if self._merged_bases is not None:
            for layer, base in self._merged_bases.items():
                self._write(layer, base)
        else:
            self._subtract()
        self._merged, self._merged_bases = [], None

    # ---- how ---------------------------------------------------------------------------------------------------------------------

    def _get(self, name: str) -> _Loaded:
        if name not in self._loaded:
            guess = closest(name, list(self._loaded))
            known = f"did you mean {guess!r}?" if guess else f"in use: {', '.join(self._loaded) or 'none'}"
            raise ConfigError(f"no adapter named {name!r} is in use; {known}")
        return self._loaded[name]

    def _layers_of(self, adapter: AdapterFile) -> dict[str, nn.Module]:
        modules = dict(self._model.named_modules())
        unknown = [name for name in adapter.tensors if not isinstance(modules.get(name), tuple(LAYERS.values()))]
        if unknown:
            found = f"layers that the model does not have: {_some(unknown)}"
            raise CheckpointError(f"{adapter.path}: does not fit the model: it changes {found} ({len(adapter.tensors)} in the file)")
        normalised = [name for name in adapter.tensors if is_normalised(modules[name])]
        if normalised:
            raise CheckpointError(
                f"{adapter.path}: {_some(normalised)}: the weight of such a layer is computed by weight normalisation here; collapse it "
                "first with remove_weight_norm_from_model"
            )
        return {name: modules[name] for name in adapter.tensors}

    def _compare_base(self, adapter: AdapterFile, kept: dict[str, Weights]) -> None:
        wanted = adapter.header.get("base_hash")
        found = base_hash({layer: base.weight for layer, base in kept.items()}) if wanted else None
        if wanted and found and wanted != found:
            logger.warning(
                "%s: was made for other weights (%s) than this model's (%s); between a model and one distilled from it that can work",
                adapter.path, wanted, found,
            )  # fmt: skip

    @torch.no_grad()
    def _apply(self, layers: Iterable[str]) -> None:
        """Give layers the weights that the strengths ask for."""
        for layer in layers:
            base = self._bases[layer]
            active = [(each.changes[layer], each.strength) for each in self._loaded.values() if layer in each.changes and each.strength]
            self._write(layer, _mixed(base.on(self._weight(layer).device), active) if active else base)

    @torch.no_grad()
    def _subtract(self) -> None:
        changes = [(change, loaded.strength, layer) for loaded in self._merged for layer, change in loaded.changes.items()]
        if not all(change.is_additive for change, _, _ in changes):
            kinds = ", ".join(sorted({loaded.file.kind for loaded in self._merged}))
            raise ConfigError(
                f"cannot unmerge: what an adapter of kind {kinds} has added depends on the weights from before, which were not kept "
                "(keep_base=True keeps them); load the model again"
            )
        for change, strength, layer in changes:
            now = weights_of(self._model.get_submodule(layer)).float()
            added = change.adapted(Weights(torch.zeros_like(now.weight), None)).weight
            self._write(layer, Weights(now.weight - strength * added, now.bias))

    def _weight(self, layer: str) -> torch.Tensor:
        return cast("Any", self._model.get_submodule(layer)).weight

    @torch.no_grad()
    def _write(self, layer: str, weights: Weights) -> None:
        module: Any = self._model.get_submodule(layer)
        normalised = own_weight_norm(module)
        if normalised is None:
            module.weight.copy_(weights.weight)
        elif weights.norm is None:
            normalised.set_weight(weights.weight)
        else:
            for own, value in zip((normalised.weight_g, normalised.weight_v), weights.norm, strict=True):
                own.copy_(value)
        if weights.bias is not None:
            module.bias.copy_(weights.bias)


def stack_of(model: nn.Module) -> AdapterStack:
    """The model's adapters in use; made when it is asked for first."""
    stack = getattr(model, "adapters", None)
    if not isinstance(stack, AdapterStack):
        stack = AdapterStack(model)
        model.adapters = stack  # pyright: ignore[reportArgumentType]
    return stack


def weights_of(layer: nn.Module) -> Weights:
    """A layer's own weights: the tensors themselves, but for a weight that is computed by weight normalisation."""
    module: Any = layer
    normalised = own_weight_norm(layer)
    norm = None if normalised is None else (normalised.weight_g.detach(), normalised.weight_v.detach())
    return Weights(module.weight.detach(), None if module.bias is None else module.bias.detach(), norm)


def _mixed(base: Weights, active: list[tuple[Change, float]]) -> Weights:
    """Weights in float32, plus what each change does to them, times its strength."""
    base = base.float()
    weight, bias = base.weight.clone(), base.bias
    for change, strength in active:
        adapted = change.adapted(base)
        weight += strength * (adapted.weight - base.weight)
        if bias is not None and adapted.bias is not None and adapted.bias is not base.bias and base.bias is not None:
            bias = bias + strength * (adapted.bias - base.bias)
    return Weights(weight, bias)


@torch.no_grad()
def require_change(adapter: AdapterFile, parts: Iterable[tuple[Change, Weights]]) -> None:
    """Refuse an adapter that changes no layer.

    Args:
        adapter: For its name and keys.
        parts: For each layer, the change and the layer's own weights.

    Raises:
        CheckpointError: Naming the keys.
    """
    for change, base in parts:
        base = base.float()
        adapted = change.adapted(base)
        # A rotation by nothing need not come out as exactly the identity: a change counts from above rounding.
        is_other = float((adapted.weight - base.weight).abs().max()) > 1e-6 * float(base.weight.abs().max())
        if is_other or (base.bias is not None and adapted.bias is not None and not torch.equal(adapted.bias, base.bias)):
            return
    keys = _some([f"{layer}.{name}" for layer, named in adapter.tensors.items() for name in named])
    raise CheckpointError(f"{adapter.path}: changes nothing: the model would be the same with it; was it trained? Its keys: {keys}.")


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def _name_of(path: Path) -> str:
    """What to call an adapter: ``peft`` gives all files one name, in a folder that tells them apart."""
    return path.parent.name if path.name in WEIGHTS and path.parent.name else path.stem
