//! Embeddings and what goes into them, against the reference chain in Python: openslide, Pillow by the card's resize and
//! crop, onnxruntime (scripts/reference.py).

mod common;

use std::fs;
use std::path::Path;

use common::{real_slide, root, run_to, script, script_json, text};
use serde_json::Value;

/// Embeds the real slide without a tissue search, and compares the features with the reference's.
fn compared(directory: &Path, model: &Path, id: &str, words: &[&str], limit: u32) -> Value {
    let (slide, out) = (real_slide(), directory.join(format!("out-{id}")));
    let command = ["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--precision", "f32", "--no-overviews"];
    run_to(0, &[&command[..], &["--encoder", text(model)], words].concat());
    let grids = fs::read_dir(&out).expect("there").map(|e| e.expect("readable").path());
    let features = grids.map(|g| g.join(format!("features_{id}/CMU-1-Small-Region.h5"))).find(|f| f.is_file());
    let features = features.expect("features");
    let limit = limit.to_string();
    let got = script_json("reference.py", &["features", text(&slide), text(&features), text(model), "--limit", &limit]);
    println!("{id}: {got}");
    assert_eq!(got["coords_equal"], true, "{id}: {got}");
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
        let got = compared(directory.path(), &model, &id, &["--mag", "5", "--tile-px", &tile_px], 100);
        assert!(got["compared"] == got["tiles"] && got["tiles"].as_u64() >= Some(4), "{id}: {got}");
        assert!(got["difference_max"] == 0.0 && got["value_max"].as_f64() > Some(200.0), "{id}: {got}");
        let contracts = directory.path().join(format!("out-{id}"));
        let contract = common::files(&contracts).into_iter().find(|f| f.ends_with(format!("features_{id}.json")));
        let contract = fs::read_to_string(contracts.join(contract.expect("a contract"))).expect("readable");
        assert_eq!(contract.contains(&format!("\"resize_px\": {resized}")), resized != px, "{contract}");
    }
}
