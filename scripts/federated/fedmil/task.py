"""A site's part of a federated study, the same under every engine: train on its bags, evaluate, account for privacy.

Given the same study, round and site, `train` returns the same parameters whichever engine asks: what it draws depends
on these alone. Only the noise of differential privacy comes from the operating system's entropy.
"""

import contextlib
import dataclasses
import json
import math
import secrets
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import bags, model, privacy
from .bags import Bag, Site, SiteError
from .model import Parameters

FORMAT = "paraffin-abmil/1"


@dataclass(frozen=True)
class Study:
    """What the sites agreed on. Engines hand it around as a flat mapping with hyphens (`study.toml`)."""

    features: str  # <grid>/features_<encoder>
    sites: int = 3  # that take part, all of them in every round
    rounds: int = 5
    local_epochs: int = 2
    learning_rate: float = 0.001
    optimizer: str = "adam"  # or sgd; its state starts anew each round
    hidden: int = 64
    attention: int = 32
    gated: bool = True
    seed: int = 0
    secure_aggregation: bool = False  # SecAgg+, on Flower
    dp_noise: float = 0.0  # deviation of the noise in units of dp_clip; 0: no differential privacy
    dp_clip: float = 1.0  # Euclidean norm that a patient's gradient is clipped to
    dp_batch: float = 4.0  # patients a step on average
    dp_delta: float = 1e-3  # keep it under one over the smallest site's number of patients

    @classmethod
    def of(cls, config: dict) -> "Study":
        """From an engine's flat mapping; keys that are not a study's are left to the engine."""
        fields = {f.name: f.type for f in dataclasses.fields(cls)}
        given = {k.replace("-", "_"): v for k, v in config.items()}
        study = cls(**{k: v for k, v in given.items() if k in fields})
        grid, _, artefact = study.features.partition("/")
        if not grid or not artefact.startswith("features_") or "/" in artefact or ".." in (grid, artefact):
            raise SiteError("study: features is <grid>/features_<encoder>, as paraffin's OUT has it")
        if study.optimizer not in ("adam", "sgd"):
            raise SiteError("study: optimizer is adam or sgd")
        if min(study.sites, study.rounds, study.local_epochs, study.hidden, study.attention) < 1:
            raise SiteError("study: sites, rounds, local-epochs, hidden and attention are at least 1")
        if study.dp_noise < 0 or min(study.dp_clip, study.dp_batch) <= 0 or not 0 < study.dp_delta < 1:
            raise SiteError(
                "study: dp-noise is not negative, dp-clip and dp-batch are positive, dp-delta is within 0..1"
            )
        return study

    def config(self) -> dict:
        """As engines hand it around."""
        return {k.replace("_", "-"): v for k, v in dataclasses.asdict(self).items()}

    def initial(self, dim: int) -> Parameters:
        """The global model before the first round."""
        return model.initial(dim, self.hidden, self.attention, self.gated, self.seed)


@contextlib.contextmanager
def confined() -> Iterator[None]:
    """What goes wrong inside is told in full here, at the site; beyond it goes a text that was written for others."""
    try:
        yield
    except SiteError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise SiteError(f"{type(error).__name__}; the site's log says more") from None


def answer(site: Callable[[], Site], config: dict) -> dict[str, str]:
    """A site's answer to the pre-flight: `site` and `manifest`, or `site` and `objection`."""
    name = "unnamed"
    try:
        with confined():
            here, study = site(), Study.of(config)
            name, manifest = here.name, here.manifest()
            found = bags.load(here, study.features, "train")
            cost = consent(here, study, found.bags)
    except SiteError as error:
        return {"site": name, "objection": str(error)}
    price = "no differential privacy" if math.isinf(cost) else f"epsilon {cost:.3g} at delta {study.dp_delta:g}"
    print(
        f"{name}: {len(found)} slides to train on, {found.missing} labelled ones without features, {found.empty} "
        f"without tiles; {price}",
        flush=True,
    )
    return {"site": name, "manifest": manifest}


def train_round(site: Site, study: Study, p: Parameters, round_: int) -> tuple[Parameters, int, dict[str, float]]:
    """A site's training of one round: the parameters, how many slides they were trained on, and metrics.

    The site's terms are looked at again: a server may ask for a round without a pre-flight.
    """
    found = bags.load(site, study.features, "train").bags
    consent(site, study, found)
    trained, mean_loss = train(site.name, study, p, found, round_)
    return trained, len(found), {} if math.isnan(mean_loss) else {"train-loss": mean_loss}


def validate(site: Site, study: Study, p: Parameters) -> tuple[int, dict[str, float]]:
    """The global model on a site's slides of the split `val`: how many, and metrics; none where there are none."""
    found = bags.load(site, study.features, "val").bags
    return len(found), evaluate(p, found) if found else {}


def tell(round_: int, site: str, slides: int, metrics: dict[str, float]) -> None:
    """Prints a site's metrics, on the server."""
    told = ", ".join(f"{k} {v:.3f}" for k, v in sorted(metrics.items()))
    print(f"round {round_}: {site}: {slides} slides: {told or 'none to validate on'}", flush=True)


def _units(slides: list[Bag]) -> list[list[Bag]]:
    """Slides by patient, in the labels' order."""
    patients: dict[str, list[Bag]] = {}
    for bag in slides:
        patients.setdefault(bag.patient, []).append(bag)
    return list(patients.values())


def _sampling(study: Study, patients: int) -> tuple[float, int]:
    """With which probability a step takes a patient, and the steps of a round."""
    q = min(1.0, study.dp_batch / patients)
    return q, study.local_epochs * max(1, round(1 / q))


def planned_epsilon(study: Study, slides: list[Bag]) -> float:
    """What the whole study costs each patient of this site, at the study's delta; infinite without noise."""
    q, steps = _sampling(study, len(_units(slides)))
    return privacy.epsilon(q, study.dp_noise, steps * study.rounds, study.dp_delta)


def consent(site: Site, study: Study, slides: list[Bag]) -> float:
    """What the study costs in epsilon; raises SiteError where it is not what the site demands."""
    if not slides:
        raise SiteError("no labelled slide of the split 'train' has finished features")
    if site.secure_aggregation and not study.secure_aggregation:
        raise SiteError("this site demands secure aggregation, which the study does not have")
    cost = planned_epsilon(study, slides)
    if site.max_epsilon is not None and cost > site.max_epsilon:
        raise SiteError(f"this site allows epsilon {site.max_epsilon:g}; the study would cost {cost:.3g}")
    return cost


def _bag_gradient(p: Parameters, bag: Bag) -> tuple[float, Parameters]:
    logit, _, state = model.forward(p, bag.features())
    return float(model.loss(logit, bag.label)), model.gradient(p, state, model.sigmoid(logit) - bag.label)


def _mean(gradients: list[Parameters]) -> Parameters:
    return {k: sum(g[k] for g in gradients) / len(gradients) for k in gradients[0]}


class _Optimizer:
    """Adam (Kingma, Ba 2015) with its usual constants, or plain gradient descent."""

    def __init__(self, study: Study, p: Parameters):
        self.adam, self.rate, self.steps = study.optimizer == "adam", study.learning_rate, 0
        self.m = {k: np.zeros_like(v) for k, v in p.items()}
        self.v = {k: np.zeros_like(v) for k, v in p.items()}

    def step(self, p: Parameters, gradient: Parameters) -> None:
        """Changes the parameters in place."""
        self.steps += 1
        for k, g in gradient.items():
            if self.adam:
                self.m[k] = 0.9 * self.m[k] + 0.1 * g
                self.v[k] = 0.999 * self.v[k] + 0.001 * g * g
                mean, square = self.m[k] / (1 - 0.9**self.steps), self.v[k] / (1 - 0.999**self.steps)
                g = mean / (np.sqrt(square) + 1e-8)
            p[k] = (p[k] - self.rate * g).astype(p[k].dtype)


def train(
    site: str, study: Study, p: Parameters, slides: list[Bag], round_: int, noise: np.random.Generator | None = None
) -> tuple[Parameters, float]:
    """One round at one site: the parameters after it, and the mean loss of the bags before they were learnt from.

    `round_` counts from 1. `noise` is for tests; otherwise it is seeded by the operating system.
    """
    p = {k: np.array(v) for k, v in p.items()}
    draw = np.random.default_rng([study.seed, round_, zlib.crc32(site.encode())])
    optimizer = _Optimizer(study, p)
    losses = []
    if study.dp_noise == 0:
        for _ in range(study.local_epochs):
            for i in draw.permutation(len(slides)):
                bag_loss, gradient = _bag_gradient(p, slides[i])
                losses.append(bag_loss)
                optimizer.step(p, gradient)
        return p, float(np.mean(losses))
    # Whom a step takes must be as unforeseeable as the noise, or there is no amplification by sampling.
    noise = noise or np.random.default_rng(secrets.randbits(256))
    units = _units(slides)
    q, steps = _sampling(study, len(units))
    for _ in range(steps):
        total = {k: np.zeros_like(v) for k, v in p.items()}
        for unit in units:
            if noise.random() >= q:
                continue
            found = [_bag_gradient(p, bag) for bag in unit]
            losses += [bag_loss for bag_loss, _ in found]
            for k, g in privacy.clip(_mean([g for _, g in found]), study.dp_clip).items():
                total[k] += g
        scale = study.dp_noise * study.dp_clip
        for k, g in total.items():
            total[k] = (g + noise.normal(0, scale, g.shape)) / (q * len(units))
        optimizer.step(p, total)
    # The loss is of the very patients that the noise hides: it stays here.
    return p, math.nan


def evaluate(p: Parameters, slides: list[Bag]) -> dict[str, float]:
    """Loss, accuracy at 0.5 and, where both classes are there, area under the ROC curve."""
    logits = np.array([model.forward(p, bag.features())[0] for bag in slides], np.float64)
    labels = np.array([bag.label for bag in slides])
    metrics = {
        "loss": float(np.mean(model.loss(logits, labels))),
        "accuracy": float(np.mean((logits > 0) == labels)),
    }
    area = auc(logits, labels)
    return metrics if area is None else metrics | {"auc": area}


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a positive scores over a negative, ties half; None without both classes."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return None
    above = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    return float(above)


def save(path: Path, p: Parameters, study: Study, contracts: list[dict]) -> None:
    """Writes the global model as safetensors; its metadata say which features it is for.

    `contracts` are the sites' manifest entries of the study's features: the contracts in them have the same encoder.
    """
    metadata = {
        "format": FORMAT,
        "features": study.features,
        "encoder": contracts[0]["contract"]["encoder"]["id"],
        "encoder_sha256": contracts[0]["contract"]["encoder"]["sha256"],
        "contract_sha256": ",".join(sorted({c["contract_sha256"] for c in contracts})),
        "study": json.dumps(study.config(), sort_keys=True),
    }
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in p.items()}, path, metadata)


def read(path: Path) -> tuple[Parameters, dict[str, str]]:
    """A model that `save` wrote, and its metadata."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as f:
        metadata = f.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise SiteError(f"not a model of this program: its format is {metadata.get('format')!r}, not {FORMAT!r}")
        return {k: f.get_tensor(k) for k in f.keys()}, metadata
