"""The kinds of adapter that can be trained: what ``peft`` needs to know about each.

Letters: W (out, in) the weight of a layer, r the rank. A part is a function of its options that returns peft's config for the layer named
``layer``. Its registration says which ``layers`` it can adapt, and whether it is ``additive``: adds to the weight what does not depend on
the weight.
"""

from __future__ import annotations

from typing import Any

from stable_audio_tools.config.base import BelowOne, PositiveFloat, PositiveInt
from stable_audio_tools.families import ADAPTERS
from stable_audio_tools.optional import require

LINEAR = ("Linear",)
LINEAR_AND_CONV = ("Linear", "Conv1d", "Conv2d")


def _peft() -> Any:
    return require("peft", extra=None, purpose="adapters")


@ADAPTERS.register("lora", layers=LINEAR_AND_CONV, additive=True)
def lora(rank: PositiveInt = 8, alpha: PositiveFloat | None = None, dropout: BelowOne = 0.0, rank_stabilised: bool = False) -> Any:
    """Adds a product of two thin matrices: W + s B A, with A (r, in) and B (out, r).

    Source: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al. 2021.

    Args:
        rank: r; file size and capacity grow with it.
        alpha: s is alpha / rank. None is the rank, so that s is 1.
        dropout: Share of a layer's inputs that A does not see in a training step.
        rank_stabilised: s is alpha / sqrt(rank) instead.
    """
    options = {"r": rank, "lora_alpha": alpha or rank, "lora_dropout": dropout, "use_rslora": rank_stabilised}
    return _peft().LoraConfig(target_modules="layer", **options)


@ADAPTERS.register("dora", layers=LINEAR_AND_CONV, additive=False)
def dora(rank: PositiveInt = 8, alpha: PositiveFloat | None = None, dropout: BelowOne = 0.0, rank_stabilised: bool = False) -> Any:
    """Low-rank change of direction, and a trained length per row of W: m V / ||V|| with V = W + s B A.

    Source: "DoRA: Weight-Decomposed Low-Rank Adaptation", Liu et al. 2024.

    Args:
        rank: r; file size and capacity grow with it.
        alpha: s is alpha / rank. None is the rank, so that s is 1.
        dropout: Share of a layer's inputs that A does not see in a training step.
        rank_stabilised: s is alpha / sqrt(rank) instead.
    """
    options = {"r": rank, "lora_alpha": alpha or rank, "lora_dropout": dropout, "use_rslora": rank_stabilised, "use_dora": True}
    return _peft().LoraConfig(target_modules="layer", **options)


@ADAPTERS.register("loha", layers=LINEAR_AND_CONV, additive=True)
def loha(rank: PositiveInt = 8, alpha: PositiveFloat | None = None, dropout: BelowOne = 0.0) -> Any:
    """Adds an elementwise product of two low-rank matrices, whose rank is up to r squared.

    Source: "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", Hyeon-Woo et al. 2022.

    Args:
        rank: r; file size and capacity grow with it.
        alpha: Scale of the change times the rank. None is the rank.
        dropout: Share of the rows of the change that are left out in a training step.
    """
    return _peft().LoHaConfig(target_modules="layer", r=rank, alpha=alpha or rank, rank_dropout=dropout)


@ADAPTERS.register("lokr", layers=LINEAR_AND_CONV, additive=True)
def lokr(rank: PositiveInt = 8, alpha: PositiveFloat | None = None, dropout: BelowOne = 0.0, factor: PositiveInt | None = None) -> Any:
    """Adds a Kronecker product of two small matrices, the second of which may be of low rank.

    Source: "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation", Yeh et al. 2024.

    Args:
        rank: r; file size and capacity grow with it.
        alpha: Scale of the change times the rank. None is the rank.
        dropout: Share of the rows of the change that are left out in a training step.
        factor: Size of the first matrix; None splits sizes as evenly as they can be.
    """
    options: dict[str, Any] = {"r": rank, "alpha": alpha or rank, "rank_dropout": dropout}
    return _peft().LoKrConfig(target_modules="layer", decompose_factor=factor or -1, **options)


@ADAPTERS.register("hira", layers=LINEAR_AND_CONV, additive=False)
def hira(rank: PositiveInt = 8, dropout: BelowOne = 0.0) -> Any:
    """Adds the weight times a low-rank matrix, element by element: W + W * (B A).

    Source: "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models", Huang et al. 2025.

    Args:
        rank: r; file size and capacity grow with it.
        dropout: Share of a layer's inputs that the change does not see in a training step.
    """
    return _peft().HiraConfig(target_modules="layer", r=rank, hira_dropout=dropout)


@ADAPTERS.register("oft", layers=LINEAR, additive=False)
def oft(block_size: PositiveInt = 32, dropout: BelowOne = 0.0) -> Any:
    """Rotates blocks of a layer's inputs, which keeps the angles between rows of W.

    Source: "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", Qiu et al. 2023.

    Args:
        block_size: Inputs per block; must divide the inputs of every layer. File size and capacity grow with it.
        dropout: Share of the blocks that are not rotated in a training step.
    """
    return _peft().OFTConfig(target_modules="layer", r=0, oft_block_size=block_size, module_dropout=dropout)


@ADAPTERS.register("boft", layers=LINEAR, additive=False)
def boft(block_size: PositiveInt = 4, factors: PositiveInt = 1, dropout: BelowOne = 0.0) -> Any:
    """Rotates a layer's outputs by a product of sparse rotations, and scales them.

    Source: "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", Liu et al. 2024.

    Args:
        block_size: Outputs per block; must divide the outputs of every layer.
        factors: Number of rotations in the product, each of which mixes other blocks.
        dropout: Share of the blocks that are not rotated in a training step.
    """
    options = {"boft_block_size": block_size, "boft_n_butterfly_factor": factors, "boft_dropout": dropout}
    return _peft().BOFTConfig(target_modules="layer", **options)


@ADAPTERS.register("hra", layers=LINEAR, additive=False)
def hra(rank: PositiveInt = 8) -> Any:
    """Mirrors a layer's inputs at r planes, which together are a rotation of low rank.

    Source: "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection Adaptation", Yuan et al. 2024.

    Args:
        rank: r; file size and capacity grow with it.
    """
    return _peft().HRAConfig(target_modules="layer", r=rank)
