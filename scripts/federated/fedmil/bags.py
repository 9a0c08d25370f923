"""A site's features and labels: straight from paraffin's OUT, joined by id.

A site describes itself in `site.toml`, which never leaves it:

    site = "hospital-a"                # what others call it: letters, digits, - and _
    out = "/data/OUT"                  # what paraffin wrote
    labels = "/data/labels.csv"        # id,label[,split][,patient]; label 0 or 1; split train (default), val or test
    secure_aggregation = "required"    # optional: refuse studies whose server would see this site's update by itself
    max_epsilon = 8.0                  # optional: refuse studies without differential privacy of at most this epsilon

Relative paths are taken from the file's folder.
"""

import csv
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from .model import standardise

# Bags are kept in memory up to this much altogether; the others are read anew for every use.
CACHE_BYTES = 2 << 30
SPLITS = ("train", "val", "test")


class SiteError(Exception):
    """What a site has is not what the study needs. The text holds no path and no id: it may reach the server."""


def is_name(name: str) -> bool:
    """Whether it may name a site, a folder and a line of a log."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is not None


@dataclass(frozen=True)
class Site:
    """What `site.toml` says."""

    name: str
    out: Path
    labels: Path
    secure_aggregation: bool = False
    max_epsilon: float | None = None

    @classmethod
    def read(cls, path: Path) -> "Site":
        """Reads a `site.toml`."""
        text = tomllib.loads(path.read_text())
        unknown = set(text) - {"site", "out", "labels", "secure_aggregation", "max_epsilon"}
        if unknown or not {"site", "out", "labels"} <= set(text):
            raise SiteError(f"site.toml: wanted site, out and labels; unknown: {sorted(unknown) or 'nothing'}")
        if not is_name(str(text["site"])):
            raise SiteError("site.toml: a site's name has letters, digits, - and _, 64 at most")
        secure = text.get("secure_aggregation", "optional")
        if secure not in ("required", "optional"):
            raise SiteError('site.toml: secure_aggregation is "required" or "optional"')
        limit = text.get("max_epsilon")
        here = path.parent
        return cls(text["site"], here / text["out"], here / text["labels"], secure == "required", limit)

    def manifest(self) -> str:
        """The text of the site's manifest, made to be shared."""
        path = self.out / "site-manifest.json"
        try:
            return path.read_text()
        except OSError as error:
            raise SiteError(f"site-manifest.json cannot be read: {error.strerror}") from None


@dataclass
class Bag:
    """A slide: its features (N, D) are read when they are first wanted."""

    id: str
    label: int
    patient: str
    path: Path
    _kept: np.ndarray | None = field(default=None, repr=False)

    def features(self) -> np.ndarray:
        """Standardised features, float32 (N, D)."""
        if self._kept is not None:
            return self._kept
        with h5py.File(self.path) as f:
            return standardise(f["features"][:].astype(np.float32))

    def keep(self) -> int:
        """Keeps the features in memory; returns their bytes."""
        self._kept = self.features()
        return self._kept.nbytes


@dataclass
class Bags:
    """A site's labelled slides of one split."""

    bags: list[Bag]
    missing: int  # labelled slides without finished features
    empty: int  # labelled slides without tiles

    def __len__(self) -> int:
        return len(self.bags)

    def __iter__(self) -> Iterator[Bag]:
        return iter(self.bags)


def summary(manifest: str, features: str) -> dict:
    """What a manifest says of `<grid>/features_<encoder>`."""
    grid, _, artefact = features.partition("/")
    try:
        artefacts = json.loads(manifest)["artefacts"]
        found = [a for a in artefacts if (a["grid"], a["artefact"]) == (grid, artefact)]
    except (ValueError, KeyError, TypeError) as error:
        raise SiteError(f"site-manifest.json is not a site manifest: {type(error).__name__}") from None
    if not found:
        has = ", ".join(sorted(f"{a['grid']}/{a['artefact']}" for a in artefacts)) or "nothing"
        raise SiteError(f"no {features} here; the site has {has}")
    return found[0]


def load(site: Site, features: str, split: str) -> Bags:
    """The labelled slides of a split whose features are done: a record is there, and record and file are of the
    contract that the manifest names.

    Raises SiteError where labels make no sense or a file is of another contract.
    """
    contract = summary(site.manifest(), features)["contract_sha256"]
    grid, _, artefact = features.partition("/")
    bags, missing, empty, budget = [], 0, 0, CACHE_BYTES
    for row in _rows(site):
        if row["split"] != split:
            continue
        try:
            record = json.loads((site.out / grid / "records" / artefact / f"{row['id']}.json").read_text())
        except FileNotFoundError:
            missing += 1
            continue
        bag = Bag(row["id"], int(row["label"]), row["patient"], site.out / features / f"{row['id']}.h5")
        with h5py.File(bag.path) as f:
            if not record["contract_sha256"] == f.attrs["contract_sha256"] == contract:
                raise SiteError("a feature file is of another contract than the site's manifest: run paraffin verify")
            if f["features"].shape[0] == 0:
                empty += 1
                continue
        if budget > 0:
            budget -= bag.keep()
        bags.append(bag)
    return Bags(bags, missing, empty)


def _rows(site: Site) -> list[dict]:
    """The labels' rows, with their defaults filled in."""
    try:
        with open(site.labels, newline="", encoding="utf-8-sig") as f:
            rows = list(csv.DictReader(f))
    except OSError as error:
        raise SiteError(f"the labels cannot be read: {error.strerror}") from None
    if not rows or not {"id", "label"} <= set(rows[0]):
        raise SiteError("the labels have no rows, or no columns 'id' and 'label'")
    seen, splits = set(), {}
    for line, row in enumerate(rows, start=2):
        row["split"] = row.get("split") or "train"
        row["patient"] = row.get("patient") or row["id"]
        if row["label"] not in ("0", "1") or row["split"] not in SPLITS:
            raise SiteError(f"labels, line {line}: label is 0 or 1, split is train, val or test")
        if row["id"] in seen:
            raise SiteError(f"labels, line {line}: this id has a label already")
        if splits.setdefault(row["patient"], row["split"]) != row["split"]:
            raise SiteError(f"labels, line {line}: slides of this patient are in two splits")
        # An id names a file: nothing that leads elsewhere.
        if row["id"] in ("", ".", "..") or "/" in row["id"] or "\0" in row["id"]:
            raise SiteError(f"labels, line {line}: not an id")
        seen.add(row["id"])
    return rows
