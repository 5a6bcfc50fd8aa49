"""Our optimizers, against their formulas written out for one parameter at a time."""

import math

import pytest
import torch

from stable_audio_tools.families import OPTIMIZERS
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.optims import CAdamW, CLion, MuonAdamW
from stable_audio_tools.training.optims.lion import Lion
from stable_audio_tools.training.optims.muon import orthogonalise
from stable_audio_tools.training.optims.schedule_free import averaged_iterates, start_training

SHAPES = [(3, 4), (5,), (4, 2, 3), (1,)]


def problem(dtype=torch.float64):
    """Parameters, and their gradients at each of six steps."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=dtype)  # noqa: E731
    return [torch.nn.Parameter(draw(shape)) for shape in SHAPES], [[draw(shape) for shape in SHAPES] for _ in range(6)]


def run(make):
    """The parameters after six steps."""
    parameters, gradients = problem()
    optimizer = make(parameters)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, step, strict=True)), "gradients are read only"
    return [parameter.detach() for parameter in parameters]


def expected(update):
    """The same with ``update(p, g, state, number)`` on one parameter."""
    parameters, gradients = problem()
    results = []
    for index, parameter in enumerate(parameters):
        p, state = parameter.detach().clone(), {"m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
        for number, step in enumerate(gradients, start=1):
            p = update(p, step[index], state, number)
        results.append(p)
    return results


def cadamw(p, g, state, t, lr=0.1, b1=0.8, b2=0.95, eps=1e-6, wd=0.2):
    p = p - lr * wd * p
    state["m"], state["v"] = b1 * state["m"] + (1 - b1) * g, b2 * state["v"] + (1 - b2) * g * g
    mask = (state["m"] * g > 0).to(p.dtype)
    mask = mask / max(mask.mean().item(), 1e-3)
    return p - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * state["m"] * mask / (state["v"].sqrt() + eps)


def lion(p, g, state, t, lr=0.1, b1=0.8, b2=0.95, wd=0.2, *, cautious=False):
    p = p * (1 - lr * wd)
    u = (b1 * state["m"] + (1 - b1) * g).sign()
    state["m"] = b2 * state["m"] + (1 - b2) * g
    mask = (u * g > 0).to(p.dtype) if cautious else torch.ones_like(p)
    return p - lr * u * (mask * mask.numel() / (mask.sum() + 1) if cautious else mask)


@pytest.mark.parametrize(
    ("make", "update"),
    [
        (lambda p: CAdamW(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2), cadamw),
        (lambda p: Lion(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2), lion),
        (lambda p: CLion(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2), lambda *a: lion(*a, cautious=True)),
    ],
)
def test_each_parameter_follows_the_formula(make, update):
    for ours, theirs in zip(run(make), expected(update), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_cautious_adam_without_bias_correction_takes_plain_steps():
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 1.0])
    CAdamW([weight], lr=1.0, betas=(0.5, 0.5), eps=0.0, correct_bias=False).step()
    torch.testing.assert_close(weight.detach(), torch.full((2,), -0.5 / math.sqrt(0.5)))


# ---- Muon -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (3, 6, 5)])
def test_orthogonalised_matrices_have_singular_values_about_one(shape):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(1)), 8))
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_takes_matrices_and_adam_the_rest():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Conv1d(4, 2, 3), torch.nn.LayerNorm(4), torch.nn.Embedding(5, 3))
    model.register_parameter("weight_g", torch.nn.Parameter(torch.ones(4, 1, 1)))
    optimizer = MuonAdamW(model.named_parameters(), adam_patterns=["3"])
    kinds = {id(p): group["kind"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if kinds[id(p)] == "muon"} == {"0.weight", "1.weight"}
    assert len(kinds) == 8
    assert [(group["kind"], group["lr"]) for group in optimizer.param_groups] == [("muon", 0.02), ("adam", 3e-4)]


def test_muon_and_adam_follow_their_formulas():
    def muon(p, g, state, t, lr=0.1, momentum=0.9, wd=0.2):
        if sum(size > 1 for size in p.shape) < 2:
            p = p - 0.05 * 0.3 * p
            state["m"], state["v"] = 0.9 * state["m"] + 0.1 * g, 0.95 * state["v"] + 0.05 * g * g
            return p - 0.05 * (state["m"] / (1 - 0.9**t)) / ((state["v"] / (1 - 0.95**t)).sqrt() + 1e-8)
        state["m"] = momentum * state["m"] + (1 - momentum) * g
        step = ((1 - momentum) * g + momentum * state["m"]).flatten(1)
        return p * (1 - lr * wd) - lr * (orthogonalise(step) * math.sqrt(max(1, step.shape[0] / step.shape[1]))).view_as(p)

    options = {"muon_lr": 0.1, "muon_momentum": 0.9, "muon_weight_decay": 0.2, "adam_lr": 0.05, "adam_weight_decay": 0.3}
    for ours, theirs in zip(run(lambda p: MuonAdamW(p, **options)), expected(muon), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_fused_layers_are_orthogonalised_square_by_square():
    weight = torch.nn.Parameter(torch.zeros(10, 4))
    weight.grad = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
    gradient = weight.grad.clone()
    MuonAdamW([("a.to_qkv.weight", weight)], muon_lr=1.0, fused_layer_patterns=["*.to_qkv.*"]).step()
    whole = torch.nn.Parameter(torch.zeros(10, 4))
    whole.grad = gradient.clone()
    MuonAdamW([("a.to_out.weight", whole)], muon_lr=1.0, fused_layer_patterns=["*.to_qkv.*"]).step()
    parts = torch.cat([orthogonalise(part) for part in gradient.split(4)])
    torch.testing.assert_close(weight.detach(), -parts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.detach(), -orthogonalise(gradient) * math.sqrt(2.5), atol=1e-5, rtol=1e-4)


# ---- all of them -----------------------------------------------------------------------------------------------------------------------

FOREIGN = {"Prodigy": "prodigyopt", "AdamWScheduleFree": "schedulefree", "AdamW8bit": "bitsandbytes"}


@pytest.fixture(params=OPTIMIZERS.names())
def name(request):
    if request.param in FOREIGN:
        pytest.importorskip(FOREIGN[request.param])
    return request.param


def fit(name, steps, model=None, optimizer=None):
    """Regression on 64 points; (model, optimizer, losses)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    y = torch.sin(x @ torch.randn(8, 2, generator=generator))
    if model is None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    if optimizer is None:
        rates = {"MuonAdamW": {"adam_lr": 1e-2}, "Prodigy": {"d_coef": 10.0}, "Lion": {"lr": 3e-3}, "CLion": {"lr": 3e-3}}
        optimizer = create_optimizer_from_config({"type": name, "config": rates.get(name, {"lr": 1e-2})}, model.named_parameters())
    start_training([optimizer])
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, optimizer, losses


@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_learns_and_goes_on_from_its_state(name, tmp_path):
    _, _, losses = fit(name, 60)
    assert losses[-1] < 0.6 * losses[0]
    model, optimizer, _ = fit(name, 7)
    with averaged_iterates([optimizer]):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    expected = fit(name, 5, model, optimizer)[2]
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh, other, _ = fit(name, 0)
    fresh.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    assert fit(name, 5, fresh, other)[2] == expected


@pytest.mark.parametrize(("is_decoupled", "kind"), [(True, torch.optim.AdamW), (False, torch.optim.Adam)])
def test_the_name_of_deepspeed_means_the_optimizer_of_torch(is_decoupled, kind):
    config = {"lr": 0.1, "betas": [0.9, 0.95], "weight_decay": 0.2, "bias_correction": True, "adam_w_mode": is_decoupled}
    ours = run(lambda p: create_optimizer_from_config({"type": "FusedAdam", "config": config}, p))
    theirs = run(lambda p: kind(p, lr=0.1, betas=(0.9, 0.95), weight_decay=0.2))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert create_optimizer_from_config({"type": "FusedAdam"}, [torch.nn.Parameter(torch.ones(2))]).defaults["weight_decay"] == 0


def test_schedule_free_weights_are_averaged_while_asked_for():
    pytest.importorskip("schedulefree")
    model, optimizer, _ = fit("AdamWScheduleFree", 5)
    iterate = [p.detach().clone() for p in model.parameters()]
    with averaged_iterates([optimizer]):
        assert not any(torch.allclose(a, p) for a, p in zip(iterate, model.parameters(), strict=True))
    for a, p in zip(iterate, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.detach())


def test_a_package_that_is_missing_is_told(monkeypatch):
    from stable_audio_tools.errors import MissingExtraError

    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(MissingExtraError, match=r"prodigyopt is needed for the optimizer 'Prodigy' .*stable-audio-tools\[optimizers\]"):
        create_optimizer_from_config({"type": "Prodigy"}, [torch.nn.Parameter(torch.ones(2))])
