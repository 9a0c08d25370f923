//! Power cuts and kills at any write, sync, rename, link or new directory: what was synced is all that is left afterwards, and it
//! is enough. The shim (`tests/shim/faults.c`) kills the run there and notes what was durable; the test goes back to that.

mod common;
#[path = "common/shim.rs"]
mod shim;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Contents, contents_where, files, root, run, run_to, text};

/// Names in a directory: inode and whether it is a directory.
type Listing = Vec<(String, u64, bool)>;

/// What is left of OUT after a power cut.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// What directories held when they were synced, and of each file what was synced.
    Synced,
    /// The file system had written the names, but not the contents, as some do: unsynced files are empty.
    NamesWithoutContents,
}

/// Builds at `to` what is left of `out`.
fn after_the_cut(out: &Path, snaps: &Path, left: Left, to: &Path) {
    let mut listings: HashMap<PathBuf, Listing> = HashMap::new();
    let mut notes: Vec<_> = fs::read_dir(snaps).expect("readable").map(|e| e.expect("readable").path()).collect();
    notes.sort();
    for note in notes.iter().filter(|n| n.file_name().is_some_and(|n| n.to_string_lossy().starts_with('d'))) {
        let note = fs::read_to_string(note).expect("readable");
        let mut lines = note.lines();
        let directory = PathBuf::from(lines.next().expect("a path"));
        let entries = lines.map(|line| {
            let mut fields = line.splitn(3, ' ');
            let kind = fields.next().expect("a kind");
            let inode = fields.next().expect("an inode").parse().expect("a number");
            (fields.next().expect("a name").to_string(), inode, kind == "d")
        });
        listings.insert(directory, entries.collect());
    }
    build(out, &listings, snaps, left, to);
}

fn build(at: &Path, listings: &HashMap<PathBuf, Listing>, snaps: &Path, left: Left, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    let listing = match left {
        Left::Synced => listings.get(at).cloned().unwrap_or_default(),
        Left::NamesWithoutContents => now(at),
    };
    for (name, inode, is_dir) in listing {
        if is_dir {
            build(&at.join(&name), listings, snaps, left, &to.join(&name));
        } else {
            let synced = fs::read(snaps.join(format!("i{inode}"))).unwrap_or_default();
            fs::write(to.join(&name), synced).expect("writes");
        }
    }
}

fn now(directory: &Path) -> Listing {
    use std::os::unix::fs::DirEntryExt;
    let entries = fs::read_dir(directory).into_iter().flatten().map(|e| e.expect("readable"));
    entries
        .map(|e| (e.file_name().into_string().expect("UTF-8"), e.ino(), e.file_type().expect("a type").is_dir()))
        .collect()
}

/// Without temporary files of another boot, which stay for a week: they are nobody's.
fn contents(out: &Path) -> Contents {
    contents_where(out, |f| !f.starts_with("site-private") && !f.to_string_lossy().ends_with(".part"))
}

/// Whether a slide counts as done.
fn records(out: &Path) -> Vec<PathBuf> {
    files(out)
        .into_iter()
        .filter(|f| f.to_string_lossy().contains("/records/features_") && f.extension().is_some_and(|e| e == "json"))
        .collect()
}

#[test]
fn what_was_synced_when_the_power_went_is_enough() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    let (slides, model, whole, out, snaps) = (at("slides"), at("tiny.onnx"), at("whole"), at("out"), at("snaps"));
    fs::create_dir(&slides).expect("creates");
    for (i, name) in ["aperio_ycc420_256.svs", "aperio_rgb_240.svs"].iter().enumerate() {
        fs::copy(root().join("testdata/generated").join(name), slides.join(format!("{i}.svs"))).expect("copies");
    }
    common::script("make_test_encoder.py", &[text(&model)], b"");
    // `beat`: after how many seconds a worker counts as dead; it writes six times as often, which must not be counted below.
    let words = |out: &Path, beat: &str| {
        let (slides, out, model) = (text(&slides), text(out), text(&model));
        let encoder = ["--encoder", model, "--threads", "1"];
        let words = [&["embed", slides, "-o", out, "--tissue", "none", "--lease-timeout", beat][..], &encoder].concat();
        words.into_iter().map(String::from).collect::<Vec<_>>()
    };
    // A lease whose contents were lost is nobody's after this time.
    let run_out = |out: &Path, code: i32| run_to(code, &words(out, "1").iter().map(String::as_str).collect::<Vec<_>>());
    run_out(&whole, 0);
    let expected = contents(&whole);
    let words_out = words(&out, "120");
    let words_out: Vec<&str> = words_out.iter().map(String::as_str).collect();
    let Some(changes) = shim::count(&format!("change,{}", text(&out)), &words_out, directory.path()) else { return };
    fs::remove_dir_all(&out).expect("removes");
    let (mut kept, mut points) = (0, 0);
    for n in (1..=changes).filter(|n| n % 9 == 0 || n + 3 > changes) {
        fs::create_dir(&snaps).expect("creates");
        let fault = format!("change,{},{n},1,kill", text(&out));
        let settings = [("FAULTS", fault.as_str()), ("POWER", text(directory.path())), ("POWER_SNAPS", text(&snaps))];
        let (code, said) = shim::run_faulty(&words_out, &settings).expect("as before");
        assert_eq!(code, None, "killed: {said}");
        points += 1;
        for left in [Left::Synced, Left::NamesWithoutContents] {
            let after = at("after");
            after_the_cut(&out, &snaps, left, &after);
            let done = records(&after);
            // A record survives only with all that it names.
            if !done.is_empty() {
                kept += 1;
                let output = run(&["verify", text(&after)]);
                let found = String::from_utf8_lossy(&output.stdout);
                let harmless = ["no record names it", "unfinished: ", "problem", "all whole"];
                let torn = found.lines().filter(|l| !harmless.iter().any(|h| l.contains(h))).count();
                assert_eq!(torn, 0, "{n} of {changes}, {left:?}: {found}");
            }
            let said = run_out(&after, 0);
            let redone = said.lines().filter(|l| l.contains("done again")).count();
            assert_eq!(redone, 0, "{n} of {changes}, {left:?}: what counted as done was not: {said}");
            assert!(contents(&after) == expected, "{n} of {changes}, {left:?}: {said}");
            fs::remove_dir_all(&after).expect("removes");
        }
        // And without a power cut: killed there, the rest goes on.
        let said = run_out(&out, 0);
        assert!(contents(&out) == expected, "killed at {n} of {changes}: {said}");
        let parts: Vec<_> = files(&out).into_iter().filter(|f| f.to_string_lossy().ends_with(".part")).collect();
        assert!(parts.is_empty(), "killed at {n}: {parts:?}");
        fs::remove_dir_all(&out).expect("removes");
        fs::remove_dir_all(&snaps).expect("removes");
    }
    assert!(points > 10 && kept > 5, "{points} points, {kept} with finished slides");
}
