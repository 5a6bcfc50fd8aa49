"""Something pretrained that ``transformers`` can load: found on disk or downloaded."""

from __future__ import annotations

from typing import Any, NamedTuple

from stable_audio_tools.errors import CheckpointError


class Source(NamedTuple):
    """Where something pretrained comes from.

    Attributes:
        name: Hugging Face id, or a local folder.
        remedy: What to do where it cannot be had, for messages.
        subfolder: Folder inside it.
    """

    name: str
    remedy: str
    subfolder: str = ""

    @classmethod
    def given(cls, **settings: str | None) -> Source:
        """The first of several settings that is not None, by its key."""
        key, name = next((key, value) for key, value in settings.items() if value is not None)
        return cls(name, f"set {key} to a folder that holds it")

    def __str__(self) -> str:
        return repr(f"{self.name}/{self.subfolder}" if self.subfolder else self.name)


def fetch(loader: Any, source: Source, *, what: str = "text encoder", **options: Any) -> Any:
    """``loader.from_pretrained`` of a local folder, the local cache or the hub, in this order.

    Args:
        loader: A class of ``transformers``.
        source: What to load.
        what: What to call it in messages.
        **options: For ``from_pretrained``.

    Raises:
        CheckpointError: If it is in none of the three.
    """
    from transformers.utils import logging as transformers_logging

    show_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for reading a local file says nothing
    try:
        if source.subfolder:
            options["subfolder"] = source.subfolder
        return loader.from_pretrained(source.name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{what} {source}: it is neither a local folder nor in the local cache, and could not be downloaded ({reason}); "
            f"check the name and the network, or {source.remedy}"
        ) from error
    finally:
        if show_progress:
            transformers_logging.enable_progress_bar()
