//! Slide vectors from outside: what lies in OUT is what numpy and onnxruntime-python make of the features, whenever and by
//! however many threads it was made.

mod common;

use std::fs;
use std::path::Path;

use common::{files, paraffin, real_slide, root, run, run_to, script, script_json, text};

const GRID: &str = "20x_224px_0px_overlap";
const ENCODER: &str = "efficientnet-lite0";

fn vector(out: &Path, name: &str, slide: &str) -> std::path::PathBuf {
    out.join(GRID).join(format!("slide_features_{name}/{slide}.h5"))
}

#[test]
fn the_mean_is_numpys_whenever_it_is_made() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slides = directory.path().join("slides");
    fs::create_dir(&slides).expect("creates");
    fs::copy(real_slide(), slides.join("whole.svs")).expect("copies");
    fs::copy(root().join("testdata/generated/aperio_rgb_240.svs"), slides.join("small.svs")).expect("copies");
    let (at_once, later) = (directory.path().join("at_once"), directory.path().join("later"));
    let said = run_to(
        0,
        &[
            "embed",
            text(&slides),
            "-o",
            text(&at_once),
            "--tissue",
            "none",
            "--slide-pooling",
            "mean",
            "--threads",
            "1",
        ],
    );
    assert!(said.contains(&format!("2 slide vectors in slide_features_mean-{ENCODER}")), "{said}");
    for slide in ["whole", "small"] {
        let features = at_once.join(GRID).join(format!("features_{ENCODER}/{slide}.h5"));
        let file = vector(&at_once, &format!("mean-{ENCODER}"), slide);
        let got = script_json("reference.py", &["vector", text(&features), text(&file)]);
        println!("{slide}: {got}");
        assert_eq!((&got["shape"], &got["dtype"]), (&serde_json::json!([1280]), &"float32".into()), "{got}");
        assert!(got["difference_max"] == 0.0 && got["coords_equal"] == true, "{got}");
    }
    // Of features that lie there already.
    run_to(0, &["embed", text(&slides), "-o", text(&later), "--tissue", "none", "--threads", "2"]);
    let words = ["embed", text(&slides), "-o", text(&later), "--tissue", "none", "--slide-pooling", "mean"];
    let said = run_to(0, &words);
    assert!(said.contains("2 slides done before; slide vectors are missing"), "{said}");
    let kept = |out: &Path| -> Vec<_> {
        let kept = files(out).into_iter().filter(|f| !f.starts_with("site-private"));
        kept.map(|f| (f.clone(), fs::read(out.join(f)).expect("readable"))).collect()
    };
    assert!(kept(&at_once) == kept(&later), "the same files with the same bytes");
    let said = run_to(0, &words);
    assert!(said.contains("nothing to do"), "{said}");
    let said = run_to(0, &["verify", text(&later)]);
    assert!(said.contains("6 records, 6 files") && said.contains("all whole"), "{said}");
    // Where no model can run, too.
    let file = vector(&later, &format!("mean-{ENCODER}"), "whole");
    let whole = fs::read(&file).expect("readable");
    fs::remove_file(&file).expect("removes");
    let mut command = paraffin(&words);
    for variable in ["PARAFFIN_LIB_DIR", "XDG_DATA_HOME", "HOME"] {
        command.env(variable, directory.path());
    }
    let output = command.output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(&file).expect("made anew"), whole);
}

#[test]
fn a_vector_of_other_features_is_found_and_made_anew() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, slide) = (directory.path().join("out"), real_slide());
    let words = ["embed", text(&slide), "-o", text(&out), "--slide-pooling", "mean"];
    run_to(0, &words);
    let file = vector(&out, &format!("mean-{ENCODER}"), "CMU-1-Small-Region");
    let before = fs::read(&file).expect("readable");
    // As if the features had been made anew, on another device.
    let record = out.join(GRID).join(format!("records/slide_features_mean-{ENCODER}/CMU-1-Small-Region.json"));
    let whole = fs::read_to_string(&record).expect("readable");
    let made_from = whole.lines().find(|l| l.contains("made_from")).expect("the features' sha256").to_string();
    fs::write(&record, whole.replace(&made_from, &format!("  \"made_from\": \"{}\",", "0".repeat(64))))
        .expect("writes");
    let found = |said: &str| {
        let output = run(&["verify", text(&out)]);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && words.contains(said), "{words}");
    };
    found("made of another feature file");
    let said = run_to(0, &words);
    assert!(said.contains("1 slide vector in"), "{said}");
    assert_eq!(fs::read_to_string(&record).expect("readable"), whole);
    // Damage of its own.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&file, &before[..before.len() / 2]).expect("writes");
    found("bytes, not");
    run_to(0, &words);
    assert_eq!(fs::read(&file).expect("readable"), before);
    fs::remove_file(&record).expect("removes");
    found("no record names it");
    run_to(0, &words);
    run_to(0, &["verify", text(&out)]);
}

#[test]
fn a_slide_without_tiles_has_no_vector() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, slide) = (directory.path().join("out"), real_slide());
    let mask = directory.path().join("mask.png");
    image::GrayImage::new(222, 297).save(&mask).expect("writes");
    let mut words = vec!["embed", text(&slide), "-o", text(&out), "--tissue", text(&mask), "--slide-pooling", "mean"];
    let said = run_to(0, &words);
    assert!(said.contains("0 slide vectors in") && said.contains("1 slide without tiles, left empty"), "{said}");
    let file = vector(&out, &format!("mean-{ENCODER}"), "CMU-1-Small-Region");
    let features = out.join(GRID).join(format!("features_{ENCODER}/CMU-1-Small-Region.h5"));
    let got = script_json("reference.py", &["vector", text(&features), text(&file)]);
    assert_eq!((&got["shape"], &got["rows"], &got["coords_equal"]), (&serde_json::json!([0]), &0.into(), &true.into()));
    run_to(0, &["verify", text(&out)]);
    words.push("--no-overviews");
    let said = run_to(0, &words);
    assert!(said.contains("nothing to do"), "{said}");
}

#[test]
fn a_slide_encoder_gives_what_onnxruntime_gives() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, slide) = (directory.path().join("out"), real_slide());
    let (tiles, folder) = (directory.path().join("tiny.onnx"), directory.path().join("abmil"));
    fs::create_dir(&folder).expect("creates");
    let model = folder.join("abmil.onnx");
    script("make_test_encoder.py", &[text(&tiles)], b"");
    script("make_test_encoder.py", &[text(&model), "--slide", "24"], b"");
    let with = |slide_encoder: &Path, code: i32| {
        let (slide_encoder, tiles) = (text(slide_encoder).to_string(), text(&tiles).to_string());
        let words = ["embed", text(&slide), "-o", text(&out), "--tile-px", "200", "--tissue", "none"];
        let encoders = ["--encoder", &tiles, "--slide-encoder", &slide_encoder, "--slide-pooling", "mean"];
        run_to(code, &[&words[..], &encoders[..]].concat())
    };
    let said = with(&folder, 0);
    assert!(said.contains("1 slide vector in slide_features_test-abmil; test-abmil is for tiles of 128 px"), "{said}");
    assert!(said.contains("1 slide vector in slide_features_mean-tiny"), "{said}");
    let grid = out.join("20x_200px_0px_overlap");
    let features = grid.join("features_tiny/CMU-1-Small-Region.h5");
    let file = grid.join("slide_features_test-abmil/CMU-1-Small-Region.h5");
    let got = script_json("reference.py", &["vector", text(&features), text(&file), text(&model)]);
    println!("{got}");
    assert!(got["shape"] == serde_json::json!([16]) && got["coords_equal"] == true, "{got}");
    assert!(got["difference_max"].as_f64() <= Some(1e-5) && got["cosine"].as_f64() >= Some(0.999_999), "{got}");
    let record =
        fs::read_to_string(grid.join("records/slide_features_test-abmil/CMU-1-Small-Region.json")).expect("there");
    assert!(record.contains("is for tiles of 128 px at 0.5 µm, these are 200 px at 0.5 µm"), "{record}");
    let said = run_to(0, &["verify", text(&out)]);
    assert!(said.contains("all whole"), "{said}");

    // What does not fit is refused before anything is done.
    let card_path = folder.join("abmil.toml");
    let card = fs::read_to_string(&card_path).expect("readable");
    for (old, new, code, said) in [
        ("\"tiny\"", "\"uni2-h\"", 2, "takes features of uni2-h, these are of tiny"),
        ("dim = 24", "dim = 25", 2, "takes 25 values a tile, tiny gives 24"),
        ("id = ", "sha256 = \"00\"\nid = ", 1, "another file, or a damaged one"),
    ] {
        fs::write(&card_path, card.replacen(old, new, 1)).expect("writes");
        let words = with(&model, code);
        assert!(words.contains(said), "{words}");
    }
    // Another model under the same id is another contract.
    fs::write(&card_path, card.replace("coords = \"coords\"\n", "").replace("dim = 16", "dim = 17")).expect("writes");
    let said = with(&model, 3);
    assert!(said.contains("slide.dim: 16 there, 17 here"), "{said}");
    fs::write(&card_path, card.replace("\"test-abmil\"", "\"other\"").replace("coords = \"coords\"\n", ""))
        .expect("writes");
    let said = with(&model, 1);
    assert!(said.contains("the graph's inputs are coords, features, patch_size_lv0, its card says"), "{said}");
    fs::remove_file(&card_path).expect("removes");
    let said = with(&model, 1);
    assert!(said.contains("abmil.toml cannot be read"), "{said}");
}
