//! With `--ids random` and `hmac` no name leaves `site-private`: over all formats, failures and messages.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{files, fixtures, paraffin, real_slide, root, run_to, text};

/// What names a person in these tests: in folders, files and the slide list. Long enough not to occur by chance.
const NAMES: [&str; 4] = ["Schneiderhan", "Jolanthe", "1950-03-04", "Kaltenbrunner"];

fn person(archive: &Path) -> PathBuf {
    archive.join("Schneiderhan^Jolanthe 1950-03-04")
}

/// Whether any of the names stands in these bytes, in either case.
fn named(bytes: &[u8]) -> Option<&'static str> {
    let lower = bytes.to_ascii_lowercase();
    let stands = |name: &str| lower.windows(name.len()).any(|w| w == name.to_ascii_lowercase().as_bytes());
    NAMES.into_iter().find(|name| stands(name))
}

fn said(output: &Output) -> Vec<u8> {
    [&output.stderr[..], &output.stdout].concat()
}

/// Every slide that ships with the project, in a person's folder and, where a slide is one file, under a person's name.
fn archive(to: &Path) -> usize {
    let folder = person(to);
    let mut slides = 0;
    for (number, (from, entry)) in fixtures().into_iter().enumerate() {
        let name = entry["file"].as_str().expect("file");
        let path = from.join(name);
        let ending = path.extension().and_then(|e| e.to_str()).expect("an ending").to_string();
        slides += 1;
        let own = folder.join(format!("Kaltenbrunner {number}"));
        fs::create_dir_all(&own).expect("creates");
        match ending.as_str() {
            // Formats of several files come with their neighbours.
            "mrxs" | "vms" | "vmu" | "dcm" => {
                let beside = path.parent().expect("has one");
                for (part, file) in files(beside).into_iter().enumerate() {
                    // A series is one by what is in its files.
                    let named = PathBuf::from(format!("Kaltenbrunner {part}.dcm"));
                    let target =
                        own.join(if ending == "dcm" && file.extension() == path.extension() { &named } else { &file });
                    fs::create_dir_all(target.parent().expect("has one")).expect("creates");
                    fs::copy(beside.join(&file), target).expect("copies");
                }
            }
            ending => {
                fs::copy(&path, own.join(format!("Kaltenbrunner_Jolanthe-{number}.{ending}"))).expect("copies");
            }
        }
    }
    // And what fails: a slide cut short, a text, files of other endings.
    let whole = fs::read(real_slide()).expect("readable");
    fs::write(folder.join("Kaltenbrunner cut.svs"), &whole[..whole.len() / 3]).expect("writes");
    fs::write(folder.join("Kaltenbrunner text.ndpi"), b"Schneiderhan, Jolanthe").expect("writes");
    fs::write(folder.join("letter to Dr.Kaltenbrunner"), b"x").expect("writes");
    fs::create_dir_all(folder.join("Kaltenbrunner-mirax")).expect("creates");
    fs::copy(root().join("testdata/openslide/mirax.mrxs"), folder.join("Kaltenbrunner-mirax.mrxs")).expect("copies");
    fs::write(folder.join("Kaltenbrunner-mirax/Slidedat.ini"), b"Kaltenbrunner Jolanthe\n").expect("writes");
    slides
}

#[test]
fn no_name_leaves_over_all_formats() {
    let root = tempfile::tempdir().expect("temporary directory");
    let slides = archive(root.path());
    assert!(slides > 40, "{slides}");
    let out = root.path().join("out");
    let folder = person(root.path());
    let words = ["tiles", text(&folder), "-o", text(&out), "--mag", "5", "--tissue", "none", "--ids", "random"];
    let first = paraffin(&words).output().expect("runs");
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(first.status.code(), Some(4), "{told}");
    assert_eq!(named(&said(&first)), None, "{told}");
    assert!(told.contains("of other endings") && told.contains("not-a-slide"), "{told}");
    // Once more: all done but what fails.
    let second = paraffin(&words).output().expect("runs");
    assert_eq!(second.status.code(), Some(4));
    assert_eq!(named(&said(&second)), None);
    let mut searched = 0;
    for file in files(&out) {
        if file.starts_with("site-private") {
            continue;
        }
        assert_eq!(named(text(&file).as_bytes()), None, "{}", file.display());
        assert_eq!(named(&fs::read(out.join(&file)).expect("readable")), None, "{}", file.display());
        searched += 1;
    }
    assert!(searched > 3 * 40, "{searched}");
    // The site itself knows who is who, and nobody else may look.
    let table = run_to(0, &["ids", text(&out)]);
    assert!(table.contains("Kaltenbrunner_Jolanthe-0.svs"), "{table}");
    for entry in walkdir::WalkDir::new(out.join("site-private")).into_iter().map(|e| e.expect("readable")) {
        let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", entry.path().display());
    }
    // The audit, against all these slides' names and the values of their fields.
    let audit = paraffin(&["audit", text(&out), "--against", text(&folder)]).output().expect("runs");
    let told = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert_eq!(audit.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&audit.stderr));
    assert!(told.contains("nothing found"), "{told}");
    assert_eq!(named(&said(&audit)), None, "{told}");
}

#[test]
fn features_and_vectors_name_nobody_and_stay_the_same_slide() {
    let root = tempfile::tempdir().expect("temporary directory");
    let folder = person(root.path());
    fs::create_dir_all(&folder).expect("creates");
    let slide = folder.join("Kaltenbrunner.svs");
    fs::copy(real_slide(), &slide).expect("copies");
    let key = root.path().join("key");
    fs::write(&key, [7; 32]).expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("sets");
    let list = root.path().join("list.csv");
    fs::write(&list, format!("path,id\n{},Kaltenbrunner-7\n", text(&slide))).expect("writes");
    let out = root.path().join("out");
    let run = |more: &[&str]| {
        let words = ["embed", "--slide-list", text(&list), "-o", text(&out), "--mag", "5", "--slide-pooling", "mean"];
        let mut command = paraffin(&[&words[..], more].concat());
        command.env("PARAFFIN_IDS_KEY_FILE", &key).output().expect("runs")
    };
    let keyed = ["--ids", "hmac", "--ids-study", "gastric"];
    let first = run(&keyed);
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(first.status.code(), Some(0), "{told}");
    assert_eq!(named(&said(&first)), None, "{told}");
    // The id is what another tool computes.
    let id = common::script("hmac_id.py", &[&"07".repeat(32), "gastric", "Kaltenbrunner-7"], b"");
    let id = String::from_utf8(id).expect("text");
    let id = id.trim();
    let all = files(&out);
    for kind in [format!("features_efficientnet-lite0/{id}.h5"), format!("{id}_patches.h5"), format!("{id}.jpg")] {
        assert!(all.iter().any(|f| text(f).ends_with(&kind)), "{kind}: {all:?}");
    }
    let again = run(&keyed);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing to do: 1 slide done before (OUT/"));
    // Another way of naming is refused before a name is told.
    for (other, words) in [
        (&["--ids", "random"][..], "--ids hmac, not random"),
        (&[], "--ids hmac, not keep"),
        (&["--ids", "hmac", "--ids-study", "other"], "another study"),
    ] {
        let refused = run(other);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(3), "{told}");
        assert!(told.contains(words), "{told}");
        assert_eq!(named(&said(&refused)), None, "{told}");
    }
    assert!(!String::from_utf8_lossy(&fs::read(out.join("site-private/ids.json")).expect("there")).contains("0707"));
}

#[test]
fn what_was_typed_is_told_by_its_place() {
    let root = tempfile::tempdir().expect("temporary directory");
    let folder = person(root.path());
    fs::create_dir_all(&folder).expect("creates");
    let slide = text(&folder.join("Kaltenbrunner.svs")).to_string();
    fs::copy(real_slide(), &slide).expect("copies");
    let (folder, out) = (text(&folder), text(root.path()));
    let out = format!("{out}/of Jolanthe");
    let gone = format!("{folder}/nobody.svs");
    for (code, words, expected) in [
        (2, vec!["embed", &slide, &gone, "-o", &out], "path number 2"),
        (2, vec!["embed", &slide, "-o", &out, "--slide-list", &gone], "slide list: "),
        (2, vec!["embed", &slide, "-o", &out, "--Kaltenbrunner"], "argument "),
        (2, vec!["embed", &slide, "-o", &out, "--mpp", "Jolanthe"], "invalid value 'argument 6' for '--mpp"),
        (2, vec!["tiles", &slide, "-o", &out, "--tissue", "Jolanthe"], "argument "),
        (1, vec!["tiles", &slide, "-o", &out, "--tissue", "/Kaltenbrunner/mask.png"], "tissue"),
        (1, vec!["embed", &slide, "-o", &out, "--encoder", "/Kaltenbrunner/x.onnx"], "encoder"),
        (1, vec!["embed", &slide, "-o", &slide], "cannot write"),
        (2, vec!["tiles", &slide, "-o", &out, "--ids-recipient", "Kaltenbrunner"], "--ids-recipient"),
    ] {
        let output = paraffin(&[&words[..], &["--ids", "random"]].concat()).output().expect("runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(named(&said(&output)), None, "{told}");
        assert!(told.contains(expected), "{words:?}: {told}");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
    }
    // At home it may be said.
    assert!(run_to(2, &["embed", &gone, "-o", &out]).contains("nobody.svs"));
    assert!(run_to(2, &["embed", &slide, "-o", &out, "--ids", "hmac"]).contains("--ids-key-file FILE"));
    assert!(run_to(2, &["embed", &slide, "-o", &out, "--ids-study", "x"]).contains("goes with --ids hmac"));
    assert!(run_to(2, &["ids", "/nowhere/at/all"]).contains("not an OUT"));
}
