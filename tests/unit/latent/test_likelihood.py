import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.latent.model.likelihood import (
    CountParameters,
    CountTensor,
    Decoded,
    gaussian,
    negative_binomial,
    softmax_negative_binomial,
    zero_inflated_negative_binomial,
)


def counted(dense: torch.Tensor) -> CountTensor:
    return CountTensor(sp.csr_matrix(dense.numpy()))


def random_case(seed: int, cells: int = 6, genes: int = 9) -> tuple[CountTensor, CountParameters]:
    rng = np.random.default_rng(seed)
    log_mean = rng.normal(0, 2, (cells, genes))
    log_theta = rng.normal(0, 2, genes)
    counts = rng.negative_binomial(np.exp(log_theta), 1 / (1 + np.exp(log_mean - log_theta)))
    to = torch.float32
    parameters = CountParameters(
        torch.tensor(log_mean, dtype=to),
        torch.tensor(log_theta, dtype=to),
        torch.tensor(rng.normal(0, 2, (cells, genes)), dtype=to),
    )
    return counted(torch.tensor(counts, dtype=to)), parameters


def scipy_log_p(counts: CountTensor, parameters: CountParameters) -> np.ndarray:
    mean = parameters.log_mean.double().exp().numpy()
    theta = parameters.log_theta.double().exp().numpy()
    return np.asarray(scipy.stats.nbinom.logpmf(counts.dense.numpy(), theta, theta / (theta + mean)))


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_negative_binomial_agrees_with_scipy(seed: int) -> None:
    counts, parameters = random_case(seed)
    expected = scipy_log_p(counts, parameters).sum(axis=1)
    np.testing.assert_allclose(negative_binomial(counts, parameters).numpy(), expected, rtol=2e-4, atol=2e-3)


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_zero_inflation_agrees_with_the_mixture(seed: int) -> None:
    counts, parameters = random_case(seed)
    pi = 1 / (1 + np.exp(-parameters.zero_logits.double().numpy()))
    p = (1 - pi) * np.exp(scipy_log_p(counts, parameters)) + pi * (counts.dense.numpy() == 0)
    found = zero_inflated_negative_binomial(counts, parameters).numpy()
    np.testing.assert_allclose(found, np.log(p).sum(axis=1), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("likelihood", [negative_binomial, zero_inflated_negative_binomial])
def test_probabilities_of_all_counts_sum_to_one(likelihood) -> None:
    x = counted(torch.arange(4000.0).reshape(-1, 1))
    for log_mean, log_theta in [(0.0, 0.0), (3.0, -1.0), (-4.0, 2.0)]:
        shape = (4000, 1)
        parameters = CountParameters(torch.full(shape, log_mean), torch.full((1,), log_theta), torch.full(shape, -0.7))
        assert likelihood(x, parameters).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_huge_inverse_dispersion_is_the_poisson_distribution() -> None:
    counts = torch.tensor([[0.0, 1.0, 5.0, 40.0]])
    log_mean = torch.tensor([[0.1, 0.2, 1.5, 3.6]])
    found = negative_binomial(counted(counts), CountParameters(log_mean, torch.full((4,), 18.0)))
    expected = scipy.stats.poisson.logpmf(counts.numpy(), np.exp(log_mean.numpy())).sum()
    assert found.item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("likelihood", [negative_binomial, zero_inflated_negative_binomial])
def test_extreme_parameters_stay_finite_with_their_gradients(likelihood) -> None:
    counts = counted(torch.tensor([[0.0, 3.0, 1e5, 0.0], [1.0, 0.0, 7.0, 2e4]]))
    for extreme in (-60.0, 60.0):
        for log_theta in (-15.0, 15.0):
            tensors = [torch.full((2, 4), extreme), torch.full((4,), log_theta), torch.full((2, 4), -extreme)]
            for tensor in tensors:
                tensor.requires_grad_()
            value = likelihood(counts, CountParameters(*tensors)).sum()
            value.backward()
            assert torch.isfinite(value)
            assert all(tensor.grad is None or torch.isfinite(tensor.grad).all() for tensor in tensors)


def test_gradients_agree_with_the_textbook_formula_in_double_precision() -> None:
    counts, parameters = random_case(5)
    log_mean = parameters.log_mean.clone().requires_grad_()
    log_theta = parameters.log_theta.clone().requires_grad_()
    negative_binomial(counts, CountParameters(log_mean, log_theta)).sum().backward()

    mean64 = parameters.log_mean.double().requires_grad_()
    theta64 = parameters.log_theta.double().requires_grad_()
    x, mu, theta = counts.dense.double(), mean64.exp(), theta64.exp()
    naive = (
        torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
        + theta * torch.log(theta / (theta + mu))
        + x * torch.log(mu / (theta + mu))
    )
    naive.sum().backward()
    torch.testing.assert_close(log_mean.grad, mean64.grad.float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(log_theta.grad, theta64.grad.float(), rtol=1e-3, atol=1e-3)


def test_zero_inflation_without_its_logits_is_refused() -> None:
    counts, parameters = random_case(0)
    with pytest.raises(ValueError, match="technical zeros"):
        zero_inflated_negative_binomial(counts, CountParameters(parameters.log_mean, parameters.log_theta))


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_fused_likelihood_and_its_gradients_are_those_of_the_plain_one(seed: int, per_cell: bool) -> None:
    rng = np.random.default_rng(seed)
    counts = counted(torch.tensor(rng.poisson(rng.gamma(0.5, 3, (6, 9))), dtype=torch.float32))
    weights = torch.tensor(rng.normal(size=6), dtype=torch.float32)
    shapes = [(6, 9), (6,), (6, 9) if per_cell else (9,)]
    leaves = [torch.tensor(rng.normal(0, 1.5, shape), dtype=torch.float32, requires_grad=True) for shape in shapes]
    found = []
    for function in (softmax_negative_binomial, lambda x, d: negative_binomial(x, d.parameters)):
        value = function(counts, Decoded(*leaves))
        found.append((value, *torch.autograd.grad((value * weights).sum(), leaves)))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-3)


def test_the_fused_likelihood_stays_finite_at_extremes() -> None:
    counts = counted(torch.tensor([[0.0, 3.0, 1e5, 0.0], [1.0, 0.0, 7.0, 2e4]]))
    for extreme in (-200.0, 200.0):
        for log_theta in (-15.0, 15.0):
            logits = torch.tensor([[extreme, 0.0, 0.0, 1.0]] * 2, requires_grad=True)
            theta = torch.full((4,), log_theta, requires_grad=True)
            value = softmax_negative_binomial(counts, Decoded(logits, torch.tensor([11.0, 10.0]), theta)).sum()
            value.backward()
            assert all(torch.isfinite(x).all() for x in (value, logits.grad, theta.grad))


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
