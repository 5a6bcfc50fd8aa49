"""Checkpoints: what a weights file is, whether it fits, and how to write one so that a crash cannot spoil it.

Five kinds of file are told apart by their contents, not by their names:

* a **training checkpoint** (wrapped): Lightning's file with optimizer states, from which a run is resumed;
* a **diffusion model** (unwrapped): ``model.*``, ``conditioner.*``, usually ``pretransform.*``;
* an **autoencoder** (unwrapped): ``encoder.*``, ``decoder.*``;
* a **language model** (unwrapped): ``lm.*``, ``pretransform.*``, usually ``conditioner.*``;
* anything else.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import CheckpointError

logger = logging.getLogger(__name__)
Kind = Literal["wrapped", "diffusion", "autoencoder", "lm", "unknown"]
StateDict = dict[str, Tensor]

DESCRIPTIONS: Mapping[Kind, str] = {
    "wrapped": "a training checkpoint (wrapped, with optimizer states)",
    "diffusion": "a whole diffusion model (unwrapped)",
    "autoencoder": "an autoencoder (unwrapped)",
    "lm": "a language model (unwrapped)",
    "unknown": "a state dict of some other model",
}
FOREIGN = re.compile(r"^losses\.losses\.|\.online_model\.")  # what training checkpoints of the original hold besides
MODELS: Mapping[Kind, str] = {"diffusion": "a diffusion model", "autoencoder": "an autoencoder"}
WANTED_BY: Mapping[Kind, str] = {
    "wrapped": "resume it with --ckpt-path of train.py, or make a model of it with unwrap_model.py",
    "diffusion": "--pretrained-ckpt-path of train.py and --ckpt-path of sat generate take it",
    "autoencoder": "--pretransform-ckpt-path takes it, or --pretrained-ckpt-path when training an autoencoder",
    "lm": "--pretrained-ckpt-path of train.py and --ckpt-path of sat generate take it",
    "unknown": "",
}


class WrappedLayout(NamedTuple):
    """Where a training wrapper keeps its model.

    Attributes:
        model: Prefix of the model's keys.
        ema: Prefix of the averaged copy.
        covers: Prefix of the model's keys that the average covers; empty for all.
    """

    model: str
    ema: str
    covers: str


WRAPPED_LAYOUTS = (
    WrappedLayout("autoencoder.", "autoencoder_ema.ema_model.", ""),
    WrappedLayout("diffusion.", "diffusion_ema.ema_model.", "model."),
    WrappedLayout("diffae.", "diffae_ema.ema_model.", ""),
    WrappedLayout("model.", "model_ema.ema_model.", ""),  # of a language model
)


BACKBONES_OF_A_MODEL = ("model.model.", "model.net.")  # the latter is Dance Diffusion's


class Checkpoint(NamedTuple):
    """A weights file.

    Attributes:
        path: Where it was read from.
        kind: What it is.
        state_dict: Its tensors, as stored.
        extra: What else a training checkpoint holds (``global_step``, ``model_config``, ...); empty for others.
    """

    path: str
    kind: Kind
    state_dict: StateDict
    extra: Mapping[str, Any]

    @property
    def description(self) -> str:
        """What it is, in words."""
        return DESCRIPTIONS[self.kind]

    def wrong_kind(self, wanted: str, flag: str) -> CheckpointError:
        """The error for a file of the wrong kind.

        Args:
            wanted: What should have been given.
            flag: The option it was given to.
        """
        hint = f"; {WANTED_BY[self.kind]}" if WANTED_BY[self.kind] else ""
        return CheckpointError(f"{self.path}: is {self.description}, but {flag} wants {wanted}{hint}")


def load_ckpt_state_dict(ckpt_path: str | Path) -> StateDict:
    """The tensors of a ``.safetensors`` or ``.ckpt`` file, whatever it is. See `read_checkpoint`, which also says what it is."""
    return read_checkpoint(ckpt_path).state_dict


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a weights file and tell what it is.

    Args:
        path: A ``.safetensors`` file, or one that torch saved.
        trust: Also read files that contain Python objects besides tensors. Such a file can run any code; only do this with your own.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, or would have to be trusted.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: {'is a folder, not a checkpoint file' if file.is_dir() else 'no such file'}")
    with file.open("rb") as stream:
        head = stream.read(64)
    _refuse_by_head(file, head)
    content = _read_safetensors(file) if _is_safetensors(file, head) else _read_torch(file, trust)
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, Mapping) or not any(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{file}: holds no state dict (a mapping from names to tensors); is it a model checkpoint?")
    extra = {key: value for key, value in content.items() if key != "state_dict"} if "state_dict" in content else {}
    return Checkpoint(str(file), kind_of(state_dict, extra), dict(state_dict), extra)


TORCH_HEADS = (b"PK", b"\x80")  # a zip file; the pickle that torch wrote before version 1.6


def _refuse_by_head(file: Path, head: bytes) -> None:
    """Say what a file is that is clearly no checkpoint."""
    if not head:
        raise CheckpointError(f"{file}: is empty; was it copied or downloaded completely?")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file}: is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{file}: is a web page, not the weights; does the link that it came from ask to log in?")
    if not _is_safetensors(file, head) and not head.startswith(TORCH_HEADS):
        raise CheckpointError(f"{file}: is not a checkpoint: it begins with {head[:16]!r}")


def _is_safetensors(file: Path, head: bytes) -> bool:
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return True
    return file.suffix == ".safetensors" and not head.startswith(TORCH_HEADS)


def _read_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a complete safetensors file ({error}); was it copied or downloaded completely?") from error


def _read_torch(file: Path, trust: bool) -> dict[str, Any]:
    try:
        source = io.BytesIO(file.read_bytes()) if file.suffix == ".safetensors" else file  # torch judges a path by its suffix
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of a pickle that torch did not write: told below
            content = torch.load(source, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise CheckpointError(f"{file}: is not a checkpoint: a pickle, but not one that torch wrote") from error
        raise CheckpointError(
            f"{file}: contains Python objects besides tensors ({found[1]}); loading them can run any code, so it is refused; if the file "
            "is your own, convert it with read_checkpoint(path, trust=True)"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file}: truncated or not a checkpoint ({file.stat().st_size:,} bytes; {reason}); was it copied or downloaded completely?"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a state dict")
    return content


def _numpy_scalars() -> list[Any]:
    """What a number of numpy (a loss, an epoch) is pickled as, by old and new names: harmless, and found in many training checkpoints."""
    import numpy

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return []  # cannot be told the old names
    scalar: Any = type(numpy.float64(0)).__reduce__(numpy.float64(0))[0]
    dtypes = [type(numpy.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), numpy.dtype, *dtypes]


def kind_of(state_dict: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> Kind:
    """What a state dict belongs to, judged by its keys."""
    keys = list(state_dict)
    tops = {key.split(".")[0] for key in keys}
    if "pytorch-lightning_version" in (extra or {}) or "optimizer_states" in (extra or {}):
        return "wrapped"
    if any(key.startswith(layout.ema) for key in keys for layout in WRAPPED_LAYOUTS):
        return "wrapped"
    if "lm" in tops:
        return "lm"
    if any(key.startswith("model.lm.") for key in keys):
        return "wrapped"
    if {"encoder", "diffusion"} <= tops:  # a diffusion autoencoder
        return "diffusion"
    if {"encoder", "decoder"} <= tops:
        return "autoencoder"
    if "model" in tops and ("conditioner" in tops or "pretransform" in tops or any(key.startswith(BACKBONES_OF_A_MODEL) for key in keys)):
        return "diffusion"
    if keys and any(all(key.startswith(layout.model) for key in keys) for layout in WRAPPED_LAYOUTS if layout.model != "model."):
        return "wrapped"
    return "unknown"


def unwrap_state_dict(state_dict: Mapping[str, Tensor], *, use_ema: bool = True, path: str = "checkpoint") -> StateDict:
    """The model inside a training checkpoint.

    Args:
        state_dict: Of a training checkpoint.
        use_ema: Take averaged weights where there are some.
        path: For messages.

    Raises:
        CheckpointError: If no training wrapper of this library (or the reference's) wrote it.
    """
    for layout in WRAPPED_LAYOUTS:
        model = {key.removeprefix(layout.model): value for key, value in state_dict.items() if key.startswith(layout.model)}
        if not model:
            continue
        average = {
            layout.covers + key.removeprefix(layout.ema): value
            for key, value in state_dict.items()
            if use_ema and key.startswith(layout.ema)
        }
        unknown = sorted(set(average) - set(model))
        if unknown:
            raise CheckpointError(f"{path}: its averaged weights have keys that its model lacks: {_some(unknown)}")
        return {**model, **average}
    tops = sorted({key.split(".")[0] for key in state_dict})
    raise CheckpointError(f"{path}: no model found in this training checkpoint; its keys begin with {_some(tops)}")


def refuse_other_model(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> None:
    """Refuse the training checkpoint of another kind of model.

    Args:
        checkpoint: A training checkpoint.
        own: State dict of the model that the config describes, or of its training wrapper.

    Raises:
        CheckpointError: Saying what it is of.
    """
    found, wanted = _kind_inside(checkpoint.state_dict), _kind_inside(own)
    if found != wanted and found in MODELS and wanted in MODELS:
        raise CheckpointError(f"{checkpoint.path}: is a training checkpoint of {MODELS[found]}, but the config describes {MODELS[wanted]}")


def _kind_inside(state_dict: Mapping[str, Tensor]) -> Kind:
    """What the model is, whether it is wrapped or not."""
    kind = kind_of(state_dict)
    if kind not in ("wrapped", "unknown"):
        return kind
    prefix = next((layout.model for layout in WRAPPED_LAYOUTS if any(key.startswith(layout.model) for key in state_dict)), "")
    return kind_of({key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)})


# ---- fitting weights to a model ---------------------------------------------------------------------------------------------------


class LoadReport(NamedTuple):
    """What became of every tensor.

    Attributes:
        matched: Names that were copied.
        missing: Names that the model has and the file lacks.
        unexpected: Names that the file has and the model lacks.
        mismatched: Names whose shapes differ: name -> (shape in the file, shape in the model).
        matched_share: Copied elements, as a share of the model's.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    matched_share: float

    @property
    def is_complete(self) -> bool:
        """Whether the model got everything it has."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.matched)} of the model's {total} tensors loaded ({self.matched_share:.1%} of its weights)"]
        if self.missing:
            parts.append(f"missing in the file: {_some(self.missing)}")
        if self.mismatched:
            shapes = [f"{name} {list(theirs)} instead of {list(ours)}" for name, (theirs, ours) in self.mismatched.items()]
            parts.append(f"of another shape: {_some(shapes)}")
        if self.unexpected:
            parts.append(f"not in the model: {_some(self.unexpected)}")
        return "; ".join(parts)


def compare_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """What `copy_state_dict` would do."""
    own = model.state_dict()
    matched = [name for name, tensor in own.items() if name in state_dict and state_dict[name].shape == tensor.shape]
    mismatched = {
        name: (tuple(state_dict[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    }
    elements = sum(tensor.numel() for tensor in own.values())
    return LoadReport(
        matched,
        [name for name in own if name not in state_dict],
        [name for name in state_dict if name not in own],
        mismatched,
        sum(own[name].numel() for name in matched) / max(elements, 1),
    )


def copy_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Copy what fits by name and shape; report, and warn about, what did not."""
    report = compare_state_dict(model, state_dict)
    _copy(model, state_dict, report)
    if not report.is_complete:
        logger.warning("copy_state_dict: %s", report)
    return report


def _copy(model: nn.Module, state_dict: Mapping[str, Tensor], report: LoadReport) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for name in report.matched:
            own[name].copy_(state_dict[name])


def load_model_weights(model: nn.Module, path: str | Path, *, use_ema: bool = True) -> LoadReport:
    """Load a model completely, for inference. A training checkpoint is unwrapped on the way.

    Raises:
        CheckpointError: If the file is of another kind of model, or lacks a tensor.
    """
    checkpoint = read_checkpoint(path)
    kind = kind_of(model.state_dict())
    state_dict = checkpoint.state_dict
    if checkpoint.kind == "wrapped":
        refuse_other_model(checkpoint, model.state_dict())
        state_dict = unwrap_state_dict(state_dict, use_ema=use_ema, path=checkpoint.path)
        checkpoint = checkpoint._replace(kind=kind_of(state_dict))
        logger.info(
            "%s: a training checkpoint; took the %s", path, "averaged weights where there are some" if use_ema else "online weights"
        )
    if checkpoint.kind not in (kind, "unknown"):
        raise checkpoint.wrong_kind(DESCRIPTIONS[kind], "this model")
    report = compare_state_dict(model, state_dict)
    if not report.is_complete:
        raise CheckpointError(f"{path}: does not fit the model: {report}; was it made with this config?")
    _copy(model, state_dict, report)
    logger.info("%s: %s", path, report)
    return report


def initialise_from(model: nn.Module, path: str | Path, *, flag: str = "--pretrained-ckpt-path", min_share: float = 0.5) -> LoadReport:
    """Start a new run from an unwrapped model, which may differ from this one in parts.

    Args:
        model: The model to fill.
        path: An unwrapped model.
        flag: The option that named it, for messages.
        min_share: Smallest share of the model's weights that must fit.

    Raises:
        CheckpointError: If the file is of another kind, or too little of it fits.
    """
    checkpoint = read_checkpoint(path)
    kind = kind_of(model.state_dict())
    if checkpoint.kind != kind and not (checkpoint.kind == "unknown" or kind == "unknown"):
        raise checkpoint.wrong_kind(DESCRIPTIONS[kind], flag)
    report = compare_state_dict(model, checkpoint.state_dict)
    if report.matched_share < min_share:
        raise CheckpointError(f"{path}: does not fit the model: {report}; {flag} wants a model with mostly the same config")
    _copy(model, checkpoint.state_dict, report)
    logger.log(logging.INFO if report.is_complete else logging.WARNING, "%s: %s", path, report)
    return report


def load_pretransform_weights(pretransform: nn.Module, path: str | Path, *, flag: str = "--pretransform-ckpt-path") -> LoadReport:
    """Load an autoencoder into the pretransform of another model, completely.

    Args:
        pretransform: A pretransform whose autoencoder is its ``model``.
        path: An unwrapped autoencoder.
        flag: The option that named it, for messages.

    Raises:
        CheckpointError: If the file is not an autoencoder, or lacks a tensor.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.kind not in ("autoencoder", "unknown"):
        raise checkpoint.wrong_kind("an autoencoder (unwrapped)", flag)
    autoencoder = pretransform.get_submodule("model")
    report = compare_state_dict(autoencoder, checkpoint.state_dict)
    if not report.is_complete:
        raise CheckpointError(f"{path}: does not fit the pretransform's autoencoder: {report}")
    _copy(autoencoder, checkpoint.state_dict, report)
    logger.info("%s: %s", path, report)
    return report


def require_wrapped(path: str | Path, *, flag: str = "--ckpt-path") -> Checkpoint:
    """Read a training checkpoint to resume from.

    Raises:
        CheckpointError: If it is something else.
    """
    if Path(path).is_dir():
        raise CheckpointError(
            f"{path}: is a folder, as --strategy deepspeed writes it, which {flag} cannot resume; make a model of it with "
            "'sat unwrap', and start from that with --pretrained-ckpt-path"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.kind != "wrapped":
        raise checkpoint.wrong_kind("a training checkpoint to resume", flag)
    if "loops" not in checkpoint.extra:
        raise CheckpointError(
            f"{path}: holds the weights of a training checkpoint, but not the state of its run, which {flag} needs to resume it; make a "
            "model of it with unwrap_model.py, and start from that with --pretrained-ckpt-path"
        )
    return checkpoint


def require_fit(wrapper: nn.Module, checkpoint: Checkpoint, *, flag: str = "--ckpt-path") -> None:
    """Refuse the training checkpoint of another model, before anything is restored from it.

    Raises:
        CheckpointError: If it is of another kind of model, or a tensor is missing, of another shape, or has no place.
    """
    refuse_other_model(checkpoint, wrapper.state_dict())
    report = compare_state_dict(wrapper, checkpoint.state_dict)
    if report.unexpected and (report.is_complete or any(FOREIGN.search(key) for key in report.unexpected)):
        raise CheckpointError(
            f"{checkpoint.path}: holds what this run does not keep ({_some(report.unexpected)}), as checkpoints of another program or "
            "config do; that run cannot be resumed here: make a model of it with unwrap_model.py, and start from that "
            "with --pretrained-ckpt-path"
        )
    if not report.is_complete:
        raise CheckpointError(f"{checkpoint.path}: does not fit this run: {report}; {flag} resumes a run with the same model config")


# ---- writing ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place only if the block succeeds, after its bytes are on disk."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model_weights(state_dict: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write an unwrapped model: ``.safetensors``, or ``{"state_dict": ...}`` for any other suffix. Atomic.

    Args:
        state_dict: Tensors by name.
        path: Where to.
        metadata: Strings for the header of a safetensors file.
    """
    target = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with atomic_path(target) as temporary:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))
        else:
            torch.save({"state_dict": tensors}, temporary)
    return target


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that identify a set of weights: the same for wrapped, unwrapped and safetensors files of one model."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
