//! Sites against each other from outside: what tells them apart, what does not, what their manifests say and who signed them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{files, paraffin, real_slide, root, run, run_to, script, script_json, text};
use paraffin::codec::{Scale, Scratch};
use paraffin::encoder::device::Devices;
use paraffin::encoder::registry::{Available, DEFAULT_ID, find};
use paraffin::encoder::{Encoder, crew};
use paraffin::icc::IccMode;
use paraffin::pipeline::canary::{self, Observed, Through};
use paraffin::pipeline::prepare::PrepareOptions;
use paraffin::record::canary::Canary;
use paraffin::resample::Filter;
use paraffin::slide::{BlockAt, BlockKind, Slide, SlideInfo, SlideReader};
use paraffin::tiling::TilingOptions;
use paraffin::tissue::{TissueMethod, TissueOptions};
use serde_json::Value;

const GRID: &str = "20x_224px_0px_overlap";
const FEATURES: &str = "features_efficientnet-lite0";

fn fixture(name: &str) -> PathBuf {
    root().join("testdata/generated").join(name)
}

fn embed(slides: &[&Path], out: &Path, words: &[&str]) {
    let mut command = vec!["embed", "-o", text(out), "--progress", "none", "--no-overviews"];
    command.extend(slides.iter().map(|s| text(s)));
    command.extend(words);
    run_to(0, &command);
}

/// `compat --json`, which must end with this code.
#[track_caller]
fn compat(code: i32, sites: &[&Path]) -> Value {
    let mut words = vec!["compat", "--json"];
    words.extend(sites.iter().map(|s| text(s)));
    let output = run(&words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["compatible"], code == 0);
    report
}

/// Fields of the findings of one severity.
fn fields<'a>(report: &'a Value, severity: &str) -> Vec<&'a str> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let of = findings.filter(|f| f["severity"] == severity);
    of.map(|f| f["field"].as_str().expect("a field")).collect()
}

fn canaries(out: &Path) -> Vec<PathBuf> {
    files(out).into_iter().filter(|f| f.components().any(|c| c.as_os_str() == "canaries")).collect()
}

/// Other patients, other numbers of threads, batches of another size, and tissue everywhere or nowhere.
#[test]
fn honest_sites_fit_together() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let [a, b, c] = ["a", "b", "c"].map(|n| directory.path().join(n));
    embed(&[&fixture("aperio_ycc420_256.svs")], &a, &["--threads", "1"]);
    embed(&[&real_slide(), &fixture("aperio_comma.svs")], &b, &["--threads", "3", "--batch-size", "5"]);
    embed(&[&fixture("aperio_rgb_240.svs")], &c, &["--threads", "2"]);
    let report = compat(0, &[&a, &b, &c]);
    assert_eq!(report["sites"], serde_json::json!([text(&a), text(&b), text(&c)]));
    assert!(fields(&report, "warn").is_empty(), "{report:#}");
    let canary = |out: &Path| {
        let found = canaries(out);
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].clone(), fs::read(out.join(&found[0])).expect("readable"))
    };
    assert!(canary(&a) == canary(&b) && canary(&b) == canary(&c), "the same name and bytes");
    // A manifest alone does, under any name; the table for people.
    let sent = directory.path().join("from-b.json");
    fs::copy(b.join("site-manifest.json"), &sent).expect("copies");
    let said = run_to(0, &["compat", text(&a), text(&sent)]);
    assert!(said.contains("canaries       equal") && said.contains("2 sites fit together"), "{said}");
    let said = run_to(2, &["compat", text(&a), text(&a)]);
    assert!(said.contains("given twice"), "{said}");
    let said = run_to(2, &["compat", text(&a), text(&b), "--artefact", "features_uni"]);
    assert!(said.contains("no site has 'features_uni'") && said.contains(FEATURES), "{said}");
    let said = run_to(1, &["compat", text(&a), text(&directory.path().join("none"))]);
    assert!(said.contains("paraffin manifest OUT"), "{said}");
}

/// Each setting that matters, and the field that is named for it.
#[test]
fn other_settings_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    // A small transformer, in two precisions; other weights of it are another file.
    let made = script_json("make_test_vit.py", &["make", text(&at("vit"))]);
    let weights = made["timm-gelu"].as_str().expect("weights").to_owned();
    let (card, model) = (at("vit").join("timm-gelu/card.toml"), at("model"));
    for precision in ["fp32", "fp16"] {
        let words = [text(&card), "--weights", &weights, "-o", text(&model), "--precision", precision];
        script("export_onnx.py", &words, b"");
    }
    let other = at("other");
    fs::create_dir(&other).expect("creates");
    for name in ["timm-gelu.onnx", "timm-gelu.toml"] {
        fs::copy(model.join(name), other.join(name)).expect("copies");
    }
    // One bit of one weight.
    let mut bytes = fs::read(other.join("timm-gelu.onnx")).expect("readable");
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    fs::write(other.join("timm-gelu.onnx"), bytes).expect("writes");
    let card = fs::read_to_string(other.join("timm-gelu.toml")).expect("a card");
    let without: Vec<&str> = card.lines().filter(|l| !l.starts_with("sha256")).collect();
    fs::write(other.join("timm-gelu.toml"), without.join("\n")).expect("writes");

    let slide = fixture("aperio_ycc420_256.svs");
    let site = |name: &str, words: &[&str]| {
        let out = at(name);
        let mut all = words.to_vec();
        if !words.contains(&"--encoder") {
            all.extend(["--encoder", text(&model)]);
        }
        embed(&[&slide], &out, &all);
        out
    };
    let plain = site("plain", &[]);
    for (name, words, field) in [
        ("weights", &["--encoder", text(&other)][..], "encoder.sha256"),
        ("mpp", &["--target-mpp", "1"], "grid.target_mpp"),
        ("tile", &["--tile-px", "64"], "grid.tile_px"),
        ("overlap", &["--overlap-px", "8"], "grid.overlap_px"),
        ("resample", &["--resample", "bicubic"], "grid.resample"),
        ("decode", &["--decode", "scaled"], "grid.decode"),
        ("icc", &["--icc", "srgb"], "grid.icc"),
        ("tissue", &["--tissue", "none"], "grid.tissue.method"),
        ("share", &["--min-tissue-fraction", "0.5"], "grid.min_tissue_fraction"),
        ("pen", &["--no-pen-guard"], "grid.tissue.parameters.pen.enabled"),
        ("storage", &["--precision", "f32"], "storage.precision"),
        ("compute", &["--precision-compute", "fp16"], "encoder.compute"),
    ] {
        let out = site(name, words);
        let report = compat(3, &[&plain, &out]);
        let found = fields(&report, "refuse");
        assert!(found.contains(&field), "{name}: {report:#}");
        let expected: &[&str] = match name {
            "compute" => &["encoder.compute", "encoder.sha256"],
            // The limits for tiles go with the method.
            "tissue" => &[
                "grid.tissue.method",
                "grid.tissue.parameters.choice",
                "grid.tissue.parameters.dirt",
                "grid.tissue.parameters.entropy",
                "grid.tissue.parameters.fluorescence",
                "grid.tissue.parameters.otsu",
                "grid.tissue.parameters.pieces",
                "grid.tissue.qc.pen",
            ],
            _ => &[field],
        };
        assert_eq!(found, expected, "{name}: nothing else is refused");
    }
    let said = run_to(3, &["compat", text(&plain), text(&at("mpp")), text(&at("tile"))]);
    assert!(said.contains("grid.target_mpp: 0.5 at") && said.contains("do not fit together"), "{said}");
}

/// A decoder that is not libjpeg-turbo's: what `change` makes of the right pixels of every block.
struct Perturbed {
    inner: Slide,
    change: fn(&mut [u8], usize, usize),
}

impl SlideReader for Perturbed {
    fn info(&self) -> &SlideInfo {
        self.inner.info()
    }

    fn decode_block(
        &self,
        at: BlockAt,
        scale: Scale,
        scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> paraffin::Result<BlockKind> {
        let kind = self.inner.reader.decode_block(at, scale, scratch, out, pitch)?;
        let level = &self.info().levels[at.level];
        (self.change)(out, pitch, (level.block_height / scale.divisor()) as usize);
        Ok(kind)
    }
}

/// Red and blue in the other's place.
fn swapped(out: &mut [u8], pitch: usize, rows: usize) {
    out[..pitch * rows].as_chunks_mut::<3>().0.iter_mut().for_each(|p| p.swap(0, 2));
}

/// One level lower or higher in a third of all pixels, as another inverse transform rounds.
fn rounded(out: &mut [u8], pitch: usize, rows: usize) {
    let pixels = out[..pitch * rows].iter_mut().enumerate();
    pixels.for_each(|(i, v)| *v = if i.wrapping_mul(2_654_435_761) % 3 == 0 { v.saturating_add(1) } else { *v });
}

/// Every second pixel twice: decoded at half the size.
fn halved(out: &mut [u8], pitch: usize, rows: usize) {
    for y in 0..rows {
        for x in 0..pitch / 3 {
            let from = (y & !1) * pitch + (x & !1) * 3;
            out.copy_within(from..from + 3, y * pitch + x * 3);
        }
    }
}

fn observed(
    encoder: &Available,
    running: &mut dyn Encoder,
    open: &dyn Fn() -> paraffin::Result<Slide>,
    resample: Filter,
) -> Observed {
    let tile = &encoder.card.tile;
    let options = PrepareOptions {
        tiling: TilingOptions { target_mpp: tile.mpp, tile_px: tile.px, resample, ..TilingOptions::default() },
        tissue: TissueMethod::Auto,
        model: None,
        find: TissueOptions::default(),
        icc: IccMode::Off,
        allow_failed_tiles: 0,
    };
    let through = Through { options: &options, input: &encoder.card.input, batch: 1, precision: Default::default() };
    canary::observe(open, &through, running).expect("works")
}

/// A site under the very same contract, whose decoder or resampler gives other pixels: by its canary alone.
#[test]
fn another_decoder_under_the_same_contract_is_told_by_the_canary() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let here = directory.path().join("here");
    embed(&[&fixture("aperio_comma.svs")], &here, &[]);
    let kept = Canary::all(&here.join(GRID), FEATURES).expect("canaries").remove(0);
    let encoder = find(DEFAULT_ID, None, None).expect("compiled in");
    let mut crew = crew::open(&encoder, &Devices::default(), 1, 1, &|_| {}, &(std::sync::Arc::new(|_, _| {}) as _))
        .expect("opens");
    let running = crew[0].as_mut();
    let right = observed(&encoder, running, &canary::slide, Filter::Bilinear);
    assert_eq!((&right.vectors, &right.slide), (&kept.vectors, &kept.slide), "what the run kept");

    let mut there = |name: &str, change: Option<fn(&mut [u8], usize, usize)>, resample| {
        let out = directory.path().join(name);
        for file in files(&here).into_iter().filter(|f| !f.starts_with(format!("{GRID}/canaries"))) {
            fs::create_dir_all(out.join(&file).parent().expect("a folder")).expect("creates");
            fs::copy(here.join(&file), out.join(&file)).expect("copies");
        }
        let open = || match change {
            Some(change) => Ok(Slide { reader: Box::new(Perturbed { inner: canary::slide()?, change }) }),
            None => canary::slide(),
        };
        let Observed { tiles, slide, vectors } = observed(&encoder, running, &open, resample);
        Canary { tiles, slide, vectors, ..kept.clone() }.keep(&out.join(GRID), FEATURES).expect("written");
        run_to(0, &["manifest", text(&out)]);
        out
    };
    for (name, change, resample, severity) in [
        ("swapped", Some(swapped as fn(&mut [u8], usize, usize)), Filter::Bilinear, "refuse"),
        ("halved", Some(halved), Filter::Bilinear, "refuse"),
        ("lanczos", None, Filter::Lanczos, "refuse"),
        ("rounded", Some(rounded), Filter::Bilinear, "warn"),
    ] {
        let out = there(name, change, resample);
        let report = compat(if severity == "refuse" { 3 } else { 0 }, &[&here, &out]);
        let findings = report["findings"].as_array().expect("findings").iter();
        let of: Vec<&Value> =
            findings.filter(|f| f["field"].as_str().is_some_and(|f| f.starts_with("canary"))).collect();
        println!("{name}: {of:?}");
        assert_eq!(of.len(), 1, "{name}: {report:#}");
        assert_eq!((&of[0]["severity"], &of[0]["field"]), (&severity.into(), &"canary.slide".into()), "{name}");
    }
}

#[test]
fn the_canary_is_what_its_script_makes() {
    script("make_canary.py", &["--check"], b"");
}

/// What leaves a site: by the schema, by NumPy over the feature files, and with no more of few slides than that they are few.
#[test]
fn manifests_hold_what_their_schema_says() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let [many, few] = ["many", "few"].map(|n| directory.path().join(n));
    let copies = directory.path().join("slides");
    fs::create_dir(&copies).expect("creates");
    for i in 0..6 {
        // The same tissue, and files that differ.
        let mut bytes = fs::read(fixture("aperio_ycc420_256.svs")).expect("readable");
        bytes.extend(format!("slide {i}").bytes());
        fs::write(copies.join(format!("Secret{i}.svs")), bytes).expect("writes");
    }
    fs::copy(real_slide(), copies.join("Secret.svs")).expect("copies");
    embed(&[&copies], &many, &["--slide-pooling", "mean", "--tissue", "none", "--target-mpp", "2"]);
    embed(&[&fixture("aperio_comma.svs")], &few, &["--tissue", "none", "--target-mpp", "2"]);
    let manifests = [&many, &few].map(|out| out.join("site-manifest.json"));
    let found = script_json("check_site.py", &["schema", text(&manifests[0]), text(&manifests[1])]);
    assert_eq!(found, serde_json::json!([[], []]), "{found:#}");
    let read = |path: &Path| fs::read_to_string(path).expect("readable");
    let told: Value = serde_json::from_str(&read(&manifests[0])).expect("JSON");
    assert!(!read(&manifests[0]).contains("Secret"));
    let of = |manifest: &Value, name: &str| {
        let all = manifest["artefacts"].as_array().expect("artefacts");
        all.iter().find(|a| a["artefact"] == name).expect("it is there").clone()
    };
    let features = of(&told, FEATURES);
    assert_eq!((&features["slides"], &features["formats"]), (&7.into(), &serde_json::json!({"aperio": 7})));
    assert_eq!(features["mpps"], serde_json::json!({"0.25": 6, "0.50": "<5"}));
    let checked = script_json("check_site.py", &["statistics", text(&manifests[0]), text(&many)]);
    println!("{checked:#}");
    let checked = checked.as_array().expect("a list");
    assert_eq!(checked.len(), 1, "of the tiles' features alone");
    assert_eq!((&checked[0]["slides"], &checked[0]["tiles"]), (&true.into(), &true.into()));
    // Records keep float32; norms are classes 3.1 % wide at most.
    for (name, within) in [("mean", 1e-5), ("variance", 1e-5), ("norms", 0.016), ("tiles_per_slide", 1e-9)] {
        assert!(checked[0][name].as_f64() < Some(within), "{name}: {checked:?}");
    }
    let told: Value = serde_json::from_str(&read(&manifests[1])).expect("JSON");
    let features = of(&told, FEATURES);
    assert_eq!((&features["statistics"], &features["tiles_per_slide"]), (&Value::Null, &Value::Null));
    assert!(features["no_statistics"].as_str().expect("why").contains("fewer than 5"));
    assert_eq!(features["formats"], serde_json::json!({"aperio": "<5"}));
    // It follows from OUT alone.
    let before = read(&manifests[0]);
    fs::remove_file(&manifests[0]).expect("removes");
    let said = run_to(0, &["manifest", text(&many)]);
    assert!(said.contains(&format!("{FEATURES}: 7 slides")) && said.contains("1 canary"), "{said}");
    assert_eq!(read(&manifests[0]), before);
    // What the schema does not know is found.
    fs::write(&manifests[0], before.replacen("\"slides\": 7", "\"slides\": 7, \"names\": []", 1)).expect("writes");
    let found = script_json("check_site.py", &["schema", text(&manifests[0])]);
    assert!(found[0][0].as_str().is_some_and(|why| why.contains("names")), "{found}");
}

/// Keys and signatures of another implementation (py-minisign, on the cryptography package), with and without a password.
#[test]
fn signatures_are_anybodys_minisign() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, keys) = (directory.path().join("out"), directory.path().join("keys"));
    embed(&[&fixture("aperio_comma.svs")], &out, &[]);
    fs::create_dir(&keys).expect("creates");
    script("check_site.py", &["keys", text(&keys), "correct horse"], b"");
    let manifest = out.join("site-manifest.json");
    let [plain, locked] = ["plain", "locked"].map(|n| (keys.join(format!("{n}.key")), keys.join(format!("{n}.pub"))));
    let sign = |key: &Path, password: Option<&str>| {
        let mut command = paraffin(&["manifest", text(&out), "--sign", text(key)]);
        command.env_remove("PARAFFIN_SIGN_PASSWORD");
        if let Some(password) = password {
            command.env("PARAFFIN_SIGN_PASSWORD", password);
        }
        let output = command.output().expect("paraffin starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for ((key, public), password) in [(&plain, None), (&locked, Some("correct horse"))] {
        assert_eq!(sign(key, password).0, Some(0), "{}", key.display());
        let told = script_json("check_site.py", &["signed", text(&manifest), text(public)]);
        assert_eq!(told, serde_json::json!({"fits": true, "trusted_comment": "file:site-manifest.json"}));
        let said = run_to(0, &["verify", text(&out), "--pubkey", text(public)]);
        assert!(said.contains("site-manifest.json: signed by the key"), "{said}");
    }
    let (code, said) = sign(&locked.0, Some("wrong"));
    assert!(code == Some(2) && said.contains("does not open with this password"), "{said}");
    // Another key, another content, none at all.
    let said = run_to(1, &["verify", text(&out), "--pubkey", text(&plain.1)]);
    assert!(said.contains("was signed by the key"), "{said}");
    let text_of_key = fs::read_to_string(&locked.1).expect("a key");
    let inline = text_of_key.lines().last().expect("a line");
    run_to(0, &["verify", text(&out), "--pubkey", inline]);
    // Signed by the other; then with another slide.
    script("check_site.py", &["sign", text(&manifest), text(&plain.0)], b"");
    run_to(0, &["verify", text(&out), "--pubkey", text(&plain.1)]);
    embed(&[&fixture("aperio_rgb_240.svs")], &out, &[]);
    let said = run_to(1, &["verify", text(&out), "--pubkey", text(&plain.1)]);
    assert!(said.contains("is not what was signed") && said.contains("1 problem"), "{said}");
    fs::remove_file(out.join("site-manifest.json.minisig")).expect("removes");
    let said = run_to(1, &["verify", text(&out), "--pubkey", inline]);
    assert!(said.contains("site-manifest.json.minisig cannot be read"), "{said}");
    run_to(0, &["verify", text(&out)]);
    let canary = out.join(&canaries(&out)[0]);
    fs::write(&canary, fs::read_to_string(&canary).expect("readable").replacen("\"f32-m10\"", "\"f32\"", 1))
        .expect("writes");
    let said = run_to(1, &["verify", text(&out)]);
    assert!(said.contains("not the one that its name says"), "{said}");
}
