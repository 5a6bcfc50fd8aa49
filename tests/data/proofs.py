"""Which options of dataset types have been shown to do what they promise: a list that tests fill, and one test reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from stable_audio_tools.config.dataset import AudioFolder, LatentFolder, ShardEntry
from stable_audio_tools.families import DATASETS

Test = TypeVar("Test", bound=Callable[..., Any])
ENTRIES = {"audio_dir": AudioFolder, "audio_crops": AudioFolder, "wds": ShardEntry, "s3": ShardEntry, "pre_encoded": LatentFolder}
HAVE_NO_EFFECT = {"datasets", "id"}  # a list of what follows, and a name for people


class Proofs:
    """Options of some dataset types; ``@proofs.of("random_crop")`` marks the test that fails if the option is ignored."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.proved: dict[str, set[str]] = {kind: set() for kind in kinds}

    def of(self, *options: str, kinds: tuple[str, ...] = ()) -> Callable[[Test], Test]:
        for kind in kinds or self.kinds:
            self.proved[kind] |= {option for option in options if option in options_of(kind)}
        assert all(any(option in options_of(kind) for kind in kinds or self.kinds) for option in options), options
        return lambda test: test

    def missing(self) -> dict[str, list[str]]:
        """Options without a proof, by dataset type."""
        left = {kind: sorted(options_of(kind) - proved) for kind, proved in self.proved.items()}
        return {kind: options for kind, options in left.items() if options}


def options_of(kind: str) -> set[str]:
    """Everything that a config of a dataset type and its entries can say."""
    of_config = {parameter.name for parameter in DATASETS.schema(kind).parameters}
    return (of_config | set(ENTRIES[kind].model_fields)) - HAVE_NO_EFFECT
