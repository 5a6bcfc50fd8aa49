"""The trunk of a model config: what every model of a type has, whatever it is built of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, cast

from stable_audio_tools.config.base import Component, PositiveFloat, PositiveInt, Strict, part_mistakes
from stable_audio_tools.config.training.autoencoder import AutoencoderTraining
from stable_audio_tools.config.training.diffusion import (
    DiffusionAutoencoderTraining,
    DiffusionCondInpaintTraining,
    DiffusionCondTraining,
    DiffusionUncondTraining,
)
from stable_audio_tools.config.training.lm import LMTraining
from stable_audio_tools.families import OBJECTIVES, PATTERNS, SHIFTS
from stable_audio_tools.registry import Mistake, closest
from stable_audio_tools.registry.schema import Location

INJECTED_IDS = ("inpaint_mask", "inpaint_masked_input")  # conditions that training and inference add, not a conditioner


class EncoderBlock(Component):
    """Audio to latents."""

    family: ClassVar[str] = "ENCODERS"
    requires_grad: bool = True


class DecoderBlock(Component):
    """Latents to audio."""

    family: ClassVar[str] = "DECODERS"
    requires_grad: bool = True
    soft_clip: bool = False


class BottleneckBlock(Component):
    """What happens to the encoder's output before it is called a latent."""

    family: ClassVar[str] = "BOTTLENECKS"
    requires_grad: bool = True


class PretransformBlock(Component):
    """A fixed (or, with ``enable_grad``, trained) transform between audio and what the model works on."""

    family: ClassVar[str] = "PRETRANSFORMS"
    enable_grad: bool = False
    scale: PositiveFloat = 1.0
    model_half: bool = False
    iterate_batch: bool = False
    chunked: bool = False

    def ratio(self) -> int | None:
        """Samples per step of its output, if it can be told from the config."""
        return self._product(self.fact("ratio_key"))

    def width(self) -> int | None:
        """Channels of its output, if they can be told from the config."""
        return self._product(self.fact("width_key"))

    def audio_channels(self) -> int | None:
        """Channels of the audio that it takes and gives, if they can be told and are the same."""
        if self.fact("trunk"):
            is_same = self.config.get("in_channels") is None and self.config.get("out_channels") is None
            channels = self.config.get(self.fact("audio_key")) if is_same else None
        else:
            channels = self.value(self.fact("audio_key") or "")
        return channels if type(channels) is int else None

    def width_source(self) -> str:
        """The keys that `width` follows from, for messages."""
        octaves = self.fact("octaves_key")
        return " * ".join([*_listed(self.fact("width_key")), *([f"2^{octaves}"] if octaves else [])])

    def _product(self, keys: str | Sequence[str] | None) -> int | None:
        get = self.config.get if self.fact("trunk") else self.value
        values: list[Any] = [get(key) for key in _listed(keys)]
        octaves_key = self.fact("octaves_key")
        if octaves_key is not None:
            octaves = get(octaves_key)
            values.append(2**octaves if type(octaves) is int and 0 < octaves < 32 else None)
        return math.prod(values) if values and all(type(value) is int and value > 0 for value in values) else None


class AutoencoderModel(Strict):
    """``model`` of an autoencoder; also the ``config`` of an ``autoencoder`` pretransform."""

    encoder: EncoderBlock
    decoder: DecoderBlock
    bottleneck: BottleneckBlock | None = None
    pretransform: PretransformBlock | None = None
    latent_dim: PositiveInt
    downsampling_ratio: PositiveInt
    io_channels: PositiveInt
    in_channels: PositiveInt | None = None
    out_channels: PositiveInt | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._ratio_conflicts()
        yield from self._order_conflicts()
        yield from self._width_conflicts()

    def _ratio_conflicts(self) -> Iterator[Mistake]:
        inner = 1 if self.pretransform is None else self.pretransform.ratio()
        if inner is None:
            return
        found: dict[int, str] = {}  # ratio -> what it follows from; encoder and decoder that agree are one mistake
        for name, block in (("encoder", self.encoder), ("decoder", self.decoder)):
            keys, strides = _strides(block)
            if strides:
                ratio = math.prod(strides) * inner
                through = f" times the pretransform's {inner} = {ratio}" if inner != 1 else ""
                found.setdefault(ratio, f"{name}.config.{' and '.join(keys)} {strides} multiply to {math.prod(strides)}{through}")
        for ratio, text in found.items():
            if ratio != self.downsampling_ratio:
                yield Mistake(("downsampling_ratio",), f"is {self.downsampling_ratio}, but {text}", "conflict")

    def _order_conflicts(self) -> Iterator[Mistake]:
        """A decoder that does not undo the encoder's strides last first. Published configs have this; lengths are right all the same."""
        (keys, down), (up_keys, up) = _strides(self.encoder), _strides(self.decoder)
        if self.encoder.type != self.decoder.type or not down or math.prod(down) != math.prod(up):
            return
        expected = down[::-1] if self.decoder.fact("strides_as_applied") else down
        if up != expected:
            message = f"warning: {up} is not the mirror image of the encoder's {' and '.join(keys)} {down}, which is {expected} here"
            yield Mistake(("decoder", "config", up_keys[-1]), message, "warning")

    def _width_conflicts(self) -> Iterator[Mistake]:
        yield from _latent_conflicts(self.encoder, self.decoder, self.bottleneck, self.latent_dim)
        if self.pretransform is None:
            for block, name, key, wanted in (
                (self.encoder, "encoder", "in_channels", self.in_channels or self.io_channels),
                (self.decoder, "decoder", "out_channels", self.out_channels or self.io_channels),
            ):
                key = block.fact("channels_key") or key
                channels = block.value(key)
                if channels is not None and channels != wanted:
                    yield Mistake((name, "config", key), f"is {channels}, but the model has {wanted} (io_channels)", "conflict")


class ConditionerBlock(Component):
    """One condition: the metadata key it reads, and the part that embeds it."""

    family: ClassVar[str] = "CONDITIONERS"
    id: str

    def width(self, cond_dim: int) -> int:
        """Channels of the embedding."""
        width = self.config.get("output_dim", cond_dim)
        return width if type(width) is int else cond_dim  # a wrong one is reported elsewhere


class ConditioningModel(Strict):
    """All conditions of a model."""

    configs: list[ConditionerBlock]
    cond_dim: PositiveInt
    default_keys: dict[str, str] = {}
    pre_encoded_keys: list[str] = []

    def ids(self) -> list[str]:
        """All conditions: those of conditioners, and tensors that come with the data and need none."""
        ids = [block.id for block in self.configs]
        return ids + [key for key in self.pre_encoded_keys if key not in ids]

    def widths(self) -> dict[str, int]:
        """Channels of every condition, by id."""
        return {block.id: block.width(self.cond_dim) for block in self.configs}

    def conflicts(self) -> Iterator[Mistake]:
        ids = [block.id for block in self.configs]
        for index, block in enumerate(self.configs):
            if block.id in ids[:index]:
                yield Mistake(("configs", index, "id"), f"{block.id!r} is used twice; the first one would be lost", "conflict")
            if "." in block.id or not block.id:
                yield Mistake(("configs", index, "id"), f"must be a non-empty name without '.', got {block.id!r}", "conflict")
        for item in self.default_keys:
            if item not in self.ids():
                yield Mistake(("default_keys",), f"{item!r} is not an id in conditioning.configs: {', '.join(ids)}", "conflict")


def unknown_ids(conditioning: ConditioningModel | None, section: str, ids: Mapping[str, Sequence[str]]) -> Iterator[Mistake]:
    """Ids, by the key that lists them in ``section``, that no condition has; and pre-encoded conditions that nothing uses."""
    known = conditioning.ids() if conditioning else []
    for key, names in ids.items():
        for index, name in enumerate(names):
            if name not in known and name not in INJECTED_IDS:
                there = f"; it has: {', '.join(known)}" if known else "; there are none"
                yield Mistake((section, key, index), f"{name!r} is not an id in conditioning.configs{there}", "conflict")
    conditioners = [block.id for block in conditioning.configs] if conditioning else []
    for item in conditioning.pre_encoded_keys if conditioning else []:
        if item not in conditioners and not any(item in names for names in ids.values()):
            there = f"is not an id in conditioning.configs ({', '.join(conditioners)}), and nothing in {section} uses it"
            yield Mistake(("conditioning", "pre_encoded_keys"), f"{item!r} {there}", "conflict")


def wrong_widths(
    conditioning: ConditioningModel | None, section: str, block: Component, ids: Mapping[str, Sequence[str]]
) -> Iterator[Mistake]:
    """Keys of the part in ``section``, by which conditions they are for, that are not the channels these conditions have."""
    widths = conditioning.widths() if conditioning else {}
    for key, names in ids.items():
        wanted = block.value(key)
        for name in names:
            if wanted is not None and name in widths and widths[name] != wanted:
                text = f"is {wanted}, but condition {name!r} has {widths[name]} channels (cond_dim)"
                yield Mistake((section, "config", key), text, "conflict")
                break


class ModularLocalCond(Strict):
    """A local condition that may be absent."""

    id: str
    dim: PositiveInt


SAMPLING_VERSIONS = ("0.0.19", "0.0.20")
NEW_NETWORK_KEYS = ("local_add_cond_dim", "timestep_features_type", "timestep_features_dim", "timestep_features_logsnr", "norm_type")


class DiffusionBlock(Component):
    """The denoising network, and how conditions reach it.

    ``sampling_version`` says whose numbers generation has where the versions of the reference differ: guidance (0.0.20 projects it), the
    grid of flow samplers, and masks of negative conditions. Without it, it is 0.0.20 for configs that say something only that version
    knows, and 0.0.19 for all others.
    """

    family: ClassVar[str] = "BACKBONES"
    diffusion_objective: str = "v"
    cross_attention_cond_ids: list[str] = []
    global_cond_ids: list[str] = []
    input_concat_ids: list[str] = []
    prepend_cond_ids: list[str] = []
    local_add_cond_ids: list[str] = []
    modular_local_cond_configs: list[ModularLocalCond] = []
    distribution_shift_options: dict[str, Any] | None = None
    sampling_distribution_shift_options: dict[str, Any] | None = None
    mask_padding_attention: bool = False
    use_effective_length_for_schedule: bool = False
    sampling_version: Literal["0.0.19", "0.0.20"] | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from _objective_conflicts(self.diffusion_objective, self.config)
        for key in ("distribution_shift_options", "sampling_distribution_shift_options"):
            given = getattr(self, key)
            if given is not None:
                name, options = shift_of(given)
                yield from part_mistakes(SHIFTS, name, (key, "type"), options, (key,))

    def ids(self) -> dict[str, list[str]]:
        """Conditions by the key that lists them."""
        keys = ("cross_attention_cond_ids", "global_cond_ids", "input_concat_ids", "prepend_cond_ids", "local_add_cond_ids")
        return {key: getattr(self, key) for key in keys}

    def version(self) -> str:
        """`sampling_version`, or what follows from the other keys."""
        if self.sampling_version is not None:
            return self.sampling_version
        attention = self.config.get("attn_kwargs")
        is_new = (
            self.local_add_cond_ids or self.modular_local_cond_configs or self.sampling_distribution_shift_options is not None
            or self.mask_padding_attention or self.use_effective_length_for_schedule or "type" in (self.distribution_shift_options or {})
            or any(key in self.config for key in NEW_NETWORK_KEYS)
            or (isinstance(attention, Mapping) and cast("Mapping[str, Any]", attention).get("qk_norm") == "rms")
        )  # fmt: skip
        return SAMPLING_VERSIONS[bool(is_new)]


def _objective_conflicts(objective: str, config: Mapping[str, Any]) -> Iterator[Mistake]:
    yield from part_mistakes(OBJECTIVES, objective, ("diffusion_objective",), None, ())
    inner = config.get("diffusion_objective", objective)
    if inner != objective:
        yield Mistake(
            ("config", "diffusion_objective"), f"is {inner!r}, but diffusion_objective beside config is {objective!r}", "conflict"
        )


def shift_of(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of a distribution shift. Without ``type`` it is the one that version 0.0.19 knew."""
    return options.get("type", "full"), {key: value for key, value in options.items() if key != "type"}


class DiffusionCondModel(Strict):
    """``model`` of a conditional diffusion model."""

    diffusion: DiffusionBlock
    io_channels: PositiveInt
    pretransform: PretransformBlock | None = None
    conditioning: ConditioningModel | None = None

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._id_conflicts()
        yield from self._cond_width_conflicts()
        yield from self._channel_conflicts()
        yield from self._concat_conflicts()
        for index, name in enumerate(self.diffusion.global_cond_ids):
            block = next((block for block in (self.conditioning.configs if self.conditioning else ()) if block.id == name), None)
            if block is not None and block.fact("steps") == "many" and block.value("max_length") != 1:
                text = f"{name!r} is a sequence (a {block.type!r} conditioner), but a global condition is one vector"
                yield Mistake(("diffusion", "global_cond_ids", index), text, "conflict")

    def _concat_conflicts(self) -> Iterator[Mistake]:
        ids, channels = self.diffusion.input_concat_ids, self.diffusion.value("input_concat_dim")
        if any(name not in [*INJECTED_IDS, *(self.conditioning.ids() if self.conditioning else [])] for name in ids):
            return  # reported elsewhere
        if channels is not None and bool(ids) != bool(channels):
            is_set = "input_concat_dim" in self.diffusion.config
            text = f"{', '.join(ids)} are concatenated (input_concat_ids)" if ids else "input_concat_ids is empty"
            text = f"is {channels}, but {text}" if is_set else f"needs config.input_concat_dim, which is {channels}"
            yield Mistake(("diffusion", "config", "input_concat_dim") if is_set else ("diffusion", "input_concat_ids"), text, "conflict")
            return
        steps = [block.fact("steps") for block in (self.conditioning.configs if self.conditioning else ()) if block.id in ids]
        if ids and channels and len(steps) == len(ids) and all(type(step) is int for step in steps) and sum(steps) != channels:
            text = f"is {channels}, but {', '.join(ids)} have {sum(steps)} channels to concatenate (one for each step of an embedding)"
            yield Mistake(("diffusion", "config", "input_concat_dim"), text, "conflict")

    def _id_conflicts(self) -> Iterator[Mistake]:
        yield from unknown_ids(self.conditioning, "diffusion", self.diffusion.ids())

    def _cond_width_conflicts(self) -> Iterator[Mistake]:
        diffusion = self.diffusion
        key, _ = _first_value(diffusion, "cond_token_dim", "context_embedding_features") or ("cond_token_dim", None)
        ids = {key: diffusion.cross_attention_cond_ids, "prepend_cond_dim": diffusion.prepend_cond_ids}
        yield from wrong_widths(self.conditioning, "diffusion", diffusion, ids)
        if self.conditioning is None:
            return
        widths = self.conditioning.widths()
        ids = diffusion.global_cond_ids
        key, wanted = _first_value(diffusion, "global_cond_dim", "context_features") or ("", None)
        if wanted is not None and ids and all(name in widths for name in ids) and sum(widths[name] for name in ids) != wanted:
            total = " + ".join(str(widths[name]) for name in ids)
            yield Mistake(
                ("diffusion", "config", key),
                f"is {wanted}, but global_cond_ids {', '.join(ids)} have {total} channels",
                "conflict",
            )

    def _channel_conflicts(self) -> Iterator[Mistake]:
        yield from _denoised_conflicts(self.pretransform, self.diffusion, self.io_channels)

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return _product_of(_ratio_of(self.pretransform), _backbone_multiple(self.diffusion))


def _denoised_conflicts(pretransform: PretransformBlock | None, diffusion: Component, io_channels: int) -> Iterator[Mistake]:
    """Where pretransform and network do not work on ``io_channels`` channels."""
    width = pretransform.width() if pretransform else None
    if pretransform is not None and width is not None and width != io_channels:
        yield Mistake(
            ("io_channels",),
            f"is {io_channels}, but the pretransform gives {width} channels (its {pretransform.width_source()})",
            "conflict",
        )
    key, channels = _first_value(diffusion, "io_channels", "in_channels") or ("", None)
    if channels is not None and channels != io_channels:
        yield Mistake(("diffusion", "config", key), f"is {channels}, but model.io_channels is {io_channels}", "conflict")


def _audio_of(pretransform: PretransformBlock | None, io_channels: int | None) -> tuple[int | None, str]:
    """Audio channels of a model, and where they stand."""
    if pretransform is None:
        return io_channels, "model.io_channels, without a pretransform"
    return pretransform.audio_channels(), f"model.pretransform.config.{pretransform.fact('audio_key')}"


def demo_conflicts(conditioning: ConditioningModel | None, demo_cond: Sequence[Mapping[str, Any]]) -> Iterator[Mistake]:
    """Conditions that demos lack, or that a conditioner cannot read: every demo would fail."""
    blocks = [block for block in (conditioning.configs if conditioning else ()) if block.id and "." not in block.id]
    ids, keys = [block.id for block in blocks], conditioning.default_keys if conditioning else {}
    for index, item in enumerate(demo_cond):
        where: Location = ("training", "demo", "demo_cond", index)
        lacks = [name for name in ids if name not in item and keys.get(name, name) not in item]
        if lacks:
            guesses = [guess for name in lacks if (guess := closest(name, [key for key in item if key not in ids]))]
            hint = f"is {guesses[0]!r} a typing error?" if guesses else f"it has: {', '.join(item) or 'nothing'}"
            yield Mistake(where, f"has no {', '.join(map(repr, lacks))}, which the model is conditioned on; {hint}", "conflict")
        for block in blocks:
            key = block.id if block.id in item else keys.get(block.id, block.id)
            reads = block.fact("reads")
            if key in item and reads and not _is_readable(item[key], reads):
                text = f"a {block.type!r} conditioner reads {'numbers' if reads == 'number' else 'text'}, got {item[key]!r:.60}"
                yield Mistake((*where, key), text, "conflict")


def _is_readable(value: Any, reads: str) -> bool:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    given: Any = items[0] if len(items) == 1 else items
    if reads == "text":
        return isinstance(given, str)
    with suppress(TypeError, ValueError):
        return not isinstance(given, bool) and not math.isnan(float(given))
    return False


def _ratio_of(pretransform: PretransformBlock | None) -> int | None:
    return 1 if pretransform is None else pretransform.ratio()


def _product_of(*numbers: int | None) -> int | None:
    """Their product; None if one is not known."""
    product = 1
    for number in numbers:
        if number is None:
            return None
        product *= number
    return product


class DiffusionUncondModel(Component):
    """``model`` of an unconditional diffusion model: its backbone, and what it works on."""

    family: ClassVar[str] = "UNCOND_BACKBONES"
    pretransform: PretransformBlock | None = None
    diffusion_objective: str = "v"

    @property
    def io_channels(self) -> int | None:
        """Channels of what is denoised, if they can be told."""
        return self.value(self.fact("channels_key") or "")

    def conflicts(self) -> Iterator[Mistake]:
        yield from _objective_conflicts(self.diffusion_objective, self.config)
        width = self.pretransform.width() if self.pretransform else None
        if self.pretransform is not None and None not in (width, self.io_channels) and width != self.io_channels:
            source = self.pretransform.width_source()
            message = f"is {self.io_channels}, but the pretransform gives {width} channels (its {source})"
            yield Mistake(("config", self.fact("channels_key")), message, "conflict")

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return _product_of(_ratio_of(self.pretransform), _backbone_multiple(self))


class DenoiserBlock(Component):
    """The network that turns noise into audio in a diffusion autoencoder."""

    family: ClassVar[str] = "BACKBONES"


class DiffusionAutoencoderModel(Strict):
    """``model`` of a diffusion autoencoder. ``io_channels`` and ``downsampling_ratio`` are counted behind the pretransform."""

    encoder: EncoderBlock | None = None
    decoder: DecoderBlock | None = None
    bottleneck: BottleneckBlock | None = None
    pretransform: PretransformBlock | None = None
    diffusion: DenoiserBlock
    latent_dim: PositiveInt
    downsampling_ratio: PositiveInt
    io_channels: PositiveInt

    def conflicts(self) -> Iterator[Mistake]:
        yield from _latent_conflicts(self.encoder, self.decoder, self.bottleneck, self.latent_dim)
        yield from _denoised_conflicts(self.pretransform, self.diffusion, self.io_channels)
        keys, strides = _strides(self.encoder) if self.encoder else ([], [])
        ratio = math.prod(strides)
        if strides and ratio != self.downsampling_ratio:
            text = f"is {self.downsampling_ratio}, but encoder.config.{' and '.join(keys)} {strides} multiply to {ratio}"
            yield Mistake(("downsampling_ratio",), text, "conflict")
        if self.encoder is None:
            for name, wanted, why in (("latent_dim", self.io_channels, "io_channels"), ("downsampling_ratio", 1, "1")):
                if getattr(self, name) != wanted:
                    yield Mistake((name,), f"is {getattr(self, name)}, but must be {why} without an encoder", "conflict")
        else:
            channels = self.encoder.value("in_channels")
            if channels is not None and channels != self.io_channels:
                text = f"is {channels}, but the model has {self.io_channels} (io_channels)"
                yield Mistake(("encoder", "config", "in_channels"), text, "conflict")
        yield from self._concat_conflicts()

    def _concat_conflicts(self) -> Iterator[Mistake]:
        key = self.diffusion.fact("concat_key")
        value: Any = self.diffusion.value(key or "")
        wanted: Any = next(iter(cast("list[Any]", value)), 0) if isinstance(value, (list, tuple)) else value
        given, source = self.latent_dim + _added_channels(self.bottleneck), "latent_dim"
        if self.decoder is not None:
            given, source = self.decoder.value("out_channels"), "decoder.config.out_channels"
        if wanted is not None and given is not None and wanted != given:
            yield Mistake(("diffusion", "config", key), f"is {value}, but {given} channels are concatenated ({source})", "conflict")

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples."""
        return _product_of(_ratio_of(self.pretransform), self.downsampling_ratio, _backbone_multiple(self.diffusion))


class ModelConfig(Strict):
    """A whole model config. Subclasses fix ``model_type``, ``model`` and ``training``."""

    model_type: str
    sample_rate: PositiveInt
    sample_size: PositiveInt | None = None
    audio_channels: PositiveInt = 2
    model: Any
    training: Any = None

    def input_multiple(self) -> int | None:
        """Audio lengths that the model takes are multiples of this, in samples, if it can be told."""
        return None

    def audio_source(self) -> tuple[int | None, str]:
        """Channels of the audio that the model works on, if they can be told, and the key that says so."""
        return None, ""

    def conflicts(self) -> Iterator[Mistake]:
        yield from self._size_conflicts()
        channels, source = self.audio_source()
        is_given = "audio_channels" in self.model_fields_set
        if channels is not None and channels != self.audio_channels and (is_given or self.training is not None):
            given = f"is {self.audio_channels}" if is_given else f"is not given, so {self.audio_channels}"
            text = f"{given}, but the model works on audio of {channels} channels ({source})"
            yield self._in_training(("audio_channels",), text)

    def is_length_fixed(self) -> bool:
        """Whether audio of a length between two steps stops training, instead of being cut or padded."""
        return False

    def _size_conflicts(self) -> Iterator[Mistake]:
        multiple = self.input_multiple()
        if not multiple or not self.sample_size or not self.sample_size % multiple:
            return
        if self.sample_size < multiple:
            text = f"is {self.sample_size} samples, which is less than one step of the model, {multiple}"
            yield self._in_training(("sample_size",), text)
            return
        rounded = round(self.sample_size / multiple) * multiple
        text = f"{self.sample_size} is not a multiple of {multiple} samples, the model's step; {rounded} is"
        if self.is_length_fixed():
            yield self._in_training(("sample_size",), text)
        else:
            yield Mistake(("sample_size",), f"warning: {text}", "warning")

    def _in_training(self, location: Location, text: str) -> Mistake:
        """What only training trips over: a mistake in a config that has ``training``; others may still generate."""
        return Mistake(location, f"warning: {text}", "warning") if self.training is None else Mistake(location, text, "conflict")


class AutoencoderConfig(ModelConfig):
    """An audio autoencoder."""

    model_type: Literal["autoencoder"]  # pyright: ignore[reportIncompatibleVariableOverride]  # frozen, so narrowing is safe
    model: AutoencoderModel
    training: AutoencoderTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.downsampling_ratio

    def audio_source(self) -> tuple[int | None, str]:
        model = self.model
        is_same = model.in_channels is None and model.out_channels is None
        return (model.io_channels if is_same else None), "model.io_channels"

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        losses = self.training.loss_configs if self.training else None
        if losses is None:
            return
        sizes: Any = losses.spectral.config.get("fft_sizes", ())
        numbers = cast("list[Any]", sizes) if isinstance(sizes, (list, tuple)) else []
        largest = max((size for size in numbers if type(size) is int), default=0)
        if self.sample_size and self.sample_size <= largest // 2:
            text = f"is {self.sample_size}, but the spectral loss needs more than half of its largest fft_sizes, {largest}"
            yield Mistake(("sample_size",), text, "conflict")
        bottleneck = self.model.bottleneck
        if losses.bottleneck is not None and (bottleneck is None or bottleneck.is_registered):
            known = (bottleneck.fact("losses") if bottleneck else None) or ()
            for name in losses.bottleneck.weights.model_fields_set:
                if name not in known:
                    whose = f"bottleneck {bottleneck.type!r}" if bottleneck else "the model, without a bottleneck,"
                    text = f"warning: has no effect: {whose} has {'no such loss; it has: ' + ', '.join(known) if known else 'no loss'}"
                    yield Mistake(("training", "loss_configs", "bottleneck", "weights", name), text, "warning")


class DiffusionCondConfig(ModelConfig):
    """A conditional diffusion model."""

    model_type: Literal["diffusion_cond"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionCondModel
    training: DiffusionCondTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        is_latent = self.training is not None and self.training.pre_encoded
        return _audio_of(self.model.pretransform, None if is_latent else self.model.io_channels)

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        demo = self.training.demo if self.training else None
        if demo is not None and not demo.demo_cond_from_batch:
            yield from demo_conflicts(self.model.conditioning, demo.demo_cond)

    def is_length_fixed(self) -> bool:
        ratio = _ratio_of(self.model.pretransform)
        return self.model.diffusion.fact("multiple_keys") == ("patch_size",) and bool(ratio) and (self.sample_size or 0) % (ratio or 1) == 0


# ---- language models --------------------------------------------------------------------------------------------------------------


class LMBlock(Component):
    """The language model, and how conditions reach it."""

    family: ClassVar[str] = "LM_BACKBONES"
    codebook_pattern: str = "delay"
    cross_attention_cond_ids: list[str] = []
    prepend_cond_ids: list[str] = []
    global_cond_ids: list[str] = []

    def conflicts(self) -> Iterator[Mistake]:
        yield from part_mistakes(PATTERNS, self.codebook_pattern, ("codebook_pattern",), None, ())
        if self.global_cond_ids:
            yield Mistake(("global_cond_ids",), "warning: have no effect: no language model uses global conditions", "warning")


class LMModel(Strict):
    """``model`` of a language model over the tokens of a pretransform."""

    pretransform: PretransformBlock
    lm: LMBlock
    conditioning: ConditioningModel | None = None

    def conflicts(self) -> Iterator[Mistake]:
        keys = ("cross_attention_cond_ids", "prepend_cond_ids", "global_cond_ids")
        yield from unknown_ids(self.conditioning, "lm", {key: getattr(self.lm, key) for key in keys})
        ids = {"cross_attn_cond_dim": self.lm.cross_attention_cond_ids, "prepend_cond_dim": self.lm.prepend_cond_ids}
        yield from wrong_widths(self.conditioning, "lm", self.lm, ids)


class LMConfig(ModelConfig):
    """A language model over the tokens of a codec."""

    model_type: Literal["lm"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: LMModel
    training: LMTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.pretransform.ratio()

    def audio_source(self) -> tuple[int | None, str]:
        return _audio_of(self.model.pretransform, None)

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        demo = self.training.demo if self.training else None
        yield from demo_conflicts(self.model.conditioning, (demo and demo.demo_cond) or [])


class MusicgenModel(Strict):
    """``model`` of a pretrained MusicGen: where it comes from.

    ``pretrained`` is a local folder, a Hugging Face id, or the end of an id of the original models: ``small`` is
    ``facebook/musicgen-small``.
    """

    pretrained: str


class MusicgenConfig(ModelConfig):
    """A pretrained MusicGen."""

    model_type: Literal["musicgen"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: MusicgenModel
    audio_channels: PositiveInt = 1
    training: LMTraining | None = None


class DiffusionCondInpaintModel(DiffusionCondModel):
    """``model`` of an inpainting model: it sees what to keep, as conditions ``inpaint_mask`` and ``inpaint_masked_input``."""

    def conflicts(self) -> Iterator[Mistake]:
        yield from super().conflicts()
        yield from self._inpaint_conflicts()

    def _inpaint_conflicts(self) -> Iterator[Mistake]:
        diffusion = self.diffusion
        widths: dict[str, int] = {"inpaint_mask": 1, "inpaint_masked_input": self.io_channels}
        for ids, key in ((diffusion.input_concat_ids, "input_concat_dim"), (diffusion.local_add_cond_ids, "local_add_cond_dim")):
            given: Any = diffusion.value(key)
            if ids and type(given) is int and all(name in widths for name in ids) and given != sum(widths[name] for name in ids):
                total = " + ".join(str(widths[name]) for name in ids)
                yield Mistake(("diffusion", "config", key), f"is {given}, but {', '.join(ids)} have {total} channels", "conflict")
        missing = [name for name in INJECTED_IDS if name not in [*diffusion.input_concat_ids, *diffusion.local_add_cond_ids]]
        if missing:
            text = f"warning: {' and '.join(missing)} are in neither input_concat_ids nor local_add_cond_ids: the model cannot see them"
            yield Mistake(("diffusion",), text, "warning")


class DiffusionCondInpaintConfig(DiffusionCondConfig):
    """A conditional diffusion model that fills gaps."""

    model_type: Literal["diffusion_cond_inpaint"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionCondInpaintModel  # pyright: ignore[reportIncompatibleVariableOverride]
    training: DiffusionCondInpaintTraining | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


class DiffusionUncondConfig(ModelConfig):
    """An unconditional diffusion model."""

    model_type: Literal["diffusion_uncond"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionUncondModel
    training: DiffusionUncondTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        is_latent = self.training is not None and self.training.pre_encoded
        return _audio_of(self.model.pretransform, None if is_latent else self.model.io_channels)


class DiffusionAutoencoderConfig(ModelConfig):
    """An autoencoder that decodes by diffusion."""

    model_type: Literal["diffusion_autoencoder"]  # pyright: ignore[reportIncompatibleVariableOverride]
    model: DiffusionAutoencoderModel
    training: DiffusionAutoencoderTraining | None = None

    def input_multiple(self) -> int | None:
        return self.model.input_multiple()

    def audio_source(self) -> tuple[int | None, str]:
        return _audio_of(self.model.pretransform, self.model.io_channels)


MODEL_CONFIGS: Mapping[str, type[ModelConfig]] = {
    "autoencoder": AutoencoderConfig,
    "diffusion_cond": DiffusionCondConfig,
    "diffusion_cond_inpaint": DiffusionCondInpaintConfig,
    "lm": LMConfig,
    "musicgen": MusicgenConfig,
    "diffusion_uncond": DiffusionUncondConfig,
    "diffusion_autoencoder": DiffusionAutoencoderConfig,
}
TRUNK_CONFIGS: Mapping[str, type[Strict]] = {"AutoencoderModel": AutoencoderModel}  # trunk objects that are the config of a part


def _listed(keys: str | Sequence[str] | None) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys or ())


def _latent_conflicts(
    encoder: EncoderBlock | None, decoder: DecoderBlock | None, bottleneck: BottleneckBlock | None, latent_dim: int
) -> Iterator[Mistake]:
    """Where the widths of encoder, bottleneck and decoder do not follow from ``latent_dim``."""
    is_known = bottleneck is None or bottleneck.is_registered
    factor = (bottleneck.fact("encoder_width") if bottleneck else None) or 1
    key = (encoder.fact("width_key") if encoder else None) or "latent_dim"
    width = encoder.value(key) if is_known and encoder else None
    if width is not None and width != factor * latent_dim:
        why = (
            f"{factor} x latent_dim, since a {bottleneck.type!r} bottleneck needs mean and scale"
            if bottleneck and factor == 2
            else "latent_dim"
        )
        yield Mistake(("encoder", "config", key), f"is {width}, but must be {factor * latent_dim} ({why})", "conflict")
    added = _added_channels(bottleneck)
    key = (decoder.fact("width_key") if decoder else None) or "latent_dim"
    width = decoder.value(key) if is_known and decoder else None
    if width is not None and width != latent_dim + added:
        why = f"latent_dim + noise_augment_dim {added}" if added else "latent_dim"
        yield Mistake(("decoder", "config", key), f"is {width}, but must be {latent_dim + added} ({why})", "conflict")
    key = bottleneck.fact("width_key") if bottleneck else None
    width = bottleneck.value(key) if bottleneck and key else None
    if key and width is not None and width != latent_dim:
        yield Mistake(("bottleneck", "config", key), f"is {width}, but must be {latent_dim} (latent_dim)", "conflict")


def _added_channels(bottleneck: BottleneckBlock | None) -> int:
    """Channels that a bottleneck adds when decoding."""
    return (bottleneck.value("noise_augment_dim") if bottleneck else None) or 0


def _backbone_multiple(block: Component) -> int | None:
    """Lengths that a backbone takes are multiples of this, if it can be told."""
    if not block.is_registered:
        return None
    levels = block.value(block.fact("levels_key") or "")
    multiple = 1
    for key in block.fact("multiple_keys") or ():
        value = block.value(key)
        numbers = cast("list[Any]", value[: levels - 1] if levels else value) if isinstance(value, (list, tuple)) else [value]
        if not all(type(number) is int and number > 0 for number in numbers):
            return None
        multiple *= math.prod(numbers)
    return _product_of(multiple, block.value("stft_hop_length")) if block.value("use_stft") else multiple


def _first_value(block: Component, *keys: str) -> tuple[str, Any] | None:
    """The first of several keys that a part has a value for, and the value."""
    return next(((key, value) for key in keys if (value := block.value(key)) is not None), None)


def _strides(block: Component) -> tuple[list[str], list[int]]:
    """The parameters that multiply to a block's ratio, and their values."""
    names: list[str] = []
    values: list[int] = []
    for key in ("hop_length", "strides", "ratios", "rates"):
        value = block.value(key)
        if value is not None:
            names.append(key)
            values += cast("list[int]", value) if isinstance(value, (list, tuple)) else [value]
    return names, values


__all__ = [
    "MODEL_CONFIGS", "TRUNK_CONFIGS", "AutoencoderConfig", "AutoencoderModel", "BottleneckBlock", "ConditionerBlock", "ConditioningModel",
    "DecoderBlock", "DenoiserBlock", "DiffusionAutoencoderConfig", "DiffusionAutoencoderModel", "DiffusionBlock", "DiffusionCondConfig",
    "DiffusionCondInpaintConfig", "DiffusionCondInpaintModel", "DiffusionCondModel", "DiffusionUncondConfig", "DiffusionUncondModel",
    "EncoderBlock", "LMBlock", "LMConfig", "LMModel", "ModelConfig", "ModularLocalCond", "MusicgenConfig", "MusicgenModel",
    "PretransformBlock",
]  # fmt: skip
