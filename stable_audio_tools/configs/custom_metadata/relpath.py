"""Example of a ``custom_metadata_module``: the prompt is what the file's path says."""

from pathlib import PurePosixPath


def get_custom_metadata(info, audio):
    """Metadata to add to an item, given what is known of it so far and its audio (C, T)."""
    words = PurePosixPath(info["relpath"]).with_suffix("").as_posix().replace("/", " ").replace("_", " ")
    return {"prompt": words}
