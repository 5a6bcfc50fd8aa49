"""The global random streams: saved, restored, and lent to something that must not disturb them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of every global random stream, as plain data that a weights-only load accepts."""
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, list(internal), gauss),
        "numpy": {
            **numpy_state,
            "state": {"key": torch.from_numpy(numpy_state["state"]["key"].astype("int64")), "pos": int(numpy_state["state"]["pos"])},
        },
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo whatever was drawn since `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = dict(state["numpy"])
    inner = numpy_state["state"]
    numpy_state["state"] = {"key": inner["key"].numpy().astype("uint32"), "pos": inner["pos"]}
    np.random.set_state(numpy_state)


def seed_streams(seed: int) -> None:
    """Seed every global random stream."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed every global random stream, and put them back as they were on exit."""
    before = random_state()
    try:
        seed_streams(seed)
        yield
    finally:
        restore_random_state(before)


PLACES, CROPS = ("relpath", "path"), ("timestamps", "seconds_start")  # of an item: the first is the same wherever the data lie


def item_seeds(metadata: Sequence[Mapping[str, Any]], *salt: int | str, position: int = 0) -> list[int]:
    """Seeds of random numbers that belong to an item, whatever batch it is in.

    Args:
        metadata: Of the items. Those that do not say where they come from are told apart by their place.
        *salt: What else the numbers should depend on.
        position: Place of the first item in the data.
    """

    def seed(item: Mapping[str, Any], place: int) -> int:
        file = next((str(item[key]) for key in PLACES if key in item), None)
        text = repr((place if file is None else (file, *(str(item[key]) for key in CROPS if key in item)), salt))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")

    return [seed(item, position + index) for index, item in enumerate(metadata)]
