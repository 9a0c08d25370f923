//! The slides of one artefact of an OUT, as reports and the viewer see them.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::digest;
use crate::error::{Error, Result};
use crate::features::{Bag, read_coords};
use crate::record::contract::{canonical, read_contract};
use crate::record::failures::{FailureNote, Failures};
use crate::record::{Record, artefacts, grid_dirs, record_paths};
use crate::report::featuremap::Grid;
use crate::report::pca::{Projection, SAMPLE_ROWS};

/// One artefact of one grid, with all its slides.
pub struct Cohort {
    /// OUT.
    pub root: PathBuf,
    /// The grid directory.
    pub grid_dir: PathBuf,
    /// Its name.
    pub grid: String,
    /// `features_<encoder>`, or `patches` where nothing was embedded.
    pub artefact: String,
    /// The contract as it was written down.
    pub contract: Value,
    /// sha256 of its canonical JSON.
    pub contract_sha256: String,
    /// Done slides, by id.
    pub slides: Vec<Record>,
    /// Records that do not count, with the reason.
    pub unusable: Vec<(String, String)>,
    /// Slides that failed and have not been done since.
    pub failures: Vec<FailureNote>,
}

impl Cohort {
    /// Reads the records of an artefact of `out` (OUT or one grid directory). `wanted` is an artefact's or an encoder's name,
    /// or `<grid>/<artefact>`; without it the only artefact with features, or the only one at all.
    ///
    /// # Errors
    /// [`Error::Output`] where it cannot be read, [`Error::Usage`] where no artefact or several fit.
    pub fn open(out: &Path, wanted: Option<&str>) -> Result<Self> {
        let unreadable = |e: std::io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
        let grids = grid_dirs(out).map_err(unreadable)?;
        let mut found = Vec::new();
        for grid_dir in &grids {
            let named = grid_dir.canonicalize().map_err(unreadable)?;
            let grid = named.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            for artefact in artefacts(grid_dir).map_err(unreadable)? {
                if !artefact.starts_with("slide_features_") {
                    found.push((grid_dir.clone(), grid.clone(), artefact));
                }
            }
        }
        let (grid_dir, grid, artefact) = choose(found, wanted)?;
        let contract = read_contract(&grid_dir, &artefact)?
            .ok_or_else(|| Error::Output(format!("contracts/{artefact}.json is missing")))?;
        let contract_sha256 = digest::sha256(canonical(&contract).as_bytes());
        let paths = record_paths(&grid_dir, &artefact).map_err(unreadable)?;
        let read = |path: &PathBuf| {
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match Record::read(path) {
                Ok(record) if record.contract_sha256 != contract_sha256 => {
                    Err((id, "it was made under another contract".to_owned()))
                }
                Ok(record) if record.id != id || record.artefact != artefact => {
                    Err((id, "its record is that of another slide or artefact".to_owned()))
                }
                Ok(record) => Ok(record),
                Err(e) => Err((id, e.to_string())),
            }
        };
        let read: Vec<_> = paths.par_iter().map(read).collect();
        let (mut slides, mut unusable) = (Vec::new(), Vec::new());
        for result in read {
            match result {
                Ok(record) => slides.push(record),
                Err(why) => unusable.push(why),
            }
        }
        // Where one grid directory was given, site-private is beside it.
        let root = if grid_dir == out { out.join("..") } else { out.to_owned() };
        let failures = Failures::new(&root, &grid, &artefact).all()?.into_values().collect();
        Ok(Cohort { root, grid_dir, grid, artefact, contract, contract_sha256, slides, unusable, failures })
    }

    /// Whether the slides have features.
    #[must_use]
    pub fn has_features(&self) -> bool {
        self.artefact.starts_with("features_")
    }

    /// The encoder's id, as the contract has it.
    #[must_use]
    pub fn encoder(&self) -> Option<&str> {
        self.contract["encoder"]["id"].as_str()
    }

    /// The grid of a slide's tiles.
    #[must_use]
    pub fn grid(&self, record: &Record) -> Grid {
        let px = |name: &str| u32::try_from(self.contract["grid"][name].as_u64().unwrap_or(0)).unwrap_or(0);
        Grid::of(record, px("tile_px"), px("overlap_px"))
    }

    /// Opens the features of a slide.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn bag(&self, record: &Record) -> Result<Bag> {
        Bag::open(&self.file(record)?)
    }

    /// The coordinates of a slide's tiles in level-0 pixels, also where it has no features.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn coords(&self, record: &Record) -> Result<Vec<[i64; 2]>> {
        read_coords(&self.file(record)?)
    }

    fn file(&self, record: &Record) -> Result<PathBuf> {
        let file = record.files.first().and_then(|f| f.locate(&self.grid_dir));
        file.ok_or_else(|| Error::Output("its record names no file".into()))
    }

    /// Where the overview of a slide lies, if it has one.
    #[must_use]
    pub fn overview(&self, id: &str) -> PathBuf {
        self.grid_dir.join("overviews").join(format!("{id}.jpg"))
    }

    /// The cohort's principal components, fitted to rows that are spread evenly over its slides; `None` without features, or
    /// where they do not differ. Slides whose features cannot be read have no part in it.
    #[must_use]
    pub fn projection(&self) -> Option<Projection> {
        let full: Vec<&Record> = self.slides.iter().filter(|r| self.has_features() && r.tiles.written > 0).collect();
        let per_slide = SAMPLE_ROWS.checked_div(full.len())?.max(2);
        let every = full.len().div_ceil(SAMPLE_ROWS / 2).max(1);
        let chosen: Vec<&Record> = full.into_iter().step_by(every).collect();
        let samples: Vec<(usize, Vec<f32>)> =
            chosen.par_iter().filter_map(|record| sample(&self.bag(record).ok()?, per_slide).ok()).collect();
        let dim = samples.first()?.0;
        let rows: Vec<f32> = samples.into_iter().filter(|(d, _)| *d == dim).flat_map(|(_, rows)| rows).collect();
        Projection::fit(&rows, dim)
    }
}

/// Dimension and up to `n` rows of a bag, evenly spread; where `n` is large they come in runs, each of which is one read.
fn sample(bag: &Bag, n: usize) -> Result<(usize, Vec<f32>)> {
    const RUNS: usize = 8;
    let n = n.min(bag.rows());
    let mut rows = Vec::with_capacity(n * bag.dim());
    for run in 0..RUNS.min(n) {
        let length = n * (run + 1) / RUNS.min(n) - n * run / RUNS.min(n);
        let start = bag.rows() * run / RUNS.min(n);
        rows.extend(bag.read_rows(start, length)?);
    }
    Ok((bag.dim(), rows))
}

type Candidate = (PathBuf, String, String);

fn choose(mut found: Vec<Candidate>, wanted: Option<&str>) -> Result<Candidate> {
    let name = |(_, grid, artefact): &Candidate| format!("{grid}/{artefact}");
    let listed = |found: &[Candidate]| found.iter().map(name).collect::<Vec<_>>().join(", ");
    if found.is_empty() {
        return Err(Error::Usage("holds no records: not an output directory of paraffin".into()));
    }
    let all = listed(&found);
    match wanted {
        Some(wanted) => {
            found.retain(|c| name(c) == wanted || c.2 == wanted || c.2.strip_prefix("features_") == Some(wanted));
        }
        None if found.iter().any(|c| c.2 != "patches") => found.retain(|c| c.2 != "patches"),
        None => {}
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::Usage(format!("OUT holds nothing of this name; --artefact takes one of {all}"))),
        _ => Err(Error::Usage(format!("choose one with --artefact: OUT holds {}", listed(&found)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(names: &[&str]) -> Vec<Candidate> {
        let split = |name: &&str| name.split_once('/').map(|(g, a)| (PathBuf::new(), g.to_owned(), a.to_owned()));
        names.iter().filter_map(split).collect()
    }

    #[test]
    fn one_artefact_is_chosen_and_never_guessed() {
        let choose = |names: &[&str], wanted| choose(candidates(names), wanted).map(|(_, g, a)| format!("{g}/{a}"));
        assert_eq!(choose(&["a/patches"], None).expect("one"), "a/patches");
        assert_eq!(choose(&["a/patches", "a/features_x"], None).expect("one"), "a/features_x");
        assert_eq!(choose(&["a/patches", "a/features_x"], Some("patches")).expect("named"), "a/patches");
        let two = ["a/features_x", "a/features_y", "b/features_x"];
        assert_eq!(choose(&two, Some("y")).expect("by encoder"), "a/features_y");
        assert_eq!(choose(&two, Some("b/features_x")).expect("by name"), "b/features_x");
        let why = choose(&two, None).expect_err("several").to_string();
        assert!(why.contains("--artefact") && why.contains("b/features_x"), "{why}");
        assert!(choose(&two, Some("z")).is_err() && choose(&two, Some("x")).is_err() && choose(&[], None).is_err());
    }
}
