//! The site manifest: what a site may tell others about the features it holds.
//!
//! It is made of counts and settings, of what the features are like over all slides, and of canaries. No id, no name, no date,
//! no per-slide number is in it: numbers of slides of some kind below five are given as `"<5"`, and of fewer than five slides
//! there are no statistics. The number of slides and of tiles in all is told. It follows from what OUT holds alone.
//!
//! `docs/schemas/site-manifest.schema.json` says the same for machines.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::canary::Canary;
use super::contract::{canonical, read_contract};
use super::statistics::{FEW, Gathering, Quantiles, Statistics};
use super::{Record, Runtime, artefacts, grid_dirs, publish, record_paths};
use crate::digest;
use crate::error::{Error, Result};

/// Value of a manifest's `schema`.
pub const MANIFEST_SCHEMA: &str = "paraffin-site-manifest/1";
/// The manifest's name in OUT.
pub const MANIFEST_NAME: &str = "site-manifest.json";

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
    /// `patches`, `features_<encoder>` or `slide_features_<slide encoder>`.
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
    /// Slides by µm per level-0 pixel, to two decimals.
    pub mpps: BTreeMap<String, Count>,
    /// Slides by the objective's magnification, where they tell.
    pub objective_powers: BTreeMap<String, Count>,
    /// Slides by reader: `native`, or OpenSlide's version.
    pub readers: BTreeMap<String, Count>,
    /// Tiles of a slide, over slides; `None` of fewer than five.
    pub tiles_per_slide: Option<Quantiles>,
    /// What the features of all tiles are like.
    pub statistics: Option<Statistics>,
    /// Why there are no statistics, where there could be some.
    pub no_statistics: Option<String>,
    /// What the software behind the features makes of synthetic pixels; several where it was not always the same.
    pub canaries: Vec<Canary>,
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
                    mpps: BTreeMap::new(),
                    objective_powers: BTreeMap::new(),
                    readers: BTreeMap::new(),
                    tiles_per_slide: None,
                    statistics: None,
                    no_statistics: None,
                    canaries: Vec::new(),
                    runtimes: Vec::new(),
                };
                summary.canaries = Canary::all(&grid_dir, &summary.artefact).map_err(unreadable)?;
                summary.canaries.retain(|c| c.contract_sha256 == summary.contract_sha256);
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
        let advice = "'paraffin manifest OUT' writes it anew";
        let text = std::fs::read(path)
            .map_err(|e| Error::Output(format!("{MANIFEST_NAME} cannot be read ({e}); {advice}")))?;
        let damaged = |e| Error::Output(format!("{MANIFEST_NAME} is damaged, or of another version ({e}); {advice}"));
        let manifest: SiteManifest = serde_json::from_slice(&text).map_err(damaged)?;
        if manifest.schema != MANIFEST_SCHEMA {
            let schema = manifest.schema;
            return Err(Error::Output(format!("{MANIFEST_NAME} is of the kind '{schema}', not '{MANIFEST_SCHEMA}'")));
        }
        Ok(manifest)
    }
}

impl ArtefactSummary {
    fn add(&mut self, records: impl Iterator<Item = Record>) {
        type Mix = BTreeMap<String, u64>;
        let (mut sources, mut formats, mut readers) = (Mix::new(), Mix::new(), Mix::new());
        let (mut mpps, mut powers) = (Mix::new(), Mix::new());
        let mut tiles = Vec::new();
        // Of tiles' features only: a slide vector's dimensions are few numbers of few slides.
        let dim = self.contract.pointer("/encoder/dim").and_then(Value::as_u64);
        let dim = dim.filter(|_| self.artefact.starts_with("features_"));
        let mut statistics = Gathering::default();
        for record in records.filter(|r| r.contract_sha256 == self.contract_sha256) {
            self.slides += 1;
            self.tiles += record.tiles.written;
            self.tiles_failed += record.tiles.failed;
            tiles.push(record.tiles.written);
            if let Some(dim) = dim {
                statistics.add(&record, dim as usize);
            }
            let slide = record.slide;
            *mpps.entry(format!("{:.2}", (slide.mpp_x + slide.mpp_y) / 2.0)).or_default() += 1;
            if let Some(power) = slide.objective_power {
                *powers.entry(power.to_string()).or_default() += 1;
            }
            *sources.entry(slide.mpp_source).or_default() += 1;
            *formats.entry(slide.format).or_default() += 1;
            *readers.entry(slide.reader).or_default() += 1;
            if let Err(at) = self.runtimes.binary_search(&record.runtime) {
                self.runtimes.insert(at, record.runtime);
            }
        }
        let told = |mix: Mix| mix.into_iter().map(|(name, n)| (name, Count::of(n))).collect();
        self.mpp_sources = told(sources);
        self.formats = told(formats);
        self.readers = told(readers);
        self.mpps = told(mpps);
        self.objective_powers = told(powers);
        self.tiles_per_slide = Quantiles::of_counts(tiles);
        if dim.is_some() {
            match statistics.end() {
                Ok(statistics) => self.statistics = Some(statistics),
                Err(why) => self.no_statistics = Some(why),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::canary::tests as canaries;
    use crate::record::contract::{claim_contract, tests as contracts};
    use crate::record::examples;
    use crate::record::moments::Accumulator;

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
        assert_eq!(
            (summary.mpps["0.50"].clone(), summary.readers["native"].clone()),
            (Count::Exact(7), Count::Exact(7))
        );
        assert_eq!(summary.tiles_per_slide.map(|q| (q.q10, q.q50, q.q90)), Some((10.0, 10.0, 10.0)));
        assert_eq!((&summary.statistics, &summary.no_statistics), (&None, &None), "patches have no features");
    }

    /// Mean, variance and norms over all rows of all slides, by their definition; and nothing of a few slides.
    #[test]
    fn statistics_over_slides_and_never_over_few() {
        let out = tempfile::tempdir().unwrap();
        let grid = out.path().join("20x_256px_0px_overlap");
        let sha = claim_contract(&grid, "features_test", &contracts::features(2)).unwrap();
        let canary = canaries::canary(&sha, &[1.0, 0.0, 0.0, 1.0]);
        canary.keep(&grid, "features_test").unwrap();
        canaries::canary("of another contract", &[1.0; 4]).keep(&grid, "features_test").unwrap();
        let add = |i: usize, rows: &[[f32; 2]]| {
            let mut moments = Accumulator::new(2);
            rows.iter().for_each(|row| moments.add(row.iter().copied()));
            let mut record = examples::record(&format!("s{i}"), "features_test", &sha, vec![], rows.len() as u64);
            record.moments = Some(moments.moments());
            record.write(&grid).unwrap();
        };
        let gather = || {
            let mut manifest = SiteManifest::gather(out.path(), &Failures::new()).unwrap();
            manifest.artefacts.remove(0)
        };
        for i in 0..4 {
            add(i, &[[i as f32, 3.0], [4.0, 3.0]]);
        }
        add(8, &[]);
        let few = gather();
        assert_eq!((few.slides, &few.statistics), (5, &None), "one of the five has no tiles");
        assert!(few.no_statistics.unwrap().contains("fewer than 5"));
        assert_eq!(few.canaries, [canary]);
        add(4, &[[4.0, 3.0]]);
        let all = gather();
        let statistics = all.statistics.unwrap();
        assert_eq!((statistics.slides, statistics.tiles, all.no_statistics), (5, 9, None));
        // 0, 1, 2, 3 and five times 4.
        let mean = 26.0 / 9.0;
        let variance = (0.0 + 1.0 + 4.0 + 9.0 + 5.0 * 16.0) / 9.0 - mean * mean;
        for (got, expected) in statistics.mean.values().unwrap().iter().zip([mean, 3.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
        for (got, expected) in statistics.variance.values().unwrap().iter().zip([variance, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
        assert!((statistics.norms.q50 / 5.0 - 1.0).abs() < 0.016, "{:?}", statistics.norms);
        // A record of an older version.
        examples::record("old", "features_test", &sha, vec![], 9).write(&grid).unwrap();
        let older = gather();
        assert!(older.statistics.is_none() && older.no_statistics.unwrap().contains("older version"));
    }
}
