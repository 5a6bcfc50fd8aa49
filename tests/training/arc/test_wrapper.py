"""Adversarial post-training: what one step of each player computes, warm-up, checkpoints."""

import copy

import pytest
import torch

from stable_audio_tools.checkpoint import unwrap_state_dict, weights_hash
from stable_audio_tools.errors import CheckpointError, ConfigError, DataError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.arc import ARCTrainingWrapper
from stable_audio_tools.training.arc.copies import model_beside
from stable_audio_tools.training.arc.wrapper import rolled

PROMPTS = ("a kick", "a snare", "a hat", "rain")
METADATA = [{"prompt": prompt, "seconds_start": 0, "seconds_total": 1} for prompt in PROMPTS]
PENALISED = {"contrastive": True, "include_grad_penalties": True}


@pytest.fixture
def wrap(tiny_arc, randomise):
    def make(arc=None, head=None, teacher_steps=0, **training):
        if teacher_steps:
            arc = {
                "use_model_as_teacher": True,
                "ode_warmup": {"warmup_steps": teacher_steps, "sampling_steps": 4, "cfg": 2.0},
                **(arc or {}),
            }
        config = tiny_arc(arc, head, cfg_dropout_prob=0.0, **training)
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(config, randomise(create_model_from_config(config)))
        assert isinstance(wrapper, ARCTrainingWrapper)
        wrapper.train()
        return wrapper

    return make


@pytest.fixture
def latents():
    return torch.randn(4, 4, 64, generator=torch.Generator().manual_seed(3))


def moved(before, after):
    return {key.split(".")[0] + "." + key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}


# ---- what one step computes -----------------------------------------------------------------------------------------------------------


class Drawn:
    """What a step draws, drawn again in the same order."""

    def __init__(self, wrapper, latents, is_generator=True):
        torch.manual_seed(5)
        self.t = wrapper.generator_times(len(latents))
        self.noise = torch.randn_like(latents)
        self.t_seen = wrapper.discriminator_times(len(latents))
        self.noise_seen = torch.randn_like(latents)


def flow(x, noise, t):
    t = t[:, None, None]
    return (1 - t) * x + t * noise


def scores(wrapper, x, t, metadata=METADATA):
    """The adversary, written out: all blocks up to the hidden one, transposed, into the head."""
    model = wrapper.discriminator
    told = model.get_conditioning_inputs(model.conditioner(metadata, "cpu"))
    return wrapper.discriminator_head(model.model(x, t, **told, exit_layer_ix=0, cfg_scale=1.0).transpose(1, 2))


def jump(wrapper, x_t, t):
    model = wrapper.diffusion
    velocity = model.model(x_t, t, **model.get_conditioning_inputs(model.conditioner(METADATA, "cpu")))
    return x_t - t[:, None, None] * velocity


def softplus(x):
    return torch.log1p(torch.exp(x)).mean()


NOISE = {"noise_dist": {"generator": "logsnr_uniform", "discriminator": "logit_normal"}}


def test_the_generators_loss_is_what_the_formula_says(wrap, latents):
    wrapper = wrap(NOISE, {"weights": {"generator": 0.5}})
    drawn = Drawn(wrapper, latents)
    fake = jump(wrapper, flow(latents, drawn.noise, drawn.t), drawn.t)
    real_score = scores(wrapper, flow(latents, drawn.noise_seen, drawn.t_seen), drawn.t_seen)
    fake_score = scores(wrapper, flow(fake, drawn.noise_seen, drawn.t_seen), drawn.t_seen)
    torch.manual_seed(5)
    terms = wrapper.generator_terms(wrapper.example_of(METADATA, latents))
    assert terms.keys() == {"generator_loss"}
    torch.testing.assert_close(terms["generator_loss"], 0.5 * softplus(real_score - fake_score))
    assert float(terms["generator_loss"].detach()) != pytest.approx(0.5 * 0.6931, abs=1e-4)


def test_the_adversarys_losses_are_what_the_formulas_say(wrap, latents):
    wrapper = wrap(NOISE, {**PENALISED, "weights": {"discriminator": 2.0, "contrastive": 0.25}})
    drawn = Drawn(wrapper, latents)
    perturbations = [0.05 * torch.randn_like(latents) for _ in range(2)]
    with torch.no_grad():
        fake = jump(wrapper, flow(latents, drawn.noise, drawn.t), drawn.t)
    pair = [flow(x, drawn.noise_seen, drawn.t_seen) for x in (latents, fake)]
    real_score, fake_score = (scores(wrapper, x, drawn.t_seen) for x in pair)
    wrong = [{**item, "prompt": PROMPTS[(index + 1) % 4]} for index, item in enumerate(METADATA)]
    wrong_score = scores(wrapper, pair[0], drawn.t_seen, wrong)
    penalty = torch.zeros(())
    for x, score, perturbation in zip(pair, (real_score, fake_score), perturbations, strict=True):
        change = scores(wrapper, x + perturbation, drawn.t_seen) - score
        penalty = penalty + change.square().sum(dim=(1, 2)).mean() / 2
    torch.manual_seed(5)
    terms = wrapper.discriminator_terms(wrapper.example_of(METADATA, latents))
    torch.testing.assert_close(terms.pop("discriminator_loss"), 2 * softplus(fake_score - real_score))
    torch.testing.assert_close(terms.pop("contrastive_loss"), 2 * 0.25 * softplus(wrong_score - real_score))
    torch.testing.assert_close(terms.pop("gradient_penalty"), 100 * penalty)
    assert not terms


def test_fakes_can_be_left_out_of_the_penalty_and_losses_be_hinges(wrap, latents):
    both, one = (wrap(NOISE, {**PENALISED, "include_r2_penalty": r2}) for r2 in (True, False))
    hinge = wrap(NOISE, {"disc_hinge_loss": True})
    found = []
    for wrapper in (both, one, hinge):
        torch.manual_seed(5)
        found.append(wrapper.discriminator_terms(wrapper.example_of(METADATA, latents)))
    assert found[0]["gradient_penalty"].item() != found[1]["gradient_penalty"].item()
    torch.testing.assert_close(found[0]["discriminator_loss"], found[1]["discriminator_loss"])
    assert found[2].keys() == {"discriminator_loss"}
    assert found[2]["discriminator_loss"].item() != found[0]["discriminator_loss"].item()


def test_one_player_learns_in_each_step(train_briefly, tiny_arc):
    config = tiny_arc(NOISE, PENALISED)
    states = [train_briefly(config, max_steps=steps).wrapper.state_dict() for steps in (1, 2, 3)]
    assert moved(states[0], states[1]) == {"discriminator.model", "discriminator.conditioner", "discriminator_head.encoder"}
    changed = moved(states[1], states[2])
    assert {"diffusion.model", "diffusion.conditioner"} <= changed
    assert not {key for key in changed if key.startswith("discriminator")}


def test_a_players_step_leaves_no_gradients_in_the_other(wrap, latents):
    wrapper = wrap(NOISE, PENALISED)
    calls = []
    wrapper.diffusion.model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    sum(wrapper.discriminator_terms(wrapper.example_of(METADATA, latents)).values()).backward()
    assert calls == [False]
    assert all(parameter.grad is None for parameter in wrapper.diffusion.parameters())
    assert any(parameter.grad is not None for parameter in wrapper.discriminator.parameters())


def test_what_is_after_the_hidden_layer_and_what_is_frozen_is_not_optimised(tiny_arc):
    def optimised(**head):
        config = tiny_arc(head={"dit_hidden_layer": 0, **head})
        config["model"]["diffusion"]["config"]["depth"] = 2
        wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
        names = {parameter: name for name, parameter in wrapper.named_parameters()}
        return [{names[p] for group in optimizer.param_groups for p in group["params"]} for optimizer in wrapper.configure_optimizers()]

    generator, adversary = optimised()
    assert all(name.startswith("diffusion.") and ".pretransform." not in name for name in generator)
    assert "discriminator.model.model.transformer.layers.0.self_attn.to_qkv.weight" in adversary
    for unused in ("discriminator.model.model.transformer.layers.1.", "project_out", "postprocess_conv", "diffusion"):
        assert not any(unused in name for name in adversary)
    _, head_only = optimised(freeze_backbone=True)
    assert {name.split(".")[0] for name in head_only} == {"discriminator_head"}


def test_gradients_of_the_generator_are_clipped(train_briefly, tiny_arc):
    """With SGD a step is as long as the clipped gradient."""
    sgd = {"optimizer": {"type": "SGD", "config": {"lr": 1.0}}}
    config = tiny_arc(NOISE, optimizer_configs={"diffusion": sgd, "discriminator": sgd}, clip_grad_norm=1e-3)
    start = train_briefly(config, max_steps=2).wrapper.diffusion.state_dict()
    end = train_briefly(config, max_steps=3).wrapper.diffusion.state_dict()
    change = torch.cat([(end[key] - start[key]).flatten() for key in start])
    assert 0 < float(change.norm()) == pytest.approx(1e-3, rel=0.05)


# ---- it learns ------------------------------------------------------------------------------------------------------------------------


def test_the_adversary_learns_to_tell_and_the_generator_to_deceive(wrap, latents):
    wrapper = wrap(NOISE)
    example = wrapper.example_of(METADATA, latents)

    def optimise(parameters, terms_of, steps):
        optimizer = torch.optim.Adam(parameters, 6e-3)
        losses = []
        for _ in range(steps):
            torch.manual_seed(1)
            loss = sum(terms_of(example).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    told = optimise([*wrapper._adversary_parameters()], wrapper.discriminator_terms, 15)
    assert told[-1] < 0.5 * told[0]
    deceived = optimise(wrapper.diffusion.parameters(), wrapper.generator_terms, 15)
    assert deceived[-1] < 0.7 * deceived[0]


def test_warm_up_teaches_the_jump_to_the_end_of_the_teachers_paths(wrap, latents):
    wrapper = wrap(
        {"ode_warmup": {"warmup_steps": 100, "refresh_rate": 100, "sampling_steps": 4, "cfg": 2.0}, "use_model_as_teacher": True}
    )
    example = wrapper.example_of(METADATA, latents)
    optimizer = torch.optim.Adam(wrapper.diffusion.parameters(), 6e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(1)
        terms = wrapper.warmup_terms(example)
        optimizer.zero_grad()
        terms["ode_mse_loss"].backward()
        optimizer.step()
        losses.append(float(terms["ode_mse_loss"].detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in wrapper.teacher_model.parameters())


def test_paths_begin_in_noise_and_end_where_the_sampler_does(wrap, latents):
    from stable_audio_tools.sampling.run import sample
    from stable_audio_tools.training.arc.warmup import follow

    wrapper = wrap(teacher_steps=2)
    example = wrapper.example_of(METADATA, latents)
    teacher = wrapper.teacher_model
    told = wrapper.conditions(teacher, example)
    torch.manual_seed(2)
    paths = follow(teacher, told, example, steps=5, cfg_scale=3.0)
    torch.manual_seed(2)
    noise = torch.randn_like(latents)
    assert paths.states.shape == (5, 4, 4, 64) and torch.equal(paths.states[0], noise)
    assert paths.times[0] == 1 and (paths.times.diff() < 0).all()
    inputs = teacher.get_conditioning_inputs(told)
    with torch.no_grad():
        end = sample(lambda x, t: teacher.model(x, t, **inputs, cfg_scale=3.0), noise, objective="rectified_flow", steps=5, sampler="dpmpp")
    torch.testing.assert_close(paths.example.latents, end)
    x_t, t = paths.draw()
    for index in range(4):
        step = paths.times.tolist().index(float(t[index]))
        assert torch.equal(x_t[index], paths.states[step, index])


def test_without_a_teacher_warm_up_denoises_the_data(wrap, latents):
    wrapper = wrap({"ode_warmup": {"warmup_steps": 5}, "denoiser_loss_t_exponent": 1.0})
    assert wrapper.teacher_model is None
    torch.manual_seed(7)
    t = wrapper.generator_times(4)
    noise = torch.randn_like(latents)
    error = (jump(wrapper, flow(latents, noise, t), t) - latents).square().mean(dim=(1, 2))
    wrapper.generator_times.load_state_dict({"seed": wrapper.generator_times.seed, "drawn": 0})
    torch.manual_seed(7)
    terms = wrapper.warmup_terms(wrapper.example_of(METADATA, latents))
    torch.testing.assert_close(terms["ode_mse_loss"], (error / t).mean())


# ---- data -----------------------------------------------------------------------------------------------------------------------------


def test_prompts_go_round(wrap, latents):
    assert [item["prompt"] for item in rolled(METADATA)] == ["a snare", "a hat", "rain", "a kick"]
    assert METADATA[0]["prompt"] == "a kick"
    wrapper = wrap(head={"contrastive": True})
    alone = wrapper.discriminator_terms(wrapper.example_of(METADATA[:1], latents[:1]))
    assert alone.keys() == {"discriminator_loss"}, "a prompt is not compared with itself"
    with pytest.raises(DataError, match=r"^training\.arc\.discriminator\.contrastive needs a 'prompt' in the metadata of every item$"):
        rolled([{"prompt": "a"}, {}])


@pytest.mark.parametrize("wrapped", [False, True])
def test_batches_can_be_cut_to_the_length_of_an_item(wrap, wrapped):
    wrapper = wrap(pre_encoded=True, trim_config={"trim_prob": 1.0})
    mask = (torch.arange(300) < 200).float()
    metadata = [{**item, "padding_mask": [mask] if wrapped else mask} for item in METADATA[:2]]
    wrapper._trainer = None
    example = wrapper._example((torch.randn(2, 4, 300), metadata))
    assert example.latents.shape[-1] == 199
    assert [item["padding_mask"].sum().item() for item in example.metadata] == [199, 199]
    short = [{**item, "padding_mask": torch.arange(300) < 50} for item in METADATA[:2]]
    assert wrapper._example((torch.randn(2, 4, 300), short)).latents.shape[-1] == 128
    assert wrapper._example((torch.randn(2, 4, 100), METADATA[:2])).latents.shape[-1] == 100


# ---- teacher, adversary, checkpoints ----------------------------------------------------------------------------------------------------


def test_copies_have_the_weights_and_no_pretransform(wrap):
    wrapper = wrap(teacher_steps=3)
    for other in (wrapper.teacher_model, wrapper.discriminator):
        assert other.pretransform is None
        own = wrapper.diffusion.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in other.state_dict().items())
        assert not {id(p) for p in other.parameters()} & {id(p) for p in wrapper.diffusion.parameters()}
    assert wrapper.diffusion.pretransform is not None
    assert not wrapper.teacher_model.training and not any(p.requires_grad for p in wrapper.teacher_model.parameters())


def test_weights_of_the_copies_come_from_their_checkpoints(tiny_arc, tiny_diffusion, tmp_path):
    config = tiny_arc()
    other = create_model_from_config(config)
    path = tmp_path / "teacher.ckpt"
    torch.save({"state_dict": other.state_dict()}, path)
    model = create_model_from_config(config)
    made = model_beside(model, None, str(path), key="teacher_model_ckpt")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in made.state_dict().items())
    from_config = model_beside(model, {key: config[key] for key in config if key != "training"}, str(path), key="teacher_model")
    assert weights_hash(from_config.state_dict()) == weights_hash(made.state_dict())
    with pytest.raises(CheckpointError, match=r"^training\.arc\.teacher_model_ckpt: .*absent\.ckpt: no such file$"):
        model_beside(model, None, str(tmp_path / "absent.ckpt"), key="teacher_model_ckpt")
    with pytest.raises(ConfigError, match=r"^training\.arc\.teacher_model: denoises 1 channels, but the model that is trained 4$"):
        model_beside(model, tiny_diffusion(pretransform=False), None, key="teacher_model")


def test_a_layer_that_is_not_there_is_refused(tiny_arc):
    config = tiny_arc(head={"dit_hidden_layer": 1})
    model = create_model_from_config(config)
    message = r"training\.arc\.discriminator\.dit_hidden_layer: is 1, but the model has blocks 0 to 0"
    with pytest.raises(ConfigError, match=message):
        create_training_wrapper_from_config(config, model)


def test_checkpoints_have_the_published_layout_and_unwrap(train_briefly, tiny_arc):
    config = tiny_arc({"use_model_as_teacher": True})
    result = train_briefly(config, max_steps=5)
    saved = torch.load(result.checkpoint, weights_only=True)
    tops = {key.split(".")[0] for key in saved["state_dict"]}
    assert tops == {"diffusion", "diffusion_ema", "discriminator", "discriminator_head", "teacher_model"}
    # What a run of the reference has besides
    foreign = {**saved["state_dict"], "model_last_layer": torch.zeros(4, 16), "losses.losses.0.weight": torch.ones(())}
    wrapper = result.wrapper
    online, averaged = (unwrap_state_dict(foreign, use_ema=use_ema) for use_ema in (False, True))
    assert weights_hash(online) == weights_hash(wrapper.diffusion.state_dict())
    with wrapper.averaged() as model:
        assert weights_hash(averaged) == weights_hash(model.state_dict())
    assert weights_hash(online) != weights_hash(averaged)
    create_model_from_config(config).load_state_dict(averaged, strict=True)


def test_a_demo_is_made_with_few_steps(train_briefly, tiny_arc, tmp_path):
    config = tiny_arc()
    result = train_briefly(config, max_steps=2, demos=True, run_folder=tmp_path)
    assert [path.name for path in sorted(result.folder.glob("demos/*.wav"))] == ["demo_cfg_1_00000000.wav"]


def test_the_hidden_layer_is_that_of_a_plain_pass(wrap, latents):
    """Two blocks: leaving after the first gives its output, and the second has no part in scores."""
    wrapper = wrap()
    t = torch.full((4,), 0.5)
    model = copy.deepcopy(wrapper.discriminator)
    told = model.get_conditioning_inputs(model.conditioner(METADATA, "cpu"))
    _, info = model.model(latents, t, **told, return_info=True)
    example = wrapper.example_of(METADATA, latents)
    found = wrapper.score(latents, t, wrapper.conditions(wrapper.discriminator, example), example)
    torch.testing.assert_close(found, wrapper.discriminator_head(info["hidden_states"][0].transpose(1, 2)))
