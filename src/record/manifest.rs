//! The site manifest: what a site may tell others about the features it holds.
//!
//! It is made of counts and settings. No id, no name, no date, no per-slide number is in it; formats and mpp sources with
//! fewer than five slides are given as `"<5"`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contract::{canonical, read_contract};
use super::{Record, Runtime, artefacts, grid_dirs, publish, record_paths};
use crate::digest;
use crate::error::{Error, Result};

/// Value of a manifest's `schema`.
pub const MANIFEST_SCHEMA: &str = "paraffin-site-manifest/1";
/// The manifest's name in OUT.
pub const MANIFEST_NAME: &str = "site-manifest.json";
/// Slides below which a count is not told.
const FEW: u64 = 5;

/// What a site may tell others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteManifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// Each artefact of each grid, by grid and artefact in alphabetical order.
    pub artefacts: Vec<ArtefactSummary>,
}

/// One artefact of one grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArtefactSummary {
    /// The grid directory's name.
    pub grid: String,
    /// `patches` or `features_<encoder>`.
    pub artefact: String,
    /// The contract as it was written down.
    pub contract: Value,
    /// sha256 of its canonical JSON.
    pub contract_sha256: String,
    /// Slides done under this contract.
    pub slides: u64,
    /// Their rows.
    pub tiles: u64,
    /// Their tiles that could not be read.
    pub tiles_failed: u64,
    /// Slides that failed and have not been done since, by the error's kind.
    pub failures: BTreeMap<String, u64>,
    /// Slides by the source of their mpp.
    pub mpp_sources: BTreeMap<String, Count>,
    /// Slides by format.
    pub formats: BTreeMap<String, Count>,
    /// The software and devices that made them, each once.
    pub runtimes: Vec<Runtime>,
}

/// A number of slides that may identify them where it is small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Count {
    /// Five or more.
    Exact(u64),
    /// `"<5"`.
    Few(String),
}

impl Count {
    fn of(n: u64) -> Self {
        if n < FEW { Count::Few(format!("<{FEW}")) } else { Count::Exact(n) }
    }
}

/// Failed slides by the error's kind, of an artefact given as (name of the grid directory, artefact).
pub type Failures = BTreeMap<(String, String), BTreeMap<String, u64>>;

impl SiteManifest {
    /// Sums up the records that `out` holds. Records that are damaged or of another contract than their artefact's do not
    /// count.
    ///
    /// # Errors
    /// [`Error::Output`] where a directory or a contract cannot be read.
    pub fn gather(out: &Path, failures: &Failures) -> Result<Self> {
        let unreadable = |e: std::io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
        let mut summaries = Vec::new();
        for grid_dir in grid_dirs(out).map_err(unreadable)? {
            let grid = grid_dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            for artefact in artefacts(&grid_dir).map_err(unreadable)? {
                let Some(contract) = read_contract(&grid_dir, &artefact)? else { continue };
                let contract_sha256 = digest::sha256(canonical(&contract).as_bytes());
                let paths = record_paths(&grid_dir, &artefact).map_err(unreadable)?;
                let records = paths.iter().filter_map(|p| Record::read(p).ok());
                let failures = failures.get(&(grid.clone(), artefact.clone())).cloned().unwrap_or_default();
                let mut summary = ArtefactSummary {
                    grid: grid.clone(),
                    artefact,
                    contract,
                    contract_sha256,
                    slides: 0,
                    tiles: 0,
                    tiles_failed: 0,
                    failures,
                    mpp_sources: BTreeMap::new(),
                    formats: BTreeMap::new(),
                    runtimes: Vec::new(),
                };
                summary.add(records);
                summaries.push(summary);
            }
        }
        Ok(SiteManifest { schema: MANIFEST_SCHEMA.into(), artefacts: summaries })
    }

    /// Writes it into `out`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, out: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(format!("manifest: {e}")))?;
        text.push(b'\n');
        publish::write_atomic(&out.join(MANIFEST_NAME), &text).map_err(|e| Error::write(MANIFEST_NAME, e))
    }

    /// Reads the manifest of a site.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::Output(format!("{MANIFEST_NAME} cannot be read: {e}")))?;
        serde_json::from_slice(&text).map_err(|e| Error::Output(format!("{MANIFEST_NAME} is damaged: {e}")))
    }
}

impl ArtefactSummary {
    fn add(&mut self, records: impl Iterator<Item = Record>) {
        let (mut sources, mut formats) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
        for record in records.filter(|r| r.contract_sha256 == self.contract_sha256) {
            self.slides += 1;
            self.tiles += record.tiles.written;
            self.tiles_failed += record.tiles.failed;
            *sources.entry(record.slide.mpp_source).or_default() += 1;
            *formats.entry(record.slide.format).or_default() += 1;
            if let Err(at) = self.runtimes.binary_search(&record.runtime) {
                self.runtimes.insert(at, record.runtime);
            }
        }
        self.mpp_sources = sources.into_iter().map(|(name, n)| (name, Count::of(n))).collect();
        self.formats = formats.into_iter().map(|(name, n)| (name, Count::of(n))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::contract::{claim_contract, tests as contracts};
    use crate::record::examples;

    #[test]
    fn counts_without_names() {
        let out = tempfile::tempdir().unwrap();
        let grid = out.path().join("20x_256px_0px_overlap");
        let sha = claim_contract(&grid, "patches", &contracts::patches()).unwrap();
        for i in 0..7 {
            let mut record = examples::record(&format!("Secret{i}"), "patches", &sha, vec![], 10);
            if i == 0 {
                record.slide.format = "hamamatsu".into();
            }
            record.write(&grid).unwrap();
        }
        examples::record("SecretOld", "patches", "another contract", vec![], 10).write(&grid).unwrap();
        std::fs::write(grid.join("records/patches/SecretBroken.json"), "{").unwrap();
        let kinds = BTreeMap::from([("mpp".to_owned(), 2)]);
        let failures = BTreeMap::from([(("20x_256px_0px_overlap".to_owned(), "patches".to_owned()), kinds.clone())]);
        let manifest = SiteManifest::gather(out.path(), &failures).unwrap();
        manifest.write(out.path()).unwrap();
        let path = out.path().join(MANIFEST_NAME);
        assert_eq!(SiteManifest::read(&path).unwrap(), manifest);
        assert!(!std::fs::read_to_string(path).unwrap().contains("Secret"));
        let [summary] = &manifest.artefacts[..] else { panic!() };
        assert_eq!((summary.slides, summary.tiles), (7, 70));
        assert_eq!(summary.formats["aperio"], Count::Exact(6));
        assert_eq!(summary.formats["hamamatsu"], Count::Few("<5".into()));
        assert_eq!((&summary.failures, summary.runtimes.len()), (&kinds, 1));
    }
}
