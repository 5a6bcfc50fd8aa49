"""Language models: what they see, what they make, and that the cache changes neither."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.checkpoint import load_model_weights, save_model_weights
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.lm import ContinuousTransformerAudioLMBackbone

PATTERNS = ("parallel", "delay", "unroll", "musiclm")


def codes_of(model: Any, length: int = 7, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 16, (batch, model.num_quantizers, length), generator=torch.Generator().manual_seed(seed))


# ---- what a token sees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_later_token_never_changes_an_earlier_logit(make_lm: Any, metadata: Any, pattern: str) -> None:
    model = make_lm(pattern)
    conditions = model.conditioner(metadata, "cpu")
    codes = codes_of(model)
    steps = model.lm.pattern_provider.get_pattern(7).steps
    with torch.no_grad():
        before = model.compute_logits(codes, conditions)
        for codebook in range(4):
            for time in (0, 3, 6):
                changed = codes.clone()
                changed[:, codebook, time] = (changed[:, codebook, time] + 1) % 16
                after = model.compute_logits(changed, conditions)
                differs = (torch.where(before.mask[..., None], before.logits - after.logits, 0.0).abs() > 1e-4).any(dim=-1).any(dim=0)
                assert not differs[steps <= steps[codebook, time]].any()
                if bool(before.mask[0][steps > steps[codebook, time]].any()):
                    assert differs.any(), "a token that nothing depends on"


@pytest.mark.parametrize("option", [{"conformer": True}, {"ff_kwargs": {"use_conv": True}}, {"attn_kwargs": {"feat_scale": True}}])
def test_options_that_see_the_future_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"language model backbone: .* lets a token see later ones, which a language model must not"):
        ContinuousTransformerAudioLMBackbone(32, 1, dim_heads=16, **option)
    with pytest.raises(ConfigError, match="causal"):
        ContinuousTransformerAudioLMBackbone(32, 1, dim_heads=16, causal=False)


@pytest.mark.parametrize("conditions", ["cross", "prepend"])
def test_every_token_sees_the_whole_condition(make_lm: Any, conditions: str) -> None:
    """Cross-attention was causal by accident in published code."""
    model = make_lm("parallel", conditions)
    codes = codes_of(model)
    texts = [{"prompt": "kick number 1", "seconds": 1.0}, {"prompt": "kick number 2", "seconds": 1.0}]
    logits = [model.compute_logits(codes, model.conditioner([text] * 2, "cpu")).logits for text in texts]
    assert ((logits[0] - logits[1]).abs().amax(dim=(0, 1, 3)) > 1e-4).all()


def test_published_cross_attention_is_an_option(make_lm: Any) -> None:
    model = make_lm("parallel", "cross", causal_cross_attn=True)
    codes = codes_of(model, length=6)
    embedding = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    condition = {"prompt": (embedding, None), "seconds": (embedding, None)}
    before = model.compute_logits(codes, {"prompt": [embedding]}).logits
    for index in range(4):
        changed = embedding.clone()
        changed[:, index] += 1
        after = model.compute_logits(codes, {**condition, "prompt": [changed]}).logits
        sees = ((after - before).abs().amax(dim=(0, 1, 3)) > 1e-4).tolist()
        assert sees == [step >= index for step in range(6)]


def test_padding_of_prepended_conditions_is_not_seen(make_lm: Any) -> None:
    model = make_lm("delay", "prepend")
    codes = codes_of(model)
    generator = torch.Generator().manual_seed(0)
    embedding, seconds = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 1, 16, generator=generator)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])

    def logits(prompt: torch.Tensor, prompt_mask: torch.Tensor) -> torch.Tensor:
        tensors = {"seconds": (seconds, torch.ones(2, 1)), "prompt": (prompt, prompt_mask)}
        return model.compute_logits(codes, tensors).logits.nan_to_num()

    changed = embedding.clone()
    changed[0, 3:] = 100.0
    torch.testing.assert_close(logits(changed, mask), logits(embedding, mask))
    assert not torch.allclose(logits(changed, torch.ones(2, 5))[0], logits(embedding, torch.ones(2, 5))[0], atol=1e-3)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_items_of_a_batch_do_not_mix(make_lm: Any, metadata: Any, pattern: str) -> None:
    model = make_lm(pattern)
    codes = codes_of(model)
    together = model.compute_logits(codes, model.conditioner(metadata, "cpu")).logits
    alone = model.compute_logits(codes[1:], model.conditioner(metadata[1:], "cpu")).logits
    torch.testing.assert_close(together[1:], alone, equal_nan=True, atol=2e-4, rtol=1e-4)


def test_dropped_conditions_are_those_of_guidance(make_lm: Any, metadata: Any) -> None:
    model = make_lm()
    codes, conditions = codes_of(model), model.conditioner(metadata, "cpu")
    zeros = {name: (torch.zeros_like(value[0]), value[1]) for name, value in conditions.items()}
    dropped = model.compute_logits(codes, conditions, cfg_dropout_prob=1.0).logits
    torch.testing.assert_close(dropped, model.compute_logits(codes, zeros).logits, equal_nan=True)


# ---- generation ------------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "memory": {"num_memory_tokens": 3, "causal_cross_attn": True},
    "window": {"sliding_window": [4, 0]},
    "absolute": {"use_abs_pos_emb": True, "abs_pos_emb_max_length": 64, "rotary_pos_emb": False},
    "sinusoidal": {"use_sinusoidal_emb": True},
    "differential": {"attn_kwargs": {"differential": True, "qk_norm": "ln"}, "rotary_pos_emb": False, "add_rope": True},
    "projected": {"project_cross_attn_cond": True},
}


def both(model: Any, **request: Any) -> tuple[torch.Tensor, torch.Tensor]:
    made = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        made.append(model.generate(use_cache=use_cache, **request))
    return made[0], made[1]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("conditions", ["none", "cross", "prepend", "both"])
def test_cached_tokens_are_the_uncached_ones(make_lm: Any, metadata: Any, pattern: str, conditions: str) -> None:
    """The prompt is prepended with padding in ``prepend``, which the cache has to keep hidden."""
    model = make_lm(pattern, conditions)
    request: dict[str, Any] = {"batch_size": 2, "max_gen_len": 10, "conditioning": metadata if conditions != "none" else None}
    for scale in (1.0, 3.0) if conditions != "none" else (1.0,):
        cached, uncached = both(model, cfg_scale=scale, **request)
        assert torch.equal(cached, uncached)
        assert cached.shape == (2, 4, 10) and cached.min() >= 0 and cached.max() < 16


@pytest.mark.parametrize("name", OPTIONS)
def test_cached_tokens_are_the_uncached_ones_whatever_the_transformer(make_lm: Any, metadata: Any, name: str) -> None:
    conditions = "cross" if name == "projected" else "both"
    model = make_lm("delay", conditions, **OPTIONS[name])
    cached, uncached = both(model, max_gen_len=10, conditioning=metadata, cfg_scale=2.0)
    assert torch.equal(cached, uncached)
    given = codes_of(model, length=4)
    cached, uncached = both(model, max_gen_len=10, conditioning=metadata, init_data=given)
    assert torch.equal(cached, uncached) and torch.equal(cached[..., :4], given)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_greedy_tokens_are_the_likeliest_of_the_teacher_forced_logits(make_lm: Any, metadata: Any, pattern: str) -> None:
    """Generation and training agree about what predicts what."""
    model = make_lm(pattern)
    tokens = model.generate(9, conditioning=metadata, temp=0.0)
    output = model.compute_logits(tokens, model.conditioner(metadata, "cpu"))
    assert torch.equal(output.logits.nan_to_num().argmax(dim=-1)[output.mask], tokens[output.mask])
    assert len(tokens.unique()) > 4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_given_tokens_are_continued(make_lm: Any, metadata: Any, pattern: str) -> None:
    model = make_lm(pattern)
    whole = model.generate(10, conditioning=metadata, temp=0.0)
    if pattern == "musiclm":  # later codebooks were made with all of the earlier ones in sight
        assert torch.equal(model.generate(10, conditioning=metadata, temp=0.0, init_data=whole[..., :6])[..., :6], whole[..., :6])
        return
    assert torch.equal(model.generate(10, conditioning=metadata, temp=0.0, init_data=whole[..., :6]), whole)


def test_guidance_moves_tokens_and_can_be_kept_from_a_condition(make_lm: Any, metadata: Any) -> None:
    model = make_lm("parallel", "both")
    plain = model.generate(10, conditioning=metadata, temp=0.0)
    assert not torch.equal(model.generate(10, conditioning=metadata, temp=0.0, cfg_scale=6.0), plain)
    kept = model.generate(10, conditioning=metadata, temp=0.0, cfg_scale=6.0, cross_attn_use_cfg=False, prepend_use_cfg=False)
    assert torch.equal(kept, plain)  # nothing is left out: the two halves agree


def test_guidance_is_the_published_formula(make_lm: Any, metadata: Any) -> None:
    model = make_lm("parallel", "both")
    conditions = model.conditioner(metadata, "cpu")
    zeros = {name: (torch.zeros_like(value[0]), value[1]) for name, value in conditions.items()}
    tokens = model.generate(6, conditioning=metadata, temp=0.0, cfg_scale=3.0)
    with torch.no_grad():
        c, u = (model.compute_logits(tokens, tensors).logits for tensors in (conditions, zeros))
    assert torch.equal((u + (c - u) * 3.0).argmax(dim=-1), tokens)


def test_guidance_without_conditions_says_so(make_lm: Any, caplog: Any) -> None:
    model = make_lm("parallel", "none")
    plain = model.generate(4, temp=0.0)
    assert torch.equal(model.generate(4, temp=0.0, cfg_scale=3.0), plain)
    assert "guidance has no effect: the language model has no condition that it could leave out" in caplog.text


def test_seeds_decide_and_callbacks_count(make_lm: Any, metadata: Any) -> None:
    model = make_lm()
    told: list[tuple[int, int]] = []
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(model.generate(6, conditioning=metadata, callback=lambda done, total: told.append((done, total))))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert told[:9] == [(index, 9) for index in range(1, 10)]  # six tokens and three delays


def test_audio_is_what_the_codec_makes_of_the_tokens(make_lm: Any, metadata: Any) -> None:
    model = make_lm()
    tokens = model.generate(5, conditioning=metadata, temp=0.0)
    audio = model.generate_audio(max_gen_len=5, conditioning=metadata, temp=0.0)
    assert audio.shape == (2, 1, 40)
    torch.testing.assert_close(audio, model.pretransform.decode_tokens(tokens))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"batch_size": 3}, "these disagree about the number of items: batch_size 3, conditioning 2"),
        ({"init_data": torch.zeros(1, 4, 2, dtype=torch.long)}, "disagree about the number of items: init_data 1, conditioning 2"),
        ({"init_data": torch.zeros(2, 4, 8, dtype=torch.long)}, "max_gen_len must be more than the 8 tokens that are given, got 8"),
        ({"init_data": torch.zeros(2, 3, 2, dtype=torch.long)}, r"init_data: needs 4 codebooks, got tokens of shape \(2, 3, 2\)"),
        ({"temp": -1.0}, "need temp >= 0, top_k >= 0 and top_p in"),
        ({"conditioning": None}, "the model is conditioned on 'prompt', 'seconds', which is missing; given: none"),
    ],
)
def test_impossible_requests(make_lm: Any, metadata: Any, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_lm().generate(**{"max_gen_len": 8, "conditioning": metadata, **request_})


def test_a_model_without_conditioner_wants_tensors(make_lm: Any, metadata: Any) -> None:
    with pytest.raises(ConfigError, match="this model has no conditioner: give conditioning_tensors instead"):
        make_lm("delay", "none").generate(4, conditioning=metadata)


def test_tokens_of_another_number_of_codebooks(make_lm: Any) -> None:
    with pytest.raises(ConfigError, match="language model: has 4 codebooks, but got tokens of 3"):
        make_lm("delay", "none").lm(torch.zeros(1, 3, 5, dtype=torch.long))


# ---- building, keys, saving ------------------------------------------------------------------------------------------------------


def test_keys_are_the_published_ones(make_lm: Any) -> None:
    keys = {key for key in make_lm("delay", "both", project_cross_attn_cond=True).state_dict() if key.startswith("lm.")}
    own = {key for key in keys if not key.startswith("lm.backbone.model.")}
    assert own == {
        *(f"lm.embeds.{k}.weight" for k in range(4)),
        *(f"lm.quantizer_heads.{k}.{name}" for k in range(4) for name in ("weight", "bias")),
        *(f"lm.backbone.to_{kind}_embed.{index}.weight" for kind in ("prepend", "cross_attn") for index in (0, 2)),
    }
    assert {"lm.backbone.model.project_in.weight", "lm.backbone.model.rotary_pos_emb.inv_freq"} <= keys
    unprojected = make_lm("delay", "cross").state_dict()
    assert not [key for key in unprojected if "to_cross_attn_embed" in key]
    assert unprojected["lm.backbone.model.layers.0.cross_attn.to_kv.weight"].shape == (32, 16)


def test_save_load_same_output(make_lm: Any, lm_config: Any, metadata: Any, tmp_path: Path) -> None:
    model = make_lm()
    path = save_model_weights(model.state_dict(), tmp_path / "lm.safetensors")
    fresh = create_model_from_config(lm_config()).eval()
    assert load_model_weights(fresh, path).is_complete
    assert torch.equal(fresh.generate(6, conditioning=metadata, temp=0.0), model.generate(6, conditioning=metadata, temp=0.0))


@pytest.mark.parametrize(
    ("bottleneck", "codebooks", "size"),
    [
        ({"type": "rvq", "config": {"dim": 8, "codebook_size": 32, "num_quantizers": 3, "kmeans_init": False}}, 3, 32),
        ({"type": "fsq", "config": {"levels": [5, 5], "num_codebooks": 2, "dim": 8}}, 2, 25),
    ],
)
def test_any_codec_that_makes_tokens(make_lm: Any, metadata: Any, bottleneck: dict[str, Any], codebooks: int, size: int) -> None:
    model = make_lm(bottleneck=bottleneck)
    assert (model.num_quantizers, model.codebook_size) == (codebooks, size)
    tokens = model.tokenize(torch.randn(2, 1, 64))
    assert tokens.shape == (2, codebooks, 8)
    model.compute_logits(tokens, model.conditioner(metadata, "cpu"))
    assert model.generate_audio(max_gen_len=12, init_data=tokens, conditioning=metadata).shape == (2, 1, 96)


def test_a_codec_without_tokens_is_refused(lm_config: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"model.pretransform: a language model needs tokens, but this 'autoencoder' pretransform makes none"
    ):
        create_model_from_config(lm_config(bottleneck={"type": "tanh"}))


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"codebook_pattern": "dely"}, "lm.codebook_pattern", "unknown codebook pattern 'dely'; did you mean 'delay'?"),
        ({"type": "x-transformers"}, "lm.type", "unknown language model backbone 'x-transformers'; did you mean 'continuous_transformer'?"),
        ({"prepend_cond_ids": ["bpm"]}, "lm.prepend_cond_ids[0]", "'bpm' is not an id in conditioning.configs; it has: prompt, seconds"),
        ({"global_cond_ids": ["seconds"]}, "lm.global_cond_ids", "warning: have no effect: no language model uses global conditions"),
    ],
)
def test_mistakes_in_the_config(lm_config: Any, change: dict[str, Any], path: str, message: str) -> None:
    config = lm_config()
    config["model"]["lm"] |= change
    (mistake,) = check_model_config(config)
    assert (mistake.path, mistake.message) == (f"model.{path}", message)


def test_widths_must_agree(lm_config: Any) -> None:
    config = lm_config(cross_attn_cond_dim=16)
    config["model"]["conditioning"]["cond_dim"] = 32
    found = {mistake.path: mistake.message for mistake in check_model_config(config)}
    assert found == {
        "model.lm.config.cross_attn_cond_dim": "is 16, but condition 'prompt' has 32 channels (cond_dim)",
        "model.lm.config.prepend_cond_dim": "is 16, but condition 'seconds' has 32 channels (cond_dim)",
    }


def test_the_example_of_the_guide_builds() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "language-models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", guide, re.DOTALL)
    with torch.device("meta"):
        model: Any = create_model_from_config(json.loads(example))
    assert (model.num_quantizers, model.codebook_size, model.downsampling_ratio) == (4, 1024, 512)


# ---- recorded outputs of the reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_reference(shared: Path, pattern: str) -> None:
    from safetensors.torch import load_file

    folder = shared / "goldens" / f"lm-{pattern}"
    model: Any = create_model_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8"))).eval()
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    wanted = load_file(folder / "outputs.safetensors")
    script = "import json, sys; sys.path.insert(0, sys.argv[1]); import cases; print(json.dumps(cases.META))"
    told = subprocess.run([sys.executable, "-c", script, str(shared / "goldens")], capture_output=True, text=True, check=True)
    metadata = json.loads(told.stdout)
    codes = torch.randint(0, 16, (len(metadata), 4, 9), generator=torch.Generator().manual_seed(0))
    output = model.compute_logits(codes, condition_tensors=model.conditioner(metadata, "cpu"))
    assert torch.equal(output.mask, wanted["0.mask"])
    torch.testing.assert_close(torch.where(output.mask[..., None], output.logits, 0.0), wanted["0.logits"], atol=2e-4, rtol=0)
    for index, scale in ((1, 1.0), (2, 3.0)):
        for use_cache in (True, False):
            tokens = model.generate(12, batch_size=2, conditioning=metadata, cfg_scale=scale, temp=0.0, use_cache=use_cache)
            assert torch.equal(tokens, wanted[f"{index}.tokens"])
