"""``training.arc``: what it may say, and what it contradicts."""

import pytest

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.config.model import MODEL_CONFIGS
from stable_audio_tools.registry.schema import path_text

ARC = "training.arc"


@pytest.fixture
def found(tiny_arc):
    def find(arc=None, head=None, model=None, **training):
        config = tiny_arc(arc, head, **training)
        config["model"]["diffusion"] |= model or {}
        return {path_text(mistake.location): mistake.message for mistake in check_model_config(config)}

    return find


def test_what_published_configs_say_is_fine(found):
    arc = {
        "use_model_as_teacher": True,
        "teacher_model_ckpt": "/path/to/teacher.safetensors",
        "discriminator_base_ckpt": "/path/to/base/rf/model",
        "ode_warmup": {"warmup_steps": 0, "refresh_rate": 10, "sampling_steps": 25, "cfg": 4},
        "noise_dist": {"generator": "logsnr_uniform", "discriminator": "logit_normal"},
    }
    head = {"loss_type": "relativistic", "weights": {"generator": 1.0}, "contrastive": True, "include_grad_penalties": True}
    training = {"clip_grad_norm": 1.0, "cfg_dropout_prob": 0.0, "timestep_sampler": "trunc_logit_normal", "trim_config": {"trim_prob": 0.5}}
    assert found(arc, head, **training) == {}


def test_every_key_is_checked(found):
    assert found({"teacher": True}).keys() == {f"{ARC}.teacher"}
    assert found({"ode_warmup": {"steps": 3}}).keys() == {f"{ARC}.ode_warmup.steps"}
    assert found({"noise_dist": {"generator": "logsnr_unform"}}) == {
        f"{ARC}.noise_dist.generator": "unknown timestep sampler 'logsnr_unform'; did you mean 'logsnr_uniform'?"
    }
    assert found(head={"type": "convnxt"}) == {f"{ARC}.discriminator.type": "unknown ARC head 'convnxt'; did you mean 'convnext'?"}
    assert found(head={"config": {"chanels": 8}}).keys() == {f"{ARC}.discriminator.config.chanels"}
    assert found(head={"weights": {"generator": -1.0}}).keys() == {f"{ARC}.discriminator.weights.generator"}
    assert found({"disc_update_interval": 1}).keys() == {f"{ARC}.disc_update_interval"}


def test_the_models_beside_it_are_checked_too(found, tiny_diffusion):
    teacher = tiny_diffusion(objective="rectified_flow")
    assert found({"teacher_model": teacher}) == {}
    teacher["model"]["diffusion"]["typ"] = "dit"
    assert found({"teacher_model": teacher}).keys() == {f"{ARC}.teacher_model.model.diffusion.typ"}


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"arc": {"use_model_as_discriminator": False}}, ARC, "needs use_model_as_discriminator or discriminator_base_model: what scores"),
        ({"arc": {"teacher_model_ckpt": "a.ckpt"}}, f"{ARC}.teacher_model_ckpt", "needs use_model_as_teacher or teacher_model, which say"),
        ({"head": {"dit_hidden_layer": 1}}, f"{ARC}.discriminator.dit_hidden_layer", "is 1, but the model has blocks 0 to 0"),
        ({"model": {"diffusion_objective": "v"}}, ARC, 'needs a flow: diffusion_objective "rectified_flow" or "rf_denoiser", not "v"'),
        ({"optimizer_configs": None}, "training", "needs optimizer_configs.diffusion and optimizer_configs.discriminator, since arc has"),
        ({"p_one_shot": 0.5}, "training.p_one_shot", "warning: has no effect with arc"),
        ({"arc": {"sampling": {"steps": 4}}}, f"{ARC}.sampling", "warning: has no effect"),
    ],
)
def test_contradictions_are_told(found, options, path, message):
    mistakes = found(**options)
    assert mistakes.keys() == {path}
    assert mistakes[path].startswith(message)


def test_players_have_schedules_together(found):
    adam = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}}
    with_schedule = {**adam, "scheduler": {"type": "InverseLR", "config": {}}}
    mistakes = found(optimizer_configs={"diffusion": with_schedule, "discriminator": adam})
    assert mistakes == {"training.optimizer_configs": "give a scheduler to both optimizers or to none"}
    assert found(optimizer_configs={"diffusion": with_schedule, "discriminator": with_schedule}) == {}


def test_keys_of_post_training_have_no_effect_without_it(tiny_diffusion):
    config = tiny_diffusion(clip_grad_norm=1.0, trim_config={"trim_prob": 0.5})
    mistakes = {path_text(m.location): m.message for m in check_model_config(config)}
    assert mistakes == dict.fromkeys(("training.clip_grad_norm", "training.trim_config"), "warning: has an effect with 'arc' only")
    assert MODEL_CONFIGS["diffusion_cond"].model_validate(config)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"lora": {"rank": 4}}, "lora"),
        ({"clap_config": {}}, "clap_config"),
        ({"clap_loss_type": "audio_cosine_sim"}, "clap_loss_type"),
        ({"reuse_discriminator_as_teacher": True}, "reuse_discriminator_as_teacher"),
        ({"discriminator": {"feature_matching_weight": 1.0}}, "discriminator.feature_matching_weight"),
        ({"discriminator": {"contrastive_beta": 2.0}}, "discriminator.contrastive_beta"),
        ({"discriminator": {"logit_center_weight": 1.0}}, "discriminator.logit_center_weight"),
        ({"discriminator": {"reset_every": 100}}, "discriminator.reset_every"),
        ({"discriminator": {"layer_combine_mode": "stack"}}, "discriminator.layer_combine_mode"),
        ({"discriminator": {"lora": {}}}, "discriminator.lora"),
        ({"discriminator": {"type": "multi_scale"}}, "discriminator.type"),
        ({"discriminator": {"type": "transformer"}}, "discriminator.type"),
        ({"discriminator": {"type": "dilated_conv"}}, "discriminator.type"),
        ({"noise_dist": {"clap": "uniform"}}, "noise_dist.clap"),
    ],
)
def test_keys_of_other_programs_are_refused_with_the_reason(found, options, path):
    arc = {key: value for key, value in options.items() if key != "discriminator"}
    told = found(arc, options.get("discriminator"))
    assert told.keys() == {f"{ARC}.{path}"} and all(message.startswith("not supported: ") for message in told.values())


def test_their_default_values_are_taken(found):
    head = {
        "feature_matching_weight": 0,
        "contrastive_beta": 1,
        "logit_center_weight": 0,
        "reset_every": None,
        "layer_combine_mode": "concat",
    }
    assert found({"ode_warmup": {"sampler": "dpmpp"}}, head) == {}
