//! `tests/shim/faults.c`, compiled: faults between paraffin and the C library.
#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::{paraffin, root, text};

/// The library, compiled once a test program; `None` (and a line that says so) where there is no C compiler.
pub fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        let source = root().join("tests/shim/faults.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let mut command = Command::new("cc");
        command.args(["-Wall", "-Wextra", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-lpthread");
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                Some(library)
            }
            Err(e) => {
                eprintln!("skipped: no C compiler (cc: {e}), so no faults can be injected");
                None
            }
        }
    };
    LIBRARY.get_or_init(compile).as_deref()
}

/// paraffin with these words behind the shim.
pub fn faulty(words: &[&str], settings: &[(&str, &str)]) -> Option<Command> {
    let mut command = paraffin(words);
    command.env("LD_PRELOAD", library()?).envs(settings.iter().copied());
    Some(command)
}

/// Runs paraffin behind the shim; returns its exit code, `None` where it was killed, and what it said.
pub fn run_faulty(words: &[&str], settings: &[(&str, &str)]) -> Option<(Option<i32>, String)> {
    let output = faulty(words, settings)?.output().expect("paraffin starts");
    Some((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// How many calls match a rule in a whole run; the rule's last three fields are put here.
pub fn count(rule: &str, words: &[&str], directory: &Path) -> Option<u64> {
    let counts = directory.join("counts");
    let rule = format!("{rule},1,1,0");
    let (code, said) = run_faulty(words, &[("FAULTS", &rule), ("FAULTS_COUNT", text(&counts))])?;
    assert_eq!(code, Some(0), "{said}");
    let text = std::fs::read_to_string(&counts).expect("counted");
    Some(text.lines().next().and_then(|line| line.parse().ok()).expect("a number"))
}
