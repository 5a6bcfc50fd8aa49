"""Import paths and call shapes that two or more public repositories use: they import, and accept such calls.

Counted in ``corpus/api-usage.md``.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PACKAGE = "stable_audio_tools"
GONE = {
    "training.diffusion.DiffusionPriorTrainingWrapper"
}  # diffusion priors left the reference before 0.0.19, and no published config has one
ANY = object()


def find(path: str) -> Any:
    """The object at a path below the package."""
    full = f"{PACKAGE}.{path}" if path else PACKAGE
    module, _, name = full.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(full)


def counted(shared: Path) -> list[str]:
    """Paths that two or more repositories import, and that a published version has."""
    text = (shared / "corpus" / "api-usage.md").read_text(encoding="utf-8").split("## 2.")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(?:import )?stable_audio_tools\.?(.*?)` \| (.*?) \|", text, re.MULTILINE)
    return [path for _, total, path, known in rows if int(total) >= 2 and known != "a fork"]


PATHS = """
inference.generation.generate_diffusion_cond models.utils.load_ckpt_state_dict get_pretrained_model models.create_model_from_config
data.dataset.create_dataloader_from_config training.create_training_wrapper_from_config models.factory.create_model_from_config
models.utils.remove_weight_norm_from_model training.create_demo_callback_from_config models.utils.copy_state_dict
training.utils.copy_state_dict data.dataset.fast_scandir models.pretrained.get_pretrained_model interface.gradio.create_ui
training.diffusion.DiffusionCondTrainingWrapper inference.utils.prepare_audio create_model_from_config
training.diffusion.DiffusionAutoencoderTrainingWrapper training.diffusion.DiffusionUncondTrainingWrapper
training.lm.AudioLanguageModelTrainingWrapper training.autoencoders.AutoencoderTrainingWrapper
inference.generation.generate_diffusion_uncond models.autoencoders.AudioAutoencoder inference.sampling.get_alphas_sigmas
models.factory.create_pretransform_from_config models.diffusion.ConditionedDiffusionModelWrapper data.dataset.collation_fn
inference.sampling inference.generation inference.sampling.DistributionShift interface.gradio.load_model
models.autoencoders.OobleckDecoder models.autoencoders.OobleckEncoder models.autoencoders.create_autoencoder_from_config
models.conditioners.MultiConditioner models.transformer.ContinuousTransformer training.optims.CAdamW training.optims.CLion
training.optims.MuonAdamW training.utils.create_optimizer_from_config training.utils.create_scheduler_from_config
models.pretransforms.AutoencoderPretransform training.diffusion.DiffusionPriorTrainingWrapper models.lora data.utils.Mono
data.utils.PadCrop_Normalized_T data.utils.Stereo inference.sampling.sample inference.sampling.sample_diffusion
inference.sampling.sample_discrete_euler inference.sampling.truncated_logistic_normal_rescaled interface.aeiou.audio_spectrogram_image
interface.gradio.model models.autoencoders.SAMEDecoder models.autoencoders.SAMEEncoder models.blocks.FourierFeatures
models.bottleneck.RVQBottleneck models.bottleneck.RVQVAEBottleneck
models.conditioners.create_multi_conditioner_from_conditioning_config models.diffusion.DiTWrapper
models.discriminators.EncodecDiscriminator models.factory.create_bottleneck_from_config models.inpainting.random_inpaint_mask
models.lora.load_and_apply_loras models.pretransforms.PatchedPretransform models.pretransforms.Pretransform
training.factory.create_training_wrapper_from_config training.losses.HubertLoss training.losses.L1Loss training.losses.LossWithTarget
training.losses.MSELoss training.losses.MultiLoss training.utils.log_audio training.utils.log_image training.utils.log_metric
training.diffusion.DiffusionCondDemoCallback training.create_metrics_callback_from_config
training.diffusion.DiffusionCondInpaintTrainingWrapper training.fsdp.create_fsdp_strategy_and_callback
"""  # fmt: skip


def test_the_list_is_that_of_the_corpus(shared: Path) -> None:
    assert sorted(set(PATHS.split())) == sorted(set(counted(shared)))


@pytest.mark.parametrize("path", sorted(set(PATHS.split()) - GONE))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_path_imports(path: str) -> None:
    assert find(path) is not None or path == "interface.gradio.model"  # None until a page is built


def test_removed_names_say_where_they_are_now() -> None:
    from stable_audio_tools.models.utils import copy_state_dict

    with pytest.warns(
        DeprecationWarning, match=r"training\.utils\.copy_state_dict is deprecated; it is now .*models\.utils\.copy_state_dict"
    ):
        from stable_audio_tools.training.utils import copy_state_dict as old
    assert old is copy_state_dict
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from stable_audio_tools.training.utils import nothing  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]


# ---- call shapes: positional arguments, then keywords -----------------------------------------------------------------------------------

GENERATE = (
    "device conditioning sample_size steps cfg_scale sampler_type sigma_max sigma_min seed batch_size negative_conditioning init_audio"
)
SHAPES = {
    "inference.generation.generate_diffusion_cond": (
        (1, f"{GENERATE} init_noise_level sample_rate return_latents callback scale_phi conditioning_tensors rho disable_tqdm"),
        (0, f"model {GENERATE}"),
        (2, GENERATE.replace("steps ", "")),
    ),
    "models.utils.load_ckpt_state_dict": ((1, ""),),
    "get_pretrained_model": ((1, ""),),
    "models.pretrained.get_pretrained_model": ((1, ""), (1, "revision device dtype")),
    "models.create_model_from_config": ((1, ""),),
    "models.factory.create_model_from_config": ((1, ""),),
    "create_model_from_config": ((1, ""),),
    "data.dataset.create_dataloader_from_config": (
        (1, "batch_size num_workers sample_rate sample_size audio_channels shuffle"),
        (0, "dataset_config batch_size num_workers sample_rate sample_size audio_channels"),
    ),
    "training.create_training_wrapper_from_config": ((2, ""),),
    "training.factory.create_training_wrapper_from_config": ((2, ""),),
    "training.create_demo_callback_from_config": ((1, "demo_dl"),),
    "models.utils.remove_weight_norm_from_model": ((1, ""),),
    "models.utils.copy_state_dict": ((2, ""),),
    "interface.gradio.create_ui": ((0, "ckpt_path model_half model_config_path pretrained_name pretransform_ckpt_path"),),
    "models.factory.create_pretransform_from_config": ((2, ""), (1, "sample_rate")),
    "inference.generation.generate_diffusion_uncond": (
        (1, "steps batch_size sample_size seed device sampler_type sigma_min sigma_max init_audio init_noise_level callback"),
    ),
    "inference.sampling.get_alphas_sigmas": ((1, ""),),
    "models.transformer.ContinuousTransformer": (
        (0, "dim depth dim_heads cross_attend cond_token_dim dim_in dim_out global_cond_dim causal"),
    ),
    "models.autoencoders.create_autoencoder_from_config": ((1, ""),),
    "models.conditioners.create_multi_conditioner_from_conditioning_config": ((1, ""),),
    "training.diffusion.DiffusionCondTrainingWrapper": (
        (1, "use_ema cfg_dropout_prob optimizer_configs lr mask_padding pre_encoded"),
        (0, "model use_ema cfg_dropout_prob optimizer_configs mask_padding mask_padding_dropout log_loss_info timestep_sampler"),
    ),
    "training.utils.create_optimizer_from_config": ((2, ""),),
    "training.utils.create_scheduler_from_config": ((2, ""),),
    "inference.utils.prepare_audio": ((1, "in_sr target_sr target_length target_channels device"),),
    "inference.sampling.sample": ((4, ""), (3, "eta callback")),
    "inference.sampling.sample_discrete_euler": ((3, ""), (2, "sigmas callback")),
}  # fmt: skip


@pytest.mark.parametrize("path", SHAPES)
def test_calls_fit_the_signature(path: str) -> None:
    signature = inspect.signature(find(path))
    for positional, keywords in SHAPES[path]:
        signature.bind(*[ANY] * positional, **dict.fromkeys(keywords.split(), ANY))


# Keywords that ours refuses, since they would do nothing, by the end of the callable's name. Neither 0.0.19 nor what is known of 0.0.20
# names them; mask_args was there until 0.0.17.
FOREIGN = {
    "generate_diffusion_cond": "latch_configs latch_hparams init_noise init_sigma mask_args use_checkpointing quantum asym_cfg bad_model "
    "autoguidance_scale ttt_module",
    "create_dataloader_from_config": "random_subset_percentage",
    "create_ui": "tmp_dir",
    "DiffusionCondTrainingWrapper": "validation_timesteps",
}
LIGHTNING = {"strict", "map_location"}  # what ``load_from_checkpoint`` takes itself; it hands the rest to the constructor


def calls(shared: Path) -> dict[str, tuple[list[int], list[str]]]:
    """Callables of published versions that repositories call: numbers of positional arguments, and keywords."""
    text = (shared / "corpus" / "api-usage.md").read_text(encoding="utf-8").split("## 2. Calls")[1].split("### Values")[0]
    found: dict[str, tuple[list[int], list[str]]] = {}
    for block in text.split("### ")[1:]:
        heading = re.match(r"`stable_audio_tools\.(.*?)` \(.*exists: (.*)\)", block)
        assert heading is not None
        path, known = heading.groups()
        if known == "neither" and path != "training.utils.copy_state_dict":
            continue
        positional = re.search(r"^- positional arguments: (.*)$", block, re.MULTILINE)
        keywords = re.search(r"^- keywords: (.*)$", block, re.MULTILINE)
        numbers = [int(number) for number in re.findall(r"(\d+) in", positional[1])] if positional else [0]
        found[path] = (numbers, re.findall(r"`(\w+)`", keywords[1]) if keywords else [])
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_counted_call_fits(shared: Path) -> None:
    """Each keyword by itself, beside as many positional arguments as were seen with it."""
    counted_calls = calls(shared)
    assert len(counted_calls) > 30
    misfits: list[str] = []
    for path, (numbers, keywords) in counted_calls.items():
        owner = path.removesuffix(".load_from_checkpoint")
        signature = inspect.signature(find(owner))
        ignored = {*FOREIGN.get(owner.rpartition(".")[2], "").split(), *(LIGHTNING if owner != path else ())}
        numbers = [0] if owner != path else numbers
        for keyword in sorted({*keywords} - ignored):
            if not any(fits(signature, number, keyword) for number in numbers):
                misfits.append(f"{path}: {keyword}")
        misfits += [f"{path}: {number} positional" for number in numbers if not fits(signature, number)]
    assert misfits == []


def fits(signature: inspect.Signature, positional: int, *keywords: str) -> bool:
    try:
        signature.bind_partial(*[ANY] * positional, **dict.fromkeys(keywords, ANY))
    except TypeError:
        return False
    return True


# ---- what the small ones do -----------------------------------------------------------------------------------------------------------


def test_sizes_of_clips() -> None:
    mono, stereo, pad_crop = find("data.utils.Mono")(), find("data.utils.Stereo")(), find("data.utils.PadCrop_Normalized_T")
    clip = torch.randn(3, 100)
    assert mono(clip).shape == (1, 100) and mono(clip[0]).shape == (100,)
    assert torch.equal(stereo(clip), clip[:2]) and torch.equal(stereo(clip[0]), clip[:1].repeat(2, 1))
    random.seed(0)
    chunk, t_start, t_end, seconds_start, seconds_total, mask = pad_crop(40, 10)(clip)
    start = round(t_start * 100)
    assert start > 0 and torch.equal(chunk, clip[:, start : start + 40]) and t_end == pytest.approx(t_start + 0.4)
    assert (seconds_start, seconds_total, int(mask.sum())) == (start // 10, 10, 40)
    chunk, t_start, _, _, _, mask = pad_crop(120, 10, randomize=False)(clip)
    assert torch.equal(chunk[:, :100], clip) and not chunk[:, 100:].any() and t_start == 0 and int(mask.sum()) == 100


class Straight(nn.Module):
    """A network that knows the data: every sampler arrives there."""

    def __init__(self, data: torch.Tensor, objective: str) -> None:
        super().__init__()
        self.data, self.objective = data, objective

    def forward(self, x: torch.Tensor, t: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        assert t.shape == (len(x),) and scale == 2.0
        t = t[:, None, None]
        if self.objective == "v":  # x = alpha data + sigma noise, v = alpha noise - sigma data
            alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
            return (alpha * x - self.data) / sigma
        return (x - self.data) / t


@pytest.mark.parametrize("call", [lambda f, m, x: f(m, x, 10, 0.0, scale=2.0), lambda f, m, x: f(m, x, steps=10, eta=1.0, scale=2.0)])
def test_sample_arrives_at_the_data(call: Callable[..., torch.Tensor]) -> None:
    data, noise = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(call(find("inference.sampling.sample"), Straight(data, "v"), noise), data, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", [{"steps": 10}, {"sigmas": torch.linspace(1, 0, 6)}, {"steps": torch.linspace(1, 0, 6)}])
def test_euler_arrives_at_the_data(how: dict[str, Any]) -> None:
    data, noise = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    euler, seen = find("inference.sampling.sample_discrete_euler"), []
    result = euler(Straight(data, "rectified_flow"), noise, **how, callback=seen.append, scale=2.0)
    torch.testing.assert_close(result, data, atol=1e-5, rtol=0)
    assert [step["i"] for step in seen] == list(range(len(seen))) and {"x", "t", "sigma", "denoised"} <= set(seen[0])
    with pytest.raises(TypeError, match="needs steps or sigmas"):
        euler(Straight(data, "rectified_flow"), noise)


def test_euler_takes_a_shift() -> None:
    shift, times = find("inference.sampling.DistributionShift")(), []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t[0].item())
        return torch.zeros_like(x)

    find("inference.sampling.sample_discrete_euler")(network, torch.zeros(1, 2, 512), 4, dist_shift=shift)
    assert times[0] == 1 and all(later > plain for later, plain in zip(times[1:], (0.75, 0.5, 0.25), strict=True))


def test_alphas_and_sigmas_and_truncated_times() -> None:
    alpha, sigma = find("inference.sampling.get_alphas_sigmas")(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3))
    assert sigma[0] == 0 and sigma[2] == 1
    draw = find("inference.sampling.truncated_logistic_normal_rescaled")
    for bounds in ({}, {"left_trunc": 0.2, "right_trunc": 0.6}):
        values = draw([20_000], **bounds)
        assert values.shape == (20_000,) and values.min() >= 0 and values.max() <= 1 and values.max() - values.min() > 0.97


def test_logging_to_one_logger(tmp_path: Path) -> None:
    from pytorch_lightning.loggers import CSVLogger

    from stable_audio_tools.training.utils import log_audio, log_image, log_metric

    logger = CSVLogger(tmp_path)
    log_metric(logger, "train/loss", torch.tensor(0.5), step=3)
    logger.save()
    assert (Path(logger.log_dir) / "metrics.csv").read_text().split() == ["step,train/loss", "3,0.5"]
    import soundfile

    soundfile.write(tmp_path / "a.wav", torch.zeros(8, 1).numpy(), 8000)
    log_audio(logger, "demo", str(tmp_path / "a.wav"), 8000, caption="a")  # cannot show audio: left alone
    log_image(logger, "demo", str(tmp_path / "a.png"))
