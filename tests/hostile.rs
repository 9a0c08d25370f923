//! 64 malformed or extreme files, one run each: a verdict by name, no panic, no abort, no hang, bounded memory.
//!
//! `tests/hostile.tsv` has the verdicts: file, exit code, kind of failure (or `ok`), tiles.
//! The files are in ../shared/data/hostile.tar.xz; hostile_openslide.tsv there says what OpenSlide makes of each.

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MOST_SECONDS: u64 = 10;
const MOST_BYTES: i64 = 1 << 30;

struct Verdict {
    code: Option<i32>,
    kind: String,
    tiles: i64,
    took: Duration,
    peak_bytes: i64,
    said: String,
}

/// Runs `paraffin embed` on one file. Its peak memory comes from the kernel's account of the ended process.
#[allow(clippy::zombie_processes, reason = "waited for with wait4, which tells its peak memory")]
fn embed(slide: &Path, out: &Path) -> Verdict {
    let started = Instant::now();
    let log = out.with_extension("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_paraffin"));
    command
        .arg("embed")
        .arg(slide)
        .arg("-o")
        .arg(out)
        .args(["--target-mpp", "1", "--progress", "lines"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("creates"));
    // A hang ends as a failure here, not as a test run that never ends.
    command.process_group(0);
    let child = command.spawn().expect("starts");
    let pid = i32::try_from(child.id()).expect("a pid");
    let watchdog = std::thread::spawn(move || {
        for _ in 0..MOST_SECONDS * 30 {
            std::thread::sleep(Duration::from_millis(100));
            // SAFETY: signal 0 only asks whether the process is there.
            #[allow(unsafe_code, reason = "libc")]
            if unsafe { libc::kill(pid, 0) } != 0 {
                return;
            }
        }
        // SAFETY: ends the process group that this test made.
        #[allow(unsafe_code, reason = "libc")]
        unsafe {
            libc::kill(-pid, libc::SIGKILL)
        };
    });
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: waits for the child just started; both pointers are valid.
    #[allow(unsafe_code, reason = "libc")]
    let usage = unsafe {
        assert_eq!(libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()), pid);
        usage.assume_init()
    };
    drop(watchdog);
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let said = std::fs::read_to_string(log).expect("readable");
    // Not there where nothing failed.
    let failures = out.join("site-private/failures");
    let failures = if failures.is_dir() { common::files(&failures) } else { Vec::new() };
    let kind = match failures.first() {
        None => "ok".to_string(),
        Some(file) => {
            let text = std::fs::read_to_string(out.join("site-private/failures").join(file)).expect("readable");
            let failure: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            failure["kind"].as_str().expect("kind").to_string()
        }
    };
    let records = walkdir::WalkDir::new(out).into_iter().filter_map(Result::ok);
    let mut files = records.filter(|e| e.file_type().is_file()).map(|e| e.into_path());
    let tiles = files.find(|p| p.to_string_lossy().contains("records/features_")).map_or(0, |r| {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(r).expect("readable")).expect("JSON");
        record["tiles"]["written"].as_i64().expect("count")
    });
    Verdict { code, kind, tiles, took: started.elapsed(), peak_bytes: usage.ru_maxrss * 1024, said }
}

#[test]
fn every_hostile_file_gets_its_verdict() {
    let Some(data) = common::shared_data() else { return };
    let directory = tempfile::tempdir().expect("temporary directory");
    let unpacked = Command::new("tar")
        .args(["-xJf", common::text(&data.join("hostile.tar.xz")), "-C", common::text(directory.path())])
        .status()
        .expect("tar starts");
    assert!(unpacked.success());
    let table = std::fs::read_to_string(common::root().join("tests/hostile.tsv")).expect("the table");
    let names = std::fs::read_to_string(data.join("hostile_openslide.tsv")).expect("the list");
    let files = common::files(directory.path());
    let mut got = String::from("# file\texit code\tkind\ttiles\n");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in names.lines() {
        let name = line.split('\t').next().expect("a name");
        let Some(file) = files.iter().find(|f| f.ends_with(name)) else {
            wrong.push(format!("{name} is not in the archive"));
            continue;
        };
        count += 1;
        let out = directory.path().join(format!("out{count}"));
        let verdict = embed(&directory.path().join(file), &out);
        let code = verdict.code.map_or("killed".to_string(), |c| c.to_string());
        got += &format!("{name}\t{code}\t{}\t{}\n", verdict.kind, verdict.tiles);
        println!(
            "{name}: {code} {} in {:?}, {} MB\n{}",
            verdict.kind,
            verdict.took,
            verdict.peak_bytes >> 20,
            verdict.said
        );
        if verdict.said.contains("panicked") || verdict.said.contains("a bug in paraffin") {
            wrong.push(format!("{name} panicked:\n{}", verdict.said));
        }
        if verdict.took > Duration::from_secs(MOST_SECONDS) {
            wrong.push(format!("{name} took {:?}", verdict.took));
        }
        if verdict.peak_bytes > MOST_BYTES {
            wrong.push(format!("{name} took {} MB of memory", verdict.peak_bytes >> 20));
        }
    }
    assert!(count >= 64, "{count} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if std::env::var_os("PARAFFIN_UPDATE_TABLES").is_some() {
        std::fs::write(common::root().join("tests/hostile.tsv"), &got).expect("writes");
    } else {
        assert_eq!(got, table, "verdicts changed; look at them, then run again with PARAFFIN_UPDATE_TABLES=1");
    }
}
