//! Several workers on one OUT: they share the slides, take over from the dead, and leave the same bytes as one.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use common::{contents, files, paraffin, real_slide, root, run_to, script, text};

/// Small slides under distinct names, and an encoder that takes no time.
struct Bench {
    directory: tempfile::TempDir,
    slides: PathBuf,
    encoder: PathBuf,
}

impl Bench {
    fn new(slides: usize) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let bench =
            Bench { slides: directory.path().join("slides"), encoder: directory.path().join("tiny.onnx"), directory };
        fs::create_dir(&bench.slides).expect("creates");
        for i in 0..slides {
            let from = ["aperio_ycc420_256.svs", "aperio_rgb_240.svs", "aperio_comma.svs"][i % 3];
            fs::copy(root().join("testdata/generated").join(from), bench.slides.join(format!("s{i:02}.svs")))
                .expect("copies");
        }
        script("make_test_encoder.py", &[text(&bench.encoder)], b"");
        bench
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn words<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let words = ["embed", text(&self.slides), "-o", text(out), "--encoder", text(&self.encoder)];
        [&words[..], &["--tissue", "none", "--threads", "1"], more].concat()
    }

    fn start(&self, out: &Path, more: &[&str]) -> Child {
        paraffin(&self.words(out, more)).stderr(Stdio::piped()).spawn().expect("starts")
    }
}

/// What a run may leave: nothing of leases, workers or temporary files.
#[track_caller]
fn assert_clean(out: &Path) {
    let left = files(out).into_iter().filter(|f| {
        let below = |name: &str| f.starts_with(Path::new("site-private").join(name));
        below("leases") || below("workers") || f.to_string_lossy().ends_with(".part")
    });
    let left: Vec<_> = left.collect();
    assert!(left.is_empty(), "{left:?}");
}

#[track_caller]
fn assert_same(got: &Path, expected: &Path) {
    common::assert_same(&contents(got), &contents(expected));
}

/// The ids that a worker said it has done.
fn done(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().filter_map(|l| l.strip_prefix('[')?.split_once("] ")?.1.split_once(": "));
    lines.filter(|(_, how)| how.contains("tiles") && !how.starts_with("failed")).map(|(id, _)| id.into()).collect()
}

/// Sends a signal to a worker.
fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a pid");
    // SAFETY: signals a child that was not waited for yet.
    #[allow(unsafe_code, reason = "libc")]
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0);
}

/// Waits for something that happens while a worker runs.
#[track_caller]
fn until(worker: &mut Child, mut happened: impl FnMut() -> bool) {
    while !happened() {
        let ended = worker.try_wait().expect("asks");
        assert!(ended.is_none(), "it ended before: {ended:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends with this code.
#[track_caller]
fn ends(child: Child, code: i32) -> Output {
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn leases(out: &Path) -> Vec<PathBuf> {
    let leases = out.join("site-private/leases");
    if !leases.is_dir() {
        return Vec::new();
    }
    files(&leases).into_iter().filter(|f| f.extension().is_some_and(|e| e == "lease")).collect()
}

#[test]
fn four_workers_do_each_slide_once_and_leave_what_one_leaves() {
    let bench = Bench::new(40);
    let (quiet, shared) = (bench.out("quiet"), bench.out("shared"));
    let more = ["--slide-pooling", "mean"];
    run_to(0, &bench.words(&quiet, &more));
    assert_clean(&quiet);
    let workers: Vec<Child> = (0..4).map(|_| bench.start(&shared, &more)).collect();
    let (mut all, mut vectors) = (Vec::new(), 0);
    for worker in workers {
        let output = ends(worker, 0);
        all.extend(done(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        let line =
            said.lines().find(|l| l.contains(" in slide_features_mean-tiny")).unwrap_or_else(|| panic!("{said}"));
        vectors += line.split(' ').next().and_then(|n| n.parse::<u32>().ok()).expect("a number");
    }
    assert_eq!(vectors, 40, "each once");
    all.sort();
    let ids: Vec<String> = (0..40).map(|i| format!("s{i:02}")).collect();
    assert_eq!(all, ids);
    assert_same(&shared, &quiet);
    assert_clean(&shared);
}

#[test]
fn a_stopped_worker_is_taken_over_and_does_not_publish_when_it_goes_on() {
    let bench = Bench::new(3);
    fs::copy(real_slide(), bench.slides.join("large.svs")).expect("copies");
    let (quiet, out) = (bench.out("quiet"), bench.out("out"));
    let more = ["--overlap-px", "64", "--no-overviews", "--lease-timeout", "1"];
    run_to(0, &bench.words(&quiet, &more));
    let mut stopped = bench.start(&out, &more);
    // Stopped while it has the large slide, which takes it a while.
    until(&mut stopped, || leases(&out).iter().any(|l| l.ends_with("large.lease")));
    signal(&stopped, libc::SIGSTOP);
    let lease = out.join("site-private/leases").join(&leases(&out)[0]);
    let holder = fs::read_to_string(&lease).expect("still working on it");
    assert!(holder.contains(&format!("-{}-", stopped.id())), "{holder}");
    let other = ends(bench.start(&out, &more), 0);
    assert!(done(&other).contains(&"large".to_string()), "{}", String::from_utf8_lossy(&other.stderr));
    assert_same(&out, &quiet);
    let record =
        files(&out).into_iter().find(|f| f.ends_with("large.json") && f.to_string_lossy().contains("/features_"));
    let record = out.join(record.expect("a record"));
    let published = fs::metadata(&record).expect("there").modified().expect("a time");
    signal(&stopped, libc::SIGCONT);
    let said = ends(stopped, 0);
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("large: another worker has taken this slide over"), "{text}");
    assert!(!done(&said).contains(&"large".to_string()), "{text}");
    assert_eq!(fs::metadata(&record).expect("there").modified().expect("a time"), published, "written once");
    assert_same(&out, &quiet);
    assert_clean(&out);
}

#[test]
fn a_signal_gives_the_slides_back_and_a_waiting_worker_does_them() {
    let bench = Bench::new(0);
    fs::copy(real_slide(), bench.slides.join("large.svs")).expect("copies");
    let out = bench.out("out");
    let more = ["--overlap-px", "64", "--no-overviews"];
    let mut first = bench.start(&out, &more);
    until(&mut first, || !leases(&out).is_empty());
    // Held still until the other one has come and waits for its slide.
    signal(&first, libc::SIGSTOP);
    let mut second = bench.start(&out, &more);
    let workers = out.join("site-private/workers");
    until(&mut second, || files(&workers).len() == 2);
    signal(&first, libc::SIGTERM);
    signal(&first, libc::SIGCONT);
    let said = ends(first, 75);
    assert!(done(&said).is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(done(&ends(second, 0)), ["large"]);
    assert_clean(&out);
}

#[test]
fn a_killed_worker_of_this_host_is_taken_over_at_once() {
    let bench = Bench::new(0);
    fs::copy(real_slide(), bench.slides.join("large.svs")).expect("copies");
    let out = bench.out("out");
    // Its time would not run out before the test does.
    let more = ["--overlap-px", "64", "--no-overviews", "--lease-timeout", "86400"];
    let mut first = bench.start(&out, &more);
    until(&mut first, || !leases(&out).is_empty());
    signal(&first, libc::SIGSTOP);
    let mut second = bench.start(&out, &more);
    until(&mut second, || files(&out.join("site-private/workers")).len() == 2);
    first.kill().expect("kills");
    first.wait().expect("ends");
    assert_eq!(done(&ends(second, 0)), ["large"]);
    assert_clean(&out);
}

#[test]
fn a_bad_slide_is_tried_once_by_workers_side_by_side_and_again_by_the_next_run() {
    let bench = Bench::new(12);
    fs::write(bench.slides.join("bad.svs"), "no slide").expect("writes");
    let out = bench.out("out");
    // Somebody else's, until all three are there: one that comes later tries it as a failure of an earlier run.
    let leases = out.join("site-private/leases/20x_128px_0px_overlap/features_tiny");
    fs::create_dir_all(&leases).expect("creates");
    fs::write(leases.join("bad.lease"), "0123456789abcdef-1-fedcba9876543210\n").expect("writes");
    let mut workers: Vec<Child> = (0..3).map(|_| bench.start(&out, &[])).collect();
    let there = out.join("site-private/workers");
    until(&mut workers[0], || there.is_dir() && files(&there).len() == 3);
    fs::remove_file(leases.join("bad.lease")).expect("removes");
    let said: Vec<String> =
        workers.into_iter().map(|w| String::from_utf8_lossy(&ends(w, 4).stderr).into_owned()).collect();
    let count =
        |words: &str| said.iter().flat_map(|s| s.lines()).filter(|l| l.starts_with('[') && l.contains(words)).count();
    assert_eq!((count("bad: failed: "), count("bad: failed in another worker: ")), (1, 2), "{said:?}");
    assert_clean(&out);

    let again = run_to(4, &bench.words(&out, &[]));
    assert!(again.contains("12 done before, 1 to do") && again.contains("bad: failed: "), "{again}");
    let only = run_to(4, &bench.words(&out, &["--retry-failed"]));
    assert!(!only.contains("done before") && only.contains("bad: failed: "), "{only}");
    let left = run_to(0, &bench.words(&out, &["--skip-failed"]));
    assert!(left.contains("nothing to do: 12 slides done before"), "{left}");
    fs::copy(real_slide(), bench.slides.join("bad.svs")).expect("copies");
    run_to(0, &bench.words(&out, &["--retry-failed"]));
    let none = run_to(0, &bench.words(&out, &["--retry-failed"]));
    assert!(none.contains("no slide failed before"), "{none}");
}

#[test]
fn a_run_stops_after_as_many_failures_as_it_was_told() {
    let bench = Bench::new(2);
    for i in 0..6 {
        fs::write(bench.slides.join(format!("bad{i}.svs")), "no slide").expect("writes");
    }
    let out = bench.out("out");
    let said = run_to(4, &bench.words(&out, &["--max-failures", "3"]));
    assert!(said.contains("stopped after 3 failures") && said.contains("3 failed"), "{said}");
    assert_clean(&out);
    let said = run_to(4, &bench.words(&out, &["--max-failures", "7"]));
    assert!(said.contains("2 slides done, 6 failed"), "{said}");
}

#[test]
fn a_plan_is_divided_by_cost_and_its_shares_make_the_whole() {
    let bench = Bench::new(14);
    fs::copy(real_slide(), bench.slides.join("large.svs")).expect("copies");
    fs::write(bench.slides.join("bad.svs"), "no slide").expect("writes");
    let (quiet, out) = (bench.out("quiet"), bench.out("out"));
    run_to(4, &bench.words(&quiet, &[]));
    let plan = ["plan", text(&bench.slides), "-o", text(&out), "--encoder", text(&bench.encoder), "--tissue", "none"];
    let said = run_to(0, &[&plan[..], &["--no-probe"]].concat());
    assert!(said.contains("1 will fail as it is now:") && said.contains("bad  not-a-slide"), "{said}");
    let file = out.join("plan.jsonl");
    let written = fs::read_to_string(&file).expect("a plan");
    assert!(!written.contains(text(&bench.slides)), "no paths: {written}");
    let lines: Vec<serde_json::Value> = written.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["slides"], &lines[0]["failing"]), (17, &16.into(), &1.into()));

    let embed = |share: &str| {
        let words =
            ["embed", "--plan", text(&file), "--shard", share, "-o", text(&out), "--encoder", text(&bench.encoder)];
        paraffin(&words).args(["--tissue", "none"]).output().expect("starts")
    };
    let outputs: Vec<Output> = (0..3).map(|i| embed(&format!("{i}/3"))).collect();
    let all: Vec<Vec<String>> = outputs.iter().map(done).collect();
    // The large slide has 432 of about 600 tiles: its share has nothing else.
    assert!(all.contains(&vec!["large".to_string()]), "{all:?}");
    assert_eq!(outputs.iter().filter(|o| o.status.code() == Some(4)).count(), 1, "the share with the bad slide");
    let mut ids = all.concat();
    ids.sort();
    assert_eq!(ids.len(), 15);
    ids.dedup();
    assert_eq!(ids.len(), 15);
    fs::remove_file(&file).expect("removes");
    assert_same(&out, &quiet);

    // The estimate of what was planned exactly is exact.
    for line in lines.iter().skip(1).filter(|l| l["id"] != "bad") {
        let id = line["id"].as_str().expect("an id");
        let record = out.join(format!("20x_128px_0px_overlap/records/patches/{id}.json"));
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).expect("done")).expect("JSON");
        assert_eq!(line["tiles"], record["tiles"]["planned"], "{id}");
    }
    // A plan is never changed.
    fs::write(&file, &written).expect("as it was");
    let said = run_to(0, &[&plan[..], &["--no-probe"]].concat());
    assert!(said.contains("the same plan is there already"), "{said}");
    fs::remove_file(bench.slides.join("bad.svs")).expect("removes");
    let said = run_to(2, &[&plan[..], &["--no-probe"]].concat());
    assert!(said.contains("another plan is there"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("there"), written);
}

#[test]
fn shares_without_a_plan_make_the_whole_too() {
    let bench = Bench::new(9);
    let out = bench.out("out");
    let mut all = Vec::new();
    for i in 0..2 {
        let words = bench.words(&out, &["--shard", "k8s", "--no-overviews"]);
        let mut command = paraffin(&words);
        let command = command.env("JOB_COMPLETION_INDEX", i.to_string()).env("PARAFFIN_SHARD_COUNT", "2");
        let output = command.output().expect("starts");
        assert_eq!(output.status.code(), Some(0));
        let ids = done(&output);
        assert!(!ids.is_empty() && ids.len() < 9, "{ids:?}");
        all.extend(ids);
    }
    all.sort();
    assert_eq!(all, (0..9).map(|i| format!("s{i:02}")).collect::<Vec<_>>());
}

#[test]
fn events_are_as_documented_and_metrics_count() {
    let bench = Bench::new(3);
    fs::write(bench.slides.join("bad.svs"), "no slide").expect("writes");
    let (out, metrics) = (bench.out("out"), bench.out("paraffin.prom"));
    let output =
        paraffin(&bench.words(&out, &["--log-format", "json", "--metrics", text(&metrics), "--slide-pooling", "mean"]))
            .output()
            .expect("starts");
    assert_eq!(output.status.code(), Some(4));
    assert!(output.stdout.is_empty());
    let again = paraffin(&bench.words(&out, &["--log-format", "json", "--min-tissue-fraction", "0.5"]))
        .output()
        .expect("starts");
    let missing =
        paraffin(&["embed", "/nowhere/Mrs X.svs", "-o", text(&out), "--log-format", "json"]).output().expect("starts");
    let documented = fs::read_to_string(root().join("docs/log-events.md")).expect("the documentation");
    let rows: BTreeMap<&str, &str> = documented
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once("` | "))
        .map(|(event, rest)| (event, rest.split(" | ").next().expect("fields")))
        .collect();
    let mut seen = BTreeMap::new();
    for output in [&output, &again, &missing] {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            assert!(!line.contains("/nowhere") && !line.contains(text(&bench.slides)), "{line}");
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let event = event.as_object().expect("an object");
            assert!(event["time"].as_f64() > Some(1.7e9));
            let name = event["event"].as_str().expect("a name").to_string();
            let fields = rows.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not documented"));
            for field in event.keys().filter(|f| !["time", "event"].contains(&f.as_str())) {
                assert!(fields.contains(&format!("`{field}`")), "{name} has {field}, which is not documented");
            }
            *seen.entry(name).or_insert(0) += 1;
        }
    }
    let expected = [
        ("error", 2),
        ("note", 1),
        ("run-ended", 1),
        ("run-started", 1),
        ("slide-done", 3),
        ("slide-failed", 1),
        ("slide-vectors", 1),
    ];
    assert_eq!(seen, expected.map(|(name, n)| (name.to_string(), n)).into());
    assert_eq!((again.status.code(), missing.status.code()), (Some(3), Some(2)));

    let metrics = fs::read_to_string(metrics).expect("written");
    let labels = "{grid=\"20x_128px_0px_overlap\",artefact=\"features_tiny\"}";
    for (name, value) in [("slides_done_total", 3), ("slides_failed_total", 1), ("slides", 4), ("running", 0)] {
        assert!(metrics.contains(&format!("\nparaffin_{name}{labels} {value}\n")), "{name}: {metrics}");
    }
}

#[test]
fn status_tells_what_workers_do_and_merge_makes_one_table() {
    let bench = Bench::new(4);
    fs::write(bench.slides.join("bad.svs"), "no slide").expect("writes");
    let out = bench.out("out");
    run_to(4, &bench.words(&out, &["--overlap-px", "64"]));
    fs::copy(real_slide(), bench.slides.join("large.svs")).expect("copies");
    let mut worker = bench.start(&out, &["--overlap-px", "64", "--skip-failed"]);
    until(&mut worker, || !leases(&out).is_empty());
    signal(&worker, libc::SIGSTOP);
    let status: serde_json::Value = serde_json::from_str(&run_to(0, &["status", text(&out), "--json"])).expect("JSON");
    assert_eq!(status["slides"], 6);
    let artefact = &status["artefacts"][0];
    assert_eq!(
        (&artefact["artefact"], &artefact["done"], &artefact["in_work"], &artefact["failed"]),
        (&"features_tiny".into(), &4.into(), &1.into(), &serde_json::json!({ "not-a-slide": 1 }))
    );
    assert_eq!((status["workers"].as_array().map(Vec::len), &status["workers"][0]["ended"]), (Some(1), &false.into()));
    assert_eq!(status["workers"][0]["state"]["slides"], 1);
    worker.kill().expect("kills");
    worker.wait().expect("ends");
    let said = run_to(0, &["status", text(&out), "--watch"]);
    assert!(said.contains("has ended; its slides are free"), "{said}");
    run_to(0, &bench.words(&out, &["--overlap-px", "64", "--skip-failed"]));
    assert!(run_to(0, &["status", text(&out)]).contains("no worker is at it"));

    let manifest = fs::read(out.join("site-manifest.json")).expect("a manifest");
    fs::remove_file(out.join("site-manifest.json")).expect("removes");
    let table = bench.out("table.csv");
    let said = run_to(0, &["merge", text(&out), "-o", text(&table)]);
    assert!(said.contains("10 records, 1 failed"), "{said}");
    assert_eq!(fs::read(out.join("site-manifest.json")).expect("made anew"), manifest);
    let mut rows = csv::Reader::from_path(&table).expect("a table");
    let rows: Vec<BTreeMap<String, String>> = rows.deserialize().map(|r| r.expect("a row")).collect();
    assert_eq!(rows.len(), 11);
    for row in rows.iter().filter(|r| r["state"] == "done") {
        let record = out.join(&row["grid"]).join("records").join(&row["artefact"]).join(format!("{}.json", row["id"]));
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).expect("there")).expect("JSON");
        assert_eq!(row["tiles"], record["tiles"]["written"].to_string());
        assert_eq!(row["format"], record["slide"]["format"]);
        assert_eq!(row["sha256"], record["files"][0]["sha256"]);
        assert_eq!(row["mpp"].parse::<f64>().ok(), record["slide"]["mpp_x"].as_f64(), "equal in both directions here");
    }
    let failed: Vec<_> = rows.iter().filter(|r| r["state"] == "failed").collect();
    assert!(failed.len() == 1 && failed[0]["id"] == "bad" && failed[0]["warnings"].starts_with("not-a-slide: "));
    assert!(!fs::read_to_string(&table).expect("a table").contains(text(&bench.slides)));
}

/// The short form of the soak test.
#[test]
fn workers_that_are_disturbed_at_random_leave_what_a_quiet_one_leaves() {
    let program = env!("CARGO_BIN_EXE_paraffin");
    let said = script("soak.py", &["--short", "--paraffin", program], b"");
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(said.contains("each OUT as a quiet run's"), "{said}");
}
