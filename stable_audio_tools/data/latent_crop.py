"""Crops of latents: which frames of a stored item are used, what follows a short one, and where the crop lies in the whole clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.audio.crop import RandInt, random_crop_start
from stable_audio_tools.data.latent_file import UnreadableError, real_frames, stored_mask
from stable_audio_tools.data.store_facts import StoreFacts


def mask_of(latents: Tensor, metadata: Mapping[str, Any], name: str) -> Tensor:
    """Which frames of an item are no padding.

    Args:
        latents: (D, L)
        metadata: As stored.
        name: Of the item, for messages.

    Returns:
        1 where they are not, (L,).

    Raises:
        UnreadableError: If the stored mask does not belong to the latents.
    """
    held, stored = latents.shape[-1], stored_mask(metadata, name)
    mask = torch.ones(held) if stored is None else torch.from_numpy(stored)  # (L,)
    if len(mask) != held:
        raise UnreadableError(f"{name}: {held} frames, but a padding_mask of {len(mask)}; were its files mixed up?")
    return mask


def crop_latents(latents: Tensor, metadata: dict[str, Any], store: StoreFacts, wanted: int | None, rng: RandInt | None) -> Tensor:
    """Crop or pad an item, and let its metadata say what was done.

    Args:
        latents: (D, L)
        metadata: As stored, but with ``padding_mask`` as `mask_of` makes it; this, ``seconds_start`` and ``timestamps`` become those of the
            crop, ``latent_crop_length`` and ``latent_crop_start`` are added.
        store: Where it is from.
        wanted: Frames; None is the length of a whole crop of audio, or what is stored if the store does not say.
        rng: Draws where the crop begins, among the places at which it holds no padding; None begins with the first frame.

    Returns:
        Latents (D, wanted).
    """
    held, mask = latents.shape[-1], metadata["padding_mask"]  # (L,)
    target = wanted or _whole_length(store, metadata) or held
    start = random_crop_start(real_frames(mask) or 0, target, rng) if rng is not None else 0
    latents, mask = latents[:, start : start + target], mask[start : start + target]
    missing = target - latents.shape[-1]
    if missing:
        latents = torch.cat([latents, _silence(store.silence, latents, missing)], dim=-1)  # (D, target)
        mask = torch.nn.functional.pad(mask, (0, missing))
    metadata["padding_mask"] = mask
    if wanted:
        metadata |= {"latent_crop_length": target, "latent_crop_start": start}
    if start or target < held:
        _move(metadata, store, start, target)
    return latents


def _whole_length(store: StoreFacts, metadata: Mapping[str, Any]) -> int | None:
    """Frames of a whole crop, to which items that were stored without their padding are padded."""
    ratio = metadata.get("downsampling_ratio")
    return -(-store.sample_size // ratio) if isinstance(ratio, int) and store.sample_size else None


def _silence(silence: Tensor | None, latents: Tensor, missing: int) -> Tensor:
    """What follows ``latents`` (D, L): encoded silence from there on, repeated if it is too short, or zeros; (D, missing)."""
    if silence is None or silence.shape[0] != latents.shape[0]:
        return latents.new_zeros(latents.shape[0], missing)
    held = latents.shape[-1]
    if silence.shape[-1] >= held + missing:
        return silence[:, held : held + missing]
    return silence.repeat(1, -(-missing // silence.shape[-1]))[:, :missing]


def _move(metadata: dict[str, Any], store: StoreFacts, start: int, length: int) -> None:
    """Say where the crop lies in the whole clip: ``seconds_start`` and ``timestamps``, as for a crop of audio."""
    ratio, rate, times = metadata.get("downsampling_ratio"), metadata.get("sample_rate"), metadata.get("timestamps")
    if ratio is None or not isinstance(rate, (int, float)) or times is None or store.sample_size is None:
        return  # a folder of another program that does not say how long a frame is
    share = float(times[1]) - float(times[0])  # of the clip, or of the crop if that is longer
    whole = store.sample_size / share  # samples
    begin = float(times[0]) * whole + start * ratio
    metadata["seconds_start"] = int(round(begin) // rate)
    metadata["timestamps"] = [begin / whole, (begin + length * ratio) / whole]
