"""Buffers that a module computes itself, and that survive being built on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Tables(nn.Module):
    """A module with constant tensors (windows, frequencies) that no state dict holds.

    On the meta device nothing has values, and weights that are assigned later bring none for these. So whoever assigns weights, by
    ``load_state_dict(..., assign=True)``, makes the module compute them anew.
    """

    def tables(self) -> Mapping[str, Tensor]:
        """The tensors by name, computed from numbers that the module keeps."""
        raise NotImplementedError

    def register_tables(self) -> None:
        """Make the tables buffers; to be called by the constructor, after it has set what `tables` reads."""
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(torch.get_default_device()), persistent=False)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        empty = [name for name, buffer in self._buffers.items() if buffer is not None and buffer.is_meta]
        if empty and local_metadata.get("assign_to_params_buffers"):
            device = next((value.device for value in state_dict.values() if isinstance(value, Tensor)), torch.device("cpu"))
            with device:
                tables = self.tables()
            for name in set(empty) & set(tables):
                self._buffers[name] = tables[name].to(device)
