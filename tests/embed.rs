//! The main job from outside: what lies in OUT, that it is right, the same whatever happens, and taken by its readers.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{assert_same, contents, files, paraffin, real_slide, root, run, run_to, script_json, text};

const GRID: &str = "20x_224px_0px_overlap";
const FEATURES: &str = "20x_224px_0px_overlap/features_efficientnet-lite0/CMU-1-Small-Region.h5";

/// A directory of real slides: the whole one, and generated ones of several codings.
fn slides(directory: &Path) -> PathBuf {
    let slides = directory.join("slides");
    fs::create_dir_all(slides.join("more")).expect("creates");
    fs::copy(real_slide(), slides.join("CMU-1-Small-Region.svs")).expect("copies");
    for name in ["aperio_ycc420_256.svs", "aperio_rgb_240.svs", "aperio_comma.svs"] {
        fs::copy(root().join("testdata/generated").join(name), slides.join("more").join(name)).expect("copies");
    }
    slides
}

#[test]
fn the_real_slide_gives_what_the_readers_expect() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    let said = run_to(0, &["embed", text(&real_slide()), "-o", text(&out)]);
    assert!(said.contains("1 slide (1 svs)") && said.contains("not a pathology model"), "{said}");
    let canaries = format!("{GRID}/canaries/features_efficientnet-lite0");
    let (canary, others): (Vec<_>, Vec<_>) = files(&out).into_iter().partition(|f| f.starts_with(&canaries));
    // Named at random.
    let (runs, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|f| f.starts_with("site-private/runs"));
    assert_eq!(runs.len(), 1, "{runs:?}");
    // Named after its content, which is the machine's.
    assert!(canary.len() == 1 && canary[0].extension().is_some_and(|e| e == "json"), "{canary:?}");
    let expected = [
        format!("{GRID}/contracts/features_efficientnet-lite0.json"),
        format!("{GRID}/contracts/patches.json"),
        FEATURES.to_string(),
        format!("{GRID}/overviews/CMU-1-Small-Region.jpg"),
        format!("{GRID}/patches/CMU-1-Small-Region_patches.h5"),
        format!("{GRID}/records/features_efficientnet-lite0/CMU-1-Small-Region.json"),
        format!("{GRID}/records/patches/CMU-1-Small-Region.json"),
        "site-manifest.json".to_string(),
        "site-private/ids/CMU-1-Small-Region.json".to_string(),
        "site-private/ids.json".to_string(),
    ];
    assert_eq!(others, expected.map(PathBuf::from));

    let file = script_json("reference.py", &["file", text(&out.join(FEATURES))]);
    let (features, coords) = (&file["datasets"]["features"], &file["datasets"]["coords"]);
    let rows = features["shape"][0].as_u64().expect("rows");
    assert!(rows > 20, "{rows} tiles of tissue");
    assert_eq!(features["shape"][1], 1280);
    assert_eq!(features["dtype"], "float32");
    assert_eq!(
        (&features["compression"], &features["shuffle"], &features["mantissa_bits_10"], &features["finite"]),
        (&"gzip".into(), &true.into(), &true.into(), &true.into())
    );
    assert_eq!((coords["shape"][0].as_u64(), coords["shape"][1].as_u64()), (Some(rows), Some(2)));
    assert_eq!(coords["dtype"], "int64");
    let attributes = &coords["attributes"];
    for (name, value, kind) in [
        ("patch_size", serde_json::json!(224), "int64"),
        ("patch_size_level0", 224.into(), "int64"),
        ("overlap", 0.into(), "int64"),
        ("level0_width", 2220.into(), "int64"),
        ("level0_height", 2967.into(), "int64"),
        ("target_magnification", 20.into(), "int64"),
        ("level0_magnification", 20.into(), "int64"),
        ("name", "CMU-1-Small-Region".into(), "str"),
        ("savetodir", "".into(), "str"),
    ] {
        assert_eq!((&attributes[name], &coords["attribute_types"][name]), (&value, &kind.into()), "{name}");
    }
    let names: Vec<_> = file["attributes"].as_object().expect("attributes").keys().cloned().collect();
    assert_eq!(names, ["contract_sha256", "encoder", "encoder_sha256", "mpp_level0", "mpp_target", "schema"]);
    let patches =
        script_json("reference.py", &["file", text(&out.join(GRID).join("patches/CMU-1-Small-Region_patches.h5"))]);
    assert_eq!(patches["datasets"]["coords"]["shape"], coords["shape"]);
    assert_eq!(patches["datasets"]["coords"]["attributes"], coords["attributes"]);
}

/// Coordinates and embeddings against openslide-python, Pillow and onnxruntime-python, on slides that are read as they are
/// and on one that is resampled.
#[test]
fn coordinates_and_embeddings_equal_the_reference() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut slides = vec![real_slide(), root().join("testdata/generated/aperio_ycc420_256.svs")];
    slides.extend(common::shared_data().map(|d| d.join("composed/small_ycc420.svs")));
    let model = root().join("models/efficientnet-lite0.onnx");
    for slide in slides {
        let name = slide.file_stem().expect("a name").to_string_lossy().into_owned();
        for words in
            [&["--precision", "f32"][..], &["--precision", "f32-m10", "--tile-px", "256", "--overlap-px", "16"]]
        {
            let out = directory.path().join(format!("{name}-{}", words.len()));
            let mut command = vec!["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--no-overviews"];
            command.extend(words);
            run_to(0, &command);
            let features = files(&out).into_iter().find(|f| f.ends_with(format!("{name}.h5"))).expect("features");
            let path = out.join(features);
            let got = script_json("reference.py", &["features", text(&slide), text(&path), text(&model)]);
            println!("{name} {words:?}: {got}");
            assert_eq!(got["coords_equal"], true, "{name}: {got}");
            assert!(got["compared"].as_u64() >= got["tiles"].as_u64().min(Some(100)));
            assert!(got["cosine_min"].as_f64() >= Some(0.9999), "{name} {words:?}: {got}");
        }
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads_and_any_neighbours() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slides = slides(directory.path());
    let embed = |name: &str, words: &[&str]| {
        let out = directory.path().join(name);
        let mut command = vec!["embed", text(&slides), "-o", text(&out)];
        command.extend(words);
        run_to(0, &command);
        contents(&out)
    };
    let one = embed("one", &["--threads", "1"]);
    assert_eq!(one.len(), 4 * 5 + 4);
    for (name, words) in [
        ("two", &["--threads", "2"][..]),
        ("eight", &["--threads", "8"]),
        ("batches", &["--threads", "2", "--batch-size", "7"]),
    ] {
        println!("{name}");
        assert_same(&embed(name, words), &one);
    }
    // Slide by slide, without the others in its batches: the whole OUT is the same.
    let alone = directory.path().join("alone");
    for slide in files(&slides) {
        run_to(0, &["embed", text(&slides.join(slide)), "-o", text(&alone), "--batch-size", "7"]);
    }
    assert_same(&contents(&alone), &one);
}

#[test]
fn killed_anywhere_and_resumed_the_bytes_are_the_same() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slides = slides(directory.path());
    let whole = directory.path().join("whole");
    let started = Instant::now();
    run_to(0, &["embed", text(&slides), "-o", text(&whole)]);
    let took = started.elapsed();
    let expected = contents(&whole);
    let out = directory.path().join("killed");
    let words = ["embed", text(&slides), "-o", text(&out)];
    let mut seed = u64::from(std::process::id());
    let mut killed = 0;
    for _ in 0..40 {
        if killed == 10 {
            break;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = took.mul_f64((seed >> 40) as f64 / (1u64 << 24) as f64);
        let mut child = paraffin(&words).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(moment);
        child.kill().expect("kills");
        let status = child.wait().expect("ends");
        println!("killed after {moment:?}: {status}");
        match status.code() {
            None => killed += 1,
            // It was done before: what is left of the ten moments falls on a new run.
            Some(code) => {
                assert_eq!(code, 0);
                assert_same(&contents(&out), &expected);
                fs::remove_dir_all(&out).expect("removed");
            }
        }
        // Whatever is there under a final name is whole.
        if out.join(GRID).is_dir() {
            let output = run(&["verify", text(&out)]);
            let said = String::from_utf8_lossy(&output.stdout);
            let damage: Vec<_> = said.lines().filter(|l| l.contains("sha256") || l.contains("size")).collect();
            assert!(damage.is_empty(), "{said}");
        }
    }
    assert!(killed >= 5, "{killed} of 40 runs were killed before their end");
    run_to(0, &words);
    assert_same(&contents(&out), &expected);
    let said = run_to(0, &["verify", text(&out)]);
    assert!(said.contains("all whole"), "{said}");
}

#[test]
fn what_a_killed_run_leaves_is_cleared_by_the_next_though_it_has_nothing_to_do() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, killed) = (directory.path().join("out"), directory.path().join("killed"));
    run_to(0, &["embed", text(&real_slide()), "-o", text(&out)]);
    let expected = contents(&out);
    // The name of a temporary file whose process is gone.
    let is_part = |f: &PathBuf| f.to_string_lossy().ends_with(".part");
    let features = killed.join(GRID).join("features_efficientnet-lite0");
    let part = (0..20).find_map(|_| {
        let mut child = paraffin(&["embed", text(&real_slide()), "-o", text(&killed)]).stderr(Stdio::null()).spawn();
        let child = child.as_mut().expect("starts");
        while child.try_wait().expect("waits").is_none() {
            if fs::read_dir(&features).is_ok_and(|mut entries| entries.next().is_some()) {
                child.kill().expect("kills");
            }
        }
        let left = files(&killed);
        fs::remove_dir_all(&killed).expect("removes");
        let worker = left.iter().find(|f| f.starts_with("site-private/workers")).cloned();
        left.into_iter().find(is_part).zip(worker)
    });
    let (part, worker) = part.expect("a run killed amid a file");
    let name = part.file_name().expect("a name");
    let directories: std::collections::BTreeSet<_> =
        files(&out).iter().map(|f| f.parent().expect("a directory").to_owned()).collect();
    assert!(directories.contains(Path::new("")) && directories.len() == 11, "{directories:?}");
    for directory in &directories {
        fs::write(out.join(directory).join(name), "half").expect("writes");
    }
    // Its sign of life, which no other worker was there to clear away.
    fs::write(out.join(&worker), "{}").expect("writes");
    // Killed between its last record and the manifest.
    fs::remove_file(out.join("site-manifest.json")).expect("removes");
    let said = run_to(0, &["embed", text(&real_slide()), "-o", text(&out)]);
    assert!(said.contains("nothing to do"), "{said}");
    assert_same(&contents(&out), &expected);
    let left: Vec<_> = files(&out).into_iter().filter(|f| is_part(f) || *f == worker).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_signal_stops_the_run_with_75_and_it_goes_on_later() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    let slide = real_slide();
    let words = ["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--overlap-px", "200"];
    let child = paraffin(&words).stderr(Stdio::piped()).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(1500));
    let pid = i32::try_from(child.id()).expect("a pid");
    // SAFETY: signals the child that was just started.
    #[allow(unsafe_code, reason = "libc")]
    unsafe {
        libc::kill(pid, libc::SIGTERM)
    };
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("stopped by a signal"), "{said}");
    let left: Vec<_> = files(&out).into_iter().filter(|f| f.to_string_lossy().ends_with(".part")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_second_run_does_nothing_and_damage_is_found() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    let slide = real_slide();
    let words = ["embed", text(&slide), "-o", text(&out)];
    run_to(0, &words);
    let before = contents(&out);
    let said = run_to(0, &words);
    assert!(said.contains("nothing to do: 1 slide done before"), "{said}");
    assert_same(&contents(&out), &before);
    let features = out.join(FEATURES);
    let whole = fs::read(&features).expect("readable");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (damage, words_said) in
        [(&whole[..whole.len() / 2], "bytes, not"), (&flipped, "content of its file"), (&[], "0 bytes, not")]
    {
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&features, damage).expect("writes");
        let said = run(&["verify", text(&out)]);
        assert_eq!(said.status.code(), Some(1), "verify finds it");
        let said = run_to(0, &words);
        assert!(said.contains("done again") && said.contains(words_said), "{said}");
        assert_same(&contents(&out), &before);
    }
    fs::remove_file(&features).expect("removes");
    run_to(0, &words);
    assert_same(&contents(&out), &before);
}

#[test]
fn other_settings_are_refused_and_named() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    run_to(0, &["embed", text(&real_slide()), "-o", text(&out)]);
    let before = contents(&out);
    for (words, named) in [
        (&["--min-tissue-fraction", "0.5"][..], "grid.min_tissue_fraction: 0.1 there, 0.5 here"),
        (&["--decode", "scaled"], "grid.decode"),
        (&["--resample", "lanczos"], "grid.resample"),
        (&["--tissue", "none"], "grid.tissue.method"),
        (&["--precision", "f32"], "storage.precision"),
    ] {
        let slide = real_slide();
        let mut command = vec!["embed", text(&slide), "-o", text(&out)];
        command.extend(words);
        let said = run_to(3, &command);
        assert!(said.contains(named), "{words:?}: {said}");
    }
    assert_eq!(contents(&out), before, "nothing was touched");
    // Another grid has another directory, beside this one.
    run_to(0, &["embed", text(&real_slide()), "-o", text(&out), "--mag", "10"]);
    assert!(out.join("10x_224px_0px_overlap").is_dir() && out.join(FEATURES).is_file());
}

#[test]
fn one_bad_slide_never_stops_a_batch() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slides = slides(directory.path());
    fs::write(slides.join("text.svs"), "no slide").expect("writes");
    fs::write(slides.join("empty.svs"), "").expect("writes");
    fs::write(slides.join("notes.txt"), "notes").expect("writes");
    let whole = fs::read(real_slide()).expect("readable");
    fs::write(slides.join("short.svs"), &whole[..whole.len() / 2]).expect("writes");
    fs::copy(root().join("testdata/generated/aperio_no_mpp.svs"), slides.join("no_mpp.svs")).expect("copies");
    let out = directory.path().join("out");
    let said = run_to(4, &["embed", text(&slides), "-o", text(&out)]);
    assert!(said.contains("8 slides (8 svs); 1 file skipped, not slides (1 txt)"), "{said}");
    assert!(said.contains("4 slides done, 4 failed"), "{said}");
    // Who waited for whom, of all slides together.
    let waited = said.lines().find(|l| l.starts_with("waited: encoders for tiles ")).expect("a stall report");
    assert!(waited.contains("readers for encoders ") && waited.contains("all for the disk "), "{waited}");
    let failures = out.join("site-private/failures").join(GRID).join("features_efficientnet-lite0");
    for (id, kind) in [("text", "not-a-slide"), ("empty", "not-a-slide"), ("short", "damaged"), ("no_mpp", "mpp")] {
        assert!(said.lines().any(|l| l.starts_with(id) && l.contains(kind)), "{id} {kind} in:\n{said}");
        assert!(failures.join(format!("{id}.json")).is_file());
    }
    let failed = |out: &Path| -> serde_json::Value {
        let text = fs::read(out.join("site-manifest.json")).expect("a manifest");
        serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")["artefacts"][0]["failures"].clone()
    };
    assert_eq!(failed(&out), serde_json::json!({"damaged": 1, "mpp": 1, "not-a-slide": 2}));
    assert!(said.contains("--mpp"), "the advice: {said}");
    // With the advice taken, the rest is done and the failure forgotten.
    let slide = slides.join("no_mpp.svs");
    run_to(0, &["embed", text(&slide), "-o", text(&out), "--mpp", "0.25"]);
    assert!(!failures.join("no_mpp.json").exists());
    assert_eq!(
        failed(&out),
        serde_json::json!({"damaged": 1, "not-a-slide": 2}),
        "also of slides this run did not meet"
    );
}

#[test]
fn nothing_that_identifies_leaves_site_private() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let folder = directory.path().join("Doe_John_1961");
    fs::create_dir_all(&folder).expect("creates");
    let slide = folder.join("plain.svs");
    fs::copy(real_slide(), &slide).expect("copies");
    let out = directory.path().join("out");
    run_to(0, &["embed", text(&folder), "-o", text(&out)]);
    // The folder, and values of the slide's own Aperio fields (Filename, Date, User).
    let secrets = ["Doe_John", "CMU-1", "12/29/09", "b414003d-95c6-48b0-9369-8010ed517ba7", "ScanScope"];
    let slide_bytes = fs::read(&slide).expect("readable");
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    assert!(secrets[1..].iter().all(|s| holds(&slide_bytes, s)), "the slide carries what is looked for");
    for (file, bytes) in contents(&out) {
        for secret in secrets {
            assert!(!holds(&bytes, secret), "{} holds {secret}", file.display());
        }
    }
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(out.join("site-private")).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_run_that_cannot_start_says_why() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    let said = run_to(2, &["embed", "nowhere.svs", "-o", text(&out)]);
    assert!(said.contains("nowhere.svs"), "{said}");
    let said = run_to(1, &["embed", text(&real_slide()), "-o", text(&out), "--encoder", "uni9"]);
    assert!(said.contains("encoders list"), "{said}");
    let said = run_to(1, &["embed", text(&real_slide()), "-o", text(&out), "--device", "cuda"]);
    assert!(said.contains("--device cuda:0 cannot be used"), "{said}");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("writes");
    let said = run_to(1, &["embed", text(&real_slide()), "-o", text(&file)]);
    assert!(said.contains("cannot write"), "{said}");
    let output = paraffin(&["embed", text(&real_slide()), "-o", text(&out)])
        .env("PARAFFIN_LIB_DIR", directory.path())
        .env("XDG_DATA_HOME", directory.path())
        .env("HOME", directory.path())
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("scripts/setup"), "{said}");
}

#[test]
fn tiles_gives_the_coordinates_that_embed_uses() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (tiles, embed) = (directory.path().join("tiles"), directory.path().join("embed"));
    run_to(0, &["tiles", text(&real_slide()), "-o", text(&tiles)]);
    run_to(0, &["embed", text(&real_slide()), "-o", text(&embed)]);
    let patches = format!("{GRID}/patches/CMU-1-Small-Region_patches.h5");
    assert_eq!(fs::read(tiles.join(&patches)).expect("readable"), fs::read(embed.join(&patches)).expect("readable"));
}

/// A float NCHW graph without a card (described by itself), with a card, and with a card that does not fit.
#[test]
fn any_onnx_file_runs() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let model = directory.path().join("tiny.onnx");
    common::script("make_test_encoder.py", &[text(&model)], b"");
    let slide = real_slide();
    let out = directory.path().join("out");
    let words = ["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--encoder", text(&model)];
    let mut precise = words.to_vec();
    precise.extend(["--precision", "f32"]);
    let said = run_to(0, &precise);
    assert!(said.contains("ImageNet normalisation assumed"), "{said}");
    let path = out.join("20x_128px_0px_overlap/features_tiny/CMU-1-Small-Region.h5");
    let got = script_json("reference.py", &["features", text(&slide), text(&path), text(&model)]);
    println!("float NCHW: {got}");
    assert!(got["coords_equal"] == true && got["cosine_min"].as_f64() >= Some(0.9999), "{got}");

    // A float16 graph that the runtime crashes on at its highest level of optimisation.
    let half = directory.path().join("half.onnx");
    common::script("make_test_encoder.py", &[text(&half), "--half"], b"");
    run_to(0, &["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--encoder", text(&half)]);

    let card = fs::read_to_string(root().join("models/efficientnet-lite0.toml")).expect("readable");
    let card: String = card.lines().filter(|l| !l.starts_with("sha256")).map(|l| l.to_string() + "\n").collect();
    let fitting = card
        .replace("\"nhwc\"", "\"nchw\"")
        .replace("\"uint8\"", "\"float32\"")
        .replace("px = 224", "px = 128")
        .replace("dim = 1280", "dim = 24")
        .replace("id = \"efficientnet-lite0\"", "id = \"tiny-with-card\"");
    let card_path = directory.path().join("tiny.toml");
    fs::write(&card_path, &card).expect("writes");
    let said = run_to(1, &words);
    assert!(said.contains("the graph's input is"), "{said}");
    fs::write(&card_path, fitting.replace("dim = 24", "dim = 25")).expect("writes");
    let said = run_to(1, &words);
    assert!(said.contains("its card says float32 [batch, 25]"), "{said}");
    fs::write(&card_path, fitting.replacen("file = ", &format!("sha256 = \"{}\"\nfile = ", "0".repeat(64)), 1))
        .expect("writes");
    let said = run_to(1, &words);
    assert!(said.contains("another file, or a damaged one"), "{said}");
    fs::write(&card_path, fitting).expect("writes");
    // The runs that could not start bound OUT to nothing.
    run_to(0, &words);
}

#[test]
fn unreadable_tiles_are_counted_and_left_out_where_that_is_allowed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut bytes = fs::read(real_slide()).expect("readable");
    // Damages the middle of the scan of one block.
    let starts: Vec<usize> = (0..bytes.len() - 2).filter(|i| bytes[*i..*i + 3] == [0xff, 0xd8, 0xff]).collect();
    let start = starts[starts.len() / 2];
    bytes[start + 1500..start + 1700].fill(0xff);
    let slide = directory.path().join("damaged.svs");
    fs::write(&slide, bytes).expect("writes");
    let out = directory.path().join("out");
    let words = ["embed", text(&slide), "-o", text(&out), "--tissue", "none"];
    let said = run_to(4, &words);
    assert!(said.contains("block") && said.contains("level 0"), "{said}");
    let mut tolerant = words.to_vec();
    tolerant.extend(["--allow-failed-tiles", "9"]);
    let said = run_to(0, &tolerant);
    assert!(said.contains("unreadable") && said.contains("could not be decoded while tissue was looked for"), "{said}");
    let said = run_to(0, &["verify", text(&out)]);
    assert!(said.contains("all whole"), "{said}");
    let rows = |file: &str| {
        let file = script_json("reference.py", &["file", text(&out.join(GRID).join(file))]);
        file["datasets"]["coords"]["shape"][0].as_u64().expect("rows")
    };
    let (features, patches) = (rows("features_efficientnet-lite0/damaged.h5"), rows("patches/damaged_patches.h5"));
    assert!(features == patches && (130..140).contains(&features), "{features} of 140 rows, {patches} patches");
}

/// The runtime library's own switch leaves a device id and an event in the user's cache.
#[test]
fn no_telemetry_is_kept_or_sent() {
    let home = tempfile::tempdir().expect("temporary directory");
    let libraries = paraffin::runtime::library_dirs().into_iter().find(|d| d.join("runtime.lock").is_file());
    let output = paraffin(&["embed", text(&real_slide()), "-o", text(&home.path().join("out"))])
        .env("HOME", home.path())
        .env_remove("XDG_CACHE_HOME")
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env("PARAFFIN_LIB_DIR", libraries.expect("scripts/setup has run"))
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = files(home.path()).into_iter().filter(|f| !f.starts_with("out")).collect();
    assert!(left.is_empty(), "{left:?}");
}
