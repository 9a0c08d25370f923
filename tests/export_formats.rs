//! `paraffin export` from outside: what other tools read is what lies in OUT (`scripts/check_exports.py` opens every file as they do),
//! the same bytes whenever and however it was written, and nothing damaged goes out.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{files, real_slide, root, run_to, script, script_json, text};
use paraffin::export::{Target, Told, export};
use paraffin::features::Finished;

const GRID: &str = "20x_64px_0px_overlap";
const TARGETS: [&str; 4] = ["clam", "stamp", "slideflow", "safetensors"];

/// What every test exports: slides of several chunks, of one, and without tiles; embedded once.
struct Slides {
    directory: PathBuf,
    words: Vec<String>,
}

impl Slides {
    fn new() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export_formats");
        let _ = fs::remove_dir_all(&directory);
        let slides = directory.join("secret_folder");
        fs::create_dir_all(&slides).expect("creates");
        fs::copy(real_slide(), slides.join("patient_a.svs")).expect("copies");
        fs::copy(root().join("testdata/generated/generic_jpeg_big_be.tif"), slides.join("patient_b.tif"))
            .expect("copies");
        let white = image::RgbImage::from_pixel(640, 480, image::Rgb([255; 3]));
        white.save(slides.join("patient_c.png")).expect("writes");
        let list = directory.join("list.csv");
        let at = |name: &str| slides.join(name).display().to_string();
        let rows = [at("patient_a.svs") + ",", at("patient_b.tif") + ",", at("patient_c.png") + ",0.5"].join("\n");
        fs::write(&list, format!("path,mpp\n{rows}\n")).expect("writes");
        let encoder = directory.join("tiny.onnx");
        script("make_test_encoder.py", &[text(&encoder)], b"");
        let words = ["embed", "--slide-list", text(&list), "--encoder", text(&encoder), "--tile-px", "64"];
        let words = words.iter().chain(&["--no-overviews"]).map(|w| (*w).to_string()).collect();
        let slides = Slides { directory, words };
        slides.embed(&slides.directory.join("out"), &[]);
        slides
    }

    fn embed(&self, out: &Path, more: &[&str]) {
        let words = self.words.iter().map(String::as_str).chain(["-o", text(out)]).chain(more.iter().copied());
        run_to(0, &words.collect::<Vec<_>>());
    }
}

static SLIDES: LazyLock<Slides> = LazyLock::new(Slides::new);

/// A copy of their OUT, and room for exports.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Site { directory: tempfile::tempdir().expect("temporary directory") };
        let from = SLIDES.directory.join("out");
        for file in files(&from) {
            let to = site.at("out").join(&file);
            fs::create_dir_all(to.parent().expect("a folder")).expect("creates");
            fs::copy(from.join(&file), to).expect("copies");
        }
        site
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn features(&self) -> PathBuf {
        self.at("out").join(GRID).join("features_tiny")
    }

    fn export(&self, code: i32, target: &str, to: &str, more: &[&str]) -> String {
        let (out, to) = (self.at("out"), self.at(to));
        run_to(code, &[&["export", text(&out), "--to", target, "-o", text(&to)], more].concat())
    }

    fn check(&self, target: &str, to: &str) -> serde_json::Value {
        script_json("check_exports.py", &[target, text(&self.at(to)), text(&self.features())])
    }
}

/// Every file with its bytes.
fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(directory).into_iter().map(|f| (f.clone(), fs::read(directory.join(f)).expect("readable"))).collect()
}

#[test]
fn readers_find_in_every_export_what_lies_in_out() {
    let site = Site::new();
    for target in TARGETS {
        let said = site.export(0, target, target, &["--threads", "1"]);
        let left_out = if target == "slideflow" { 1 } else { 0 };
        assert!(said.contains(&format!("{} slides", 3 - left_out)), "{said}");
        assert_eq!(said.contains("1 without tiles left out"), left_out == 1, "{said}");
        let got = site.check(target, target);
        println!("{target}: {got}");
        assert!(got["slides"] == 3 && got["tiles"].as_u64() > Some(512), "several chunks: {got}");
        // Whoever writes it.
        let again = format!("{target}_again");
        site.export(0, target, &again, &["--threads", "3", "--artefact", "features_tiny", "--grid", GRID]);
        let first = content(&site.at(target));
        assert!(first == content(&site.at(&again)), "{target}: the same bytes");
        // Ids are what leaves, and nothing of where the slides lay.
        for (name, bytes) in &first {
            let found = |secret: &[u8]| bytes.windows(secret.len()).any(|w| w == secret);
            let paths = [text(site.directory.path()), text(&SLIDES.directory), "secret_folder", ".svs", ".tif"];
            assert!(!paths.iter().any(|p| found(p.as_bytes())), "a path in {}", name.display());
        }
        // What lies there stays; what was damaged is written anew.
        let said = site.export(0, target, target, &[]);
        assert!(said.contains(&format!("{} there already", 3 - left_out)), "{said}");
        let (victim, whole) =
            first.iter().find(|(name, _)| name.to_string_lossy().contains("patient_a")).expect("a slide");
        fs::write(site.at(target).join(victim), &whole[..whole.len() - 1]).expect("writes");
        let said = site.export(0, target, target, &[]);
        assert!(said.contains(&format!("{} there already", 2 - left_out)), "{said}");
        assert!(first == content(&site.at(target)), "{target}: as it was");
    }
    // Half the precision in OUT is float32 outside, too.
    let out = site.at("out");
    fs::remove_dir_all(&out).expect("removes");
    SLIDES.embed(&out, &["--precision", "f16"]);
    for target in ["clam", "safetensors"] {
        let to = format!("{target}_f16");
        site.export(0, target, &to, &[]);
        site.check(target, &to);
    }
}

#[test]
fn what_is_damaged_does_not_go_out() {
    let site = Site::new();
    let file = site.features().join("patient_a.h5");
    let whole = fs::read(&file).expect("readable");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&file, &flipped).expect("writes");
    for target in TARGETS {
        let said = site.export(4, target, target, &[]);
        assert!(
            said.contains("  patient_a: damaged output: the content of its file in features_tiny has changed"),
            "{said}"
        );
        let names = files(&site.at(target));
        assert!(!names.iter().any(|n| n.to_string_lossy().contains("patient_a")), "{names:?}");
        assert!(names.iter().any(|n| n.to_string_lossy().contains("patient_b")), "the others go out: {names:?}");
        let index = fs::read_to_string(site.at(target).join("export.json")).expect("readable");
        assert!(index.contains("\"complete\": false") && !index.contains("patient_a"), "{index}");
    }
    fs::write(&file, &whole).expect("writes");
    // Made under another contract, or not finished.
    let record = site.at("out").join(GRID).join("records/features_tiny/patient_a.json");
    let right = fs::read_to_string(&record).expect("readable");
    let sha256 = serde_json::from_str::<serde_json::Value>(&right).expect("JSON")["contract_sha256"].clone();
    fs::write(&record, right.replace(sha256.as_str().expect("text"), &"0".repeat(64))).expect("writes");
    let said = site.export(4, "stamp", "stamp", &[]);
    assert!(said.contains("patient_a: damaged output: it was made under another contract"), "{said}");
    fs::remove_file(&record).expect("removes");
    let said = site.export(0, "stamp", "stamp", &[]);
    assert!(said.contains("2 slides") && said.contains("1 slide without features yet: not in it"), "{said}");
    fs::write(&record, right).expect("writes");
    site.export(0, "stamp", "stamp", &[]);
    assert_eq!(site.check("stamp", "stamp")["slides"], 3);
    // A slide that OUT no longer holds is no longer named; its file is left to whoever put it there.
    fs::remove_file(&record).expect("removes");
    let said = site.export(0, "stamp", "stamp", &[]);
    assert!(said.contains("files of 1 slide of an earlier export were left"), "{said}");
    assert!(site.at("stamp/patient_a.h5").is_file());
}

#[test]
fn a_stopped_export_goes_on() {
    let site = Site::new();
    site.export(0, "clam", "at_once", &[]);
    let out = site.at("out");
    let finished = Finished::find(&out, None, None).expect("the only features");
    let (stop, dir) = (AtomicBool::new(false), site.at("stopped"));
    let told = |_: &str, told: &Told| {
        assert!(matches!(told, Told::Written(_)));
        stop.store(true, Ordering::Relaxed);
    };
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let result = one_thread.install(|| export(&out, &finished, Target::Clam, &dir, &stop, &told));
    assert!(matches!(result, Err(paraffin::Error::Interrupted)), "{result:?}");
    assert!(fs::read_to_string(dir.join("export.json")).expect("readable").contains("\"complete\": false"));
    // What a killed run leaves.
    let part = dir.join("pt_files/.patient_a.pt.0123456789abcdef-1-0123456789abcdef.part");
    fs::write(&part, b"half").expect("writes");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
    fs::File::options().write(true).open(&part).expect("opens").set_modified(long_ago).expect("sets");
    let said = site.export(0, "clam", "stopped", &[]);
    assert!(said.contains("1 there already"), "{said}");
    assert!(content(&dir) == content(&site.at("at_once")), "the same files with the same bytes");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let site = Site::new();
    let said = site.export(2, "clam", "out/export", &[]);
    assert!(said.contains("-o lies in OUT") && !site.at("out/export").exists(), "{said}");
    let said = site.export(2, "clam", "elsewhere/../out", &[]);
    assert!(said.contains("-o lies in OUT"), "{said}");
    let (grid, inside) = (site.at("out").join(GRID), site.at("out/export"));
    let said = run_to(2, &["export", text(&grid), "--to", "clam", "-o", text(&inside)]);
    assert!(said.contains("-o lies in OUT"), "{said}");
    run_to(0, &["export", text(&grid), "--to", "clam", "-o", text(&site.at("of_a_grid"))]);
    let said = site.export(2, "torchmil", "x", &[]);
    assert!(said.contains("none of clam, stamp, slideflow, safetensors, ro-crate"), "{said}");
    let said = site.export(2, "clam", "x", &["--artefact", "features_uni"]);
    assert!(said.contains(&format!("it holds\n  {GRID}/features_tiny")), "{said}");
    let said = site.export(2, "clam", "x", &["--date-published", "2026"]);
    assert!(said.contains("goes with --to ro-crate"), "{said}");
    assert!(!site.at("x").exists());
    // Another export lies there, or a damaged one.
    site.export(0, "stamp", "taken", &[]);
    let said = site.export(3, "clam", "taken", &[]);
    assert!(said.contains("target: stamp there, clam here\nuse another directory"), "{said}");
    fs::write(site.at("taken/export.json"), "{").expect("writes");
    let said = site.export(1, "stamp", "taken", &[]);
    assert!(said.contains("export.json in the directory of -o is damaged"), "{said}");
    // Two grids: which?
    let (out, slide) = (site.at("out"), real_slide());
    let encoder = SLIDES.directory.join("tiny.onnx");
    run_to(0, &["embed", text(&slide), "-o", text(&out), "--encoder", text(&encoder), "--tile-px", "200"]);
    let said = site.export(2, "clam", "x", &[]);
    assert!(said.contains("say which with --grid and --artefact") && said.contains("20x_200px_0px_overlap/"), "{said}");
    site.export(0, "clam", "x", &["--grid", "20x_200px_0px_overlap"]);
    let empty = site.at("empty");
    fs::create_dir(&empty).expect("creates");
    let said = run_to(2, &["export", text(&empty), "--to", "clam", "-o", text(&site.at("y"))]);
    assert!(said.contains("OUT holds no features"), "{said}");
}

#[test]
fn the_site_manifest_goes_out_as_ro_crate() {
    let site = Site::new();
    let said = site.export(0, "ro-crate", "crate", &["--date-published", "2026"]);
    assert!(said.contains("site manifest of 2 artefacts as RO-Crate 1.2"), "{said}");
    let got = script_json("check_exports.py", &["ro-crate", text(&site.at("crate"))]);
    println!("{got}");
    assert_eq!((&got["artefacts"], &got["date_published"]), (&2.into(), &"2026".into()));
    assert_eq!(
        fs::read(site.at("crate/site-manifest.json")).expect("readable"),
        fs::read(site.at("out/site-manifest.json")).expect("readable")
    );
    let metadata = fs::read_to_string(site.at("crate/ro-crate-metadata.json")).expect("readable");
    for secret in ["patient_", "secret_folder", text(site.directory.path()), text(&SLIDES.directory)] {
        assert!(!metadata.contains(secret), "{secret}");
    }
    site.export(2, "ro-crate", "x", &[]);
    let said = site.export(2, "ro-crate", "x", &["--date-published", "yesterday"]);
    assert!(said.contains("'yesterday' is no date"), "{said}");
    let said = site.export(2, "ro-crate", "x", &["--date-published", "2026", "--grid", GRID]);
    assert!(said.contains("no --artefact, no --grid"), "{said}");
    fs::remove_file(site.at("out/site-manifest.json")).expect("removes");
    let said = site.export(1, "ro-crate", "x", &["--date-published", "2026"]);
    assert!(said.contains("OUT has no site-manifest.json"), "{said}");
    assert!(!site.at("x").exists());
}
