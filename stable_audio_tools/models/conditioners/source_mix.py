"""Condition on a mix of named recordings (stems)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.config.model import PretransformBlock
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition
from stable_audio_tools.models.conditioners.encoded_audio import EncodedAudioConditioner, stack
from stable_audio_tools.models.layers.parameters import dtype_of


@CONDITIONERS.register("source_mix")
class SourceMixConditioner(EncodedAudioConditioner):
    """The sum of the latents of named recordings, each through a linear map of its own: (B, D, L). For input concatenation.

    The metadata value is an object from names to audio (C, T), or to latents if they are ``pre_encoded``. Names that are not in
    ``source_keys`` are left out.

    Args:
        output_dim: Channels of the result.
        sample_rate: Rate of the audio, in Hz.
        use_model_pretransform: Use the pretransform of the model.
        pretransform_config: Another pretransform, as in a model config.
        pretransform_ckpt_path: Weights of its autoencoder.
        save_pretransform: Make that pretransform a part of the model, saved with it.
        source_keys: Names of the recordings. Their order is part of the model.
        pre_encoded: The recordings are latents already.
        allow_null_source: An item may have none of them; a learned vector stands for it.
        source_length: Frames of an item that has none, needed with ``allow_null_source``.
        pretransform: The pretransform of the model.
    """

    def __init__(
        self,
        output_dim: PositiveInt,
        sample_rate: PositiveInt,
        use_model_pretransform: bool = False,
        pretransform_config: PretransformBlock | None = None,
        pretransform_ckpt_path: str | None = None,
        save_pretransform: bool = False,
        source_keys: Sequence[str] = (),
        pre_encoded: bool = False,
        allow_null_source: bool = False,
        source_length: PositiveInt | None = None,
        pretransform: Any = None,
    ) -> None:
        super().__init__(
            "source_mix",
            output_dim,
            sample_rate,
            pretransform_config,
            pretransform_ckpt_path,
            use_model_pretransform,
            save_pretransform,
            pretransform,
        )
        if allow_null_source and source_length is None:
            raise ConfigError("conditioner 'source_mix': allow_null_source needs source_length, the frames of an item without sources")
        self.source_keys = list(source_keys)
        self.pre_encoded = pre_encoded
        self.source_length = source_length
        # `proj_out` has no part in the sum, but published weights hold it where the widths differ.
        self.source_heads = nn.ModuleList(nn.Conv1d(self.dim, output_dim, kernel_size=1) for _ in source_keys)
        self.null_source = nn.Parameter(torch.randn(output_dim, 1)) if allow_null_source else None

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        device = torch.device(device)
        mix = stack([self._mix(value, index, device) for index, value in enumerate(values)], self.kind)  # (B, D, L)
        return Condition(mix, torch.ones(len(mix), mix.shape[-1], device=mix.device))

    def _mix(self, sources: Any, index: int, device: torch.device) -> Tensor:
        """The sources of one item: (D, L)."""
        if not isinstance(sources, Mapping):
            raise DataError(f"conditioner 'source_mix': item {index}: expected an object from names to audio, got {sources!r:.60}")
        parts = [
            self._head(head, self.as_audio(sources[key]), device)
            for key, head in zip(self.source_keys, self.source_heads, strict=True)
            if key in sources
        ]
        if parts:
            return torch.stack(parts).sum(0)
        if self.null_source is None:
            has = ", ".join(sources) or "nothing"
            raise DataError(f"conditioner 'source_mix': item {index} has none of {', '.join(self.source_keys)}; it has: {has}")
        return self.null_source.expand(-1, self.source_length or 0)  # a length was required with it

    def _head(self, head: nn.Module, value: Tensor, device: torch.device) -> Tensor:
        """Audio or latents (C, T) of one source -> its part of the mix (D, L)."""
        latents = value.to(device)[None] if self.pre_encoded else self.encode(value[None], device)  # (1, W, L)
        return head(latents.to(dtype_of(head)))[0]
