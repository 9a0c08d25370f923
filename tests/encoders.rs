//! `paraffin encoders` and `embed --encoder` from outside: what is listed, how a model comes into the local store, and what
//! is refused.

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use common::{files, paraffin, real_slide, script, script_json, text};
use serde_json::Value;
use tempfile::TempDir;

/// A user's data directory of our own, with a model to put into the store.
struct User {
    directory: TempDir,
    libraries: PathBuf,
}

impl User {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        // The libraries stay where they are: by default they lie in the directory that is replaced here.
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = || set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
        let libraries = set("PARAFFIN_LIB_DIR").or_else(|| Some(data()?.join("paraffin/lib"))).unwrap_or_default();
        User { directory, libraries }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// paraffin's exit code must be this; what it said, standard output first.
    fn run(&self, code: i32, words: &[&str]) -> String {
        let mut command = paraffin(words);
        command.env("XDG_DATA_HOME", self.at("data")).env("PARAFFIN_LIB_DIR", &self.libraries);
        let output = command.output().expect("paraffin starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "paraffin {words:?} said:\n{said}");
        said
    }

    fn cards(&self, words: &[&str]) -> Vec<Value> {
        serde_json::from_str(&self.run(0, &[&["encoders", "list", "--json"], words].concat())).expect("JSON")
    }

    /// What scripts/export_onnx.py makes of a small transformer: a folder with `timm-gelu.onnx` and its card.
    fn exported(&self) -> PathBuf {
        let (made, out) = (self.at("made"), self.at("exported"));
        script("make_test_vit.py", &["make", text(&made)], b"");
        let (card, weights) = (made.join("timm-gelu/card.toml"), made.join("timm-gelu/weights.safetensors"));
        script("export_onnx.py", &[text(&card), "--weights", text(&weights), "-o", text(&out)], b"");
        out
    }

    fn stored(&self, name: &str) -> PathBuf {
        self.at("data/paraffin/encoders").join(name)
    }

    /// Features of the real slide by this encoder, as scripts/reference.py reads them.
    fn features(&self, encoder: &str, out: &str) -> Value {
        let (slide, out) = (real_slide(), self.at(out));
        let words = ["embed", text(&slide), "-o", text(&out), "--progress", "none", "--target-mpp", "2"];
        self.run(0, &[&words[..], &["--encoder", encoder]].concat());
        let file = files(&out).into_iter().find(|f| f.ends_with("features_timm-gelu/CMU-1-Small-Region.h5"));
        let file = script_json("reference.py", &["file", text(&out.join(file.expect("features")))]);
        file["datasets"]["features"].clone()
    }
}

fn ids(cards: &[Value]) -> Vec<&str> {
    cards.iter().map(|card| card["id"].as_str().expect("an id")).collect()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for file in files(from) {
        fs::copy(from.join(&file), to.join(&file)).expect("copies");
    }
}

#[test]
fn the_list_can_be_cut_to_what_may_be_used_and_what_is_here() {
    let user = User::new();
    let (all, commercial) = (user.cards(&[]), user.cards(&["--commercial"]));
    assert!(commercial.len() >= 10 && commercial.len() < all.len(), "{} of {}", commercial.len(), all.len());
    assert!(commercial.iter().all(|card| card["commercial_use"] == "yes"), "{commercial:?}");
    let left_out = all.iter().filter(|card| !ids(&commercial).contains(&card["id"].as_str().expect("an id")));
    assert!(left_out.into_iter().all(|card| card["commercial_use"] != "yes"));
    assert!(ids(&commercial).contains(&"h-optimus-0") && !ids(&commercial).contains(&"uni"));
    for cards in [&all, &commercial, &user.cards(&["--here"])] {
        let here: Vec<&str> = cards.iter().filter(|c| c["here"] == true).filter_map(|c| c["id"].as_str()).collect();
        assert_eq!((here, ids(cards)[0]), (vec!["efficientnet-lite0"], "efficientnet-lite0"));
    }
}

#[test]
fn an_absent_model_is_told_with_the_two_commands() {
    let user = User::new();
    let (slide, out) = (real_slide(), user.at("out"));
    for name in ["uni2-h", "uni_v2"] {
        let said = user.run(1, &["embed", text(&slide), "-o", text(&out), "--encoder", name]);
        let export = "scripts/export_onnx.py uni2-h --weights pytorch_model.bin -o uni2-h/";
        assert!(said.contains(export) && said.contains("--encoder uni2-h/"), "{said}");
        assert!(said.contains("huggingface.co/MahmoodLab/UNI2-h") && said.contains("on request"), "{said}");
        let said = user.run(0, &["encoders", "show", name]);
        assert!(said.contains(export) && said.contains("# not here"), "{said}");
    }
    assert!(!out.join("site-manifest.json").exists());
    // Weights that are no model yet.
    let folder = user.at("downloaded");
    fs::create_dir_all(&folder).expect("creates");
    fs::write(folder.join("pytorch_model.bin"), "weights").expect("writes");
    let said = user.run(1, &["encoders", "add", "uni2-h", "--weights", text(&folder)]);
    assert!(said.contains("not a model: scripts/export_onnx.py uni2-h --weights"), "{said}");
}

#[test]
fn a_model_comes_by_folder_by_file_with_card_and_by_file_alone() {
    let user = User::new();
    let folder = user.exported();
    let model = folder.join("timm-gelu.onnx");
    let wanted = user.features(text(&model), "by-path");
    assert_eq!(wanted["shape"][1], 48, "{wanted}");
    let added = |words: &[&str]| user.run(0, &[&["encoders", "add"], words].concat());

    let said = added(&[text(&folder)]);
    assert!(said.contains("timm-gelu added") && said.contains("--encoder timm-gelu"), "{said}");
    assert_eq!(ids(&user.cards(&["--here"])), ["efficientnet-lite0", "timm-gelu"]);
    assert_eq!(user.features("timm-gelu", "by-id"), wanted);
    let said = user.run(0, &["encoders", "check", "timm-gelu", "--json"]);
    let facts: Value = serde_json::from_str(&said).expect("JSON");
    assert!(facts["usable"] == true && facts["dim"] == 48 && facts["finite"] == true, "{facts}");

    let said = user.run(1, &["encoders", "add", text(&folder)]);
    assert!(said.contains("is here already") && said.contains("--replace"), "{said}");
    let said = user.run(1, &["encoders", "add", "uni", "--weights", text(&folder)]);
    assert!(said.contains("is 'timm-gelu', not 'uni'"), "{said}");
    added(&["timm-gelu", "--weights", text(&folder), "--replace"]);

    // A card from elsewhere, with another name for the same graph.
    let card = user.at("mine.toml");
    let text_of = fs::read_to_string(folder.join("timm-gelu.toml")).expect("the card");
    fs::write(&card, text_of.replacen("id = \"timm-gelu\"", "id = \"mine\"", 1)).expect("writes");
    added(&[text(&model), "--card", text(&card)]);
    assert_eq!(ids(&user.cards(&["--here"])), ["efficientnet-lite0", "mine", "timm-gelu"]);
    let said = user.run(0, &["encoders", "remove", "mine"]);
    assert!(said.contains("mine removed") && !user.stored("mine").exists(), "{said}");
    let said = user.run(1, &["encoders", "remove", "mine"]);
    assert!(said.contains("no model of 'mine'"), "{said}");

    // The file alone: its card is in it.
    user.run(0, &["encoders", "remove", "timm-gelu"]);
    let alone = user.at("alone.onnx");
    fs::copy(&model, &alone).expect("copies");
    let said = user.run(0, &["encoders", "show", text(&alone), "--json"]);
    let card: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&card["id"], &card["name"]), (&"timm-gelu".into(), &"random weights".into()));
    added(&[text(&alone)]);
    assert!(user.stored("timm-gelu/alone.onnx").is_file());
    assert_eq!(user.features("timm-gelu", "by-metadata"), wanted);
}

#[test]
fn what_is_damaged_or_leaves_a_choice_is_refused() {
    let user = User::new();
    let folder = user.exported();
    let (slide, out) = (real_slide(), user.at("out"));
    let embed = |encoder: &str| user.run(1, &["embed", text(&slide), "-o", text(&out), "--encoder", encoder]);

    // Two models that have nothing to do with each other; two of one kind are fine.
    let several = user.at("several");
    copied(&folder, &several);
    let model = several.join("timm-gelu.onnx");
    fs::copy(&model, several.join("timm-gelu.fp16.onnx")).expect("copies");
    user.run(0, &["encoders", "show", text(&several)]);
    fs::copy(&model, several.join("other.onnx")).expect("copies");
    for said in [embed(text(&several)), user.run(1, &["encoders", "add", text(&several)])] {
        assert!(said.contains("several models in") && said.contains("other.onnx"), "{said}");
    }
    fs::create_dir(user.at("empty")).expect("creates");
    assert!(embed(text(&user.at("empty"))).contains("no .onnx file in"));

    // Damaged before it comes, and in the store.
    let damaged = |path: &Path| {
        let mut bytes = fs::read(path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).expect("writes");
    };
    let spoilt = user.at("spoilt");
    copied(&folder, &spoilt);
    damaged(&spoilt.join("timm-gelu.onnx"));
    let said = user.run(1, &["encoders", "add", text(&spoilt)]);
    assert!(said.contains("its card says") && said.contains("damaged"), "{said}");
    assert!(!user.at("data").exists() || files(&user.at("data")).is_empty(), "something came into the store");
    user.run(0, &["encoders", "add", text(&folder)]);
    damaged(&user.stored("timm-gelu/timm-gelu.onnx"));
    for said in [embed("timm-gelu"), user.run(1, &["encoders", "check", "timm-gelu"])] {
        assert!(said.contains("its card says") && said.contains("damaged"), "{said}");
    }
    assert!(!out.join("site-manifest.json").exists());
    user.run(0, &["encoders", "add", text(&folder), "--replace"]);
    user.run(0, &["encoders", "check", "timm-gelu"]);
}

#[test]
fn each_precision_is_a_model_of_its_own_and_said_so() {
    let user = User::new();
    let models = user.exported();
    let (card, weights) = (user.at("made/timm-gelu/card.toml"), user.at("made/timm-gelu/weights.safetensors"));
    let slide = real_slide();
    let run = |code: i32, encoder: &str, out: &str, more: &[&str]| {
        let out = user.at(out);
        let words = ["embed", text(&slide), "-o", text(&out), "--encoder", encoder, "--target-mpp", "2"];
        user.run(code, &[&words[..], &["--no-overviews", "--precision", "f32"], more].concat())
    };
    let features = |out: &str| {
        let out = user.at(out);
        let files = files(&out);
        let contract = files.iter().find(|f| f.ends_with("contracts/features_timm-gelu.json")).expect("a contract");
        let contract = fs::read_to_string(out.join(contract)).expect("readable");
        let file = files.iter().find(|f| f.ends_with("features_timm-gelu/CMU-1-Small-Region.h5")).expect("features");
        (contract, fs::read(out.join(file)).expect("readable"))
    };
    let plain = text(&models);
    let said = run(0, plain, "plain", &[]);
    assert!(!said.contains("computes in"), "{said}");
    assert!(features("plain").0.contains(r#""compute": "fp32""#));
    for precision in ["fp16", "int8"] {
        let words = [text(&card), "--weights", text(&weights), "-o", plain, "--precision", precision];
        script("export_onnx.py", &words, b"");
        let said = run(0, plain, precision, &["--precision-compute", precision]);
        assert!(said.contains(&format!("computes in {precision}")) && said.contains("against fp32"), "{said}");
        let (contract, bytes) = features(precision);
        assert!(contract.contains(&format!("\"compute\": \"{precision}\"")), "{contract}");
        assert!(bytes != features("plain").1, "{precision} is another model");
        // The same from the store, where the precisions lie side by side.
        user.run(0, &["encoders", "add", text(&models.join(format!("timm-gelu.{precision}.onnx")))]);
        run(0, "timm-gelu", &format!("stored-{precision}"), &["--precision-compute", precision]);
        assert!(features(&format!("stored-{precision}")).1 == bytes);
    }
    for (code, words, why) in [
        (1, &["--precision-compute", "bf16"][..], "no bf16 model of 'timm-gelu'"),
        (2, &["--precision-compute", "int8", "--batch-size", "4"], "batches of 1"),
        (2, &["--precision-compute", "int8", "--device", "cuda"], "batches of 1"),
    ] {
        let said = run(code, plain, "refused", words);
        assert!(said.contains(why), "{said}");
    }
    let said = user.run(0, &["encoders", "remove", "timm-gelu"]);
    assert!(said.contains("timm-gelu@fp16, timm-gelu@int8 removed"), "{said}");
}
