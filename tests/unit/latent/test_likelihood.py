import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.latent.model.likelihood import (
    CountTensor,
    Decoded,
    gaussian,
    softmax_negative_binomial,
    zero_inflated_negative_binomial,
)


def counted(dense: torch.Tensor) -> CountTensor:
    return CountTensor(sp.csr_matrix(dense.numpy()))


def decoded(log_mean: torch.Tensor, log_theta: torch.Tensor, zero_logits: torch.Tensor | None = None) -> Decoded:
    """What a decoder says that means these expected counts."""
    return Decoded(log_mean, log_mean.logsumexp(dim=1), log_theta, zero_logits)


def random_case(seed: int, cells: int = 6, genes: int = 9) -> tuple[CountTensor, Decoded]:
    rng = np.random.default_rng(seed)
    log_mean = rng.normal(0, 2, (cells, genes))
    log_theta = rng.normal(0, 2, genes)
    counts = rng.negative_binomial(np.exp(log_theta), 1 / (1 + np.exp(log_mean - log_theta)))
    tensors = (torch.tensor(x, dtype=torch.float32) for x in (log_mean, log_theta, rng.normal(0, 2, (cells, genes))))
    return counted(torch.tensor(counts, dtype=torch.float32)), decoded(*tensors)


def scipy_log_p(counts: CountTensor, said: Decoded) -> np.ndarray:
    mean = said.log_mean.double().exp().numpy()
    theta = said.log_theta.double().exp().numpy()
    return np.asarray(scipy.stats.nbinom.logpmf(counts.dense.numpy(), theta, theta / (theta + mean)))


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_negative_binomial_agrees_with_scipy(seed: int) -> None:
    counts, said = random_case(seed)
    expected = scipy_log_p(counts, said).sum(axis=1)
    np.testing.assert_allclose(softmax_negative_binomial(counts, said).numpy(), expected, rtol=2e-4, atol=2e-3)


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_zero_inflation_agrees_with_the_mixture(seed: int) -> None:
    counts, said = random_case(seed)
    assert said.zero_logits is not None
    pi = 1 / (1 + np.exp(-said.zero_logits.double().numpy()))
    p = (1 - pi) * np.exp(scipy_log_p(counts, said)) + pi * (counts.dense.numpy() == 0)
    found = zero_inflated_negative_binomial(counts, said).numpy()
    np.testing.assert_allclose(found, np.log(p).sum(axis=1), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("likelihood", [softmax_negative_binomial, zero_inflated_negative_binomial])
def test_probabilities_of_all_counts_sum_to_one(likelihood) -> None:
    x = counted(torch.arange(4000.0).reshape(-1, 1))
    for log_mean, log_theta in [(0.0, 0.0), (3.0, -1.0), (-4.0, 2.0)]:
        shape = (4000, 1)
        said = decoded(torch.full(shape, log_mean), torch.full((1,), log_theta), torch.full(shape, -0.7))
        assert likelihood(x, said).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_huge_inverse_dispersion_is_the_poisson_distribution() -> None:
    counts = torch.tensor([[0.0, 1.0, 5.0, 40.0]])
    log_mean = torch.tensor([[0.1, 0.2, 1.5, 3.6]])
    found = softmax_negative_binomial(counted(counts), decoded(log_mean, torch.full((4,), 18.0)))
    expected = scipy.stats.poisson.logpmf(counts.numpy(), np.exp(log_mean.numpy())).sum()
    assert found.item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("likelihood", [softmax_negative_binomial, zero_inflated_negative_binomial])
@pytest.mark.parametrize("extreme", [-200.0, -60.0, 60.0, 200.0])
@pytest.mark.parametrize("log_theta", [-15.0, 15.0])
def test_extreme_parameters_stay_finite_with_their_gradients(likelihood, extreme: float, log_theta: float) -> None:
    counts = counted(torch.tensor([[0.0, 3.0, 1e5, 0.0], [1.0, 0.0, 7.0, 2e4]]))
    logits = torch.tensor([[extreme, 0.0, 0.0, 1.0]] * 2, requires_grad=True)
    theta = torch.full((4,), log_theta, requires_grad=True)
    zero_logits = torch.full((2, 4), -extreme, requires_grad=True)
    value = likelihood(counts, Decoded(logits, torch.tensor([11.0, 10.0]), theta, zero_logits)).sum()
    value.backward()
    gradients = [x.grad for x in (logits, theta, zero_logits) if x.grad is not None]
    assert all(torch.isfinite(x).all() for x in (value, *gradients))


def test_zero_inflation_without_its_logits_is_refused() -> None:
    counts, said = random_case(0)
    with pytest.raises(ValueError, match="technical zeros"):
        zero_inflated_negative_binomial(counts, Decoded(said.logits, said.log_library, said.log_theta))


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=20, deadline=None)
def test_likelihood_and_gradients_are_those_of_the_textbook_formula_in_double_precision(
    seed: int, per_cell: bool
) -> None:
    rng = np.random.default_rng(seed)
    counts = counted(torch.tensor(rng.poisson(rng.gamma(0.5, 3, (6, 9))), dtype=torch.float32))
    weights = torch.tensor(rng.normal(size=6), dtype=torch.float32)
    shapes = [(6, 9), (6,), (6, 9) if per_cell else (9,)]
    leaves = [torch.tensor(rng.normal(0, 1.5, shape), dtype=torch.float32, requires_grad=True) for shape in shapes]

    def textbook(counts: CountTensor, said: Decoded) -> torch.Tensor:
        x, mu, theta = counts.dense.double(), said.log_mean.double().exp(), said.log_theta.double().exp()
        gamma = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        log_p = gamma + theta * torch.log(theta / (theta + mu)) + x * torch.log(mu / (theta + mu))
        return log_p.sum(dim=1).float()

    found = []
    for function in (softmax_negative_binomial, textbook):
        value = function(counts, Decoded(*leaves))
        found.append((value, *torch.autograd.grad((value * weights).sum(), leaves)))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_gaussian_is_scipys_on_log_normalised_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(1.0, (5, 7)).astype(np.float32)
    mean, log_precision = rng.normal(2, 2, (5, 7)), rng.normal(0, 1, 7)
    logged = np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
    expected = scipy.stats.norm.logpdf(logged, mean, np.exp(-0.5 * log_precision)).sum(axis=1)
    to = torch.float32
    decoded = Decoded(torch.tensor(mean, dtype=to), torch.zeros(5), torch.tensor(log_precision, dtype=to))
    found = gaussian(counted(torch.tensor(dense)), decoded)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-2)
