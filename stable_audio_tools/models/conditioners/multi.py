"""All conditioners of a model together: from metadata dictionaries to named conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stable_audio_tools.config.check import parse_block
from stable_audio_tools.config.model import ConditioningModel
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner
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
            DataError: If an item lacks a key.
        """
        output: dict[str, Condition] = {}
        for name, conditioner in self.conditioners.items():
            values = [self._value(item, name, index) for index, item in enumerate(batch_metadata)]
            if name in self.pre_encoded_keys:
                output[name] = Condition(torch.stack(values).to(device), None)
            else:
                output[name] = conditioner(values, device)
        for name in self.pre_encoded_keys:
            if name not in output:
                output[name] = Condition(
                    torch.stack([self._value(item, name, i) for i, item in enumerate(batch_metadata)]).to(device), None
                )
        return output

    def _value(self, item: Mapping[str, Any], name: str, index: int) -> Any:
        key = name if name in item else self.default_keys.get(name, name)
        if key not in item:
            where = f"item {index} ({item['path']})" if "path" in item else f"item {index}"
            raise DataError(f"{where} of the batch has no {name!r}, which the model is conditioned on; it has: {', '.join(map(str, item))}")
        value = item[key]
        # WebDataset's collation wraps every value in a list
        return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


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
