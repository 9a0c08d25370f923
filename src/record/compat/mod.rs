//! Whether the features of several sites may be trained on together, by their manifests alone: the same contract, canaries that
//! agree, features that look alike.
//!
//! Another contract, or canaries under one contract that are further apart than the encoder's card allows, refuse. What may have good reasons (other
//! patients, another scanner, a missing canary) warns.

mod canaries;
mod contracts;
mod distributions;
mod pairing;

use serde::Serialize;

use super::manifest::{ArtefactSummary, SiteManifest};
use crate::error::{Error, Result};

/// A site, under the name that whoever compares knows it by.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub manifest: SiteManifest,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Training together would be wrong.
    Refuse,
    /// Training together may be wrong; somebody should look.
    Warn,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Refuse => "refuse",
            Severity::Warn => "warn",
            Severity::Note => "note",
        }
    }
}

/// Something in which sites differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// `<grid>/<artefact>`, or the artefact alone where the sites' grids differ.
    pub artefact: String,
    /// The contract's field, such as `grid.target_mpp`, or `canary.*`, `statistics.*`, `slides`, `runtimes`, `artefact`.
    pub field: String,
    /// The sites that it is about.
    pub sites: Vec<String>,
    /// What it is, in words.
    pub what: String,
}

/// What was compared, and how it went; for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// As in [`Finding::artefact`].
    pub artefact: String,
    /// Whether all sites have one contract; its sha256.
    pub contract: Option<String>,
    /// The lowest cosine and the largest difference between two canaries of different sites; `None` where there were none.
    pub canaries: Option<(f64, f64)>,
    /// The largest median difference of a dimension's mean between two sites, in standard deviations.
    pub apart: Option<f64>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether nothing refuses.
    pub compatible: bool,
    /// The sites' names.
    pub sites: Vec<String>,
    /// Everything found, the gravest first.
    pub findings: Vec<Finding>,
    /// What was compared.
    #[serde(skip)]
    pub compared: Vec<Compared>,
}

/// The same artefact of every site.
struct Group<'a> {
    name: String,
    /// One a site, in the sites' order.
    members: Vec<(&'a str, &'a ArtefactSummary)>,
}

impl Group<'_> {
    fn finding(&self, severity: Severity, field: &str, sites: &[&str], what: String) -> Finding {
        Finding {
            severity,
            artefact: self.name.clone(),
            field: field.into(),
            sites: sites.iter().map(|s| (*s).to_owned()).collect(),
            what,
        }
    }

    /// Sites by what `of` says of them: `a at X and Y; b at Z`, and the sites named.
    fn by(&self, of: impl Fn(&ArtefactSummary) -> String) -> (String, Vec<&str>) {
        let mut values: Vec<(String, Vec<&str>)> = Vec::new();
        for (site, member) in &self.members {
            let value = of(member);
            match values.iter_mut().find(|(known, _)| *known == value) {
                Some((_, sites)) => sites.push(site),
                None => values.push((value, vec![site])),
            }
        }
        let words = values.iter().map(|(value, sites)| format!("{value} at {}", sites.join(", ")));
        (words.collect::<Vec<_>>().join("; "), self.members.iter().map(|(site, _)| *site).collect())
    }
}

/// Compares sites. `artefact` picks one, as `features_x` or `<grid>/features_x`.
///
/// # Errors
/// [`Error::Usage`] where no site has that artefact, or none has anything.
pub fn compare(sites: &[Site], artefact: Option<&str>) -> Result<Report> {
    let (groups, mut findings) = pairing::pair(sites, artefact)?;
    let mut compared = Vec::new();
    for group in &groups {
        let contract = contracts::compare(group, &mut findings);
        let (canaries, apart) = if group.members.iter().all(|(_, m)| m.artefact.starts_with("features_")) {
            (canaries::compare(group, &mut findings), distributions::compare(group, &mut findings))
        } else {
            (None, None)
        };
        compared.push(Compared { artefact: group.name.clone(), contract, canaries, apart });
        let empty: Vec<&str> = group.members.iter().filter(|(_, m)| m.slides == 0).map(|(site, _)| *site).collect();
        if !empty.is_empty() {
            findings.push(group.finding(Severity::Warn, "slides", &empty, "no slide is done".into()));
        }
        let runtimes = |m: &ArtefactSummary| {
            let each = m.runtimes.iter().map(|r| {
                let onnx = r.onnxruntime.as_ref().map(|v| format!(", ONNX Runtime {v}")).unwrap_or_default();
                format!("paraffin {}{onnx}, {}", r.paraffin, r.device)
            });
            each.collect::<Vec<_>>().join(" and ")
        };
        if group.members.iter().any(|(_, m)| m.runtimes != group.members[0].1.runtimes) {
            let (what, sites) = group.by(runtimes);
            findings.push(group.finding(Severity::Note, "runtimes", &sites, what));
        }
    }
    findings.sort();
    Ok(Report {
        compatible: findings.iter().all(|f| f.severity != Severity::Refuse),
        sites: sites.iter().map(|s| s.name.clone()).collect(),
        findings,
        compared,
    })
}

/// Refuses names that stand for two sites.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_names(sites: &[Site]) -> Result<()> {
    let mut names: Vec<&str> = sites.iter().map(|s| &*s.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(twice) => Err(Error::Usage(format!("'{}' is given twice", twice[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
