"""Condition on how English text is pronounced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.errors import CheckpointError, DataError
from stable_audio_tools.families import CONDITIONERS
from stable_audio_tools.models.conditioners.base import Condition, Conditioner, unwrapped
from stable_audio_tools.optional import require

# ARPAbet, vowels with their stress (0 none, 1 primary, 2 secondary), in the order of g2p_en, which published weights expect.
PHONEMES = [
    "<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1", "AO2", "AW0", "AW1",
    "AW2", "AY0", "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2", "EY0", "EY1", "EY2", "F", "G", "HH",
    "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "JH", "K", "L", "M", "N", "NG", "OW0", "OW1", "OW2", "OY0", "OY1", "OY2", "P", "R", "S",
    "SH", "T", "TH", "UH0", "UH1", "UH2", "UW", "UW0", "UW1", "UW2", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip
PADDING, OTHER, FIRST = 0, 1, 2  # row 1 is for spaces, punctuation and everything else
ROWS = {phoneme: FIRST + index for index, phoneme in enumerate(PHONEMES)}


@CONDITIONERS.register("phoneme", reads="phonemes", steps="many")
class PhonemeConditioner(Conditioner):
    """Looks up one vector per phoneme: (B, S, D) with S the longest item of the batch. For cross-attention or prepending.

    Text is turned into phonemes by the package ``g2p_en``; a list of ARPAbet phonemes (``["HH", "AH0", "L", "OW1"]``) is taken as it is.
    Positions beyond an item's end hold the vector of padding, as published models were trained, but are masked.

    Args:
        output_dim: Width of the embedding.
        max_length: Longest item, in phonemes; longer ones are cut.
        project_out: Have a linear layer at the end.
    """

    def __init__(self, output_dim: PositiveInt, max_length: PositiveInt = 1024, project_out: bool = False) -> None:
        super().__init__(output_dim, output_dim, project_out)
        self.max_length = max_length
        self.phoneme_embedder = nn.Embedding(FIRST + len(PHONEMES), output_dim)

    def unwrap(self, value: Any) -> Any:
        """As for other conditioners; but a list of one phoneme is what it is."""
        inner = unwrapped(value)
        return value if isinstance(inner, str) and inner in ROWS else inner

    def forward(self, values: Sequence[Any], device: torch.device | str) -> Condition:
        rows = [self._rows(value)[: self.max_length] for value in values]
        length = max(1, max(map(len, rows), default=0))
        ids = torch.tensor([item + [PADDING] * (length - len(item)) for item in rows], device=device)  # (B, S)
        mask = torch.tensor([[index < len(item) for index in range(length)] for item in rows], device=device)
        return Condition(self.project(self.phoneme_embedder(ids)), mask)

    @staticmethod
    def _rows(value: Any) -> list[int]:
        phonemes = pronounce(value) if isinstance(value, str) else value
        if not isinstance(phonemes, (list, tuple)):
            raise DataError(f"conditioner 'phoneme': expected text or a list of phonemes, got {value!r:.60}")
        return [ROWS.get(phoneme, OTHER) for phoneme in phonemes]


def pronounce(text: str) -> list[str]:
    """Phonemes of an English text, with its spaces and punctuation.

    Raises:
        MissingExtraError: If ``g2p_en`` is not installed.
        CheckpointError: If its dictionaries cannot be downloaded.
    """
    return _converter()(text)


@cache
def _converter() -> Any:
    try:
        return require("g2p_en", extra="phoneme", purpose="conditioner 'phoneme' on text").G2p()
    except LookupError as error:  # nltk's way to say that a file is neither there nor could be downloaded
        raise CheckpointError(
            "conditioner 'phoneme': g2p_en needs the files 'cmudict' and 'averaged_perceptron_tagger' of nltk, which are not there and "
            "could not be downloaded; where there is network, run: python -m nltk.downloader cmudict averaged_perceptron_tagger"
        ) from error
