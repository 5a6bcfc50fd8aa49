"""All conditioners of a model together: from metadata dictionaries to named conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from stable_audio_tools.config.check import parse_block
from stable_audio_tools.config.model import ConditioningModel
from stable_audio_tools.errors import ConfigError, DataError, StableAudioError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, unwrapped
from stable_audio_tools.models.pretransforms.base import Pretransform


class MultiConditioner(nn.Module):
    """Runs each conditioner on its own key of the metadata.

    Args:
        conditioners: Conditioner by id.
        default_keys: Id -> metadata key to use for items that lack the id.
        pre_encoded_keys: Ids whose metadata already holds tensors; they are stacked and used as they are, and need no conditioner.
    """

    def __init__(
        self,
        conditioners: Mapping[str, Conditioner],
        default_keys: Mapping[str, str] | None = None,
        pre_encoded_keys: Sequence[str] = (),
    ) -> None:
        super().__init__()
        reserved = [name for name in conditioners if hasattr(nn.ModuleDict(), name)]
        if reserved:
            raise ConfigError(
                f"conditioner id {reserved[0]!r}: is a name that torch modules use themselves; take another id, and name the metadata key "
                "in default_keys"
            )
        self.conditioners = nn.ModuleDict(dict(conditioners))
        self.default_keys = dict(default_keys or {})
        self.pre_encoded_keys = list(pre_encoded_keys)

    def forward(self, batch_metadata: Sequence[Mapping[str, Any]], device: torch.device | str) -> dict[str, Condition]:
        """Embed a batch.

        Args:
            batch_metadata: One dictionary per item.
            device: Where to put the result.

        Returns:
            Id -> `Condition`.

        Raises:
            DataError: If an item lacks a key, or holds something that its conditioner cannot read; the message names the condition.
        """
        output: dict[str, Condition] = {}
        for name in dict.fromkeys([*self.conditioners, *self.pre_encoded_keys]):
            values = [self._value(item, name, index) for index, item in enumerate(batch_metadata)]
            if name in self.pre_encoded_keys:
                output[name] = Condition(_stacked(name, [unwrapped(value) for value in values]).to(device), None)
                continue
            conditioner = cast("Conditioner", self.conditioners[name])
            try:
                output[name] = conditioner([conditioner.unwrap(value) for value in values], device)
            except StableAudioError as error:
                raise type(error)(f"condition {name!r}: {error}") from error
        return output

    def _value(self, item: Mapping[str, Any], name: str, index: int) -> Any:
        key = name if name in item else self.default_keys.get(name, name)
        if key not in item:
            where, fix = f"item {index}", ""
            if "path" in item:  # of a dataset
                where += f" ({item['path']})"
                fix = "; captions.csv in the folder, a .txt or .json beside the file, or a custom_metadata_module can give it"
            has = ", ".join(map(str, item))
            raise DataError(f"{where} of the batch has no {name!r}, which the model is conditioned on; it has: {has}{fix}")
        return item[key]


def _stacked(name: str, values: Sequence[Any]) -> Tensor:
    """Tensors of one shape as a batch."""
    wrong = [value for value in values if not isinstance(value, Tensor)]
    if wrong:
        raise DataError(f"condition {name!r} is in pre_encoded_keys, so every item must hold a tensor, got {wrong[0]!r:.60}")
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise DataError(f"condition {name!r} is pre-encoded: the items of a batch must have one shape, got {', '.join(map(str, shapes))}")
    return torch.stack(list(values))


def build_multi_conditioner(config: ConditioningModel, pretransform: Pretransform | None = None) -> MultiConditioner:
    """Build all conditioners of a ``conditioning`` section, in its order.

    Args:
        config: The section.
        pretransform: The model's, for conditioners that encode audio with it.
    """
    conditioners = {
        block.id: CONDITIONERS.build(block.type, block.config, output_dim=config.cond_dim, pretransform=pretransform)
        for block in config.configs
    }
    return MultiConditioner(conditioners, config.default_keys, config.pre_encoded_keys)


def create_multi_conditioner_from_conditioning_config(
    config: Mapping[str, Any], pretransform: Pretransform | None = None
) -> MultiConditioner:
    """Build all conditioners of a ``conditioning`` section, given as plain data; see `build_multi_conditioner`."""
    return build_multi_conditioner(parse_block(ConditioningModel, config, name="conditioning"), pretransform)
