//! Federated training on features that paraffin made: the sites' arithmetic, and whole studies under both engines.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{root, run_to, text};

/// The Python of `scripts/setup --dev` in which the engines are.
fn python() -> PathBuf {
    let python = root().join(".venv-federated/bin/python");
    assert!(python.is_file(), "the engines are not there: run scripts/setup --dev first");
    python
}

/// Runs a script of `scripts/federated` to its end; returns its standard output.
fn script(python: PathBuf, words: &[&str]) -> String {
    let folder = root().join("scripts/federated");
    let output = Command::new(python).current_dir(&folder).args(words).output().expect("python starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?} failed:\n{said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The gradient, the cost of privacy against dp-accounting's numbers, labels and terms of sites, and the pre-flight's errors.
#[test]
fn arithmetic_of_a_site() {
    script(python(), &["-m", "unittest", "-v", "test_fedmil"]);
}

/// Three sites with slides, colours and case mixes of their own; what they learn together is worth more on held-back slides
/// than what they learn alone, and both engines come to the model that averaging without an engine gives.
#[test]
fn three_sites_train_together() {
    let scratch = tempfile::tempdir().expect("scratch");
    let (sites, paraffin) = (scratch.path().join("sites"), env!("CARGO_BIN_EXE_paraffin"));
    let make = ["make_demo_sites.py", text(&sites), "--paraffin", paraffin, "--other-contract"];
    script(common::python(), &make);
    let found = script(python(), &["check_engines.py", text(scratch.path()), "--paraffin", paraffin]);
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let number = |v: &serde_json::Value| v.as_f64().unwrap_or_else(|| panic!("no number: {found:#}"));

    let alone = found["alone"].as_object().expect("sites");
    assert_eq!(alone.len(), 3);
    for metric in ["auc", "accuracy"] {
        let mean = alone.values().map(|site| number(&site[metric])).sum::<f64>() / 3.0;
        let each: Vec<_> = alone.iter().map(|(name, site)| format!("{name} {:.3}", number(&site[metric]))).collect();
        for engine in ["flare", "flower"] {
            let together = number(&found[engine]["metrics"][metric]);
            println!(
                "{metric} on {} held-back slides: {engine} {together:.3}, alone {mean:.3} ({each:?})",
                found["held_back"]
            );
            assert!(together > mean, "{engine}: {metric}");
        }
    }
    for engine in ["flare", "flower"] {
        let found = &found[engine];
        assert_eq!(found["exit"], 0, "{}", found["words"]);
        // Sums in another order, and three rounds of Adam that start from them.
        assert!(number(&found["apart"]) < 1e-3, "{engine} averages in its own way: {}", found["apart"]);
        let manifest = std::fs::read_to_string(sites.join("amber/OUT/site-manifest.json")).expect("manifest");
        let contract = found["metadata"]["contract_sha256"].as_str().expect("a contract");
        assert!(contract.len() == 64 && manifest.contains(contract), "{contract}");
        // The site whose tiles were resampled in another way ends the second study before it begins, by that name.
        let refused = &found["refused"];
        assert_ne!(refused["exit"], 0);
        assert_eq!(refused["model"], false);
        let words = refused["words"].as_str().expect("words");
        assert!(words.contains("no training") && words.contains("resample"), "{engine}: {words}");
        assert!(!words.contains("round 1"), "{engine}: {words}");
    }
    run_to(0, &["verify", text(&sites.join("amber/OUT"))]);
}
