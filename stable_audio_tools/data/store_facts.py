"""StoreFacts: what a store of latents says of all of them, wherever it lies."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from safetensors.torch import load
from torch import Tensor

from stable_audio_tools.data.decoded import DecodedFiles
from stable_audio_tools.data.latent_file import LATENT_SUFFIXES, decode_latents, decode_object
from stable_audio_tools.errors import DataError

CARD, DETAILS, JOURNAL, SILENCE, CONDITIONS = "card.json", "details.json", "journal.jsonl", "silence", "conditions"
_CONDITION_BYTES = 32_000_000  # memory of each process for cached texts; 128 tokens of 768 numbers take 0.4 MB


class StoreFacts:
    """The card of a store, how long a whole crop is, what silence is encoded to, and cached embeddings of texts.

    Args:
        place: The folder or URL, for messages.
        read: The content of a file of the store by its name, or None if there is none.

    Attributes:
        card: What ``sat pre-encode`` wrote of the store; empty if it did not.

    Raises:
        DataError: If the card is no object.
    """

    def __init__(self, place: str, read: Callable[[str], bytes | None]) -> None:
        self.place = place
        self._read = read
        self._conditions = DecodedFiles(_CONDITION_BYTES)
        self.card = self._object(CARD)

    def _object(self, name: str) -> dict[str, Any]:
        data = self._read(name)
        return decode_object(data, f"{self.place}/{name}") if data is not None else {}

    @cached_property
    def sample_size(self) -> int | None:
        """Samples of audio in a whole crop; None if nobody wrote it down."""
        if "sample_size" in self.card:
            return int(self.card["sample_size"])
        value = self._object(DETAILS).get("sample_size")
        return value if isinstance(value, int) else None

    @cached_property
    def silence(self) -> Tensor | None:
        """What silence is encoded to, (D, L); None if the store does not say."""
        for suffix in LATENT_SUFFIXES:
            data = self._read(f"{SILENCE}{suffix}")
            if data is not None:
                return decode_latents(io.BytesIO(data), f"{self.place}/{SILENCE}{suffix}")
        return None

    def condition(self, name: str, text: str) -> Tensor:
        """The cached embedding (S, D) of a text.

        Raises:
            DataError: If it was not cached.
        """
        path = condition_path(name, text)
        held = self._conditions.get(path)
        if held is None:
            data = self._read(str(path))
            if data is None:
                raise DataError(
                    f"{self.place}/{path}: no such file: {name} {text!r:.60} was not cached; run sat pre-encode with "
                    f"--cache-conditions {name}"
                )
            held = load(data)["embedding"].float()
            self._conditions.keep(path, held)
        return held.clone()  # what a worker sends moves to shared memory, where others could write to it


def condition_path(name: str, text: str) -> PurePosixPath:
    """Where in a store the embedding of a text is, by the condition's name: texts that occur often are kept once."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return PurePosixPath(CONDITIONS) / name / digest[:2] / f"{digest[:24]}.safetensors"


def parse_journal(text: str, name: str) -> list[dict[str, Any]]:
    """The entries of a journal. A last line that a killed process left half-written does not count.

    Args:
        text: Its content.
        name: What messages call it.

    Raises:
        DataError: If it holds something else.
    """
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{name}:{number}: not valid JSON; was it edited?") from error
    return entries
