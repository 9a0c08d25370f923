//! The scripts for schedulers. Slurm and Snakemake themselves are run by `scripts/cluster/try_slurm.sh`, by hand: they need root
//! and take minutes. Here the Slurm script meets an `sbatch` that runs its jobs at once, and the Kubernetes job its API's schema.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Contents, contents_where, real_slide, root, run_to, script, text};

/// What the script uses of sbatch: options, a job on standard input, an array of tasks in the caller's environment, and a number
/// as the answer. The second task of an array is sent SIGTERM once, as where a node is drained, and run again if it asks for it.
const SBATCH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
echo "$*" >> "$FAKE/calls"
job=$(cat)
number=$(wc -l < "$FAKE/calls")
array=
for word in "$@"; do case $word in --array=*) array=${word#--array=} ;; esac; done
export SLURM_ARRAY_JOB_ID=$number
run() { bash -c "$job" >> "$FAKE/log" 2>&1; }
if [ -z "$array" ]; then run; echo "$number"; exit; fi
for ((i = ${array%-*}; i <= ${array#*-}; i++)); do
    export SLURM_ARRAY_TASK_ID=$i
    if [ "$i" -eq 1 ]; then
        bash -c "$job" >> "$FAKE/log" 2>&1 & task=$!
        # Amid its slide: when a lease is there.
        until find "$OUT/site-private/leases" -name '*.lease' 2>/dev/null | grep -q .; do sleep 0.02; done
        kill -TERM $task
        code=0; wait $task || code=$?
        echo "task $i: $code" >> "$FAKE/ends"
        [ -e "$FAKE/requeue" ] || { echo "no requeue" >> "$FAKE/ends"; continue; }
    fi
    code=0; run || code=$?
    echo "task $i: $code" >> "$FAKE/ends"
done
echo "$number"
"#;

const SCONTROL: &str = "#!/bin/sh\necho \"$*\" >> \"$FAKE/requeue\"\n";

fn features(out: &Path) -> Contents {
    contents_where(out, |f| f.to_string_lossy().contains("/features_") && !f.starts_with("site-private"))
}

#[test]
fn the_slurm_script_plans_embeds_requeues_and_merges() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    for folder in ["slides", "bin", "fake"] {
        fs::create_dir(at(folder)).expect("creates");
    }
    // The plan gives the large slides to a share each.
    for name in ["a", "b"] {
        fs::copy(real_slide(), at("slides").join(format!("{name}.svs"))).expect("copies");
    }
    for name in ["aperio_ycc420_256", "aperio_rgb_240", "aperio_comma"] {
        let slide = root().join(format!("testdata/generated/{name}.svs"));
        fs::copy(slide, at("slides").join(format!("{name}.svs"))).expect("copies");
    }
    script("make_test_encoder.py", &[text(&at("tiny.onnx"))], b"");
    for (name, content) in [("sbatch", SBATCH), ("scontrol", SCONTROL)] {
        fs::write(at("bin").join(name), content).expect("writes");
        fs::set_permissions(at("bin").join(name), fs::Permissions::from_mode(0o755)).expect("may");
    }
    let tiles = format!("--encoder {} --tissue none --overlap-px 64", text(&at("tiny.onnx")));
    let quiet = at("quiet");
    let slides = at("slides");
    let words = [&["embed", text(&slides), "-o", text(&quiet)][..], &tiles.split(' ').collect::<Vec<_>>()].concat();
    run_to(0, &words);

    let path = format!("{}:{}", text(&at("bin")), std::env::var("PATH").expect("a PATH"));
    let output = Command::new("bash")
        .arg(root().join("scripts/cluster/slurm/submit.sh"))
        .envs([
            ("ARCHIVE", text(&slides)),
            ("OUT", text(&at("out"))),
            ("WORKERS", "2"),
            ("TILES", &tiles),
            ("PATH", &path),
        ])
        .envs([("PARAFFIN", env!("CARGO_BIN_EXE_paraffin")), ("FAKE", text(&at("fake")))])
        .output()
        .expect("bash starts");
    let read = |name: &str| fs::read_to_string(at("fake").join(name)).unwrap_or_default();
    let told = format!("{}\n{}\n{}", String::from_utf8_lossy(&output.stderr), read("calls"), read("log"));
    assert!(output.status.success(), "{told}");
    assert_eq!(read("ends"), "task 0: 0\ntask 1: 75\ntask 1: 0\n", "{told}");
    assert_eq!(read("requeue"), "requeue 2_1\n", "{told}");
    assert!(
        read("calls").contains("--dependency=afterok:1") && read("calls").contains("--dependency=afterany:2"),
        "{told}"
    );
    assert!(features(&at("out")) == features(&quiet), "{told}");
    let table = fs::read_to_string(at("out").join("slides.csv")).expect("a table");
    assert_eq!(table.lines().filter(|l| l.contains(",features_tiny,done,")).count(), 5, "{table}");
}

#[test]
fn the_kubernetes_job_is_valid() {
    let job = root().join("scripts/cluster/kubernetes/embed-job.yaml");
    let said = script("check_job.py", &[text(&job)], b"");
    assert!(String::from_utf8_lossy(&said).contains("1 valid"));
    // The check finds what is wrong.
    let directory = tempfile::tempdir().expect("temporary directory");
    let wrong = directory.path().join("wrong.yaml");
    let broken = fs::read_to_string(&job).expect("readable").replace("completionMode", "completingMode");
    fs::write(&wrong, broken).expect("writes");
    let python = root().join(".venv/bin/python");
    let checked = Command::new(python).arg(root().join("scripts/check_job.py")).arg(&wrong).output().expect("starts");
    assert!(!checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("completingMode"));
}
