#!/usr/bin/env python3
"""Compares the gradient of `fedmil.model` with finite differences, and with torch's autograd where torch is installed.

check_gradient.py             prints JSON: the largest relative difference of every parameter's gradient, float64
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fedmil import model  # noqa: E402

N, DIM, HIDDEN, ATTENTION = 7, 10, 6, 5


def case(gated: bool, label: float, seed: int) -> tuple[model.Parameters, np.ndarray, float]:
    """Parameters (biases too are not zero), a bag and its label."""
    rng = np.random.default_rng(seed)
    p = model.initial(DIM, HIDDEN, ATTENTION, gated, seed)
    p = {k: v.astype(np.float64) + 0.3 * rng.standard_normal(v.shape) for k, v in p.items()}
    return p, model.standardise(rng.standard_normal((N, DIM))), label


def by_hand(p: model.Parameters, x: np.ndarray, label: float) -> model.Parameters:
    """The gradient of the loss."""
    logit, _, state = model.forward(p, x)
    return model.gradient(p, state, model.sigmoid(logit) - label)


def by_differences(p: model.Parameters, x: np.ndarray, label: float) -> model.Parameters:
    """Central differences of the loss, with a step near the cube root of float64's rounding."""
    out = {}
    for name, values in p.items():
        out[name] = np.zeros_like(values)
        for at in np.ndindex(values.shape):
            around = []
            for step in (6e-6, -6e-6):
                moved = {k: v.copy() for k, v in p.items()}
                moved[name][at] += step
                around.append(float(model.loss(model.forward(moved, x)[0], label)))
            out[name][at] = (around[0] - around[1]) / 1.2e-5
    return out


def by_torch(p: model.Parameters, x: np.ndarray, label: float) -> model.Parameters:
    """torch's autograd through the same network, written with torch's own layers' functions."""
    import torch
    import torch.nn.functional as f

    t = {k: torch.tensor(v, requires_grad=True) for k, v in p.items()}
    bag = torch.tensor(x)
    h = torch.relu(f.linear(bag, t["embed.weight"].T, t["embed.bias"]))
    g = torch.tanh(f.linear(h, t["attention.weight"].T, t["attention.bias"]))
    if "gate.weight" in t:
        g = g * torch.sigmoid(f.linear(h, t["gate.weight"].T, t["gate.bias"]))
    a = torch.softmax(g @ t["score.weight"], dim=0)
    logit = f.linear(a @ h, t["classifier.weight"][None], t["classifier.bias"])
    f.binary_cross_entropy_with_logits(logit, torch.tensor([label], dtype=torch.float64)).backward()
    return {k: v.grad.numpy() for k, v in t.items()}


def main() -> None:
    """Prints what is found."""
    others = {"finite differences": by_differences}
    try:
        import torch  # noqa: F401

        others["torch"] = by_torch
    except ImportError:
        print("no torch here: compared with finite differences only", file=sys.stderr)
    result = {}
    for name, other in others.items():
        worst = 0.0
        for gated in (True, False):
            for label in (0.0, 1.0):
                for seed in range(4):
                    found = case(gated, label, seed)
                    ours, theirs = by_hand(*found), other(*found)
                    assert ours.keys() == theirs.keys() == found[0].keys()
                    for k, g in theirs.items():
                        scale = np.abs(g).max()
                        assert scale > 0, f"{k} has no gradient: nothing is compared"
                        worst = max(worst, float(np.abs(ours[k] - g).max() / scale))
        result[name] = worst
    print(json.dumps(result))


if __name__ == "__main__":
    main()
