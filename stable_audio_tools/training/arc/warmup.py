"""ODE warm-up: a student learns to jump to where its teacher's path from noise to data ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio_tools.models.diffusion.inputs import Conditions
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.sampling.run import sample
from stable_audio_tools.training.diffusion.cond import Example

PLAIN = (str, int, float, bool, Tensor)


class Trajectories(NamedTuple):
    """Paths of a batch.

    Attributes:
        states: Places on the way, (N, B, D, L).
        times: When the paths were there, (N,), falling.
        example: What the paths lead to, (B, D, L), in place of the latents, and what the teacher was told.
    """

    states: Tensor
    times: Tensor
    example: Example

    def draw(self) -> tuple[Tensor, Tensor]:
        """A random place of each path: states (B, D, L) and times (B,)."""
        paths = torch.arange(self.states.shape[1], device=self.states.device)
        steps = torch.randint(len(self.states), paths.shape, device=paths.device)
        return self.states[steps, paths], self.times[steps]

    def state_dict(self) -> dict[str, Any]:
        """As plain data. Metadata that are none, which only a custom metadata module makes, are left out."""
        metadata = [{key: value for key, value in item.items() if _is_plain(value)} for item in self.example.metadata]
        return {"states": self.states, "times": self.times, "example": {**self.example._asdict(), "metadata": metadata}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> Trajectories:
        """What `state_dict` was taken of."""
        stored = state["example"]
        example = Example(
            stored["latents"].to(device),
            stored["metadata"],
            {name: [value.to(device) for value in values] for name, values in stored["injected"].items()},
            None if stored["content"] is None else stored["content"].to(device),
            {name: value.to(device) for name, value in stored["hidden"].items()},
        )
        return cls(state["states"].to(device), state["times"].to(device), example)


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (list, tuple)) and all(_is_plain(item) for item in value))


@torch.no_grad()
def follow(
    teacher: ConditionedDiffusionModelWrapper, conditions: Conditions, example: Example, *, steps: int, cfg_scale: float
) -> Trajectories:
    """Paths of a teacher from fresh noise.

    Args:
        teacher: A flow model.
        conditions: Of the teacher.
        example: Whose shape the paths have; its latents have no effect.
        steps: Steps of the sampler ``dpmpp``, on a grid of log-SNR -6 to 2.
        cfg_scale: Guidance scale.
    """
    states: list[Tensor] = []
    times: list[Tensor] = []
    inputs = teacher.get_conditioning_inputs(conditions)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        times.append(t[0])
        return teacher.model(x, t.to(x.device), **inputs, cfg_scale=cfg_scale, **example.hidden)

    noise = torch.randn_like(example.latents)
    end = sample(predict, noise, objective=teacher.diffusion_objective, steps=steps, sampler="dpmpp")
    return Trajectories(torch.stack(states), torch.stack(times).to(end), example._replace(latents=end))
