//! What a run keeps beside its data: the contract that makes features comparable, one record per finished slide and
//! artefact, and the site manifest.
//!
//! An *artefact* is a kind of output of a grid directory, named after its folder: `patches`, `features_<encoder>` or
//! `slide_features_<slide encoder>`. In the grid directory lie
//!
//! ```text
//! contracts/<artefact>.json       written once, by whoever comes first
//! records/<artefact>/<id>.json    written after the slide's files: the done marker
//! canaries/<artefact>/<hash>.json what runs made of synthetic pixels
//! ```

pub mod canary;
pub mod checkpoint;
pub mod compat;
pub mod contract;
pub mod done;
pub mod failures;
pub mod manifest;
pub mod moments;
pub mod numbers;
pub mod publish;
pub mod runs;
pub mod sealed;
pub mod signature;
pub mod statistics;

use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result};
pub use contract::{Contract, claim_contract};
pub use manifest::SiteManifest;
use moments::Moments;

/// The facts of one finished slide and artefact. It holds no dates, no paths outside the grid directory, and no name but
/// the id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`Record::SCHEMA`].
    pub schema: String,
    /// The slide's id.
    pub id: String,
    /// `patches` or `features_<encoder>`.
    pub artefact: String,
    /// sha256 of the contract in canonical JSON.
    pub contract_sha256: String,
    /// Every file that belongs to it.
    pub files: Vec<FileEntry>,
    /// sha256 of the feature file that a slide vector was made of; absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<String>,
    /// How many tiles became rows.
    pub tiles: TileCounts,
    /// The slide as it was opened.
    pub slide: SlideFacts,
    /// How its tiles were read.
    pub read: ReadFacts,
    /// What the tissue method found, as that method tells it.
    pub tissue: serde_json::Value,
    /// What the features are like as a whole; absent for what holds none, and in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
    /// What a user should know about this slide's result.
    pub warnings: Vec<String>,
    /// What made it.
    pub runtime: Runtime,
}

/// A file of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the grid directory, with forward slashes.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// Tiles of a slide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileCounts {
    /// In the plan.
    pub planned: u64,
    /// Rows in the file.
    pub written: u64,
    /// Unreadable and left out, as `--allow-failed-tiles` let them be.
    pub failed: u64,
}

/// A slide as it was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlideFacts {
    /// Format, such as `aperio`.
    pub format: String,
    /// Reader that was used.
    pub reader: String,
    /// Width of level 0 in pixels.
    pub width: u32,
    /// Height of level 0 in pixels.
    pub height: u32,
    /// µm per level-0 pixel, horizontally.
    pub mpp_x: f64,
    /// µm per level-0 pixel, vertically.
    pub mpp_y: f64,
    /// Where they come from.
    pub mpp_source: String,
    /// The objective's magnification, where the slide tells.
    pub objective_power: Option<f64>,
}

/// How a slide's tiles were read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadFacts {
    /// Pyramid level, 0 is the finest.
    pub level: usize,
    /// Its level-0 pixels per pixel.
    pub level_downsample: f64,
    /// Pixels of the level per tile pixel.
    pub reduction: f64,
    /// What the block decoder reduced by: 1, 2, 4 or 8.
    pub block_scale: u32,
    /// Whether pixels were resampled after that.
    pub resampled: bool,
    /// Whether the slide's ICC profile was applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub icc_applied: bool,
    /// Side of a tile in level-0 pixels.
    pub tile_size_level0: u32,
    /// µm per tile pixel that this came to.
    pub effective_mpp: f64,
}

/// The software and device behind a result. It is not part of the contract.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Runtime {
    /// paraffin's version.
    pub paraffin: String,
    /// ONNX Runtime's version; `None` where no model ran.
    pub onnxruntime: Option<String>,
    /// The kind of device, such as `cpu`.
    pub device: String,
}

impl FileEntry {
    /// Measures a published file, `path` relative to the grid directory.
    ///
    /// # Errors
    /// [`Error::Output`] where it cannot be read.
    pub fn of(grid_dir: &Path, path: &str) -> Result<Self> {
        let unreadable = |e: io::Error| Error::Output(format!("a file just written cannot be read: {e}"));
        let file = grid_dir.join(path);
        let bytes = std::fs::metadata(&file).map_err(unreadable)?.len();
        Ok(FileEntry { path: path.to_owned(), bytes, sha256: digest::file_sha256(&file).map_err(unreadable)? })
    }

    /// Where it lies, if its path stays inside the grid directory.
    #[must_use]
    pub fn locate(&self, grid_dir: &Path) -> Option<PathBuf> {
        let path = Path::new(&self.path);
        let inside = !self.path.is_empty() && path.components().all(|c| matches!(c, Component::Normal(_)));
        inside.then(|| grid_dir.join(path))
    }
}

impl Record {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-record/1";

    /// The record as it lies on disk.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("plain fields and text keys always make JSON");
        text + "\n"
    }

    /// Publishes the record, which makes the slide count as done: call it after all its files are published.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, grid_dir: &Path) -> Result<()> {
        let path = record_path(grid_dir, &self.artefact, &self.id);
        publish::create_dir_all(path.parent().unwrap_or(grid_dir))
            .and_then(|()| publish::write_atomic(&path, self.to_json().as_bytes()))
            .map_err(|e| Error::write("a record", e))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Output`] where it cannot be read, is no record, or is of a newer kind.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::Output(format!("its record cannot be read: {e}")))?;
        let record: Record =
            serde_json::from_slice(&text).map_err(|e| Error::Output(format!("its record is damaged: {e}")))?;
        if record.schema != Record::SCHEMA {
            return Err(Error::Output(format!(
                "its record is of the kind '{}', not '{}'",
                record.schema,
                Record::SCHEMA
            )));
        }
        Ok(record)
    }
}

/// Where the record of a slide lies.
#[must_use]
pub fn record_path(grid_dir: &Path, artefact: &str, id: &str) -> PathBuf {
    grid_dir.join("records").join(artefact).join(format!("{id}.json"))
}

/// The artefacts of which a grid directory holds records or a contract, in alphabetical order.
///
/// # Errors
/// The directory cannot be listed; none where it has no records.
pub fn artefacts(grid_dir: &Path) -> io::Result<Vec<String>> {
    let records = list(&grid_dir.join("records"))?.into_iter().filter(|(_, is_dir)| *is_dir).map(|(name, _)| name);
    let contracts = list(&grid_dir.join("contracts"))?.into_iter();
    let contracts = contracts.filter_map(|(name, _)| name.strip_suffix(".json").map(str::to_owned));
    let mut found: Vec<String> = records.chain(contracts).collect();
    found.retain(|n| !n.starts_with('.'));
    found.sort();
    found.dedup();
    Ok(found)
}

/// The records of an artefact, in alphabetical order.
///
/// # Errors
/// The directory cannot be listed; none where there is none.
pub fn record_paths(grid_dir: &Path, artefact: &str) -> io::Result<Vec<PathBuf>> {
    let directory = grid_dir.join("records").join(artefact);
    let entries = list(&directory)?.into_iter();
    let records = entries.filter(|(name, is_dir)| !is_dir && !name.starts_with('.') && name.ends_with(".json"));
    Ok(records.map(|(name, _)| directory.join(name)).collect())
}

/// The grid directories at or directly below `root`: those that hold records.
///
/// # Errors
/// The directory cannot be listed.
pub fn grid_dirs(root: &Path) -> io::Result<Vec<PathBuf>> {
    if root.join("records").is_dir() {
        return Ok(vec![root.to_owned()]);
    }
    let below = list(root)?.into_iter().filter(|(name, is_dir)| *is_dir && !name.starts_with('.'));
    Ok(below.map(|(name, _)| root.join(name)).filter(|d| d.join("records").is_dir()).collect())
}

/// Names in a directory and whether each is a directory, in alphabetical order; nothing where it is missing.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<(String, bool)>> {
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        // Told by the listing itself; asking for each name would cost a look on the server.
        let kind = entry.file_type()?;
        let is_dir = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
        found.push((entry.file_name().to_string_lossy().into_owned(), is_dir));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
pub(crate) mod examples {
    //! A record and contract to test with.
    use super::*;

    pub(crate) fn runtime() -> Runtime {
        Runtime { paraffin: "0.1.0".into(), onnxruntime: None, device: "cpu".into() }
    }

    pub(crate) fn record(id: &str, artefact: &str, contract_sha256: &str, files: Vec<FileEntry>, rows: u64) -> Record {
        Record {
            schema: Record::SCHEMA.into(),
            id: id.into(),
            artefact: artefact.into(),
            contract_sha256: contract_sha256.into(),
            files,
            made_from: None,
            tiles: TileCounts { planned: rows, written: rows, failed: 0 },
            slide: SlideFacts {
                format: "aperio".into(),
                reader: "native".into(),
                width: 2220,
                height: 2967,
                mpp_x: 0.499,
                mpp_y: 0.499,
                mpp_source: "vendor".into(),
                objective_power: Some(20.0),
            },
            read: ReadFacts {
                level: 0,
                level_downsample: 1.0,
                reduction: 1.0,
                block_scale: 1,
                resampled: false,
                icc_applied: false,
                tile_size_level0: 256,
                effective_mpp: 0.499,
            },
            tissue: serde_json::json!({"fraction": 0.1}),
            moments: None,
            warnings: vec![],
            runtime: runtime(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_do_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let record = examples::record("a", "patches", &"0".repeat(64), vec![], 3);
        record.write(dir.path()).unwrap();
        let path = record_path(dir.path(), "patches", "a");
        let first = std::fs::read(&path).unwrap();
        record.write(dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(Record::read(&path).unwrap(), record);
        assert_eq!(record_paths(dir.path(), "patches").unwrap(), [path]);
        assert_eq!(artefacts(dir.path()).unwrap(), ["patches"]);
        assert_eq!(grid_dirs(dir.path()).unwrap(), [dir.path()]);
        assert_eq!(grid_dirs(dir.path().parent().unwrap()).unwrap().iter().filter(|d| **d == dir.path()).count(), 0);
    }

    #[test]
    fn files_stay_inside() {
        for path in ["../x", "/etc/passwd", "", "a/../../x"] {
            let entry = FileEntry { path: path.into(), bytes: 0, sha256: String::new() };
            assert!(entry.locate(Path::new("g")).is_none(), "{path}");
        }
    }
}
