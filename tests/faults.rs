//! Disks and shares that fail: every fault is injected (`tests/shim/faults.c`), and whatever lies under its final name afterwards
//! is whole, nothing is counted as done that is not, and the same command ends with the bytes of an undisturbed run.

mod common;
#[path = "common/shim.rs"]
mod shim;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Contents, contents, files, root, run, run_to, text};

/// Three slides: a small model and few tiles, so that many faults take seconds.
struct Archive {
    directory: tempfile::TempDir,
    slides: PathBuf,
    model: PathBuf,
    expected: Contents,
}

impl Archive {
    fn new(slides: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let folder = directory.path().join("slides");
        fs::create_dir(&folder).expect("creates");
        for (i, slide) in slides.iter().enumerate() {
            fs::copy(root().join("testdata").join(slide), folder.join(format!("{i}.svs"))).expect("copies");
        }
        let model = directory.path().join("tiny.onnx");
        common::script("make_test_encoder.py", &[text(&model)], b"");
        let mut archive = Archive { directory, slides: folder, model, expected: BTreeMap::new() };
        let out = archive.out("whole");
        archive.run(0, &out);
        archive.expected = contents(&out);
        archive
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn words<'a>(&'a self, out: &'a Path) -> Vec<&'a str> {
        let encoder = text(&self.model);
        vec!["embed", text(&self.slides), "-o", text(out), "--tissue", "none", "--encoder", encoder, "--threads", "1"]
    }

    fn run(&self, code: i32, out: &Path) -> String {
        run_to(code, &self.words(out))
    }

    /// That the same command, undisturbed, ends with the expected bytes.
    #[track_caller]
    fn goes_on(&self, out: &Path, after: &str) {
        let said = self.run(0, out);
        let got = contents(out);
        let names = got.keys().chain(self.expected.keys());
        let differ: Vec<_> = names.filter(|name| got.get(*name) != self.expected.get(*name)).collect();
        assert!(differ.is_empty(), "after {after} these differ: {differ:?}\n{said}");
    }
}

/// That no file in OUT is torn: what `verify` finds is at most what no record names yet.
#[track_caller]
fn nothing_is_torn(out: &Path, after: &str) {
    if !out.is_dir() || !files(out).iter().any(|f| f.to_string_lossy().contains("/records/")) {
        return;
    }
    let output = run(&["verify", text(out)]);
    let said = String::from_utf8_lossy(&output.stdout);
    let torn: Vec<_> = said.lines().filter(|l| !l.contains("no record names it") && !l.contains("problem")).collect();
    assert!(torn.iter().all(|l| l.contains("all whole") || l.contains("unfinished")), "after {after}: {said}");
}

const ONE: &[&str] = &["generated/aperio_ycc420_256.svs"];
const THREE: &[&str] =
    &["generated/aperio_ycc420_256.svs", "generated/aperio_rgb_240.svs", "generated/aperio_comma.svs"];

/// How many of its writes, syncs, renames, links and directories lie in a run over `archive`.
fn changes(archive: &Archive) -> Option<u64> {
    let out = archive.out("counted");
    let rule = format!("change,{}", text(&out));
    shim::count(&rule, &archive.words(&out), archive.directory.path())
}

#[test]
fn any_write_sync_or_rename_may_fail() {
    let archive = Archive::new(ONE);
    let Some(changes) = changes(&archive) else { return };
    assert!(changes > 40, "{changes}");
    let errors = [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EROFS];
    for (i, n) in (1..=changes).step_by(2).enumerate() {
        let out = archive.out("out");
        let fault = format!("change,{},{n},1,{}", text(&out), errors[i % errors.len()]);
        let (code, said) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]).expect("as before");
        let torn = if out.is_dir() { contents(&out) } else { BTreeMap::new() };
        // Failing to sweep up or to note a failure is none; whoever ends well has written all of it.
        match code {
            Some(0) => assert!(torn == archive.expected, "{fault}: {said}"),
            Some(1 | 4) => assert!(said.contains("cannot write"), "{fault}: {said}"),
            code => panic!("{fault}: {code:?} {said}"),
        }
        let left: Vec<_> = torn.keys().filter(|f| f.to_string_lossy().ends_with(".part")).collect();
        assert!(left.is_empty(), "{fault}: {left:?}");
        nothing_is_torn(&out, &fault);
        archive.goes_on(&out, &fault);
        fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn where_nothing_can_be_written_the_run_ends_and_says_why() {
    let archive = Archive::new(THREE);
    for (errno, why) in [
        (libc::ENOSPC, "No space left"),
        (libc::EROFS, "Read-only"),
        (libc::EDQUOT, "quota"),
        (libc::EIO, "Input/output"),
    ] {
        let out = archive.out("out");
        // From the first byte of a feature file on; not that of a lease.
        let fault = format!("write,.h5.,1,0,{errno}");
        let Some((code, said)) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]) else { return };
        assert!(code == Some(1) && said.contains("The run ends here") && said.contains(why), "{code:?} {said}");
        // Of a disk that is full one slide tells; other failures must come three times.
        let failed = if errno == libc::EIO { 3 } else { 1 };
        assert!(said.contains(&format!("{failed} failed")), "{said}");
        assert!(said.lines().any(|l| l.starts_with("0 ") && l.contains(" write ")), "named in the table: {said}");
        nothing_is_torn(&out, &fault);
        archive.goes_on(&out, &fault);
        fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn a_run_that_waits_for_space_loses_nothing() {
    let archive = Archive::new(&["CMU-1-Small-Region.svs", THREE[0]]);
    let Some(changes) = changes(&archive) else { return };
    let full = archive.out("full");
    for n in [changes / 4, changes / 2, 3 * changes / 4, changes - 3] {
        let out = archive.out("out");
        let fault = format!("change,{},{n},1,full", text(&out));
        let settings = [("FAULTS", fault.as_str()), ("FULL", text(&full)), ("FULL_ROOT", text(&out))];
        let mut words = archive.words(&out);
        words.extend(["--wait-for-space", "--progress", "lines"]);
        let mut child =
            shim::faulty(&words, &settings).expect("as before").stderr(Stdio::piped()).spawn().expect("starts");
        let mut said = String::new();
        let mut waited = false;
        for line in BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok) {
            if line.contains("waiting for space") {
                waited = true;
                assert!(full.is_file());
                fs::remove_file(&full).expect("room again");
            }
            said += &(line + "\n");
        }
        assert!(child.wait().expect("ends").success(), "{n} of {changes}: {said}");
        assert!(waited, "{n} of {changes}: {said}");
        assert!(contents(&out) == archive.expected, "{n} of {changes}: {said}");
        fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn a_read_that_fails_is_tried_again_and_then_the_slide_fails_by_name() {
    let archive = Archive::new(THREE);
    let out = archive.out("out");
    // In opening, in the search for tissue, among the tiles.
    let Some(reads) = shim::count("read,1.svs", &archive.words(&out), archive.directory.path()) else { return };
    fs::remove_dir_all(&out).expect("removes");
    for n in [3, reads / 2, reads] {
        let fault = format!("read,1.svs,{n},2,{}", libc::EIO);
        let (code, said) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]).expect("as before");
        assert!(code == Some(0) && contents(&out) == archive.expected, "{fault}: {code:?} {said}");
        fs::remove_dir_all(&out).expect("removes");
        let fault = format!("read,1.svs,{n},0,{}", libc::EIO);
        let (code, said) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]).expect("as before");
        assert!(code == Some(4) && said.contains("2 slides done, 1 failed"), "{fault}: {code:?} {said}");
        let row = said.lines().find(|l| l.starts_with("1 ") && l.contains("Input/output error"));
        assert!(row.is_some_and(|l| l.contains("4 times")), "{fault}: {said}");
        nothing_is_torn(&out, &fault);
        archive.goes_on(&out, &fault);
        // Its share fails at the start of a run: what is done stays done.
        let fault = format!("read,1.svs,1,0,{}", libc::EIO);
        let (code, said) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]).expect("as before");
        assert!(code == Some(0) && said.contains("nothing to do: 3 slides done before"), "{code:?} {said}");
        fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn a_slide_that_vanishes_fails_alone_if_at_all() {
    let archive = Archive::new(THREE);
    let slide = archive.slides.join("1.svs");
    let bytes = fs::read(&slide).expect("readable");
    let out = archive.out("out");
    let Some(reads) = shim::count("read,1.svs", &archive.words(&out), archive.directory.path()) else { return };
    fs::remove_dir_all(&out).expect("removes");
    for n in [2, 3, reads] {
        let fault = format!("read,1.svs,{n},1,gone");
        let (code, said) = shim::run_faulty(&archive.words(&out), &[("FAULTS", &fault)]).expect("as before");
        assert!(!slide.exists(), "{fault}: {said}");
        match code {
            // An open file stays readable here; on a share it does not.
            Some(0) => assert!(contents(&out) == archive.expected),
            Some(4) => assert!(said.contains("2 slides done, 1 failed"), "{said}"),
            code => panic!("{fault}: {code:?} {said}"),
        }
        fs::write(&slide, &bytes).expect("writes");
        // As a share says it: the handle is stale.
        let stale = archive.out("stale");
        let fault = format!("read,1.svs,{n},0,{}", libc::ESTALE);
        let (code, said) = shim::run_faulty(&archive.words(&stale), &[("FAULTS", &fault)]).expect("as before");
        assert!(code == Some(4) && said.contains("2 slides done, 1 failed"), "{fault}: {said}");
        archive.goes_on(&stale, &fault);
        fs::remove_dir_all(&out).expect("removes");
        fs::remove_dir_all(&stale).expect("removes");
    }
    // Cut short, it is damaged.
    fs::write(&slide, &bytes[..bytes.len() / 2]).expect("writes");
    let said = archive.run(4, &out);
    assert!(said.contains("2 slides done, 1 failed"), "{said}");
}

#[test]
fn a_clock_that_jumps_does_no_harm() {
    let archive = Archive::new(THREE);
    for jump in ["3600", "864000"] {
        let out = archive.out("out");
        let words = archive.words(&out);
        let Some((code, said)) = shim::run_faulty(&words, &[("CLOCK", jump)]) else { return };
        assert!(code == Some(0) && contents(&out) == archive.expected, "{said}");
        let (code, said) = shim::run_faulty(&words, &[("CLOCK", jump)]).expect("as before");
        assert!(code == Some(0) && said.contains("nothing to do"), "{said}");
        fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn nothing_is_written_or_removed_beside_out() {
    let archive = Archive::new(THREE);
    // What looks like ours in a user's folder.
    let user = archive.slides.join(".0.svs.0123456789abcdef-1-0123456789abcdef.part");
    fs::write(&user, "the user's").expect("writes");
    fs::create_dir_all(archive.slides.join("checkpoints/features_tiny")).expect("creates");
    fs::write(archive.slides.join("checkpoints/features_tiny/0.h5"), "the user's").expect("writes");
    let before = contents(&archive.slides);
    let out = archive.out("out");
    let slides = text(&archive.slides);
    let fault = format!("change,{slides},1,1,0;unlink,{slides},1,1,0");
    let counts = archive.out("counts");
    let settings = [("FAULTS", fault.as_str()), ("FAULTS_COUNT", text(&counts))];
    for _ in 0..2 {
        let Some((code, said)) = shim::run_faulty(&archive.words(&out), &settings) else { return };
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(fs::read_to_string(&counts).expect("counted"), "0\n0\n", "changes among the slides");
    }
    assert!(contents(&archive.slides) == before);
    // In OUT, too, only what is its own: the user's files there stay.
    let theirs = [out.join("notes.txt"), out.join("20x_128px_0px_overlap/features_tiny/mine.part")];
    theirs.iter().for_each(|f| fs::write(f, "the user's").expect("writes"));
    archive.run(0, &out);
    assert!(theirs.iter().all(|f| f.is_file()));
}
