//! What whole-program tests share: where data and tools are, and how paraffin is run.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The real slide that ships with the project.
pub fn real_slide() -> PathBuf {
    root().join("testdata/CMU-1-Small-Region.svs")
}

/// Every slide that ships with the project: its folder, and what the manifest there says of it; paths in a manifest are
/// relative to its folder.
pub fn fixtures() -> Vec<(PathBuf, toml::Value)> {
    let testdata = root().join("testdata");
    let folders = std::fs::read_dir(&testdata).expect("readable").map(|e| e.expect("readable").path());
    let mut folders: Vec<PathBuf> = folders.filter(|f| f.join("manifest.toml").is_file()).collect();
    folders.sort();
    folders.insert(0, testdata);
    let mut entries = Vec::new();
    for folder in folders {
        let text = std::fs::read_to_string(folder.join("manifest.toml")).expect("manifest");
        let manifest: toml::Value = toml::from_str(&text).expect("TOML");
        let files = manifest["file"].as_array().expect("entries").clone();
        assert!(!files.is_empty(), "{}", folder.display());
        entries.extend(files.into_iter().map(|file| (folder.clone(), file)));
    }
    entries
}

/// More data, where this machine has it; `None` (and a line that says so) elsewhere.
pub fn shared_data() -> Option<PathBuf> {
    let path = root().join("../shared/data");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped in part: no ../shared/data on this machine");
    None
}

/// The Python of `scripts/setup --dev`.
pub fn python() -> PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.is_file(), "the tests compare with other tools: run scripts/setup --dev first");
    python
}

/// Runs a script of the project and returns its standard output.
pub fn script(name: &str, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    let mut child = Command::new(python())
        .arg(root().join("scripts").join(name))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut pipe = child.stdin.take().expect("piped");
    let stdin = stdin.to_vec();
    let writer = std::thread::spawn(move || pipe.write_all(&stdin));
    let output = child.wait_with_output().expect("python ends");
    let _ = writer.join();
    assert!(output.status.success(), "{name} {args:?} failed");
    output.stdout
}

/// The JSON that a script prints.
pub fn script_json(name: &str, args: &[&str]) -> serde_json::Value {
    serde_json::from_slice(&script(name, args, b"")).expect("the script prints JSON")
}

/// paraffin with these words.
pub fn paraffin(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paraffin"));
    command.args(words);
    command
}

/// Runs paraffin to its end.
pub fn run(words: &[&str]) -> Output {
    paraffin(words).output().expect("paraffin starts")
}

/// Runs paraffin, which must end with this code; returns what it said.
pub fn run_to(code: i32, words: &[&str]) -> String {
    let output = run(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "paraffin {words:?} said:\n{said}");
    said
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// All files below a directory, relative to it, sorted.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(directory).sort_by_file_name();
    let files = walk.into_iter().map(|e| e.expect("readable")).filter(|e| e.file_type().is_file());
    files.map(|e| e.path().strip_prefix(directory).expect("below").to_path_buf()).collect()
}

/// The files of an OUT, or some of them, with what they hold.
pub type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// What the files hold that are `wanted`, by their paths below a directory.
pub fn contents_where(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Contents {
    let kept = files(directory).into_iter().filter(|f| wanted(f));
    kept.map(|f| (f.clone(), std::fs::read(directory.join(f)).expect("readable"))).collect()
}

/// All that must not depend on how a run went: every file but those of `site-private`, which hold paths and times.
pub fn contents(out: &Path) -> Contents {
    contents_where(out, |f| !f.starts_with("site-private"))
}

/// [`contents`] with the private files but the notes of runs, which hold times.
pub fn contents_and_ids(out: &Path) -> Contents {
    contents_where(out, |f| !f.starts_with("site-private/runs"))
}

/// That two OUTs hold the same; a difference is told by the files' names.
#[track_caller]
pub fn assert_same(got: &Contents, expected: &Contents) {
    let names = got.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>();
    let differ: Vec<_> = names.into_iter().filter(|name| got.get(*name) != expected.get(*name)).collect();
    assert!(differ.is_empty(), "these differ: {differ:?}");
}
