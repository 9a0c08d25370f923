//! Sites that are told apart by what they say of themselves.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::record::canary::{Thresholds, tests as canaries};
use crate::record::contract::{Contract, tests as contracts};
use crate::record::examples;
use crate::record::manifest::MANIFEST_SCHEMA;
use crate::record::numbers::Numbers;
use crate::record::statistics::{Quantiles, Statistics};

const GRID: &str = "20x_256px_0px_overlap";

fn artefact(grid: &str, name: &str, contract: &Contract, vectors: &[f32]) -> ArtefactSummary {
    let quantiles = Quantiles { q10: 10.0, q25: 20.0, q50: 100.0, q75: 200.0, q90: 400.0 };
    ArtefactSummary {
        grid: grid.into(),
        artefact: name.into(),
        contract: serde_json::from_str(&contract.canonical_json()).unwrap(),
        contract_sha256: contract.sha256(),
        slides: 7,
        tiles: 700,
        tiles_failed: 0,
        failures: BTreeMap::new(),
        mpp_sources: BTreeMap::new(),
        formats: BTreeMap::new(),
        mpps: BTreeMap::new(),
        objective_powers: BTreeMap::new(),
        readers: BTreeMap::new(),
        tiles_per_slide: Some(quantiles),
        statistics: Some(Statistics {
            slides: 7,
            tiles: 700,
            not_finite: 0,
            mean: Numbers::of_f64(&[2], &[1.0, 0.0]),
            variance: Numbers::of_f64(&[2], &[1.0, 0.0]),
            norms: quantiles,
        }),
        no_statistics: None,
        canaries: vec![canaries::canary(&contract.sha256(), vectors)],
        runtimes: vec![examples::runtime()],
    }
}

fn features(contract: &Contract) -> ArtefactSummary {
    artefact(GRID, "features_test", contract, &[1.0, 0.0, 0.6, 0.8])
}

fn site(name: &str, artefacts: Vec<ArtefactSummary>) -> Site {
    Site { name: name.into(), manifest: SiteManifest { schema: MANIFEST_SCHEMA.into(), artefacts } }
}

fn report(artefacts: [ArtefactSummary; 2]) -> Report {
    let [a, b] = artefacts;
    compare(&[site("A", vec![a]), site("B", vec![b])], None).unwrap()
}

/// The only finding of two sites, as severity, field and words.
#[track_caller]
fn only(artefacts: [ArtefactSummary; 2]) -> (Severity, String, String) {
    let report = report(artefacts);
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!(report.compatible, finding.severity != Severity::Refuse);
    (finding.severity, finding.field.clone(), finding.what.clone())
}

#[test]
fn equal_sites_have_nothing_to_tell() {
    let here = features(&contracts::features(2));
    let found = report([here.clone(), here.clone()]);
    assert!(found.compatible && found.findings.is_empty(), "{:?}", found.findings);
    let [compared] = &found.compared[..] else { panic!() };
    assert_eq!((compared.canaries, compared.apart), (Some((1.0, 0.0)), Some(0.0)));
    assert_eq!(compared.contract, Some(here.contract_sha256));
}

#[test]
fn every_field_of_the_contract_is_named() {
    let plain = contracts::features(2);
    let changed = |change: &dyn Fn(&mut Contract)| {
        let mut contract = plain.clone();
        change(&mut contract);
        let (severity, field, what) = only([features(&plain), features(&contract)]);
        assert_eq!(severity, Severity::Refuse);
        (field, what)
    };
    assert_eq!(changed(&|c| c.grid.tile_px = 224), ("grid.tile_px".into(), "256 at A; 224 at B".into()));
    assert_eq!(changed(&|c| c.grid.target_mpp = 0.25).0, "grid.target_mpp");
    assert_eq!(changed(&|c| c.grid.resample = "lanczos".into()).0, "grid.resample");
    assert_eq!(changed(&|c| c.grid.decode = "exact".into()).0, "grid.decode");
    assert_eq!(
        changed(&|c| c.grid.tissue = json!({"method": "otsu", "closing_um": 16.0})),
        ("grid.tissue.closing_um".into(), "40 at A; 16 at B".into())
    );
    assert_eq!(changed(&|c| c.storage.as_mut().unwrap().precision = "f16".into()).0, "storage.precision");
    assert_eq!(changed(&|c| c.encoder.as_mut().unwrap().sha256 = "ee".repeat(32)).0, "encoder.sha256");
    assert_eq!(
        changed(&|c| c.encoder.as_mut().unwrap().compute = Some("fp16".into())),
        ("encoder.compute".into(), "absent at A; fp16 at B".into())
    );
    assert_eq!(changed(&|c| c.storage = None), ("storage".into(), "present at A; absent at B".into()));
    // A manifest that was made to look right.
    let mut forged = features(&plain);
    forged.contract["grid"]["tile_px"] = 224.into();
    let found = report([features(&plain), forged]);
    let fields: Vec<&str> = found.findings.iter().map(|f| &*f.field).collect();
    assert_eq!((found.compatible, fields), (false, vec!["contract_sha256", "grid.tile_px"]));
}

#[test]
fn canaries_are_judged_by_the_cards_thresholds() {
    let contract = contracts::features(2);
    let plain = features(&contract);
    // The slide's vector, turned by an angle of this cosine.
    let turned = |cosine: f32| {
        let sine = (1.0 - cosine * cosine).sqrt();
        artefact(GRID, "features_test", &contract, &[1.0, 0.0, 0.6 * cosine - 0.8 * sine, 0.8 * cosine + 0.6 * sine])
    };
    let (severity, field, what) = only([plain.clone(), turned(0.9985)]);
    assert_eq!((severity, &*field), (Severity::Refuse, "canary.slide"));
    assert!(what.contains("0.9985") && what.contains("decoder or resampler"), "{what}");
    assert_eq!(only([plain.clone(), turned(0.9995)]).0, Severity::Warn);
    assert_eq!(only([plain.clone(), turned(0.99999)]).0, Severity::Note);
    let mut strict = turned(0.9995);
    strict.canaries[0].thresholds = Thresholds { refuse: 0.9999, warn: 0.99999 };
    assert_eq!(only([plain.clone(), strict]).0, Severity::Refuse);
    let model = artefact(GRID, "features_test", &contract, &[0.8, 0.6, 0.6, 0.8]);
    let (severity, field, what) = only([plain.clone(), model]);
    assert_eq!((severity, &*field), (Severity::Refuse, "canary.tiles"));
    assert!(what.contains("another model, precision, runtime or device"), "{what}");
    let nothing = artefact(GRID, "features_test", &contract, &[1.0, 0.0, 0.0, 0.0]);
    assert_eq!(only([plain.clone(), nothing]).0, Severity::Refuse);
    let no_number = artefact(GRID, "features_test", &contract, &[1.0, 0.0, f32::NAN, 0.8]);
    assert_eq!(only([plain.clone(), no_number]).0, Severity::Refuse);
    // A site whose own runs do not agree.
    let mut mixed = plain.clone();
    mixed.canaries.push(turned(0.9).canaries[0].clone());
    let found = report([mixed, plain.clone()]);
    assert!(found.findings.iter().any(|f| f.severity == Severity::Refuse && f.sites == ["A"]), "{:?}", found.findings);
    let mut without = plain.clone();
    without.canaries.clear();
    assert_eq!(only([plain.clone(), without]), (Severity::Warn, "canary".into(), only_words()));
    let mut other = plain.clone();
    other.canaries[0].slide.sha256 = "00".repeat(32);
    assert_eq!(only([plain.clone(), other]).0, Severity::Warn);
    let mut planned = plain.clone();
    planned.canaries[0].slide.planned += 1;
    assert_eq!(only([plain, planned]).1, "canary.planned");
}

fn only_words() -> String {
    "no canary, so whether the software works alike is not known; embedding any slide anew leaves one".into()
}

#[test]
fn distributions_only_warn() {
    let plain = features(&contracts::features(2));
    let with = |change: &dyn Fn(&mut ArtefactSummary)| {
        let mut other = plain.clone();
        change(&mut other);
        let (severity, field, _) = only([plain.clone(), other]);
        assert_ne!(severity, Severity::Refuse);
        (severity, field)
    };
    let statistics = |change: &dyn Fn(&mut Statistics)| with(&|a| change(a.statistics.as_mut().unwrap()));
    let warn = |field: &str| (Severity::Warn, field.to_owned());
    assert_eq!(statistics(&|s| s.mean = Numbers::of_f64(&[2], &[1.9, 0.0])), warn("statistics.mean"));
    assert_eq!(statistics(&|s| s.mean = Numbers::of_f64(&[2], &[1.0, 1e-9])), warn("statistics.mean"));
    assert_eq!(statistics(&|s| s.variance = Numbers::of_f64(&[2], &[4.0, 1.0])), warn("statistics.variance"));
    assert_eq!(statistics(&|s| s.norms.q50 = 130.0), warn("statistics.norms"));
    assert_eq!(statistics(&|s| s.not_finite = 1), warn("statistics.not_finite"));
    assert_eq!(with(&|a| a.tiles_per_slide.as_mut().unwrap().q50 = 600.0), warn("tiles_per_slide"));
    assert_eq!(with(&|a| a.slides = 0), warn("slides"));
    let none = with(&|a| {
        a.statistics = None;
        a.no_statistics = Some("few".into());
    });
    assert_eq!(none, (Severity::Note, "statistics".into()));
    assert_eq!(with(&|a| a.runtimes[0].paraffin = "9".into()), (Severity::Note, "runtimes".into()));
}

#[test]
fn what_all_have_is_paired() {
    let contract = contracts::features(2);
    let named = |grid: &str, name: &str| artefact(grid, name, &contract, &[1.0, 0.0, 0.6, 0.8]);
    let (a, b) = (named(GRID, "features_a"), named(GRID, "features_b"));
    let patches = artefact(GRID, "patches", &contracts::patches(), &[1.0; 4]);
    let sites = |one: &[&ArtefactSummary], two: &[&ArtefactSummary]| {
        let all = |list: &[&ArtefactSummary]| list.iter().map(|a| (*a).clone()).collect();
        [site("A", all(one)), site("B", all(two))]
    };
    // What only one has is told, and does no harm.
    let found = compare(&sites(&[&a, &b, &patches], &[&a, &patches]), None).unwrap();
    assert!(found.compatible && found.compared.len() == 1, "{found:?}");
    assert_eq!(found.findings[0].artefact, format!("{GRID}/features_b"));
    // Other grids: their only features are compared, and the field is named.
    let mut smaller = contract.clone();
    smaller.grid.tile_px = 224;
    let c = artefact("20x_224px_0px_overlap", "features_a", &smaller, &[1.0, 0.0, 0.6, 0.8]);
    let found = compare(&sites(&[&a], &[&c]), None).unwrap();
    assert_eq!((found.compatible, &*found.findings[0].field), (false, "grid.tile_px"));
    // Other encoders likewise; of several nobody knows which.
    let mut other = contract.clone();
    other.encoder.as_mut().unwrap().id = "b".into();
    let d = artefact(GRID, "features_b", &other, &[1.0, 0.0, 0.6, 0.8]);
    let found = compare(&sites(&[&a], &[&d]), None).unwrap();
    assert_eq!((found.compatible, &*found.findings[0].field), (false, "encoder.id"));
    let found = compare(&sites(&[&a, &c], &[&d]), None).unwrap();
    assert_eq!((found.compatible, &*found.findings[0].field), (false, "artefact"));
    let found = compare(&sites(&[&a], &[&patches]), None).unwrap();
    assert_eq!((found.compatible, &*found.findings[0].field), (false, "artefact"));
    // Picked.
    let both = sites(&[&a, &d], &[&c, &d]);
    for wanted in ["features_b".to_owned(), format!("{GRID}/features_b")] {
        assert!(compare(&both, Some(&wanted)).unwrap().compatible, "{wanted}");
    }
    assert!(!compare(&both, Some("features_a")).unwrap().compatible);
    let error = compare(&both, Some("features_z")).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("there is"), "{error}");
    assert!(compare(&sites(&[], &[]), None).is_err());
    // Coordinates alone.
    let found = compare(&sites(&[&patches], &[&patches]), None).unwrap();
    assert!(found.compatible && found.findings.is_empty() && found.compared.len() == 1);
}
