"""``training.metrics``: how near what a model makes comes to real audio, measured while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from stable_audio_tools.config.base import PositiveFloat, PositiveInt, Strict
from stable_audio_tools.registry import Mistake

EMBEDDINGS = ("latent", "clap")
ABSENT_EMBEDDINGS = {  # that other programs have, and why they are not here
    "panns": "no package that is kept up has this network; use 'clap'",
    "vggish": "no package that is kept up has this network; use 'clap'",
    "openl3": "its package needs TensorFlow; use 'clap'",
}
PUBLISHED_PROMPTS = "captions are not downloaded: save song_describer.csv, or any list of your own, and name it by prompts_path"


class Metrics(Strict):
    """What all metrics have: real audio, and the spaces in which it is compared.

    ``embedding_types``: ``latent`` takes the latents of the model's own autoencoder, ``clap`` what CLAP hears; unless given it is ``clap``
    if there is a ``clap_model``, else ``latent``. ``clap_model`` is a folder in Hugging Face layout, an id that was downloaded before, or a
    checkpoint file of LAION, of which ``clap_audio_model_type`` and ``clap_enable_fusion`` say what it is.
    """

    ref_audios_path: str
    ref_audios_ext: str = ".mp3"
    metrics_every: PositiveInt = 1000
    embedding_types: list[str] | None = None
    clap_model: str | None = None
    clap_audio_model_type: Literal["HTSAT-tiny", "HTSAT-base", "HTSAT-large"] = "HTSAT-base"
    clap_enable_fusion: bool = True
    skip_first: bool = True
    show_progress: bool = True

    @property
    def embeddings(self) -> list[str]:
        """The chosen ones, by name."""
        return self.embedding_types or (["clap"] if self.clap_model is not None else ["latent"])

    def conflicts(self) -> Iterator[Mistake]:
        for index, name in enumerate(self.embedding_types or []):
            if name in ABSENT_EMBEDDINGS:
                yield Mistake(("embedding_types", index), f"not supported: {name!r}: {ABSENT_EMBEDDINGS[name]}")
            elif name not in EMBEDDINGS:
                yield Mistake(("embedding_types", index), f"is {name!r}; known: {', '.join(EMBEDDINGS)}")
        if self.embedding_types == []:
            yield Mistake(("embedding_types",), f"is empty; one of {', '.join(EMBEDDINGS)}")
        if "clap" in self.embeddings and self.clap_model is None:
            text = "'clap' needs clap_model: the folder or file of a CLAP, since nothing is downloaded while training"
            yield Mistake(("embedding_types",), text, "missing")
        elif "clap" not in self.embeddings and self.clap_model is not None:
            yield Mistake(("clap_model",), "warning: has no effect: embedding_types does not have 'clap'", "warning")


class ReconstructionMetrics(Metrics):
    """``metrics`` of an autoencoder: the distance between real files and their reconstructions."""

    max_samples: PositiveInt = 100


class GenerationMetrics(Metrics):
    """``metrics`` of a conditional diffusion model: the distance between real files and what it makes of prompts.

    ``prompts_path`` is a CSV file with a column ``caption`` or ``prompt``, or a text file with a prompt in each line. Clips last between
    ``min_length`` and ``max_length`` seconds, as far as the model can.
    """

    refused = {"prompts_type": PUBLISHED_PROMPTS}
    prompts_path: str
    num_generations: PositiveInt = 10000
    min_length: PositiveFloat = 5.0
    max_length: PositiveFloat = 190.0
    cfg_scale: float = 7.0
    sampling_steps: PositiveInt = 50
    decode_batch_size: PositiveInt = 4

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.min_length > self.max_length:
            yield Mistake(("min_length",), f"is {self.min_length}, but must be at most max_length, which is {self.max_length}", "conflict")
