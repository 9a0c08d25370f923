//! Weights to ONNX (scripts/export_onnx.py): every kind of transformer and head against the plain numpy transformer of
//! scripts/make_test_vit.py, files that must be refused, and paraffin with what comes out. Encoders of route `torch`, and all
//! against their toolkits: scripts/check_export.py.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{run_to, text};

/// export_onnx.py with these words.
fn export(words: &[&str]) -> Output {
    let script = common::root().join("scripts/export_onnx.py");
    Command::new(common::python()).arg(script).args(words).output().expect("python starts")
}

fn exported(card: &Path, weights: &str, to: &Path, more: &[&str]) {
    let mut words = vec![text(card), "--weights", weights, "-o", text(to)];
    words.extend(more);
    let output = export(&words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs an export that must fail and leave nothing; returns what it said.
fn refused(card: &str, weights: &Path, to: &Path) -> String {
    let output = export(&[card, "--weights", text(weights), "-o", text(to)]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}: {told}", weights.display());
    assert!(told.starts_with("export: ") && !told.contains("Traceback"), "{}: {told}", weights.display());
    let left = to.read_dir().map_or(0, Iterator::count);
    assert_eq!(left, 0, "{} left something", weights.display());
    told
}

/// The cases of make_test_vit.py in `directory`: name and weights file.
fn cases(directory: &Path) -> Vec<(String, String)> {
    let made = common::script_json("make_test_vit.py", &["make", text(directory)]);
    let made = made.as_object().expect("cases by name");
    made.iter().map(|(name, file)| (name.clone(), file.as_str().expect("path").to_owned())).collect()
}

#[test]
fn every_kind_of_transformer_equals_the_reference() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let cases = cases(directory.path());
    assert!(cases.len() >= 15, "{cases:?}");
    let mut wanted = cases.len();
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(2)) {
            let directory = directory.path();
            scope.spawn(move || {
                for (name, weights) in part {
                    let at = directory.join(name);
                    exported(&at.join("card.toml"), weights, &at.join("fp32"), &[]);
                }
            });
        }
    });
    for name in ["timm-gelu", "timm-registers-with-positions", "conch"] {
        let weights = &cases.iter().find(|(n, _)| n == name).expect("a case").1;
        let at = directory.path().join(name);
        exported(&at.join("card.toml"), weights, &at.join("plain"), &["--attention", "plain"]);
        exported(&at.join("card.toml"), weights, &at.join("fp16"), &["--precision", "fp16"]);
        wanted += 2;
    }
    let compared = common::script_json("make_test_vit.py", &["compare", text(directory.path())]);
    let compared = compared.as_object().expect("results");
    assert_eq!(compared.len(), wanted);
    for (name, result) in compared {
        let value = |key: &str| result[key].as_f64().expect("a number");
        // The reference is float64: what is left is float32's rounding, or float16's.
        let (cosine, difference) = if name.ends_with("/fp16") { (0.9999, 1e-2) } else { (0.999_999, 1e-5) };
        assert!(value("cosine") >= cosine, "{name}: {result}");
        assert!(value("difference") <= difference * value("largest"), "{name}: {result}");
        assert!(value("tiles_apart") > 0.1, "{name} cannot tell tiles apart: {result}");
        println!("{name}: cosine {:.9}, difference {:.1e}", value("cosine"), value("difference"));
    }
}

#[test]
fn broken_and_dangerous_weights_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    cases(directory.path());
    common::script("make_test_vit.py", &["broken", text(directory.path())], b"");
    let card = directory.path().join("timm-gelu/card.toml");
    let out = directory.path().join("out");
    for (file, words) in [
        ("missing.safetensors", "1 tensors are missing, the first: blocks.1.attn.proj.bias"),
        ("shape.safetensors", "blocks.0.mlp.fc1.weight is (97, 48), the card's transformer has (96, 48)"),
        ("more.safetensors", "1 tensors that the card's transformer does not have: blocks.0.attn.q_norm.weight"),
        ("nan.safetensors", "norm.bias has values that are not finite"),
        ("truncated.safetensors", "bytes: damaged or cut off"),
        ("header.safetensors", "a header of 1099511627776 bytes in a file of"),
        ("lying.safetensors", "bytes: damaged or cut off"),
        ("text.bin", "text.bin is neither safetensors nor a file of torch.save"),
        ("legacy.pth", "legacy.pth is no file of torch.save, or damaged"),
        ("evil.pth", "evil.pth holds no tensors"),
        ("truncated.pth", "truncated.pth: File is not a zip file: damaged or cut off"),
        ("storage.pth", "archive/data/3"),
        ("nowhere.bin", "no such file"),
    ] {
        let told = refused(text(&card), &directory.path().join(file), &out);
        assert!(told.contains(words), "{file}: {told}");
    }
    assert!(!directory.path().join("PWNED").exists(), "the pickle ran");

    // Whole weights that are not the card's.
    let original = fs::read_to_string(&card).expect("card");
    let card = directory.path().join("changed.toml");
    let weights = directory.path().join("whole.pth");
    fs::write(&card, format!("{original}\n[weights]\nsha256 = \"{}\"\n", "0".repeat(64))).expect("writes");
    let told = refused(text(&card), &weights, &out);
    assert!(told.contains("the card of 'timm-gelu' says 000000"), "{told}");
    let other = directory.path().join("other");
    exported(&card, text(&weights), &other, &["--allow-other-weights"]);
    let written = fs::read_to_string(other.join("timm-gelu.toml")).expect("the card");
    assert!(written.contains("(not the card's weights)"), "{written}");

    // Cards that are nowhere, have no route, or ask for what nobody builds.
    assert!(refused("uni9", &weights, &out).contains("no card 'uni9'"));
    assert!(refused("musk", &weights, &out).contains("no way to export 'musk'"));
    for (from, to, words) in [
        ("pooling = \"cls\"", "pooling = \"max\"", "'max' is none of cls, mean, cls+mean"),
        ("route = \"direct\"", "route = \"direct\"\nhead = \"tail\"", "'tail' is none of keep"),
    ] {
        fs::write(&card, original.replace(from, to)).expect("writes");
        let told = refused(text(&card), &weights, &out);
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn the_same_bytes_and_paraffin_takes_them() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let cases = cases(directory.path());
    let weights = &cases.iter().find(|(n, _)| n == "timm-gelu").expect("a case").1;
    let card = directory.path().join("timm-gelu/card.toml");
    let [one, two, apart] = ["one", "two", "apart"].map(|n| directory.path().join(n));
    exported(&card, weights, &one, &[]);
    exported(&card, weights, &two, &[]);
    let read = |at: &Path, name: &str| fs::read(at.join(name)).expect("written");
    for name in ["timm-gelu.onnx", "timm-gelu.toml"] {
        assert_eq!(read(&one, name), read(&two, name), "{name}");
    }
    let words = ["external", text(&card), "--weights", weights, "-o", text(&apart)];
    common::script("make_test_vit.py", &words, b"");
    assert!(apart.join("timm-gelu.onnx.data").metadata().expect("external data").len() > 100_000);

    let embedded = |at: &Path| {
        // The card's sha256 must be what paraffin makes of the files, or it refuses them.
        let (slide, out) = (common::real_slide(), at.join("out"));
        let words = ["embed", text(&slide), "-o", text(&out), "--encoder", text(at)];
        run_to(0, &[&words[..], &["--progress", "none", "--target-mpp", "2"]].concat());
        let file = "5x_56px_0px_overlap/features_timm-gelu/CMU-1-Small-Region.h5";
        common::script_json("reference.py", &["file", text(&out.join(file))])["datasets"]["features"].clone()
    };
    let features = embedded(&one);
    assert_eq!(features["shape"][1], 48, "{features}");
    assert_eq!(features["finite"], true, "{features}");
    assert_eq!(features, embedded(&apart), "external data changes the features");
}
