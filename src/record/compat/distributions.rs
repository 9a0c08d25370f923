//! Whether features and bags look alike. Sites have other patients, so this only ever warns.

use std::collections::BTreeMap;

use super::{Finding, Group, Severity};
use crate::record::manifest::ArtefactSummary;
use crate::record::statistics::Statistics;

/// A difference of means, in pooled standard deviations, that counts as large (J. Cohen, Statistical Power Analysis, 1988).
const LARGE: f64 = 0.8;
/// Share of the dimensions that may be so far apart.
const MANY: f64 = 0.25;
/// Ratio of variances, in the median over dimensions, from which it is told.
const VARIANCE_RATIO: f64 = 3.0;
/// Ratio of median norms.
const NORM_RATIO: f64 = 1.25;
/// Ratio of the median numbers of tiles of a slide.
const TILES_RATIO: f64 = 5.0;

/// How far the features of two sites are apart.
struct Apart {
    /// Median over dimensions of the standardised difference of means.
    median: f64,
    /// Share of dimensions where it is [`LARGE`].
    large: f64,
    /// Median over dimensions of the ratio of variances, the greater over the smaller.
    variances: f64,
}

/// Warns of features that do not look like each other's. Returns the largest median difference of means, in standard deviations.
pub(super) fn compare(group: &Group, findings: &mut Vec<Finding>) -> Option<f64> {
    let mut furthest: Option<f64> = None;
    let mut without: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (i, (site, member)) in group.members.iter().enumerate() {
        match &member.statistics {
            None => {
                without.entry(member.no_statistics.as_deref().unwrap_or("no reason is given")).or_default().push(site)
            }
            Some(s) if s.not_finite > 0 => {
                let what = format!("{} rows hold values that are infinite or not a number", s.not_finite);
                findings.push(group.finding(Severity::Warn, "statistics.not_finite", &[*site], what));
            }
            Some(_) => {}
        }
        for (other_site, other) in &group.members[i + 1..] {
            if member.contract_sha256 != other.contract_sha256 {
                continue;
            }
            let mut warn = |field: &str, what| {
                findings.push(group.finding(Severity::Warn, field, &[*site, *other_site], what));
            };
            tiles(member, other, &mut warn);
            let (Some(a), Some(b)) = (&member.statistics, &other.statistics) else { continue };
            if ratio(a.norms.q50, b.norms.q50) > NORM_RATIO {
                warn("statistics.norms", format!("median norms of {:.4} and {:.4}", a.norms.q50, b.norms.q50));
            }
            let Some(apart) = apart(a, b) else {
                warn("statistics.mean", "statistics of different lengths, or damaged".into());
                continue;
            };
            furthest = Some(furthest.unwrap_or(0.0).max(apart.median));
            if apart.large > MANY {
                let (share, median) = (apart.large * 100.0, apart.median);
                warn(
                    "statistics.mean",
                    format!(
                        "the means of {share:.0} % of the dimensions are {LARGE} standard deviations or more apart (median \
                         {median:.2}): other stains, scanners or tissue, or another preparation"
                    ),
                );
            }
            if apart.variances > VARIANCE_RATIO {
                warn("statistics.variance", format!("variances differ {:.1} times, in the median", apart.variances));
            }
        }
    }
    for (why, sites) in without {
        findings.push(group.finding(Severity::Note, "statistics", &sites, format!("not compared: {why}")));
    }
    furthest
}

fn tiles(a: &ArtefactSummary, b: &ArtefactSummary, warn: &mut impl FnMut(&str, String)) {
    let (Some(a), Some(b)) = (a.tiles_per_slide, b.tiles_per_slide) else { return };
    if ratio(a.q50.max(1.0), b.q50.max(1.0)) > TILES_RATIO {
        let what = format!(
            "median tiles of a slide: {:.0} and {:.0}; biopsies and resections, or tissue that is missed",
            a.q50, b.q50
        );
        warn("tiles_per_slide", what);
    }
}

/// The greater over the smaller.
fn ratio(a: f64, b: f64) -> f64 {
    let (low, high) = (a.min(b), a.max(b));
    if high == low { 1.0 } else { high / low.max(f64::MIN_POSITIVE) }
}

fn apart(a: &Statistics, b: &Statistics) -> Option<Apart> {
    let [mean_a, mean_b, variance_a, variance_b] =
        [&a.mean, &b.mean, &a.variance, &b.variance].map(|n| n.values().unwrap_or_default());
    let dim = mean_a.len();
    if dim == 0 || [&mean_b, &variance_a, &variance_b].iter().any(|v| v.len() != dim) {
        return None;
    }
    let means = mean_a.iter().zip(&mean_b).zip(variance_a.iter().zip(&variance_b));
    let mut differences: Vec<f64> = means
        .map(|((a, b), (va, vb))| {
            let apart = (a - b).abs();
            // A dimension that is the same number everywhere (a dead one) is apart only where that number is another.
            if apart == 0.0 { 0.0 } else { apart / ((va + vb) / 2.0).sqrt().max(f64::MIN_POSITIVE) }
        })
        .collect();
    let mut ratios: Vec<f64> = variance_a.iter().zip(&variance_b).map(|(a, b)| ratio(*a, *b)).collect();
    let large = differences.iter().filter(|d| **d >= LARGE).count() as f64 / dim as f64;
    Some(Apart { median: median(&mut differences), large, variances: median(&mut ratios) })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
