"""AudioLanguageModelWrapper: language model, conditioners and the codec that makes tokens, as one model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.conditioners.multi import MultiConditioner
from stable_audio_tools.models.diffusion.inputs import ConditioningInputs, Conditions, require_conditions, sequence_of, vector_of
from stable_audio_tools.models.lm.model import LMOutput, compute_logits
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.sampling.guidance import guide
from stable_audio_tools.sampling.tokens import sample_tokens

logger = logging.getLogger(__name__)
UNKNOWN = -1  # a token that is yet to be made
Callback = Callable[[int, int], Any]


class AudioLanguageModelWrapper(nn.Module):
    """A (conditional) language model of audio.

    Args:
        pretransform: The codec: audio to tokens and back.
        lm: The language model; see `AudioLanguageModel`.
        sample_rate: In Hz.
        min_input_length: Audio lengths must be a multiple of this, in samples.
        conditioner: From metadata to conditions; None if there are none, or if they are given as tensors.
        cross_attn_cond_ids: Conditions attended to, concatenated along the sequence.
        prepend_cond_ids: Conditions put before the sequence.
        global_cond_ids: Conditions that are collected, but that no published backbone uses.
    """

    def __init__(
        self,
        pretransform: Pretransform,
        lm: nn.Module,
        sample_rate: int,
        min_input_length: int,
        conditioner: MultiConditioner | None = None,
        cross_attn_cond_ids: Sequence[str] = (),
        prepend_cond_ids: Sequence[str] = (),
        global_cond_ids: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.pretransform = pretransform
        self.conditioner = conditioner
        self.lm: Any = lm
        self.sample_rate = sample_rate
        self.min_input_length = min_input_length
        self.cross_attn_cond_ids = list(cross_attn_cond_ids)
        self.prepend_cond_ids = list(prepend_cond_ids)
        self.global_cond_ids = list(global_cond_ids)
        pretransform.eval().requires_grad_(False)

    @property
    def io_channels(self) -> int:
        """Audio channels."""
        return self.pretransform.io_channels

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples per token of a codebook."""
        return self.pretransform.downsampling_ratio

    @property
    def num_quantizers(self) -> int:
        """Codebooks K."""
        return self.lm.num_quantizers

    @property
    def codebook_size(self) -> int:
        """Tokens per codebook V."""
        return self.lm.codebook_size

    # ---- conditions ----------------------------------------------------------------------------------------------------------------

    def get_conditioning_inputs(self, cond: Conditions, negative: bool = False) -> dict[str, Tensor | None]:
        """Sort conditions by the way they reach the language model.

        Args:
            cond: Id -> (embedding, mask), or a list with the embedding alone.
            negative: Name the result for guidance to push away from.

        Raises:
            ConfigError: If a condition is missing.
        """
        inputs = self._inputs(cond)
        if negative:
            return {
                "negative_cross_attn_cond": inputs.cross_attn,
                "negative_prepend_cond": inputs.prepend,
                "negative_prepend_cond_mask": inputs.prepend_mask,
                "negative_global_cond": inputs.global_cond,
            }
        return {
            "cross_attn_cond": inputs.cross_attn,
            "prepend_cond": inputs.prepend,
            "prepend_cond_mask": inputs.prepend_mask,
            "global_cond": inputs.global_cond,
        }

    def _inputs(self, cond: Conditions | None) -> ConditioningInputs:
        cond = cond or {}
        require_conditions(cond, [*self.cross_attn_cond_ids, *self.prepend_cond_ids, *self.global_cond_ids])
        cross_attn, cross_attn_mask = sequence_of(cond, self.cross_attn_cond_ids)
        prepend, prepend_mask = sequence_of(cond, self.prepend_cond_ids)
        global_cond = vector_of(cond, self.global_cond_ids)
        if prepend_mask is not None and bool(prepend_mask.bool().all()):
            prepend_mask = None  # nothing is padding: attention then needs no mask, which is what fused kernels are fastest without
        return ConditioningInputs(cross_attn, cross_attn_mask, global_cond, prepend=prepend, prepend_mask=prepend_mask)

    # ---- audio and tokens ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokenize(self, audio: Tensor) -> Tensor:
        """Audio (B, C, T) -> tokens (B, K, T / downsampling_ratio)."""
        return self.pretransform.tokenize(audio)

    @torch.no_grad()
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, T) -> audio (B, C, T * downsampling_ratio)."""
        return self.pretransform.decode_tokens(tokens)

    # ---- training ------------------------------------------------------------------------------------------------------------------

    def compute_logits(self, codes: Tensor, condition_tensors: Conditions | None = None, cfg_dropout_prob: float = 0.0) -> LMOutput:
        """Logits of given tokens.

        Args:
            codes: (B, K, T)
            condition_tensors: What the conditioner returned.
            cfg_dropout_prob: Probability with which conditions of an item become zero, as guidance needs it: attended ones and,
                independently, prepended ones.
        """
        inputs = self._inputs(condition_tensors)
        if cfg_dropout_prob > 0:
            inputs = inputs.dropped(cfg_dropout_prob)
        return compute_logits(self.lm, codes, **_keywords(inputs))

    # ---- generation ----------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        max_gen_len: int = 256,
        batch_size: int | None = None,
        init_data: Tensor | None = None,
        conditioning: Sequence[Mapping[str, Any]] | None = None,
        conditioning_tensors: Conditions | None = None,
        callback: Callback | None = None,
        use_cache: bool = True,
        cfg_scale: float = 1.0,
        cross_attn_use_cfg: bool = True,
        prepend_use_cfg: bool = True,
        global_use_cfg: bool = True,
        top_k: int = 250,
        top_p: float = 0.0,
        temp: float = 1.0,
    ) -> Tensor:
        """Make tokens, with torch's global random stream.

        Args:
            max_gen_len: Tokens per codebook T, with those given.
            batch_size: B; None is as many as there are conditions or given tokens, else 1.
            init_data: Tokens (B, K, T0) to continue, T0 < T.
            conditioning: One metadata dictionary per item.
            conditioning_tensors: Already embedded conditions instead, id -> (embedding, mask).
            callback: Called after every step with the number of steps done and of all.
            use_cache: Keep keys and values: the same tokens, at a cost that is linear in their number and not quadratic.
            cfg_scale: Guidance scale; 1 is none.
            cross_attn_use_cfg: Guidance leaves out conditions that are attended to.
            prepend_use_cfg: Guidance leaves out conditions that are prepended.
            global_use_cfg: No effect: no backbone uses global conditions.
            top_k: See `sample_tokens`.
            top_p: See `sample_tokens`.
            temp: See `sample_tokens`.

        Returns:
            Tokens (B, K, T).

        Raises:
            ConfigError: If numbers of items disagree, conditions are missing, or an option is out of range.
        """
        device = next(self.parameters()).device
        if conditioning_tensors is None and conditioning is not None:
            if self.conditioner is None:
                raise ConfigError("this model has no conditioner: give conditioning_tensors instead of conditioning")
            conditioning_tensors = self.conditioner(conditioning, device)
        inputs = self._inputs(conditioning_tensors)
        batch_size = _batch_size(batch_size, init_data, conditioning, inputs)
        codes = self._codes_to_fill(init_data, batch_size, max_gen_len, device)
        is_guided = cfg_scale != 1.0 and inputs.is_guidable
        if is_guided:
            inputs = _with_null(inputs, cross_attn_use_cfg, prepend_use_cfg)
        elif cfg_scale != 1.0:
            logger.warning("guidance has no effect: the language model has no condition that it could leave out")
        pattern = self.lm.pattern_provider.get_pattern(max_gen_len)
        special = self.lm.codebook_size
        sequence, mask = pattern.build_pattern_sequence(codes, special)  # (B, K, S)
        first = pattern.first_step_of(0 if init_data is None else init_data.shape[-1])
        keywords = _keywords(inputs)
        cache = self.lm.new_cache() if use_cache else None
        seen = 0
        for step in range(first, pattern.num_steps):
            logits = self._next_logits(sequence[..., seen:step], keywords, cache, cfg_scale if is_guided else None)  # (B, K, V)
            token = sample_tokens(logits, temp=temp, top_k=top_k, top_p=top_p)  # (B, K)
            token = torch.where(mask[:, step], token, special)
            sequence[..., step] = torch.where(sequence[..., step] == UNKNOWN, token, sequence[..., step])
            seen = step if use_cache else 0
            if callback is not None:
                callback(step + 1 - first, pattern.num_steps - first)
        codes, is_made = pattern.revert_pattern_sequence(sequence, UNKNOWN)
        assert bool(is_made.all())
        assert not bool((codes == UNKNOWN).any())
        return codes

    def _next_logits(self, new: Tensor, keywords: dict[str, Any], cache: Any, cfg_scale: float | None) -> Tensor:
        """Logits of the step after ``new`` (B, K, S), guided if there is a scale: (B, K, V)."""
        logits = self.lm(new if cfg_scale is None else torch.cat([new, new]), **keywords, cache=cache)[:, :, -1].float()
        if cfg_scale is None:
            return logits
        conditional_logits, unconditional_logits = logits.chunk(2)
        return guide(conditional_logits, unconditional_logits, cfg_scale)

    def _codes_to_fill(self, init_data: Tensor | None, batch_size: int, length: int, device: torch.device) -> Tensor:
        """(B, K, T) of `UNKNOWN` after the given tokens."""
        given = 0 if init_data is None else init_data.shape[-1]
        if length <= given:
            raise ConfigError(f"max_gen_len must be more than the {given} tokens that are given, got {length}")
        codes = torch.full((batch_size, self.lm.num_quantizers, length), UNKNOWN, dtype=torch.long, device=device)
        if init_data is not None:
            if init_data.shape[1] != self.lm.num_quantizers:
                raise ConfigError(f"init_data: needs {self.lm.num_quantizers} codebooks, got tokens of shape {tuple(init_data.shape)}")
            codes[..., :given] = init_data.to(device)
        return codes

    def generate_audio(self, **kwargs: Any) -> Tensor:
        """Make tokens and decode them: audio (B, C, T * downsampling_ratio). See `generate` for the arguments."""
        return self.decode_tokens(self.generate(**kwargs))


def _keywords(inputs: ConditioningInputs) -> dict[str, Tensor | None]:
    return {
        "prepend_cond": inputs.prepend,
        "prepend_cond_mask": inputs.prepend_mask,
        "cross_attn_cond": inputs.cross_attn,
        "cross_attn_mask": inputs.cross_attn_mask,
    }


def _with_null(inputs: ConditioningInputs, cross_attn_use_cfg: bool, prepend_use_cfg: bool) -> ConditioningInputs:
    """The batch twice, with the conditions that guidance leaves out as zeros in the second half."""
    left_out = inputs.cross_attn
    if left_out is not None and cross_attn_use_cfg:
        left_out = torch.zeros_like(left_out)
    doubled = inputs.with_null(left_out)
    if inputs.prepend is not None and not prepend_use_cfg:
        doubled = replace(doubled, prepend=torch.cat([inputs.prepend, inputs.prepend]))
    return doubled


def _batch_size(batch_size: int | None, init_data: Tensor | None, conditioning: Sequence[Any] | None, inputs: ConditioningInputs) -> int:
    """How many items to make, on which everything given must agree."""
    sizes: dict[str, int] = {}
    if batch_size is not None:
        sizes["batch_size"] = batch_size
    if init_data is not None:
        sizes["init_data"] = init_data.shape[0]
    for name in ("cross_attn", "prepend"):
        tensor = getattr(inputs, name)
        if tensor is not None:
            sizes["conditioning"] = tensor.shape[0]
    if conditioning is not None:
        sizes.setdefault("conditioning", len(conditioning))
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"these disagree about the number of items: {', '.join(f'{name} {size}' for name, size in sizes.items())}")
    return next(iter(sizes.values()), 1)
