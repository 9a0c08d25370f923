"""Tests of what the engines' apps share; `tests/federated.rs` runs them (`python -m unittest test_fedmil` here)."""

import itertools
import json
import math
import os
import stat
import tempfile
import tomllib
import unittest
from pathlib import Path

import h5py
import numpy as np

import check_gradient
from fedmil import bags, preflight, privacy, task

HERE = Path(__file__).resolve().parent
FEATURES = "20x_224px_0px_overlap/features_toy"
CONTRACT = "c" * 64


def a_site(folder: Path, labels: str, slides: dict[str, int], **terms: object) -> bags.Site:
    """A site whose slides have so many tiles of 8 values; its OUT is made here."""
    grid, artefact = FEATURES.split("/")
    out = folder / "OUT"
    (out / FEATURES).mkdir(parents=True)
    (out / grid / "records" / artefact).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for id_, n in slides.items():
        with h5py.File(out / FEATURES / f"{id_}.h5", "w") as f:
            f["features"] = rng.standard_normal((n, 8)).astype(np.float32)
            f.attrs["contract_sha256"] = CONTRACT
        (out / grid / "records" / artefact / f"{id_}.json").write_text(json.dumps({"contract_sha256": CONTRACT}))
    entry = {"grid": grid, "artefact": artefact, "contract_sha256": CONTRACT, "slides": len(slides)}
    entry["contract"] = {"encoder": {"id": "toy", "sha256": "e" * 64, "dim": 8}}
    (out / "site-manifest.json").write_text(json.dumps({"artefacts": [entry]}))
    (folder / "labels.csv").write_text(labels)
    toml = {"site": "here", "out": "OUT", "labels": "labels.csv"} | terms
    (folder / "site.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in toml.items()))
    return bags.Site.read(folder / "site.toml")


class Scratch(unittest.TestCase):
    """With a folder for each test."""

    def setUp(self) -> None:
        """Makes it."""
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)


class Gradient(unittest.TestCase):
    """The hand-written gradient."""

    def test_equals_finite_differences(self) -> None:
        """In float64, for both kinds, both labels, every entry of every parameter."""
        for gated, label, seed in itertools.product((True, False), (0.0, 1.0), range(4)):
            found = check_gradient.case(gated, label, seed)
            ours, theirs = check_gradient.by_hand(*found), check_gradient.by_differences(*found)
            self.assertEqual(ours.keys(), found[0].keys())
            for name, g in theirs.items():
                scale = np.abs(g).max()
                self.assertGreater(scale, 0, name)
                self.assertLess(np.abs(ours[name] - g).max() / scale, 1e-7, name)


class Privacy(unittest.TestCase):
    """Clipping, noise and their price."""

    def test_epsilon_is_dp_accountings(self) -> None:
        """Equal at equal orders; over its own, finer ones dp-accounting finds up to a fifth less."""
        golden = json.loads((HERE / "golden_epsilon.json").read_text())
        near = 0
        for c in golden["cases"]:
            ours = privacy.epsilon(c["q"], c["noise"], c["steps"], c["delta"])
            # dp-accounting says 0 where it can prove that delta alone covers it; ours is a bound all the same.
            if c["whole"] > 0:
                self.assertAlmostEqual(ours / c["whole"], 1, 9, c)
            # Beyond, where nothing is private any more, orders below 2 would gain more.
            if 0.1 < c["default"] < 20:
                self.assertLess(abs(ours / c["default"] - 1), 0.2, c)
                near += 1
        self.assertGreater(near, 20)

    def test_epsilon_at_the_ends(self) -> None:
        """No steps cost nothing, no noise costs everything, more of anything costs more."""
        self.assertEqual(privacy.epsilon(0.1, 1.0, 0, 1e-3), 0)
        self.assertEqual(privacy.epsilon(0.1, 0.0, 1, 1e-3), math.inf)
        base = privacy.epsilon(0.1, 1.0, 10, 1e-3)
        self.assertGreater(privacy.epsilon(0.2, 1.0, 10, 1e-3), base)
        self.assertGreater(privacy.epsilon(0.1, 1.0, 20, 1e-3), base)
        self.assertGreater(privacy.epsilon(0.1, 0.9, 10, 1e-3), base)
        self.assertGreater(privacy.epsilon(0.1, 1.0, 10, 1e-4), base)
        with self.assertRaises(ValueError):
            privacy.epsilon(0, 1.0, 10, 1e-3)

    def test_clip(self) -> None:
        """Over all arrays together, and only where it is too long."""
        gradient = {"a": np.array([3.0]), "b": np.array([[4.0]])}
        self.assertIs(privacy.clip(gradient, 5.0), gradient)
        clipped = privacy.clip(gradient, 1.0)
        self.assertAlmostEqual(clipped["a"][0], 0.6)
        self.assertAlmostEqual(clipped["b"][0, 0], 0.8)


class Training(Scratch):
    """Rounds at a site."""

    SLIDES = {f"s{i}": 3 + i for i in range(6)}
    LABELS = "id,label,patient\n" + "".join(f"s{i},{i % 2},p{i // 2}\n" for i in range(6))

    def study(self, **more: object) -> task.Study:
        """A small one."""
        return task.Study.of({"features": FEATURES, "hidden": 4, "attention": 3, "local-epochs": 1} | more)

    def test_same_again_and_other_round(self) -> None:
        """What is drawn depends on study, site and round alone."""
        site, study = a_site(self.folder, self.LABELS, self.SLIDES), self.study()
        found, p = bags.load(site, FEATURES, "train").bags, study.initial(8)
        once, loss = task.train("here", study, p, found, 1)
        again, _ = task.train("here", study, p, found, 1)
        later, _ = task.train("here", study, p, found, 2)
        self.assertGreater(loss, 0)
        for k in p:
            np.testing.assert_array_equal(once[k], again[k])
            self.assertEqual(once[k].dtype, np.float32)
        self.assertTrue(any((once[k] != later[k]).any() for k in p))
        self.assertTrue(any((once[k] != p[k]).any() for k in p))

    def test_bags_can_be_learnt_by_heart(self) -> None:
        """Both optimizers, both kinds, bring the loss down on six slides."""
        site = a_site(self.folder, self.LABELS, self.SLIDES)
        found = bags.load(site, FEATURES, "train").bags
        for optimizer, gated, rate in (("adam", True, 0.02), ("adam", False, 0.02), ("sgd", True, 0.2)):
            more = {"optimizer": optimizer, "gated": gated, "learning-rate": rate, "local-epochs": 60}
            study = self.study(**more)
            p, _ = task.train("here", study, study.initial(8), found, 1)
            self.assertLess(task.evaluate(p, found)["loss"], 0.2, more)
            self.assertEqual(task.evaluate(p, found)["auc"], 1.0)

    def test_noise_is_as_large_as_accounted(self) -> None:
        """A step of plain descent at q = 1 moves parameters by the clipped sum and noise of the stated deviation."""
        site = a_site(self.folder, self.LABELS, self.SLIDES)
        found = bags.load(site, FEATURES, "train").bags
        more = {
            "dp-noise": 3.0,
            "dp-clip": 0.01,
            "dp-batch": 3.0,
            "optimizer": "sgd",
            "learning-rate": 1.0,
            "hidden": 512,
        }
        study = self.study(**more)
        p = study.initial(8)
        trained, loss = task.train("here", study, p, found, 1, np.random.default_rng(5))
        self.assertTrue(math.isnan(loss), "the loss of the patients that the noise hides would leave")
        moved = np.concatenate([(trained[k] - p[k]).ravel() for k in p])
        # Three patients, each at most 0.01 long, against noise of 0.03 a parameter; then divided by three.
        self.assertAlmostEqual(float(moved.std()) / (3.0 * 0.01 / 3), 1, 1)
        other, _ = task.train("here", study, p, found, 1)
        self.assertTrue(any((other[k] != trained[k]).any() for k in p))

    def test_patients_are_what_is_counted(self) -> None:
        """Two slides of a patient are one unit."""
        site, study = a_site(self.folder, self.LABELS, self.SLIDES), self.study(**{"dp-noise": 1.0, "dp-batch": 1.0})
        cost = task.planned_epsilon(study, bags.load(site, FEATURES, "train").bags)
        self.assertEqual(cost, privacy.epsilon(1 / 3, 1.0, 3 * study.rounds, study.dp_delta))

    def test_auc(self) -> None:
        """By its definition; ties count half; undefined with one class."""
        labels = np.array([0, 1, 0, 1])
        self.assertEqual(task.auc(np.array([0.1, 0.9, 0.2, 0.8]), labels), 1.0)
        self.assertEqual(task.auc(np.array([0.5, 0.5, 0.5, 0.5]), labels), 0.5)
        self.assertEqual(task.auc(np.array([0.1, 0.1, 0.3, 0.4]), labels), 0.625)
        self.assertIsNone(task.auc(np.array([0.1]), np.array([1])))

    def test_model_is_read_as_it_was_written(self) -> None:
        """With what it is for."""
        site, study = a_site(self.folder, self.LABELS, self.SLIDES), self.study()
        p, path = study.initial(8), self.folder / "m" / "model.safetensors"
        task.save(path, p, study, [bags.summary(site.manifest(), FEATURES)])
        found, metadata = task.read(path)
        self.assertEqual(found.keys(), p.keys())
        for k in p:
            np.testing.assert_array_equal(found[k], p[k])
        self.assertEqual((metadata["contract_sha256"], metadata["encoder"]), (CONTRACT, "toy"))


class Sites(Scratch):
    """Labels, files and a site's terms."""

    def refused(self, site: bags.Site, why: str, config: dict | None = None) -> None:
        """The pre-flight's answer is an objection that says this, and nothing that identifies."""
        answer = task.answer(lambda: site, {"features": FEATURES} | (config or {}))
        self.assertIn(why, answer.get("objection", "no objection"))
        self.assertNotIn("manifest", answer)
        self.assertNotIn(str(self.folder), answer["objection"])
        self.assertNotIn("secret", answer["objection"])

    def test_counts_what_is_not_there(self) -> None:
        """A label without features, a slide without tiles, another split."""
        labels = "id,label,split\na,0,train\nb,1,\nc,1,train\nd,0,train\ne,1,val\n"
        site = a_site(self.folder, labels, {"a": 3, "b": 2, "d": 0, "e": 4})
        found = bags.load(site, FEATURES, "train")
        self.assertEqual(([b.id for b in found], found.missing, found.empty), (["a", "b"], 1, 1))
        self.assertEqual([b.id for b in bags.load(site, FEATURES, "val")], ["e"])
        answer = task.answer(lambda: site, {"features": FEATURES})
        self.assertEqual(answer, {"site": "here", "manifest": site.manifest()})

    def test_labels_that_make_no_sense(self) -> None:
        """Each with its line and reason."""
        for rows, why in {
            "secret,2": "line 2",
            "secret,0\nsecret,1": "line 3: this id has a label already",
            "../secret,0": "not an id",
        }.items():
            with self.subTest(rows), tempfile.TemporaryDirectory() as folder:
                self.refused(a_site(Path(folder), f"id,label\n{rows}\n", {"a": 1}), why)
        with tempfile.TemporaryDirectory() as folder:
            labels = "id,label,split,patient\na,0,train,secret\nb,0,val,secret\n"
            self.refused(a_site(Path(folder), labels, {"a": 1}), "patient are in two splits")

    def test_no_slides_or_no_features(self) -> None:
        """Nothing to train on, and other features than the study's."""
        site = a_site(self.folder, "id,label\nsecret,0\n", {"a": 1})
        self.refused(site, "no labelled slide")
        self.refused(site, "the site has 20x_224px_0px_overlap/features_toy", {"features": "20x_a/features_other"})
        self.refused(site, "features is <grid>/features_<encoder>", {"features": "../../etc/features_x"})

    def test_file_of_another_contract(self) -> None:
        """Is not trained on."""
        site = a_site(self.folder, "id,label\na,0\n", {"a": 1})
        with h5py.File(site.out / FEATURES / "a.h5", "r+") as f:
            f.attrs["contract_sha256"] = "d" * 64
        self.refused(site, "another contract")

    def test_unforeseen_errors_keep_their_text_at_home(self) -> None:
        """Their kind is told, not what is in them."""
        site = a_site(self.folder, "id,label\nsecret,0\n", {"secret": 1})
        (site.out / FEATURES / "secret.h5").write_text("not HDF5")
        self.refused(site, "OSError")

    def test_terms(self) -> None:
        """A site that demands secure aggregation or a bound on epsilon stays out of studies without."""
        labels = "id,label\n" + "".join(f"s{i},{i % 2}\n" for i in range(40))
        slides = {f"s{i}": 1 for i in range(40)}
        site = a_site(self.folder, labels, slides, secure_aggregation="required", max_epsilon=2.0)
        secure = {"secure-aggregation": True}
        self.refused(site, "demands secure aggregation")
        self.refused(site, "allows epsilon 2", secure)
        self.refused(site, "allows epsilon 2", secure | {"dp-noise": 0.5})
        dear = secure | {"dp-noise": 6.0, "rounds": 2}
        self.assertIn("manifest", task.answer(lambda: site, {"features": FEATURES} | dear))
        # Also where a server asks for a round without a pre-flight.
        study = task.Study.of({"features": FEATURES})
        with self.assertRaises(bags.SiteError):
            task.train_round(site, study, study.initial(8), 1)

    def test_site_toml(self) -> None:
        """Unknown keys and names that are none."""
        a_site(self.folder, "id,label\na,0\n", {"a": 1})
        toml = self.folder / "site.toml"
        for text in (
            'site = "a b"\nout = "o"\nlabels = "l"',
            'site = "a"\nout = "o"',
            'site="a"\nout="o"\nlabels="l"\nmax=1',
        ):
            toml.write_text(text)
            with self.subTest(text), self.assertRaises(bags.SiteError):
                bags.Site.read(toml)


class Preflight(Scratch):
    """What the server makes of paraffin's answers; the real one answers in `tests/federated.rs`."""

    ENTRY = {"grid": "20x_224px_0px_overlap", "artefact": "features_toy", "contract_sha256": CONTRACT}

    def stand_in(self, script: str) -> None:
        """A program in paraffin's place."""
        path = self.folder / "paraffin"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        before = os.environ.get("PARAFFIN")
        os.environ["PARAFFIN"] = str(path)
        self.addCleanup(lambda: os.environ.pop("PARAFFIN") if before is None else os.environ.update(PARAFFIN=before))

    def admit(self, manifests: dict[str, str], objections: dict[str, str] | None = None) -> list[dict]:
        """For a study of two sites."""
        return preflight.admit(task.Study.of({"features": FEATURES, "sites": 2}), manifests, objections or {})

    def manifests(self) -> dict[str, str]:
        """Of two sites."""
        return {site: json.dumps({"artefacts": [self.ENTRY]}) for site in ("a", "b")}

    def test_yes_and_no(self) -> None:
        """Two manifests are handed over, in folders of the sites' names; a finding is told with field and sites."""
        self.stand_in(f'[ "$*" = "compat --json --artefact {FEATURES} a b" ] && [ -f a/site-manifest.json ] || exit 9\n'
                      'echo \'{"compatible": true, "findings": []}\'')  # fmt: skip
        self.assertEqual(len(self.admit(self.manifests())), 2)
        finding = {"severity": "refuse", "artefact": "x", "field": "grid.resample", "sites": ["b"], "what": "lanczos"}
        self.stand_in(f"echo '{json.dumps({'compatible': False, 'findings': [finding]})}'; exit 3")
        with self.assertRaisesRegex(preflight.Refused, "no training: x: grid.resample.*b.*lanczos"):
            self.admit(self.manifests())

    def test_answers_that_are_none(self) -> None:
        """A crash, an answer that its exit code belies, and no program at all."""
        for script, why in {
            "echo broken >&2; exit 1": "ended with 1: broken",
            'echo \'{"compatible": true, "findings": []}\'; exit 3': "ended with 3 and says compatible: True",
        }.items():
            self.stand_in(script)
            with self.assertRaisesRegex(preflight.Refused, why):
                self.admit(self.manifests())
        os.environ["PARAFFIN"] = str(self.folder / "nothing")
        with self.assertRaisesRegex(preflight.Refused, "the server needs paraffin"):
            self.admit(self.manifests())

    def test_sites_that_do_not_answer_or_object(self) -> None:
        """Are named."""
        one = {"a": self.manifests()["a"]}
        with self.assertRaisesRegex(preflight.Refused, "b: no slides"):
            self.admit(one, {"b": "no slides"})
        with self.assertRaisesRegex(preflight.Refused, "1 sites answered, the study has 2"):
            self.admit(one)
        with self.assertRaisesRegex(preflight.Refused, "two sites call themselves a"):
            preflight.by_site([{"site": "a", "manifest": ""}, {"site": "a", "manifest": ""}])
        with self.assertRaises(preflight.Refused):
            preflight.by_site([{"site": "../a", "manifest": ""}])


class Study(unittest.TestCase):
    """The study's defaults, which Flower wants written down once more."""

    def test_flowers_copy(self) -> None:
        """pyproject.toml has every key with the same default, and two of Flower's own."""
        config = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
        own = {k: config.pop(k) for k in ("save-to", "sites-folder")}
        self.assertEqual(own["sites-folder"], "")
        self.assertEqual(config, task.Study(features=config["features"]).config())


if __name__ == "__main__":
    unittest.main()
