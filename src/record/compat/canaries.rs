//! Canaries: vectors of the same pixels, made by the software of every site.

use super::{Finding, Group, Severity};
use crate::record::canary::{Canary, Thresholds};

/// How far two lists of vectors are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Distance {
    cosine: f64,
    difference: f64,
}

impl Distance {
    const NONE: Distance = Distance { cosine: 1.0, difference: 0.0 };

    fn and(self, other: Distance) -> Distance {
        Distance { cosine: self.cosine.min(other.cosine), difference: self.difference.max(other.difference) }
    }

    fn between(a: &[f64], b: &[f64]) -> Self {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let norms = (dot(a, a) * dot(b, b)).sqrt();
        // Of values that are no numbers nothing is alike.
        let cosine = match dot(a, b) / norms {
            _ if a == b => 1.0,
            cosine if cosine.is_finite() => cosine,
            _ => 0.0,
        };
        Distance { cosine, difference }
    }
}

/// Compares every canary with every other of the same contract, also those of one site. Returns the lowest cosine and the largest difference
/// between those of different sites.
pub(super) fn compare(group: &Group, findings: &mut Vec<Finding>) -> Option<(f64, f64)> {
    let without: Vec<&str> = group.members.iter().filter(|(_, m)| m.canaries.is_empty()).map(|(s, _)| *s).collect();
    if !without.is_empty() {
        let what = "no canary, so whether the software works alike is not known; embedding any slide anew leaves one";
        findings.push(group.finding(Severity::Warn, "canary", &without, what.into()));
    }
    let all: Vec<(&str, &Canary)> =
        group.members.iter().flat_map(|(site, m)| m.canaries.iter().map(|c| (*site, c))).collect();
    let mut worst: Option<Distance> = None;
    for (i, (site, canary)) in all.iter().enumerate() {
        // Settings that differ are named by the contract; canaries differ by them as they must.
        for (other_site, other) in all[i + 1..].iter().filter(|(_, c)| c.contract_sha256 == canary.contract_sha256) {
            let sites = if site == other_site { vec![*site] } else { vec![*site, *other_site] };
            let distance = compare_two(group, &sites, canary, other, findings);
            if let Some(distance) = distance.filter(|_| sites.len() == 2) {
                worst = Some(worst.unwrap_or(Distance::NONE).and(distance));
            }
        }
    }
    worst.map(|w| (w.cosine, w.difference))
}

fn compare_two(group: &Group, sites: &[&str], a: &Canary, b: &Canary, findings: &mut Vec<Finding>) -> Option<Distance> {
    let mut find = |severity, field: &str, what: String| findings.push(group.finding(severity, field, sites, what));
    let (Ok(rows_a), Ok(rows_b)) = (a.rows(), b.rows()) else {
        find(Severity::Refuse, "canary", "a canary is damaged".into());
        return None;
    };
    let dim = |rows: &[Vec<f64>]| rows.first().map(Vec::len);
    if dim(&rows_a) != dim(&rows_b) {
        find(Severity::Refuse, "canary.dim", "vectors of different lengths".into());
        return None;
    }
    if (&a.schema, &a.slide.sha256) != (&b.schema, &b.slide.sha256) {
        let what = "of versions of paraffin with other canaries, which cannot be compared; embed a slide with the same version";
        find(Severity::Warn, "canary.slide", what.into());
        return None;
    }
    if (&a.slide.tissue, a.slide.planned) != (&b.slide.tissue, b.slide.planned) {
        let told = |c: &Canary| format!("{} tiles by the tissue method {}", c.slide.planned, c.slide.tissue);
        let what = format!("the synthetic slide has {} and {}: tissue is found differently", told(a), told(b));
        find(Severity::Warn, "canary.planned", what);
    }
    let tile =
        |c: &Canary, rows: &[Vec<f64>], name: &String| c.tiles.iter().position(|n| n == name).map(|i| rows[i].clone());
    let placed = |c: &Canary, rows: &[Vec<f64>], at: &[i64; 2]| {
        c.slide.coords.iter().position(|o| o == at).map(|i| rows[c.tiles.len() + i].clone())
    };
    let tiles = a.tiles.iter().filter_map(|n| Some((tile(a, &rows_a, n)?, tile(b, &rows_b, n)?)));
    let slide = a.slide.coords.iter().filter_map(|c| Some((placed(a, &rows_a, c)?, placed(b, &rows_b, c)?)));
    let limits = Thresholds {
        refuse: a.thresholds.refuse.max(b.thresholds.refuse),
        warn: a.thresholds.warn.max(b.thresholds.warn),
    };
    let parts = [
        ("canary.tiles", "synthetic tiles that went straight to the encoder", tiles.collect::<Vec<_>>()),
        ("canary.slide", "tiles of the synthetic slide, which was decoded and resampled", slide.collect()),
    ];
    let mut all = None;
    let mut tiles_agree = true;
    for (field, what, pairs) in parts {
        let Some(distance) = pairs.iter().map(|(a, b)| Distance::between(a, b)).reduce(Distance::and) else {
            find(Severity::Refuse, field, format!("no {what} are the same at both"));
            continue;
        };
        all = Some(all.unwrap_or(Distance::NONE).and(distance));
        let Distance { cosine, difference } = distance;
        let mut told = format!("{what}: lowest cosine {cosine:.6}, largest difference {difference:.2e}");
        let (severity, limit) = match cosine {
            c if c < limits.refuse => (Severity::Refuse, format!(" (must be {})", limits.refuse)),
            c if c < limits.warn => (Severity::Warn, format!(" (should be {})", limits.warn)),
            _ if difference > 0.0 => (Severity::Note, String::new()),
            _ => continue,
        };
        told += &limit;
        if severity != Severity::Note {
            told += match (field, tiles_agree) {
                ("canary.tiles", _) => ": another model, precision, runtime or device",
                (_, true) => ": another decoder or resampler, for the encoder agrees",
                (_, false) => "",
            };
        }
        tiles_agree &= severity == Severity::Note;
        find(severity, field, told);
    }
    all
}
