#!/usr/bin/env python3
"""A site's manifest as other programs see it: for tests/compat.rs.

  check_site.py schema MANIFEST ...         what docs/schemas/site-manifest.schema.json has against each, as JSON
  check_site.py statistics MANIFEST OUT     the manifest's statistics against NumPy's, over every feature file of OUT
  check_site.py keys DIR PASSWORD           two pairs of keys by another minisign: plain.key and locked.key (with a password), .pub
  check_site.py signed MANIFEST PUBKEY      whether that minisign takes the signature; its trusted comment
  check_site.py sign MANIFEST KEY           a signature by that minisign
"""
import base64
import json
import sys
from pathlib import Path

import numpy as np

SCHEMA = Path(__file__).resolve().parent.parent / "docs/schemas/site-manifest.schema.json"


def schema(*manifests):
    import jsonschema

    rules = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(rules)
    validator = jsonschema.Draft202012Validator(rules)
    found = [[f"{e.json_path}: {e.message[:200]}" for e in validator.iter_errors(json.loads(Path(m).read_text()))]
             for m in manifests]
    print(json.dumps(found))


def numbers(n):
    return np.frombuffer(base64.b64decode(n["base64"]), n["dtype"]).reshape(n["shape"])


def statistics(manifest, out):
    import h5py

    told = []
    for artefact in json.loads(Path(manifest).read_text())["artefacts"]:
        if not artefact["statistics"]:
            continue
        files = sorted(Path(out, artefact["grid"], artefact["artefact"]).glob("*.h5"))
        slides = [h5py.File(f)["features"][:].astype(np.float64) for f in files]
        rows = np.concatenate(slides)
        s, norms = artefact["statistics"], np.linalg.norm(rows, axis=1)
        quantiles = np.quantile(norms, [0.1, 0.25, 0.5, 0.75, 0.9], method="lower")
        per_slide = np.quantile([len(x) for x in slides], [0.1, 0.25, 0.5, 0.75, 0.9])
        spread = rows.std(0)
        told.append({
            "artefact": artefact["artefact"],
            "slides": int(sum(len(x) > 0 for x in slides)) == s["slides"],
            "tiles": len(rows) == s["tiles"],
            "mean": float(np.abs(numbers(s["mean"]) - rows.mean(0)).max() / spread.max()),
            "variance": float(np.abs(numbers(s["variance"]) - rows.var(0)).max() / rows.var(0).max()),
            "norms": float(np.abs(np.array(list(s["norms"].values())) / quantiles - 1).max()),
            "tiles_per_slide": float(np.abs(np.array(list(artefact["tiles_per_slide"].values())) - per_slide).max()),
        })
    print(json.dumps(told))


def keys(directory, password):
    import minisign

    for name in ("plain", "locked"):
        pair = minisign.KeyPair.generate()
        Path(directory, f"{name}.pub").write_bytes(bytes(pair.public_key))
        if name == "locked":
            # The least that scrypt takes: a test opens it.
            pair.secret_key.encrypt(password, opslimit=32768, memlimit=1 << 20)
        Path(directory, f"{name}.key").write_bytes(bytes(pair.secret_key))


def signed(manifest, public):
    import minisign

    signature = minisign.Signature.from_file(manifest + ".minisig")
    try:
        minisign.PublicKey.from_file(public).verify_file(manifest, signature)
    except minisign.VerifyError as e:
        return print(json.dumps({"fits": False, "why": str(e)}))
    print(json.dumps({"fits": True, "trusted_comment": signature.trusted_comment}))


def sign(manifest, key):
    import minisign

    signature = minisign.SecretKey.from_file(key).sign_file(manifest)
    Path(manifest + ".minisig").write_bytes(bytes(signature))


if __name__ == "__main__":
    commands = {"schema": schema, "statistics": statistics, "keys": keys, "signed": signed, "sign": sign}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
