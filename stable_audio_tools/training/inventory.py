"""describe(): the parts of what is trained, told before a run begins."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import Tensor, nn

from stable_audio_tools.models.layers.parameters import count_parameters
from stable_audio_tools.training.base import TrainingWrapper


def describe(model: nn.Module, wrapper: TrainingWrapper, adapter: Iterable[nn.Parameter] = ()) -> list[str]:
    """The parts of a model, and what training has besides: how large they are and whether they are trained.

    Args:
        model: The model.
        wrapper: What trains it.
        adapter: Parameters of an adapter in the model, which do not count as the model's.
    """
    added = {id(parameter) for parameter in adapter}
    lines = [_line(type(model).__name__, model, added, suffix=" parameters", states=False)]
    lines += [_line(f"  {name}", part, added) for name, part in model.named_children() if count_parameters(part)]
    others = {name: part for name, part in wrapper.named_children() if part is not model and part is not wrapper.ema}
    lines += [_line(f"  beside the model, {name}", part, added) for name, part in others.items() if count_parameters(part)]
    if wrapper.ema is not None:
        own = sum(tensor.numel() for tensor in own_average(wrapper) if isinstance(tensor, nn.Parameter))
        lines.append(f"  EMA copy: {own / 1e6:.2f} M{' (on the CPU)' if wrapper.ema.on_cpu else ''}")
    return lines


def _line(name: str, part: nn.Module, added: Container[int], *, suffix: str = "", states: bool = True) -> str:
    own = [parameter for parameter in part.parameters() if id(parameter) not in added]
    total, trained = _count(own), _count(parameter for parameter in own if parameter.requires_grad)
    state = "trained" if trained == total else "frozen" if not trained else f"{trained / 1e6:.2f} M trained"
    adapter = _count(parameter for parameter in part.parameters() if id(parameter) in added)
    more = f", and {adapter / 1e6:.3f} M of an adapter{', trained' if states else ''}" if adapter else ""
    return f"{name}: {total / 1e6:.2f} M{suffix}{f', {state}' if states else ''}{more}"


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def own_average(wrapper: TrainingWrapper) -> list[Tensor]:
    """What an average has of its own: training an adapter, it shares the rest with the model."""
    assert wrapper.ema is not None
    shared = {id(tensor) for tensor in (*wrapper.model.parameters(), *wrapper.model.buffers())}
    return [tensor for tensor in (*wrapper.ema.parameters(), *wrapper.ema.buffers()) if id(tensor) not in shared]
