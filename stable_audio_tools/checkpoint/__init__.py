"""Checkpoints: what a weights file is, whether it fits, and how to write one so that a crash cannot spoil it.

Five kinds of file are told apart by their contents, not by their names:

* a **training checkpoint** (wrapped): Lightning's file with optimizer states, from which a run is resumed;
* a **diffusion model** (unwrapped): ``model.*``, ``conditioner.*``, usually ``pretransform.*``;
* an **autoencoder** (unwrapped): ``encoder.*``, ``decoder.*``;
* a **language model** (unwrapped): ``lm.*``, ``pretransform.*``, usually ``conditioner.*``;
* anything else.
"""

from stable_audio_tools.checkpoint.fitting import LoadReport, compare_state_dict, copy_state_dict
from stable_audio_tools.checkpoint.kinds import (
    DESCRIPTIONS,
    WRAPPED_LAYOUTS,
    Checkpoint,
    Kind,
    StateDict,
    WrappedLayout,
    kind_of,
    refuse_other_model,
    some,
    unwrap_state_dict,
)
from stable_audio_tools.checkpoint.loading import (
    assign_weights,
    initialise_from,
    load_model_weights,
    load_pretransform_weights,
    require_fit,
    require_wrapped,
)
from stable_audio_tools.checkpoint.reading import load_ckpt_state_dict, read_checkpoint
from stable_audio_tools.checkpoint.writing import atomic_path, save_model_weights, weights_hash

__all__ = [
    "DESCRIPTIONS", "WRAPPED_LAYOUTS", "Checkpoint", "Kind", "LoadReport", "StateDict", "WrappedLayout", "assign_weights",
    "atomic_path",
    "compare_state_dict", "copy_state_dict", "initialise_from", "kind_of", "load_ckpt_state_dict", "load_model_weights",
    "load_pretransform_weights", "read_checkpoint", "refuse_other_model", "require_fit", "require_wrapped", "save_model_weights", "some",
    "unwrap_state_dict", "weights_hash",
]  # fmt: skip
