//! `--stage-dir`: the same bytes with copies as without, of slides with companions too, and nothing is left behind.

mod common;
#[path = "common/shim.rs"]
mod shim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Contents, contents_and_ids, files, paraffin, root, run_to, text};

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for file in files(from) {
        fs::create_dir_all(to.join(&file).parent().expect("a folder")).expect("creates");
        fs::copy(from.join(&file), to.join(&file)).expect("copies");
    }
}

/// Aperio, a DICOM series and a MIRAX slide with its folder, and what is wanted of them.
struct Archive {
    directory: tempfile::TempDir,
    expected: Contents,
}

impl Archive {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let slides = directory.path().join("slides");
        let data = root().join("testdata");
        fs::create_dir(&slides).expect("creates");
        fs::create_dir(directory.path().join("near")).expect("creates");
        fs::copy(common::real_slide(), slides.join("a.svs")).expect("copies");
        copy_tree(&data.join("dicom/three_levels"), &slides.join("dicom"));
        copy_tree(&data.join("openslide/mirax"), &slides.join("mirax/mirax"));
        fs::copy(data.join("openslide/mirax.mrxs"), slides.join("mirax/mirax.mrxs")).expect("copies");
        common::script("make_test_encoder.py", &[text(&directory.path().join("tiny.onnx"))], b"");
        let mut archive = Archive { directory, expected: BTreeMap::new() };
        let words = archive.words("whole");
        run_to(0, &words.iter().map(String::as_str).collect::<Vec<_>>());
        archive.expected = contents_and_ids(&archive.at("whole"));
        assert_eq!(archive.expected.keys().filter(|f| f.starts_with("site-private/ids")).count(), 3);
        archive
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn words(&self, out: &str) -> Vec<String> {
        let at = |name: &str| text(&self.at(name)).to_string();
        let fixed = ["--tissue", "none", "--allow-upsample", "--mpp", "0.5"].map(String::from);
        let words = ["embed".into(), at("slides"), "-o".into(), at(out), "--encoder".into(), at("tiny.onnx")];
        words.into_iter().chain(fixed).collect()
    }

    /// Runs with copies; what is said.
    fn staged(&self, out: &str, more: &[&str], settings: &[(&str, &str)]) -> Option<String> {
        let mut words = self.words(out);
        let near = self.at("near");
        words.extend(["--stage-dir", text(&near)].map(String::from));
        words.extend(more.iter().map(|w| (*w).to_string()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = match settings {
            [] => paraffin(&words),
            settings => shim::faulty(&words, settings)?,
        };
        let output = command.output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(files(&near).is_empty(), "{said}");
        Some(said)
    }
}

#[test]
fn copies_give_the_same_bytes_and_go() {
    let archive = Archive::new();
    let said = archive.staged("staged", &[], &[]).expect("no shim needed");
    assert!(!said.contains("not staged"), "{said}");
    // Also the ids' paths, in site-private: those of the originals.
    assert!(contents_and_ids(&archive.at("staged")) == archive.expected, "{said}");
    assert_eq!(fs::read_dir(archive.at("near")).expect("there").count(), 0);
    // A budget that only some fit in.
    let said = archive.staged("some", &["--stage-bytes", "1M"], &[]).expect("no shim needed");
    assert!(said.contains("a: not staged, read where it lies") && said.contains("more than --stage-bytes"), "{said}");
    assert!(contents_and_ids(&archive.at("some")) == archive.expected);
}

#[test]
fn tiles_are_read_from_the_copies() {
    let archive = Archive::new();
    let slides = archive.at("slides");
    // Of the copied bytes alone: reads of the copy count, and the originals are read once by it.
    let rule = format!("read,{},1,1,0;read,.paraffin-stage.,1,1,0", text(&slides.join("a.svs")));
    let counts = archive.at("counts");
    let settings = [("FAULTS", rule.as_str()), ("FAULTS_COUNT", text(&counts))];
    if archive.staged("staged", &[], &settings).is_none() {
        return;
    }
    let counted = fs::read_to_string(&counts).expect("counted");
    let counted: Vec<u64> = counted.lines().map(|n| n.parse().expect("a number")).collect();
    assert!(counted[0] < 10, "{counted:?}: its fingerprint and its copying");
    assert!(counted[1] > 250, "{counted:?}: opening, tissue, tiles");
}

#[test]
fn a_staging_disk_that_is_full_or_fails_is_done_without() {
    let archive = Archive::new();
    for (n, count, errno) in [(1, 1, libc::ENOSPC), (2, 0, libc::ENOSPC), (1, 0, libc::EIO)] {
        let fault = format!("write,.paraffin-stage.,{n},{count},{errno}");
        let Some(said) = archive.staged("staged", &[], &[("FAULTS", &fault)]) else { return };
        assert!(said.contains("not staged, read where it lies"), "{said}");
        assert!(contents_and_ids(&archive.at("staged")) == archive.expected, "{said}");
        fs::remove_dir_all(archive.at("staged")).expect("removes");
    }
}

#[test]
fn what_a_killed_run_left_is_cleared_and_nothing_else() {
    let archive = Archive::new();
    let near = archive.at("near");
    let mut words = archive.words("killed");
    words.extend(["--stage-dir", text(&near)].map(String::from));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((code, said)) = shim::run_faulty(&words, &[("FAULTS", "read,.paraffin-stage.,100,1,kill")]) else {
        return;
    };
    assert_eq!(code, None, "{said}");
    assert!(!files(&near).is_empty(), "copies are there");
    // Of another boot or host; and what only looks like it.
    let theirs =
        [".paraffin-stage.0123456789abcdef-1-0123456789abcdef.part/1/a.svs", ".paraffin-stage.mine/a", "a.svs"];
    for file in theirs {
        fs::create_dir_all(near.join(file).parent().expect("a folder")).expect("creates");
        fs::write(near.join(file), "not ours").expect("writes");
    }
    run_to(0, &words);
    let mut left: Vec<_> = files(&near).iter().map(|f| f.to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, theirs);
    assert!(contents_and_ids(&archive.at("killed")) == archive.expected);
}
