"""Residual vector quantization with moving averages."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.bottlenecks.rvq import EMACodebook, ResidualVQ, RVQBottleneck, RVQVAEBottleneck, k_means
from stable_audio_tools.models.factory import create_bottleneck_from_config


def codebook(size=4, dim=2, **options):
    defaults = {"decay": 0.9, "kmeans_init": False, "kmeans_iters": 5, "threshold_ema_dead_code": 0}
    torch.manual_seed(0)
    return EMACodebook(dim, size, **{**defaults, **options})


def small(kind=RVQBottleneck, **options):
    torch.manual_seed(0)
    defaults = {"dim": 4, "codebook_size": 16, "num_quantizers": 3, "kmeans_init": False, "threshold_ema_dead_code": 0}
    return kind(**{**defaults, **options})


def clusters(count=4, each=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, 2, generator=generator) * 10
    return centres, (centres[:, None] + torch.randn(count, each, 2, generator=generator) * 0.01).flatten(0, 1)


def test_every_vector_gets_its_nearest_code():
    book = codebook(size=8, dim=3).eval()
    x = torch.randn(20, 3)
    quantized, index = book(x)
    distances = (x[:, None] - book.embed[0][None]).square().sum(-1)
    assert torch.equal(index, distances.argmin(dim=1))
    assert torch.equal(quantized, book.embed[0][index])


def test_k_means_finds_clusters():
    torch.manual_seed(3)  # one start of many that has a vector of every cluster; others end in a local optimum
    centres, vectors = clusters()
    found, sizes = k_means(vectors, 4, 20)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.1
    assert sizes.tolist() == [50] * 4


def test_k_means_never_makes_it_worse():
    vectors = torch.randn(200, 3)
    errors = []
    for iterations in range(6):
        torch.manual_seed(0)
        errors.append(float(torch.cdist(vectors, k_means(vectors, 10, iterations)[0]).min(dim=1).values.square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_the_first_batch_starts_the_codebook_even_in_eval_mode():
    book = codebook(kmeans_init=True).eval()
    assert not book.initted and not book.embed.any()
    _, vectors = clusters()
    book(vectors)
    before = book.embed.clone()
    assert book.initted and before.any() and book.cluster_size.sum() == len(vectors)
    torch.testing.assert_close(book.embed_avg, book.embed * book.cluster_size[..., None])
    book(vectors + 1)
    assert torch.equal(book.embed, before)


def test_fewer_vectors_than_codes_can_start_a_codebook():
    book = codebook(size=16, kmeans_init=True)
    book(torch.randn(3, 2))
    assert torch.isfinite(book.embed).all()


def test_averages_follow_the_formula():
    book = codebook()
    x = torch.randn(10, 2)
    size, total = book.cluster_size[0].clone(), book.embed_avg[0].clone()
    _, index = book(x)
    one_hot = torch.nn.functional.one_hot(index, 4).float()
    size = 0.9 * size + 0.1 * one_hot.sum(dim=0)
    total = 0.9 * total + 0.1 * one_hot.T @ x
    torch.testing.assert_close(book.cluster_size[0], size)
    torch.testing.assert_close(book.embed_avg[0], total)
    smoothed = (size + 1e-5) / (size.sum() + 4e-5) * size.sum()
    torch.testing.assert_close(book.embed[0], total / smoothed[:, None])


def test_codes_move_to_the_means_of_their_vectors():
    torch.manual_seed(1)
    centres, vectors = clusters()
    book = codebook(threshold_ema_dead_code=2)
    for _ in range(100):
        book(vectors)
    assert torch.cdist(centres, book.embed[0]).min(dim=1).values.max() < 0.1


def test_dead_codes_become_vectors_of_the_batch():
    book = codebook(threshold_ema_dead_code=3.0)
    book.embed[0] = torch.tensor([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0], [70.0, 70.0]])
    book.embed_avg.copy_(book.embed * 100)
    book.cluster_size.copy_(torch.tensor([[100.0, 0.0, 0.0, 0.0]]))
    x = torch.randn(30, 2)
    book(x)
    assert (book.embed[0, 1:, None] == x).all(dim=-1).any(dim=-1).all()
    torch.testing.assert_close(book.cluster_size[0, 1:], torch.full((3,), 3.0))
    torch.testing.assert_close(book.embed_avg[0, 1:], book.embed[0, 1:] * 3)


def test_in_eval_mode_nothing_changes_and_there_is_no_loss():
    bottleneck = small().eval()
    before = {key: value.clone() for key, value in bottleneck.state_dict().items()}
    _, info = bottleneck.encode(torch.randn(2, 4, 9), return_info=True)
    assert info["quantizer_loss"] == 0
    assert all(torch.equal(value, before[key]) for key, value in bottleneck.state_dict().items())


def test_more_stages_come_nearer():
    torch.manual_seed(0)
    x = torch.randn(4, 4, 200)
    bottleneck = small(kmeans_init=True, num_quantizers=5)
    bottleneck.encode(x)
    bottleneck.eval()
    errors = [float((bottleneck.encode(x, n_active=count) - x).square().mean()) for count in range(1, 6)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4


def test_tokens_are_the_latents():
    for options in ({}, {"codebook_dim": 3}, {"shared_codebook": True}):
        bottleneck = small(**options).eval()
        latents, info = bottleneck.encode(torch.randn(2, 4, 9), return_info=True)
        tokens = info[bottleneck.tokens_id]
        assert tokens.shape == (2, 9, 3) and bottleneck.tokens_of(info).shape == (2, 3, 9)
        assert torch.equal(bottleneck.in_own_layout(bottleneck.tokens_of(info)), tokens)
        assert tokens.min() >= 0 and tokens.max() < bottleneck.codebook_size
        torch.testing.assert_close(bottleneck.decode_tokens(tokens), latents)


def test_some_of_the_codebooks():
    bottleneck = small().eval()
    x = torch.randn(2, 4, 9)
    latents, info = bottleneck.encode(x, return_info=True, n_active=2)
    tokens = info["quantizer_indices"]
    assert (tokens[..., 2] == -1).all() and (tokens[..., :2] >= 0).all()
    torch.testing.assert_close(bottleneck.decode_tokens(tokens), latents)
    torch.testing.assert_close(bottleneck.decode_tokens(tokens[..., :2]), latents)
    torch.testing.assert_close(bottleneck.encode(x, n_quantizers=2), latents)


def test_commitment_loss_and_gradients():
    bottleneck = small(num_quantizers=1, commitment_weight=0.5)
    x = torch.randn(2, 4, 9, requires_grad=True)
    embed = bottleneck.quantizer.layers[0]._codebook.embed[0].clone()
    latents, info = bottleneck.encode(x, return_info=True)
    nearest = embed[info["quantizer_indices"][..., 0]].transpose(1, 2)
    torch.testing.assert_close(latents, nearest)
    torch.testing.assert_close(info["quantizer_loss"], 0.5 * (x - nearest).square().mean())
    (through,) = torch.autograd.grad(latents.sum(), x, retain_graph=True)
    torch.testing.assert_close(through, torch.ones_like(x))  # straight through
    (pull,) = torch.autograd.grad(info["quantizer_loss"], x)
    torch.testing.assert_close(pull, 0.5 * 2 * (x - nearest).detach() / x.numel())


def test_stages_are_dropped_in_training_only():
    quantizer = ResidualVQ(4, 6, 8, kmeans_init=False, quantize_dropout=True, quantize_dropout_cutoff_index=1, threshold_ema_dead_code=0)
    x = torch.randn(2, 9, 4)
    torch.manual_seed(0)
    used = {int((quantizer(x)[1][0, 0] >= 0).sum()) for _ in range(60)}
    assert used == {2, 3, 4, 5, 6}
    assert (quantizer.eval()(x)[1] >= 0).all()


def test_rvq_vae_samples_then_quantizes():
    bottleneck = small(RVQVAEBottleneck).eval()
    x = torch.randn(2, 8, 9)
    torch.manual_seed(1)
    latents, info = bottleneck.encode(x, return_info=True)
    torch.manual_seed(1)
    sampled = torch.randn(2, 4, 9) * (torch.nn.functional.softplus(x[:, 4:]) + 1e-4) + x[:, :4]
    expected, _, _ = bottleneck.quantizer(sampled.transpose(1, 2))
    torch.testing.assert_close(latents, expected.transpose(1, 2))
    assert set(info) == {"kl", "quantizer_indices", "quantizer_loss"}


def test_half_precision_around_full_precision_codebooks():
    bottleneck = small().eval()
    x = torch.randn(2, 4, 9)
    full, info = bottleneck.encode(x, return_info=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, under = bottleneck.encode(x, return_info=True)
    assert torch.equal(info["quantizer_indices"], under["quantizer_indices"]) and torch.equal(full, again)
    half, _ = bottleneck.bfloat16().encode(x.bfloat16(), return_info=True)
    assert half.dtype == torch.bfloat16


def test_state_dict_keys():
    keys = set(small(num_quantizers=1, codebook_dim=2).state_dict())
    codebooks = {f"quantizer.layers.0._codebook.{name}" for name in ("initted", "cluster_size", "embed_avg", "embed")}
    assert keys == codebooks | {f"quantizer.project_{side}.{name}" for side in ("in", "out") for name in ("weight", "bias")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(heads=2), "rvq bottleneck: residual quantization has one head, got heads 2"),
        (lambda: small(num_quantizers=0), "num_quantizers and codebook_size of at least 1.*got 0, 16 and 0"),
        (lambda: small(quantize_dropout_cutoff_index=3), "quantize_dropout_cutoff_index below num_quantizers, got 3, 16 and 3"),
        (lambda: small().encode(torch.zeros(1, 5, 2)), "rvq bottleneck: got 5 channels, but dim is 4"),
        (lambda: small().encode(torch.zeros(1, 4, 2), n_active=4), "n_active must be 1 to 3, its codebooks, got 4"),
        (lambda: small(RVQVAEBottleneck).encode(torch.zeros(1, 4, 2)), r"rvq_vae bottleneck: got 4 channels, but 2 \* dim is 8"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# ---- several processes -----------------------------------------------------------------------------------------------------------------


def _train_one_of_two(rank, file, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other data and other random choices in each process
    book = EMACodebook(2, 8, decay=0.9, kmeans_init=True, kmeans_iters=3, threshold_ema_dead_code=2)
    for _ in range(3):
        book(torch.randn(20, 2) + rank)
    torch.save(book.state_dict(), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_codebooks_of_several_processes_stay_equal(tmp_path):
    torch.multiprocessing.spawn(_train_one_of_two, (tmp_path / "meet", tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


# ---- further options -------------------------------------------------------------------------------------------------------------------


def test_cosine_codebooks_stay_on_the_sphere():
    torch.manual_seed(0)
    quantizer = ResidualVQ(4, 1, 8, use_cosine_sim=True).train()
    x = torch.randn(2, 50, 4) * torch.rand(2, 50, 1) * 5
    for _ in range(3):
        quantized = quantizer(x)[0]
    codes = quantizer.layers[0]._codebook.embed[0]
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(8))
    torch.testing.assert_close(quantized.norm(dim=-1), torch.ones(2, 50))
    before = quantizer.eval()(x)[1][..., 0]
    angles = torch.nn.functional.normalize(x, dim=-1) @ codes.T
    assert torch.equal(before, angles.argmax(dim=-1))
    assert torch.equal(before, quantizer(x * 7)[1][..., 0])  # loudness does not matter


def test_frozen_codebooks_do_not_move():
    torch.manual_seed(0)
    x = torch.randn(2, 20, 4)
    for is_frozen in (True, False):
        quantizer = ResidualVQ(4, 2, 8, kmeans_init=False, freeze_codebook=is_frozen).train()
        before = {key: value.clone() for key, value in quantizer.state_dict().items()}
        loss = quantizer(x)[2]
        assert loss.sum() > 0
        assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items()) == is_frozen


def test_dropout_of_stages_in_multiples():
    torch.manual_seed(0)
    quantizer = ResidualVQ(4, 7, 8, kmeans_init=False, quantize_dropout=True, quantize_dropout_multiple_of=3).train()
    x = torch.randn(1, 4, 4)
    counts = {int((quantizer(x)[1][0, 0] >= 0).sum()) for _ in range(40)}
    assert counts == {3, 6, 7}


def test_counts_are_smoothed_by_eps():
    torch.manual_seed(0)
    x, codes = torch.randn(1, 40, 4), []
    for eps in (1e-5, 1.0):
        torch.manual_seed(1)
        quantizer = ResidualVQ(4, 1, 8, kmeans_init=False, threshold_ema_dead_code=0, eps=eps).train()
        quantizer(x)
        codes.append(quantizer.layers[0]._codebook.embed.clone())
    assert not torch.allclose(*codes)


def test_what_only_has_one_value():
    block = {"type": "rvq", "config": {"dim": 4, "ema_update": True, "learnable_codebook": False, "channel_last": True}}
    assert create_bottleneck_from_config(block).num_quantizers == 8
    block["config"]["learnable_codebook"] = True
    with pytest.raises(ConfigError, match="learnable_codebook: input should be False, got True"):
        create_bottleneck_from_config(block)
