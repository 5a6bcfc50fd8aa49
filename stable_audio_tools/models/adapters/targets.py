"""Which layers of a model are adapted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.utils import parametrize

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.models.layers.conv import WNConv1dSame, has_weight_norm, own_weight_norm

LAYERS: dict[str, type[nn.Module]] = {"Linear": nn.Linear, "Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d}
NETWORKS = ("lm", "model")  # where a model keeps what makes its sound
READ_BY_OWNER: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ("out_proj",),
    nn.TransformerEncoderLayer: ("linear1", "linear2"),  # in eval mode
}
RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def choose_layers(model: nn.Module, kind: str, targets: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The layers of a model that an adapter changes.

    Args:
        model: The model.
        kind: Kind of adapter.
        targets: Patterns of names (see `AdapterBlock`); None is every layer of the network that the kind can adapt.
        exclude: Patterns of names that are left out.

    Returns:
        Layers by dotted name.

    Raises:
        ConfigError: If a pattern matches no layer, a named layer is weight-normalised, or no layer is left.
    """
    allowed: Sequence[str] = ADAPTERS.part(kind).facts["layers"]
    layers = dict(adaptable(model, allowed))
    chosen = _named(model, layers, targets, kind) if targets is not None else _of_network(model, layers)
    skipped = [name for name in chosen if any(matches(pattern, name) for pattern in exclude)]
    chosen = {name: layer for name, layer in chosen.items() if name not in skipped}
    normalised = [name for name, layer in chosen.items() if is_normalised(layer)]
    if normalised and targets is not None:
        raise ConfigError(
            f"adapter targets: {', '.join(normalised[:4])}{' ...' if len(normalised) > 4 else ''}: the weight of such a layer is computed "
            "by weight normalisation, which an adapter cannot add to; collapse it first with remove_weight_norm_from_model (for a "
            "pretransform: --remove-pretransform-weight-norm post_load), or leave it out"
        )
    chosen = {name: layer for name, layer in chosen.items() if name not in normalised}
    if not chosen:
        raise ConfigError(f"adapter {kind!r}: no layer is left to adapt; it adapts {', '.join(allowed)} layers, without weight norm")
    return chosen


def adaptable(model: nn.Module, kinds: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Layers of some kinds, by name.

    Without grouped convolutions and those with padding of their own, and layers whose owner reads their weights instead of calling them.
    """
    types = tuple(LAYERS[kind] for kind in kinds)
    read_by_owner = {
        f"{name}.{child}"
        for name, module in model.named_modules()
        for owner, children in READ_BY_OWNER.items()
        if isinstance(module, owner)
        for child in children
    }
    for name, module in model.named_modules():
        if isinstance(module, types) and name not in read_by_owner and not _is_special(module):
            yield name, module


def _is_special(layer: nn.Module) -> bool:
    """Whether a convolution is not what an adapter of it could compute."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        return layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer, WNConv1dSame)
    return False


def is_normalised(layer: nn.Module) -> bool:
    """Whether a layer's weight is computed from others in every step, in a way that is not this library's."""
    return (has_weight_norm(layer) and own_weight_norm(layer) is None) or parametrize.is_parametrized(layer, "weight")


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches the dotted name of a layer.

    >>> matches("layers.[0-5].ff", "model.layers.3.ff.0"), matches("layers[0-1]", "model.layers.12.ff"), matches(".ff.", "layers.diff.0")
    (True, False, False)
    """
    return re.search(_expression(pattern), f".{name}.", re.IGNORECASE) is not None


def _expression(pattern: str) -> str:
    parts: list[str] = []
    end = 0
    for found in RANGE.finditer(pattern):
        low, high = sorted(map(int, found.groups()))
        parts += [_literal(pattern[end : found.start()]), rf"\.?(?<!\d)(?:{'|'.join(map(str, range(low, high + 1)))})(?!\d)"]
        end = found.end()
    return "".join([*parts, _literal(pattern[end:])])


def _literal(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("*"))


def _named(model: nn.Module, layers: dict[str, nn.Module], targets: Sequence[str], kind: str) -> dict[str, nn.Module]:
    for pattern in targets:
        if not any(matches(pattern, name) for name in layers):
            elsewhere = [name for name, module in model.named_modules() if name and matches(pattern, name)]
            allowed = ", ".join(ADAPTERS.part(kind).facts["layers"])
            if elsewhere:
                what = f"{elsewhere[0]} ({type(model.get_submodule(elsewhere[0])).__name__})"
                hint = f"what it matches is no layer that {kind!r} adapts ({allowed}), such as {what}"
            else:
                hint = f"layers are named like {', '.join(list(layers)[:3])}"
            raise ConfigError(f"adapter targets: no layer matches {pattern!r}; {hint}")
    return {name: layer for name, layer in layers.items() if any(matches(pattern, name) for pattern in targets)}


def _of_network(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    roots = [root for root in NETWORKS if isinstance(getattr(model, root, None), nn.Module)]
    if not roots:
        return {name: layer for name, layer in layers.items() if not name.startswith(("pretransform.", "conditioner."))}
    return {name: layer for name, layer in layers.items() if name.startswith(f"{roots[0]}.")}
