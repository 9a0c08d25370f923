//! `paraffin audit`: every kind of identifier that is planted in an OUT is found, and a clean OUT is clean.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{files, paraffin, real_slide, run, run_to, script, text};
use serde_json::Value;

/// A slide in a person's folder, and an OUT of it with random ids.
struct Site {
    _root: tempfile::TempDir,
    archive: PathBuf,
    out: PathBuf,
}

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let root = tempfile::tempdir().expect("temporary directory");
        let archive = root.path().join("archive");
        let slide = archive.join("Schneider-Ammann, Jolanthe/S24-0077341.svs");
        fs::create_dir_all(slide.parent().expect("has one")).expect("creates");
        fs::copy(real_slide(), &slide).expect("copies");
        let out = root.path().join("out");
        let plan = ["plan", text(&archive), "-o", text(&out), "--mag", "5", "--ids", "random", "--no-probe"];
        run_to(0, &plan);
        run_to(
            0,
            &[
                &["embed", text(&archive), "-o", text(&out), "--mag", "5", "--ids", "random"][..],
                &["--slide-pooling", "mean", "--contours"],
            ]
            .concat(),
        );
        run_to(0, &["report", text(&out), "--shareable"]);
        Site { _root: root, archive, out }
    })
}

/// A copy of the clean OUT, to plant in.
fn copy() -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("temporary directory");
    for file in files(&site().out) {
        let target = to.path().join(&file);
        fs::create_dir_all(target.parent().expect("has one")).expect("creates");
        fs::copy(site().out.join(&file), target).expect("copies");
    }
    to
}

/// The file of an OUT whose path contains `part`.
fn file_of(out: &Path, part: &str) -> PathBuf {
    let found = files(out).into_iter().find(|f| text(f).contains(part)).unwrap_or_else(|| panic!("no {part}"));
    out.join(found)
}

/// The report, which must come with this exit code and hold none of the planted words.
fn audit(code: i32, out: &Path, more: &[&str]) -> Value {
    let archive = text(&site().archive);
    let words = [&["audit", text(out), "--json", "--against", archive], more].concat();
    let output = paraffin(&words).env("USER", "bschneiderhan").output().expect("runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for secret in ["Schneider", "schneider", "Jolanthe", "0077341", "b414003d"] {
        assert!(!said.contains(secret), "{secret} is told: {said}");
    }
    serde_json::from_str(&said).expect("JSON")
}

fn findings(report: &Value) -> Vec<(String, String, String)> {
    let findings = report["findings"].as_array().expect("a list");
    let get = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_string();
    findings.iter().map(|f| (get(f, "kind"), get(f, "what"), get(f, "place"))).collect()
}

#[test]
fn a_clean_out_is_clean() {
    let report = audit(0, &site().out, &[]);
    assert_eq!(report["slides"], 1);
    // The three HDF5 files, their records and contracts, overview, contours, canary, manifest, plan and report.
    assert_eq!(report["files"], 15, "{report}");
    assert!(report["bytes"].as_u64() > Some(10_000));
    assert!(report["terms"].as_u64() > Some(8), "{report}");
    let said = run_to(0, &["audit", text(&site().out)]);
    assert!(said.contains("nothing found") && said.contains("give --against SLIDES"), "{said}");
}

/// What is planted where, and how it must be told.
type Plant<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, &'a str, &'a str);

fn hdf5<'a>(kind: &'a str, part: &'a str, planted: &'a str) -> Box<dyn Fn(&Path) + 'a> {
    Box::new(move |out| {
        script("plant.py", &[kind, text(&file_of(out, part)), planted], b"");
    })
}

fn bytes<'a>(part: &'a str, edit: impl Fn(&mut Vec<u8>) + 'a) -> Box<dyn Fn(&Path) + 'a> {
    Box::new(move |out| {
        let file = file_of(out, part);
        let mut content = fs::read(&file).expect("readable");
        edit(&mut content);
        fs::write(&file, content).expect("writes");
    })
}

fn json<'a>(part: &'a str, from: &'a str, to: &'a str) -> Box<dyn Fn(&Path) + 'a> {
    bytes(part, move |content| {
        let old = String::from_utf8(content.clone()).expect("UTF-8");
        let new = old.replacen(from, to, 1);
        assert_ne!(new, old, "{from} is not there");
        *content = new.into_bytes();
    })
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() + 2) as u16;
    [&[0xff, marker][..], &length.to_be_bytes(), content].concat()
}

fn utf16(text: &str, code: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(code).collect()
}

#[test]
fn every_kind_that_is_planted_is_found() {
    let (stem, person) = ("S24-0077341", "Schneider-Ammann, Jolanthe");
    let little = utf16(stem, u16::to_le_bytes);
    let big = utf16(person, u16::to_be_bytes);
    let in_segment =
        |marker, content: Vec<u8>| bytes("overviews/", move |b| drop(b.splice(2..2, segment(marker, &content))));
    // "\0\0S24-0077341\0\0" amid numbers, and amid a picture.
    let coded = format!("\"base64\": \"{}AABTMjQtMDA3NzM0MQAA", "AAAA".repeat(4));
    let embedded = format!("<img src=\"data:,{0}AABTMjQtMDA3NzM0MQAA{0}\">", "AAAA".repeat(20));
    let plants: Vec<Plant> = vec![
        ("a new attribute", hdf5("attribute", "overlap/patches/", stem), "slide-name", "HDF5: an attribute"),
        ("a new attribute, by the list", hdf5("attribute", "overlap/patches/", "anything"), "unknown", "HDF5"),
        ("an attribute's value", hdf5("value", "overlap/features_eff", person), "path-part", "HDF5: coords@savetodir"),
        ("an attribute's value, raw", hdf5("value", "overlap/features_eff", person), "path-part", "bytes"),
        ("a dataset", hdf5("dataset", "overlap/slide_features", stem), "slide-name", "bytes"),
        ("a compressed dataset, by the list", hdf5("compressed", "overlap/patches/", stem), "unknown", "HDF5"),
        ("a group's name", hdf5("name", "overlap/patches/", person), "path-part", "HDF5: the name of an object"),
        ("a soft link", hdf5("link", "overlap/patches/", person), "path-part", "bytes"),
        ("HDF5 free space", hdf5("freed", "overlap/features_eff", stem), "slide-name", "bytes"),
        ("after the HDF5 file's end", bytes("overlap/patches/", |b| b.extend(b"s24-0077341")), "slide-name", "bytes"),
        ("UTF-16LE between bytes", bytes("overlap/patches/", |b| b.extend(&little)), "slide-name", "bytes"),
        ("UTF-16BE between bytes", bytes("overlap/patches/", |b| b.extend(&big)), "path-part", "bytes"),
        ("a JPEG comment", in_segment(0xfe, person.into()), "path-part", "JPEG: comment"),
        ("a JPEG comment, by the list", in_segment(0xfe, b"fine".to_vec()), "unknown", "JPEG"),
        ("EXIF", in_segment(0xe1, stem.into()), "slide-name", "JPEG: APP1"),
        ("EXIF in UTF-16", in_segment(0xe1, little.clone()), "slide-name", "bytes"),
        (
            "after the picture",
            bytes("overviews/", |b| b.extend(stem.as_bytes())),
            "slide-name",
            "JPEG: bytes after the picture",
        ),
        (
            "a JSON string",
            json("records/patches/", "\"warnings\": [", "\"warnings\": [\"S24-0077341\", "),
            "slide-name",
            "JSON: /warnings/[]",
        ),
        (
            "a JSON escape",
            json("records/patches/", "\"warnings\": [", "\"warnings\": [\"\\u0053\\u00324-007\\u0037341\", "),
            "slide-name",
            "JSON: /warnings/[]",
        ),
        (
            "a JSON field's name",
            json("contracts/patches", "\"schema\"", "\"S24-0077341\": 1, \"schema\""),
            "slide-name",
            "JSON: /",
        ),
        (
            "a JSON field, by the list",
            json("contracts/patches", "\"schema\"", "\"note\": 1, \"schema\""),
            "unknown",
            "JSON: /",
        ),
        (
            "a name that stands twice",
            json("records/features_eff", "\"id\":", "\"id\": \"S24-0077341\", \"id\":"),
            "slide-name",
            "JSON: /id",
        ),
        (
            "a vendor's value",
            json(
                "site-manifest",
                "\"artefact\":",
                "\"artefact\": \"b414003d-95c6-48b0-9369-8010ed517ba7\", \"artefact\":",
            ),
            "field-value",
            "JSON: /artefacts/[]/artefact",
        ),
        (
            "a user of this machine",
            json("records/patches/", "\"device\": \"", "\"device\": \"of bSchneiderhan "),
            "user-name",
            "JSON: /runtime/device",
        ),
        (
            "a date",
            json("records/patches/", "\"device\": \"", "\"device\": \"2023-04-05 "),
            "pattern",
            "JSON: /runtime/device",
        ),
        ("a date between bytes", bytes("overlap/features_eff", |b| b.extend(b"\0\0 20091229 \0")), "pattern", "bytes"),
        ("an accession number", hdf5("value", "overlap/patches/", "XY24-99887"), "pattern", "HDF5: coords@savetodir"),
        ("a record number", hdf5("freed", "overlap/patches/", "MRN: 00998877"), "pattern", "bytes"),
        ("numbers in base64", json("records/features_eff", "\"base64\": \"", &coded), "slide-name", "base64"),
        (
            "a canary",
            json("/canaries/", "\"tiles\": [", "\"tiles\": [\"S24-0077341\", "),
            "slide-name",
            "JSON: /tiles/[]",
        ),
        (
            "an outline's class",
            json("/contours/", "\"name\":\"", "\"name\":\"S24-0077341 "),
            "slide-name",
            "JSON: /features/[]/properties/classification/name",
        ),
        (
            "an outline, by the list",
            json("/contours/", "\"geometry\"", "\"id\":1,\"geometry\""),
            "unknown",
            "JSON: /features/[]",
        ),
        ("a plan", json("plan.jsonl", "{\"id\"", "{\"path\":\"S24-0077341\",\"id\""), "slide-name", "JSON: /path"),
        ("a plan, by the list", json("plan.jsonl", "{\"id\"", "{\"path\":\"x\",\"id\""), "unknown", "JSON: /"),
        ("a report", bytes("report.html", |b| b.extend(b"<!-- s24-0077341 -->")), "slide-name", "bytes"),
        ("a picture in a report", bytes("report.html", |b| b.extend(embedded.as_bytes())), "slide-name", "base64"),
        ("what is no JSON", bytes("records/patches/", |b| b.extend(b"# S24-0077341")), "slide-name", "bytes"),
    ];
    for (what, plant, kind, place) in plants {
        let out = copy();
        plant(out.path());
        println!("{what}");
        let found = findings(&audit(5, out.path(), &[]));
        assert!(found.iter().any(|(k, _, p)| k == kind && p == place), "{what}: {found:?}");
    }
}

#[test]
fn names_of_files_and_folders_are_searched_and_masked() {
    let out = copy();
    let features = file_of(out.path(), "overlap/features_eff");
    fs::rename(&features, features.with_file_name("S24-0077341.h5")).expect("renames");
    fs::create_dir_all(out.path().join("Schneider-Ammann, Jolanthe")).expect("creates");
    fs::write(out.path().join("Schneider-Ammann, Jolanthe/notes.txt"), "by the ward").expect("writes");
    fs::write(out.path().join("table.csv"), "Jolanthe;4711").expect("writes");
    std::os::unix::fs::symlink(site().archive.join("S24-0077341.svs"), out.path().join("slide")).expect("links");
    let report = audit(5, out.path(), &[]);
    let found = findings(&report);
    for (kind, what, place) in [
        ("slide-name", "", "name of the file"),
        ("unknown", "an id that --ids did not make", "name of the file"),
        ("path-part", "", "name of the directory"),
        ("unknown", "a directory that paraffin does not make", "name"),
        ("unknown", "a file that paraffin does not write", "name"),
        ("unknown", "a symbolic link", "name"),
        ("slide-name", "", "target of the link"),
    ] {
        assert!(found.contains(&(kind.into(), what.into(), place.into())), "{kind} {what} {place}: {found:?}");
    }
    let told = report["findings"][0]["file"].as_str().expect("a file");
    assert!(told.contains("***"), "{told}");
}

#[test]
fn a_sites_own_patterns_are_searched() {
    let out = copy();
    hdf5("value", "overlap/patches/", "BB123456")(out.path());
    audit(0, out.path(), &[]);
    let patterns = out.path().with_extension("toml");
    fs::write(&patterns, "[[pattern]]\nname = 'biobank number'\nregex = '\\bBB\\d{6}\\b'\n").expect("writes");
    let found = findings(&audit(5, out.path(), &["--patterns", text(&patterns)]));
    fs::remove_file(&patterns).expect("removes");
    assert_eq!(found, [("pattern".into(), "biobank number".into(), "HDF5: coords@savetodir".into())]);
}

#[test]
fn plain_ids_are_found_with_advice() {
    let out = tempfile::tempdir().expect("temporary directory");
    run_to(0, &["tiles", text(&site().archive), "-o", text(out.path()), "--mag", "5"]);
    let said = run_to(5, &["audit", text(out.path())]);
    assert!(said.contains("a slide's name (name of the file)") && said.contains("--ids random or hmac"), "{said}");
    assert!(!said.contains("S24"), "{said}");
    let output = run(&["audit", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(2));
}
