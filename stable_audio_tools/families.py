"""Every family of interchangeable parts, and where its parts live: the map of the library.

Adding a part means one new file (or class) in the family's home; nothing here changes. This module imports neither torch nor any part.
"""

from __future__ import annotations

from stable_audio_tools.registry import Registry

MODELS = Registry("MODELS", family="model type", homes=("models.autoencoders", "models.diffusion", "models.lm"), given=("config",))
ENCODERS = Registry("ENCODERS", family="encoder", homes=("models.autoencoders",))
DECODERS = Registry("DECODERS", family="decoder", homes=("models.autoencoders",))
BOTTLENECKS = Registry("BOTTLENECKS", family="bottleneck", homes=("models.bottlenecks",))
PRETRANSFORMS = Registry("PRETRANSFORMS", family="pretransform", homes=("models.pretransforms",), given=("block", "sample_rate"))
CONDITIONERS = Registry(
    "CONDITIONERS",
    family="conditioner",
    homes=("models.conditioners",),
    given=("output_dim", "pretransform"),
    configurable_given=("output_dim",),
)
BACKBONES = Registry(
    "BACKBONES",
    family="diffusion backbone",
    homes=("models.diffusion",),
    given=("diffusion_objective", "modular_local_cond_configs"),
    configurable_given=("diffusion_objective",),
)
UNCOND_BACKBONES = Registry(
    "UNCOND_BACKBONES",
    family="unconditional backbone",
    homes=("models.diffusion",),
    given=("diffusion_objective",),
    configurable_given=("diffusion_objective",),
)
LM_BACKBONES = Registry("LM_BACKBONES", family="language model backbone", homes=("models.lm",))
PATTERNS = Registry("PATTERNS", family="codebook pattern", homes=("models.lm.patterns",), given=("num_quantizers",))

ADAPTERS = Registry("ADAPTERS", family="adapter", homes=("models.adapters",))

OBJECTIVES = Registry("OBJECTIVES", family="diffusion objective", homes=("sampling.objectives",))
SHIFTS = Registry("SHIFTS", family="distribution shift", homes=("sampling.shifts",))
TIMESTEPS = Registry("TIMESTEPS", family="timestep sampler", homes=("sampling.timesteps",))
SAMPLERS = Registry(
    "SAMPLERS",
    family="sampler",
    homes=("sampling.samplers",),
    given=("denoise", "predict", "x", "sigmas", "times", "steps", "noise", "on_step"),
)

DATASETS = Registry("DATASETS", family="dataset type", homes=("data",), given=("sample_size", "sample_rate", "audio_channels", "base_dir"))

LOSSES = Registry("LOSSES", family="loss", homes=("training.losses",), given=("sample_rate",))
DISCRIMINATORS = Registry(
    "DISCRIMINATORS",
    family="discriminator",
    homes=("training.discriminators",),
    given=("in_channels", "sample_rate"),
    configurable_given=("in_channels",),
)
OPTIMIZERS = Registry("OPTIMIZERS", family="optimizer", homes=("training.optims",), given=("params",))
ARC_HEADS = Registry("ARC_HEADS", family="ARC head", homes=("training.arc",), given=("in_channels",))
SCHEDULERS = Registry("SCHEDULERS", family="scheduler", homes=("training.schedulers",), given=("optimizer",))
WRAPPERS = Registry("WRAPPERS", family="training wrapper", homes=("training",), given=("model", "config"))
DEMOS = Registry("DEMOS", family="training demo", homes=("training.demos",), given=("config",))

ALL = (
    MODELS, ENCODERS, DECODERS, BOTTLENECKS, PRETRANSFORMS, CONDITIONERS, BACKBONES, UNCOND_BACKBONES, LM_BACKBONES, PATTERNS, ADAPTERS,
    OBJECTIVES, SHIFTS, TIMESTEPS, SAMPLERS, DATASETS, LOSSES, DISCRIMINATORS, ARC_HEADS, OPTIMIZERS, SCHEDULERS, WRAPPERS,
    DEMOS,
)  # fmt: skip


def family(name: str) -> Registry:
    """Find a registry by its family's name or a word of it, singular or plural, with spaces or dashes.

    Raises:
        ConfigError: If there is no such family; the message lists them.

    >>> family("bottlenecks").symbol
    'BOTTLENECKS'
    """
    from stable_audio_tools.errors import ConfigError
    from stable_audio_tools.registry import unknown_name

    wanted = name.lower().replace("-", " ").replace("_", " ")
    symbols = {registry.symbol.lower().replace("_", " "): registry for registry in ALL}
    whole = [registry for symbol, registry in symbols.items() if wanted in (registry.family, registry.family + "s", symbol)]
    partly = [registry for symbol, registry in symbols.items() if wanted in (symbol.removesuffix("s"), registry.family.split()[-1])]
    for registry in [*whole, *partly]:  # "sampler" is a family, and a word of "timestep sampler"
        return registry
    raise ConfigError(unknown_name("family", name, [registry.family for registry in ALL]))
