"""Attention-based multiple-instance learning (Ilse, Tomczak, Welling 2018, arXiv:1802.04712), forward and gradient in
numpy.

A bag x (N, D) is a slide's features. Every tile is first standardised over its own D values, so that no statistics of a
site are needed. Then, with H hidden and A attention units:

    h = relu(x W + b)                                   (N, H)
    g = tanh(h V + v) * sigmoid(h U + u)                (N, A); the plain kind has no sigmoid
    a = softmax(g w)                                    (N,)   attention, sums to 1
    logit = (a h) c + d                                 a scalar

Parameters are a dict of arrays; the kind is gated where `gate.weight` is in it. All functions keep the parameters'
dtype: float32 in training, float64 where the gradient is compared with finite differences (`tests/federated.rs`).
Against torch's autograd it is compared by hand (`scripts/federated/check_gradient.py`): largest difference 2.1e-15
of a parameter's largest gradient, in float64, over both kinds and both labels.
"""

import numpy as np

Parameters = dict[str, np.ndarray]


def initial(dim: int, hidden: int, attention: int, gated: bool, seed: int) -> Parameters:
    """The same parameters for the same arguments, everywhere: normal, by the square root of the inputs' number."""
    rng = np.random.default_rng(seed)

    def weight(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    zeros = lambda n: np.zeros(n, np.float32)  # noqa: E731
    p = {
        "embed.weight": weight(dim, hidden),
        "embed.bias": zeros(hidden),
        "attention.weight": weight(hidden, attention),
        "attention.bias": zeros(attention),
    }
    if gated:
        p |= {"gate.weight": weight(hidden, attention), "gate.bias": zeros(attention)}
    score, classifier = weight(attention, 1)[:, 0], weight(hidden, 1)[:, 0]
    return p | {"score.weight": score, "classifier.weight": classifier, "classifier.bias": zeros(1)}


def standardise(features: np.ndarray) -> np.ndarray:
    """Each tile (row) brought to mean 0 and variance 1 over its own values: layer normalisation without parameters."""
    centred = features - features.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow."""
    return 0.5 * (np.tanh(0.5 * z) + 1)


def forward(p: Parameters, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
    """The logit (a scalar), the attention (N,), and what `gradient` needs, of a standardised bag (N, D)."""
    h = np.maximum(x @ p["embed.weight"] + p["embed.bias"], 0)
    t = np.tanh(h @ p["attention.weight"] + p["attention.bias"])
    s = sigmoid(h @ p["gate.weight"] + p["gate.bias"]) if "gate.weight" in p else None
    g = t if s is None else t * s
    e = g @ p["score.weight"]
    a = np.exp(e - e.max())
    a /= a.sum()
    m = a @ h
    logit = m @ p["classifier.weight"] + p["classifier.bias"][0]
    return logit, a, (x, h, t, s, g, a, m)


def loss(logit: np.ndarray, label: float) -> np.ndarray:
    """Binary cross-entropy of a logit, label 0 or 1."""
    return np.logaddexp(0, logit) - label * logit


def gradient(p: Parameters, state: tuple, d_logit: np.ndarray) -> Parameters:
    """What each parameter adds to the loss, given what the logit adds (`sigmoid(logit) - label` for `loss`)."""
    x, h, t, s, g, a, m = state
    d_m = d_logit * p["classifier.weight"]
    d_a = h @ d_m
    d_e = a * (d_a - a @ d_a)
    d_g = np.outer(d_e, p["score.weight"])
    d_t = (d_g if s is None else d_g * s) * (1 - t * t)
    d_h = np.outer(a, d_m) + d_t @ p["attention.weight"].T
    out = {"attention.weight": h.T @ d_t, "attention.bias": d_t.sum(0)}
    if s is not None:
        d_s = d_g * t * s * (1 - s)
        d_h += d_s @ p["gate.weight"].T
        out |= {"gate.weight": h.T @ d_s, "gate.bias": d_s.sum(0)}
    d_z = d_h * (h > 0)
    out |= {"embed.weight": x.T @ d_z, "embed.bias": d_z.sum(0), "score.weight": g.T @ d_e}
    return out | {"classifier.weight": d_logit * m, "classifier.bias": np.reshape(d_logit, 1)}
