//! Runs that signals and kills stop amid a slide, and how they go on: at the tile, and with the same bytes in the end.
//! A stop comes at the n-th write of a file (`tests/shim/faults.c`), not at a moment of the clock.

mod common;
#[path = "common/shim.rs"]
mod shim;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{Contents, contents, files, paraffin, real_slide, root, run, run_to, text};

const ARTEFACT: &str = "checkpoints/features_tiny";
const ID: &str = "CMU-1-Small-Region";

/// A small model, so that thousands of tiles take seconds.
fn model(directory: &Path) -> PathBuf {
    let model = directory.join("tiny.onnx");
    common::script("make_test_encoder.py", &[text(&model)], b"");
    model
}

/// Tiles that a run embedded, as its table says.
#[track_caller]
fn embedded(said: &str) -> usize {
    let line = said.lines().find(|l| l.contains(" tiles in ")).unwrap_or_else(|| panic!("no table in:\n{said}"));
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|w| *w == "tiles").expect("tiles");
    words[at - 1].parse().expect("a number")
}

/// Tiles that earlier runs had done, as the table says.
fn resumed(said: &str) -> usize {
    let line = said.lines().find(|l| l.contains("tiles more were done before"));
    line.map_or(0, |l| l.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
}

fn grid(out: &Path) -> PathBuf {
    let mut grids = fs::read_dir(out).expect("readable").map(|e| e.expect("readable").path());
    grids.find(|g| g.join("contracts").is_dir()).expect("a grid")
}

fn send(pid: u32, signal: i32) {
    // SAFETY: signals a child that was started here and not waited for.
    #[allow(unsafe_code, reason = "libc")]
    unsafe {
        libc::kill(i32::try_from(pid).expect("a pid"), signal)
    };
}

#[test]
fn stopped_at_any_tile_it_goes_on_there_with_the_same_bytes() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let slides = directory.path().join("slides");
    fs::create_dir(&slides).expect("creates");
    fs::copy(real_slide(), slides.join("a.svs")).expect("copies");
    fs::copy(root().join("testdata/generated/aperio_ycc420_256.svs"), slides.join("b.svs")).expect("copies");
    fs::copy(real_slide(), slides.join("c.svs")).expect("copies");
    let model = model(directory.path());
    // 256 rows a write. The rows of a checkpoint are written again when a slide goes on.
    let points = [("a", 3), ("a", 4), ("b", 1), ("c", 2), ("c", 4)];
    for (settings, points) in [(&[][..], &points[..]), (&["--precision", "f16", "--batch-size", "7"], &points[3..])] {
        let whole = directory.path().join(format!("whole-{}", settings.len()));
        let words = |out: &Path| {
            let common = ["embed", text(&slides), "-o", text(out), "--encoder", text(&model)];
            let common = [&common[..], &["--tissue", "none", "--overlap-px", "64"]].concat();
            [&common[..], settings].concat().into_iter().map(String::from).collect::<Vec<_>>()
        };
        let all = words(&whole);
        let all = embedded(&run_to(0, &all.iter().map(String::as_str).collect::<Vec<_>>()));
        let expected = contents(&whole);
        let out = directory.path().join(format!("stopped-{}", settings.len()));
        let words = words(&out);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (mut stops, mut kept) = (0, 0);
        for (slide, write) in points {
            let fault = format!("write,/features_tiny/.{slide}.h5,{write},1,term");
            let Some((code, said)) = shim::run_faulty(&words, &[("FAULTS", &fault)]) else { return };
            println!("{fault}: {code:?}\n{said}");
            assert_eq!(code, Some(75), "{said}");
            stops += 1;
            kept += said.lines().filter(|l| l.contains(": kept ")).count();
            let verified = run_to(0, &["verify", text(&out)]);
            assert!(verified.contains("all whole"), "{verified}");
        }
        assert!(stops == points.len() && kept >= stops - 1, "{stops} stops, {kept} times rows were kept");
        let said = run_to(0, &words);
        println!("{said}");
        assert!(embedded(&said) < all, "{said}");
        assert!(contents(&out) == expected, "other bytes");
        assert!(!grid(&out).join("checkpoints").exists(), "checkpoints are gone");
    }
}

/// A run that was stopped once: its words, OUT, what OUT is to hold in the end, and its tiles.
type Stopped = (Vec<String>, PathBuf, Contents, usize);

/// The real slide in many tiles, stopped once.
fn stopped(directory: &Path) -> Option<Stopped> {
    let slide = directory.join(format!("{ID}.svs"));
    fs::copy(real_slide(), &slide).expect("copies");
    let model = model(directory);
    let words = |out: &Path| -> Vec<String> {
        let words = ["embed", text(&slide), "-o", text(out), "--encoder", text(&model)];
        [&words[..], &["--tissue", "none", "--overlap-px", "64"]].concat().into_iter().map(String::from).collect()
    };
    let whole = directory.join("whole");
    let all = embedded(&run_to(0, &words(&whole).iter().map(String::as_str).collect::<Vec<_>>()));
    let out = directory.join("out");
    let words = words(&out);
    let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
    let (code, said) = shim::run_faulty(&borrowed, &[("FAULTS", &format!("write,/features_tiny/.{ID}.h5,3,1,term"))])?;
    assert!(code == Some(75) && said.contains(": kept "), "{said}");
    Some((words, out, contents(&whole), all))
}

#[test]
fn a_stopped_slide_goes_on_under_random_ids_and_tells_no_name() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("slides")).expect("creates");
    fs::copy(real_slide(), at("slides").join("Mustermann_1962.svs")).expect("copies");
    let (slides, out, model) = (at("slides"), at("out"), model(directory.path()));
    let words = ["embed", text(&slides), "-o", text(&out), "--encoder", text(&model), "--tissue", "none"];
    let words = [&words[..], &["--overlap-px", "64", "--ids", "random"]].concat();
    let fault = "write,.h5.,3,1,term";
    let Some((code, said)) = shim::run_faulty(&words, &[("FAULTS", fault)]) else { return };
    assert!(code == Some(75) && said.contains(": kept ") && !said.contains("Mustermann"), "{said}");
    assert_eq!(fs::read_dir(grid(&out).join(ARTEFACT)).expect("there").count(), 2, "a checkpoint");
    run_to(0, &["audit", text(&out), "--against", text(&slides)]);
    let said = run_to(0, &words);
    assert!(resumed(&said) > 0 && !said.contains("Mustermann"), "{said}");
}

#[test]
fn a_checkpoint_that_does_not_fit_is_discarded_and_said() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some((words, out, expected, all)) = stopped(directory.path()) else { return };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let place = grid(&out).join(ARTEFACT);
    let (note, rows) = (place.join(format!("{ID}.json")), place.join(format!("{ID}.h5")));
    let text_before = fs::read_to_string(&note).expect("readable");
    let rows_before = fs::read(&rows).expect("readable");
    let json: serde_json::Value = serde_json::from_str(&text_before).expect("JSON");
    let plan = json["work"]["plan_sha256"].as_str().expect("a plan");
    let contract = json["work"]["contract_sha256"].as_str().expect("a contract");
    let mut flipped = rows_before.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let other = "0".repeat(64);
    for (changed, bytes, why) in [
        (text_before.replace(plan, &other), &rows_before, "another slide or plan"),
        (text_before.replace(contract, &other), &rows_before, "another contract"),
        (text_before.replace("\"cpu\"", "\"cuda\""), &rows_before, "on another device"),
        (text_before.replace("checkpoint/1", "checkpoint/9"), &rows_before, "another kind"),
        (text_before[..100].to_string(), &rows_before, "damaged"),
        (text_before.clone(), &flipped, "not those that were written"),
    ] {
        fs::create_dir_all(&place).expect("creates");
        fs::write(&note, changed).expect("writes");
        fs::write(&rows, bytes).expect("writes");
        // Stopped at once: what matters is what is said of the checkpoint.
        let (_, said) = shim::run_faulty(&words, &[("FAULTS", "change,overviews,1,1,term")]).expect("as before");
        assert!(said.contains("begins anew") && said.contains(why), "{why}: {said}");
    }
    fs::create_dir_all(&place).expect("creates");
    fs::write(&note, text_before.replace(plan, &other)).expect("writes");
    fs::write(&rows, &rows_before).expect("writes");
    let said = run_to(0, &words);
    assert_eq!((embedded(&said), resumed(&said)), (all, 0), "{said}");
    assert!(contents(&out) == expected);
}

#[test]
fn a_checkpoint_of_a_changed_slide_is_not_gone_on_with() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some((words, out, _, all)) = stopped(directory.path()) else { return };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A byte after the end: the same pixels, another file.
    let mut bytes = fs::read(words[1]).expect("readable");
    bytes.push(0);
    fs::write(words[1], bytes).expect("writes");
    let said = run_to(0, &words);
    assert_eq!((embedded(&said), resumed(&said)), (all, 0), "{said}");
    run_to(0, &["verify", text(&out)]);
}

#[test]
fn another_host_goes_on_and_damage_is_found_by_verify() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some((words, out, expected, all)) = stopped(directory.path()) else { return };
    let said = run_to(0, &["verify", text(&out)]);
    assert!(said.contains("all whole; 1 slide begun"), "{said}");
    let rows = grid(&out).join(ARTEFACT).join(format!("{ID}.h5"));
    let bytes = fs::read(&rows).expect("readable");
    fs::write(&rows, &bytes[1..]).expect("writes");
    let output = run(&["verify", text(&out)]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("the next run begins the slide anew"), "{said}");
    fs::write(&rows, &bytes).expect("writes");
    // OUT and the slide lie elsewhere there.
    let elsewhere = directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("creates");
    let (moved, slide) = (elsewhere.join("out"), elsewhere.join(format!("{ID}.svs")));
    fs::rename(&out, &moved).expect("moves");
    fs::rename(&words[1], &slide).expect("moves");
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    (words[1], words[3]) = (text(&slide), text(&moved));
    let said = run_to(0, &words);
    assert!(resumed(&said) > 0 && embedded(&said) + resumed(&said) == all, "{all}: {said}");
    assert!(contents(&moved) == expected);
}

/// Rows are kept from time to time, so that also a killed run goes on amid a slide.
#[test]
fn a_killed_run_goes_on_where_rows_were_last_kept() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (whole, out) = (directory.path().join("whole"), directory.path().join("out"));
    let slide = real_slide();
    let mut words = vec!["embed", text(&slide), "-o", text(&whole), "--tissue", "none", "--overlap-px", "128"];
    let all = embedded(&run_to(0, &words));
    let expected = contents(&whole);
    words[3] = text(&out);
    words.extend(["--checkpoint-every", "1", "--progress", "lines"]);
    let mut child = paraffin(&words).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let kept = lines.find(|l| l.contains(": kept ")).expect("rows were kept");
    child.kill().expect("kills");
    child.wait().expect("ends");
    println!("{kept}");
    let said = run_to(0, &words);
    assert!(resumed(&said) > 0 && embedded(&said) + resumed(&said) == all, "{all}: {said}");
    assert!(contents(&out) == expected);
}

#[test]
fn the_exit_code_is_the_users_and_the_grace_is_kept() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let out = directory.path().join("out");
    let slide = real_slide();
    let words =
        ["embed", text(&slide), "-o", text(&out), "--tissue", "none", "--overlap-px", "160", "--exit-on-term", "99"];
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        let mut child = paraffin(&words).stderr(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|l| l.starts_with("encoder ")), "the work begins");
        send(child.id(), signal);
        let said: Vec<String> = lines.collect();
        assert_eq!(child.wait().expect("ends").code(), Some(99), "{said:?}");
        assert!(said.iter().any(|l| l.contains("stopped by a signal: run the same command again")), "{said:?}");
    }
    let left: Vec<_> = files(&out).into_iter().filter(|f| f.to_string_lossy().ends_with(".part")).collect();
    assert!(left.is_empty(), "{left:?}");
    // A disk that hangs: no read ends, and the run still does. Naming the slide takes two reads, opening it many more.
    let settings = [("FAULTS", "read,.svs,8,1,term"), ("SLOW", ".svs"), ("SLOW_US", "0"), ("STALL_AFTER", "7")];
    let mut stalled = words.to_vec();
    stalled.extend(["--grace", "1"]);
    let Some((code, said)) = shim::run_faulty(&stalled, &settings) else { return };
    assert!(code == Some(99) && said.contains("not done within --grace 1 s"), "{code:?} {said}");
}
