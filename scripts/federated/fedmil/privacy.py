"""Differential privacy for a site's patients: clipped and noised gradients (DP-SGD), and what they cost.

Abadi et al. 2016 (arXiv:1607.00133): each step takes every patient with probability q, clips each one's gradient to
norm C, sums, and adds normal noise of deviation sigma C. Whoever sees all that leaves the site, the server included,
then sees a mechanism that is (epsilon, delta)-differentially private with regard to adding or removing one patient.

The accounting is Renyi differential privacy of the sampled Gaussian mechanism, Mironov, Talwar, Zhang 2019
(arXiv:1908.10530), section 3.3, at whole orders, as in opacus' `accountants/analysis/rdp.py` and Google's
dp-accounting; the conversion to epsilon is Canonne, Kamath, Steinke 2020 (arXiv:2004.00010), proposition 12, as in
both. Every order gives a true bound, so having fewer of them can only overstate epsilon. `golden_epsilon.json` holds
dp-accounting's numbers.
"""

import math

import numpy as np

from .model import Parameters

ORDERS = tuple(range(2, 257))


def _log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def _renyi(q: float, noise: float, order: int) -> float:
    """Renyi divergence of one step at a whole order of 2 or more."""
    if q == 1.0:
        return order / (2 * noise * noise)
    terms = []
    for k in range(order + 1):
        log_binomial = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        terms.append(log_binomial + k * math.log(q) + (order - k) * math.log1p(-q) + (k * k - k) / (2 * noise * noise))
    return _log_sum_exp(terms) / (order - 1)


def epsilon(q: float, noise: float, steps: int, delta: float) -> float:
    """Epsilon after `steps` steps that each take a patient with probability q and add noise of `noise` times the norm
    that gradients are clipped to, at `delta`."""
    if not 0 < q <= 1 or not 0 < delta < 1 or steps < 0 or noise < 0:
        raise ValueError("wanted: 0 < q <= 1, 0 < delta < 1, steps and noise not negative")
    if steps == 0:
        return 0.0
    if noise == 0:
        return math.inf
    bounds = []
    for order in ORDERS:
        rdp = steps * _renyi(q, noise, order)
        bounds.append(rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return max(0.0, min(bounds))


def clip(gradient: Parameters, norm: float) -> Parameters:
    """A gradient scaled down, where it is longer, to the given Euclidean norm over all its arrays together."""
    length = math.sqrt(sum(float(np.vdot(g, g)) for g in gradient.values()))
    return gradient if length <= norm else {k: g * (norm / length) for k, g in gradient.items()}
