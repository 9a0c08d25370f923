"""The first round: may these sites' features be trained on together? `paraffin compat` answers, on the server.

Sites send their site-manifest.json, which is made to be shared. The program is found by the environment's PARAFFIN, or
on the PATH.
"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import bags
from .task import Study

# compat only reads a few manifests; whatever takes longer hangs.
COMPAT_SECONDS = 120
# How long the sites have to answer.
ANSWER_SECONDS = 600


class Refused(Exception):
    """There will be no training; the text says why, naming site and field."""


@dataclass(frozen=True)
class Finding:
    """What `paraffin compat` has to say of one field."""

    severity: str
    artefact: str
    field: str
    sites: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"{self.artefact}: {self.field} ({', '.join(self.sites)}): {self.what}"


def program() -> str:
    """Where paraffin is."""
    named = os.environ.get("PARAFFIN", "paraffin")
    found = shutil.which(named)
    if found is None:
        raise Refused(
            f"the server needs paraffin to compare the sites' manifests, and {named!r} is not there: install it, put "
            "it on the PATH, or name it in the environment's PARAFFIN"
        )
    # It runs in another folder.
    return os.path.abspath(found)


def preflight(manifests: dict[str, str], features: str) -> tuple[bool, list[Finding]]:
    """What `paraffin compat` says of manifests by site name: may `features` be trained on together, and its findings.

    Raises Refused where it cannot be asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        # It calls a site what its folder is called.
        for site, text in manifests.items():
            path = Path(folder) / site / "site-manifest.json"
            path.parent.mkdir()
            path.write_text(text)
        command = [program(), "compat", "--json", "--artefact", features, *sorted(manifests)]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=COMPAT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(f"paraffin compat did not run: {error}") from None
    try:
        answer = json.loads(done.stdout)
        findings = [
            Finding(f["severity"], f["artefact"], f["field"], tuple(f["sites"]), f["what"]) for f in answer["findings"]
        ]
        compatible = answer["compatible"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"paraffin compat ended with {done.returncode}: {done.stderr.strip()[-2000:]}") from None
    # Code and answer must agree, or this is not the program that was meant.
    if (done.returncode, compatible) not in ((0, True), (3, False)):
        raise Refused(f"paraffin compat ended with {done.returncode} and says compatible: {compatible}")
    return compatible, findings


def by_site(answers: list[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Sites' answers: manifests by site, and objections by site."""
    manifests: dict[str, str] = {}
    objections: dict[str, str] = {}
    for answer in answers:
        site = answer.get("site", "")
        if not bags.is_name(site):
            raise Refused("a site's name is not one")
        if site in manifests or site in objections:
            raise Refused(f"two sites call themselves {site}")
        if "manifest" in answer:
            manifests[site] = answer["manifest"]
        else:
            objections[site] = answer.get("objection", "no manifest")
    return manifests, objections


def admit(study: Study, manifests: dict[str, str], objections: dict[str, str]) -> list[dict]:
    """Whether the study may start: every site has answered, none objects, and the manifests fit together.

    Returns the manifests' entries of the study's features, by site name; raises Refused otherwise. `objections` are
    what sites said instead of sending a manifest.
    """
    reasons = [f"{site}: {why}" for site, why in sorted(objections.items())]
    if len(manifests) + len(objections) != study.sites:
        reasons.append(f"{len(manifests) + len(objections)} sites answered, the study has {study.sites}")
    entries = []
    for site, text in sorted(manifests.items()):
        try:
            entries.append(bags.summary(text, study.features))
        except bags.SiteError as error:
            reasons.append(f"{site}: {error}")
    if not reasons:
        compatible, findings = preflight(manifests, study.features)
        for finding in findings:
            print(f"preflight: {finding.severity}: {finding}", flush=True)
        if not compatible:
            reasons = [str(f) for f in findings if f.severity == "refuse"]
    if reasons:
        raise Refused("no training: " + "; ".join(reasons))
    print(f"preflight: {len(entries)} sites fit together, contract {entries[0]['contract_sha256'][:12]}", flush=True)
    return entries
