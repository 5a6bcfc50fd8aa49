"""``training.adapter``: a small addition to a model that is trained instead of the model, and its two older spellings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from stable_audio_tools.config.base import BelowOne, Component, NonNegativeFloat, PositiveFloat, PositiveInt, Strict
from stable_audio_tools.registry import Mistake
from stable_audio_tools.registry.schema import without_comments

READ_ONLY_KINDS = ("dora-cols", "bora", "lora-xs", "dora-rows-xs", "dora-cols-xs", "bora-xs")  # files of them can be used
KINDS_OF_LORA_CONFIG = {"lora": "lora", "dora": "dora", "dora-rows": "dora"}


class AdapterBlock(Component):
    """What is trained instead of the model: ``{"type": "lora", "config": {"rank": 8}, "targets": ["to_qkv", "ff"]}``.

    A pattern matches a layer if the layer's dotted name contains it, whatever the case; ``*`` stands for anything, ``[0-5]`` for a number
    in that range, and a dot at either end for the end of the name, too. Without ``targets`` it is every linear and convolution layer of the
    network that the type can adapt; conditioners and pretransform have to be named.
    """

    family: ClassVar[str] = "ADAPTERS"
    targets: list[str] | None = None
    exclude: list[str] = []
    start_from: str | None = None  # an adapter file
    module_dropout: BelowOne = 0.0  # share of the adapted layers that a batch does without

    def conflicts(self) -> Iterator[Mistake]:
        for key in ("targets", "exclude"):
            for index, pattern in enumerate(getattr(self, key) or []):
                if not pattern.strip(" ,.*"):
                    yield Mistake((key, index), f"{pattern!r} would match every layer; write a part of a layer's name")
        if self.targets == []:
            yield Mistake(("targets",), "is empty, so that nothing would be trained; leave it out for every layer of the network")


class LoraConfig(Strict):
    """``training.lora_config`` of version 0.0.20."""

    rank: PositiveInt = 8
    alpha: PositiveFloat | None = None
    adapter_type: str = "lora"
    include: list[str] | None = None
    exclude: list[str] | None = None
    dropout: BelowOne = 0.0

    def conflicts(self) -> Iterator[Mistake]:
        if self.adapter_type in READ_ONLY_KINDS:
            text = f"files of {self.adapter_type!r} can be used, but it cannot be trained; one of {', '.join(KINDS_OF_LORA_CONFIG)}"
            yield Mistake(("adapter_type",), text)
        elif self.adapter_type not in KINDS_OF_LORA_CONFIG:
            yield Mistake(("adapter_type",), f"is {self.adapter_type!r}; one of {', '.join(KINDS_OF_LORA_CONFIG)}")

    def block(self, start_from: str | None = None) -> dict[str, Any]:
        """The same as an `AdapterBlock`."""
        config: dict[str, Any] = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout}
        return {
            "type": KINDS_OF_LORA_CONFIG[self.adapter_type], "config": config, "targets": self.include or None,
            "exclude": self.exclude or [], "start_from": start_from,
        }  # fmt: skip


class LorawSection(Strict):
    """``lora`` beside ``model`` and ``training``: what the LoRAW extension reads."""

    component_whitelist: list[str]
    multiplier: float = 1.0
    rank: PositiveInt = 32
    alpha: NonNegativeFloat | None = 32
    dropout: BelowOne = 0.0
    module_dropout: BelowOne | None = 0.0
    lr: PositiveFloat = 1e-4
    weight_decompose: bool = False

    def conflicts(self) -> Iterator[Mistake]:
        if not self.component_whitelist:
            yield Mistake(("component_whitelist",), 'is empty, so that nothing would be trained; for example ["transformer"]')
        if self.multiplier != 1:
            yield Mistake(("multiplier",), "warning: has no effect on training; give the strength where the adapter is used", "warning")

    def block(self) -> dict[str, Any]:
        """The same as an `AdapterBlock`."""
        return {
            "type": "dora" if self.weight_decompose else "lora",
            "config": {"rank": self.rank, "alpha": self.alpha or float(self.rank), "dropout": self.dropout},
            "targets": [f".{name}." for name in self.component_whitelist],
            **({"module_dropout": self.module_dropout} if self.module_dropout else {}),
        }


NO_SMALL_CODEC = {
    "base_precision": "an autoencoder that is adapted codes audio, and computes in its precision; --precision bf16-mixed halves activations"
}  # why there is none


class WithAdapter(Strict):
    """The part of ``training`` that says that an adapter is trained instead of the model."""

    adapter: AdapterBlock | None = None
    lora_config: LoraConfig | None = None
    lora_ckpt_path: str | None = None
    base_precision: Literal["bf16", "bfloat16", "fp16", "float16"] | None = None  # of what does not learn beside an adapter

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        if self.adapter is not None and self.lora_config is not None:
            yield Mistake(("lora_config",), "says what adapter says, in the words of an older version; leave one of them out", "conflict")
        if self.lora_ckpt_path is not None and self.lora_config is None:
            yield Mistake(("lora_ckpt_path",), 'has no effect without lora_config; with adapter, write "start_from" in it', "conflict")


def with_adapter(data: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A model config (checked, plain data) whose adapter, if it has one, stands in ``training.adapter``.

    LoRAW trains with plain Adam at its own learning rate, whatever ``training`` says, so that goes where optimizers stand.

    Args:
        data: The config; read, never written.
        given: Keys of the adapter that win over those of the config, ``config`` key by key. ``{"type": "none"}`` trains the model itself.
    """
    if given is None and "lora" not in data and not {"lora_config", "adapter"} & set(data.get("training") or {}):
        return dict(data)
    config: dict[str, Any] = without_comments(data)
    training: dict[str, Any] = config.get("training") or {}
    older = training.pop("lora_config", None)
    start_from = training.pop("lora_ckpt_path", None)
    section = config.pop("lora", None)
    block: dict[str, Any] | None = training.pop("adapter", None)
    if given is not None and given.get("type") == "none":
        return config
    if block is None and older is not None:
        block = LoraConfig.model_validate(older).block(start_from)
    elif block is None and section is not None:
        parsed = LorawSection.model_validate(section)
        block = parsed.block()
        adam = {"optimizer": {"type": "Adam", "config": {"lr": parsed.lr}}}
        if config["model_type"].startswith(("diffusion_cond", "diffusion_uncond")):
            training["optimizer_configs"] = {"diffusion": adam}
        else:
            training["learning_rate"] = parsed.lr
    if given is not None:
        before = block or {}
        kind = given.get("type") or before.get("type") or "lora"
        is_same_type = kind == before.get("type")
        options: dict[str, Any] = {**(before.get("config", {}) if is_same_type else {}), **given.get("config", {})}
        block = {**before, **given, "type": kind, "config": options}
    if block is not None:
        config["training"] = {**training, "adapter": block}
    return config
