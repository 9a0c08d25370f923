#!/usr/bin/env python3
"""Epsilons by Google's dp-accounting, for the test of `fedmil.privacy`; prints scripts/federated/golden_epsilon.json.

Run by hand, where dp-accounting is installed (`pip install dp-accounting==0.6.0`; it brings scipy and others, 150 MB,
for which the tests do without). `whole` has the orders of `fedmil.privacy`, `default` those that dp-accounting takes by
itself.
"""

import json
from importlib.metadata import version

import dp_accounting
from dp_accounting import rdp

CASES = [
    (q, noise, steps, delta)
    for q in (0.004, 0.05, 0.25, 1.0)
    for noise in (0.6, 1.0, 2.5, 8.0)
    for steps in (1, 40, 1000)
    for delta in (1e-3, 1e-5)
]


def epsilon(orders: list[int] | None, q: float, noise: float, steps: int, delta: float) -> float:
    """Of the sampled Gaussian mechanism, neighbours by adding or removing one."""
    accountant = rdp.RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.GaussianDpEvent(noise)
    if q < 1:
        event = dp_accounting.PoissonSampledDpEvent(q, event)
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return accountant.get_epsilon(delta)


def main() -> None:
    """Prints them."""
    cases = [
        {"q": q, "noise": noise, "steps": steps, "delta": delta}
        | {"whole": epsilon(list(range(2, 257)), q, noise, steps, delta)}
        | {"default": epsilon(None, q, noise, steps, delta)}
        for q, noise, steps, delta in CASES
    ]
    print(json.dumps({"made_by": f"dp-accounting {version('dp-accounting')}", "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
