"""Training an adapter instead of a model: what a run does differently when ``training.adapter`` is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from stable_audio_tools.checkpoint import Checkpoint
from stable_audio_tools.config.model import ModelConfig
from stable_audio_tools.config.source import Source
from stable_audio_tools.config.training.adapters import AdapterBlock, with_adapter
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.adapters.attach import Attached, RandomLayers, attach, start_from, tensors_of
from stable_audio_tools.models.adapters.compact import DTYPES, compact
from stable_audio_tools.models.adapters.files import AdapterFile, base_hash, read_adapter, save_adapter
from stable_audio_tools.models.adapters.stack import require_change, weights_of
from stable_audio_tools.models.layers.parameters import count_parameters
from stable_audio_tools.training.base import TrainingWrapper

logger = logging.getLogger(__name__)


def adapter_source(source: Source) -> Source:
    """A checked model config whose adapter, if it has one, stands in ``training.adapter``, however it was written."""
    return source._replace(data=with_adapter(source.data))


def trains_adapter(source: Source) -> bool:
    """Whether a config, as `adapter_source` makes it, asks for an adapter."""
    return "adapter" in (source.data.get("training") or {})


def attach_for_training(model: nn.Module, config: ModelConfig) -> TrainedAdapter | None:
    """Attach what ``training.adapter`` describes to a model that has its weights, and freeze the rest; None if there is none.

    Raises:
        ConfigError: If it fits no layer.
        CheckpointError: If ``start_from`` names a file that does not fit.
    """
    block: AdapterBlock | None = getattr(config.training, "adapter", None)
    precision: str | None = getattr(config.training, "base_precision", None)
    if block is None:
        if precision is not None:
            logger.warning("training.base_precision has no effect without an adapter: all of the model learns, and needs its precision")
        return None
    adapter = TrainedAdapter(model, block, config.model_type)
    adapter.compact_base(precision)
    return adapter


class TrainedAdapter:
    """An adapter in training.

    Args:
        model: The model, with its weights.
        block: What to attach.
        model_type: Of the model.
    """

    def __init__(self, model: nn.Module, block: AdapterBlock, model_type: str) -> None:
        total = count_parameters(model)
        self._model, self._block, self._model_type = model, block, model_type
        before = read_adapter(block.start_from).named_for(model) if block.start_from is not None else None
        self._attached: Attached = attach(model, block.type, block.config, block.targets, block.exclude)
        self._base_hash = base_hash({name: self._inner(name).weight for name in self._attached})
        self.random_layers = RandomLayers(model, self._attached, block.module_dropout) if block.module_dropout else None
        if before is not None:
            start_from(self._attached, model, before, block.type)
        size = sum(parameter.numel() for parameter in self.parameters)
        logger.info(
            "training an adapter (%s) of %d layers, not the model: %.3f M parameters, %.2g %% of the model's %.1f M; files of %.1f MB",
            block.type, len(self._attached), size / 1e6, 100 * size / total, total / 1e6, 4 * size / 1e6,
        )  # fmt: skip

    def compact_base(self, precision: str | None) -> None:
        """Keep what does not learn in a smaller data type, if there is one."""
        if precision is not None:
            changed = compact(self._model, DTYPES[precision])
            logger.info("%.1f M parameters that do not learn are kept in %s", changed / 1e6, precision)

    def _inner(self, name: str) -> Any:
        layer: Any = self._model.get_submodule(name)
        return layer.get_base_layer()

    def share_base(self, wrapper: TrainingWrapper) -> None:
        """Let the average of the weights have its own copy of the adapter only, and checkpoints need no more than that, either."""
        wrapper.strict_loading = False
        wrapper.has_random_parts = self.random_layers is not None
        if wrapper.ema is None:
            return
        online = wrapper.ema._online[0]
        for averaged_module, module in zip(wrapper.ema.ema_model.modules(), online.modules(), strict=True):
            for name, parameter in module._parameters.items():
                if parameter is not None and not parameter.requires_grad:
                    averaged_module._parameters[name] = parameter

    def keys(self, wrapper: TrainingWrapper) -> dict[str, dict[str, list[str]]]:
        """Names in a checkpoint: layer -> name -> the online tensor's, and the averaged one's if there is one."""
        names = {id(parameter): [name] for name, parameter in wrapper.named_parameters()}
        if wrapper.ema is not None:
            averaged = wrapper.ema.ema_model.named_parameters(prefix=f"{wrapper.ema_prefix}.ema_model", remove_duplicate=False)
            online = wrapper.ema._online[0].named_parameters(remove_duplicate=False)
            for (name, _), (_, parameter) in zip(averaged, online, strict=True):
                if parameter.requires_grad:
                    names[id(parameter)].append(name)
        return {layer: {name: names[id(tensor)] for name, tensor in named.items()} for layer, named in self._attached.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for named in self._attached.values() for parameter in named.values()]

    def kept(self, wrapper: TrainingWrapper, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a checkpoint keeps of a state dict: the adapter, its average, and what belongs to neither model nor average."""
        adapter = {key for named in self.keys(wrapper).values() for keys in named.values() for key in keys}
        whole = (f"{wrapper.model_prefix}.", f"{wrapper.ema_prefix}.ema_model.")
        return {key: value for key, value in state_dict.items() if key in adapter or not key.startswith(whole)}

    def describe(self, wrapper: TrainingWrapper) -> dict[str, Any]:
        """What a checkpoint says about the adapter in it."""
        block = {"type": self._block.type, "config": dict(self._block.config)}
        return {**block, "keys": self.keys(wrapper), "base_hash": self._base_hash, "model_type": self._model_type}

    def require_fit(self, wrapper: TrainingWrapper, checkpoint: Checkpoint, flag: str = "--ckpt-path") -> None:
        """Refuse to resume a checkpoint that holds no adapter, another one, or one for another base.

        Raises:
            CheckpointError: Saying which.
        """
        found = checkpoint.extra.get("adapter")
        if found is None:
            raise CheckpointError(
                f"{checkpoint.path}: holds a whole model in training, but the config asks for an adapter; leave training.adapter out to "
                f"resume it, or make a model of it with unwrap_model.py and start from that with --pretrained-ckpt-path"
            )
        own = self.describe(wrapper)
        for key in ("type", "keys"):
            if found[key] != own[key]:
                what = "of another kind" if key == "type" else "of other layers, or with another EMA setting,"
                raise CheckpointError(f"{checkpoint.path}: holds an adapter {what} than the config asks for")
        if None not in (found["base_hash"], self._base_hash) and found["base_hash"] != self._base_hash:
            raise CheckpointError(
                f"{checkpoint.path}: its adapter was trained on other weights ({found['base_hash']}) than this model has "
                f"({self._base_hash}); {flag} of an adapter also needs the --pretrained-ckpt-path that the run began with"
            )
        state = wrapper.state_dict()
        for named in own["keys"].values():
            for key in (key for keys in named.values() for key in keys):
                if key not in checkpoint.state_dict or checkpoint.state_dict[key].shape != state[key].shape:
                    raise CheckpointError(f"{checkpoint.path}: {key} is missing, or of another shape than the config asks for")

    def require_change(self, step: int) -> None:
        """Refuse to call a run a success that has left the model as it was.

        Raises:
            ConfigError: If the adapter changes nothing.
        """
        adapter = AdapterFile("the adapter", self._block.type, dict(self._block.config), tensors_of(self._attached), {})
        layers = {name: self._inner(name) for name in self._attached}
        bases = {name: weights_of(layer) for name, layer in layers.items()}
        try:
            require_change(adapter, ((adapter.change(name, layer, bases[name].weight), bases[name]) for name, layer in layers.items()))
        except CheckpointError as error:
            raise ConfigError(f"after {step} steps: {error} Does the optimizer have a learning rate above 0?") from error

    def callback(self) -> AdapterCallback:
        """What makes checkpoints hold the adapter alone."""
        return AdapterCallback(self)

    def save(self, state_dict: Mapping[str, Tensor], keys: Mapping[str, Mapping[str, list[str]]], path: Path, step: int) -> None:
        """Write an adapter file: averaged weights where there are some."""
        tensors = {layer: {name: state_dict[found[-1]] for name, found in named.items()} for layer, named in keys.items()}
        options = {"kind": self._block.type, "config": self._block.config, "base_hash": self._base_hash}
        save_adapter(path, tensors, **options, step=step, model_type=self._model_type)


class AdapterCallback(pl.Callback):
    """Leaves the model out of checkpoints, and writes an adapter file with each: ``adapters/step=S.safetensors`` in the run's folder.

    Args:
        adapter: What is trained.
    """

    def __init__(self, adapter: TrainedAdapter) -> None:
        super().__init__()
        self._adapter = adapter

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Choose the layers that do without the adapter in this batch."""
        if self._adapter.random_layers is not None:
            self._adapter.random_layers.draw(f"{trainer.current_epoch} {batch_idx} {trainer.global_rank}")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter and what belongs to neither model nor average."""
        assert isinstance(pl_module, TrainingWrapper)
        described = self._adapter.describe(pl_module)
        state_dict = checkpoint["state_dict"]
        checkpoint["state_dict"] = self._adapter.kept(pl_module, state_dict)
        checkpoint["adapter"] = described
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "adapters" / f"step={trainer.global_step}.safetensors"
            self._adapter.save(state_dict, described["keys"], path, trainer.global_step)
