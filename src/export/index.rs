//! `export.json`: what an export's directory holds, written last.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Target;
use crate::error::{Error, Result};
use crate::features::Finished;
use crate::record::{FileEntry, done, publish};

/// Its name in the export's directory.
const NAME: &str = "export.json";
const SCHEMA: &str = "paraffin-export/1";

/// What an export's directory holds. No dates, no names but ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    schema: String,
    target: String,
    grid: String,
    artefact: String,
    contract_sha256: String,
    /// Version that wrote it: another may write the same features otherwise.
    paraffin: String,
    /// False where the export was stopped, or slides were refused.
    pub(super) complete: bool,
    /// Slides and tiles, in figures.
    counts: Counts,
    /// Files that belong to no slide.
    pub(super) files: Vec<FileEntry>,
    /// The slides by id.
    pub(super) slides: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    slides: u64,
    tiles: u64,
}

/// One slide of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// sha256 of the feature file that its files hold.
    pub(super) made_from: String,
    /// Rows.
    pub(super) tiles: u64,
    /// Its files, relative to the export's directory.
    pub(super) files: Vec<FileEntry>,
}

/// The index of an earlier export; `None` where there is none.
///
/// # Errors
/// [`Error::Output`] where it cannot be read.
pub(super) fn read(dir: &Path) -> Result<Option<Index>> {
    let unfit = |why: String| Error::Output(format!("{NAME} in the directory of -o {why}: remove it to export anew"));
    match std::fs::read(dir.join(NAME)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // No directory yet: what is wrong with its name shows when it is made.
        Err(_) if !dir.is_dir() => Ok(None),
        Err(e) => Err(unfit(format!("cannot be read ({e})"))),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| unfit(format!("is damaged ({e})"))),
    }
}

impl Index {
    pub(super) fn new(target: Target, finished: &Finished) -> Self {
        Index {
            schema: SCHEMA.into(),
            target: target.name().into(),
            grid: finished.grid_name(),
            artefact: finished.artefact.clone(),
            contract_sha256: finished.contract_sha256.clone(),
            paraffin: env!("CARGO_PKG_VERSION").into(),
            complete: false,
            counts: Counts::default(),
            files: Vec::new(),
            slides: BTreeMap::new(),
        }
    }

    /// Refuses to mix this export with what another run left in the same directory.
    ///
    /// # Errors
    /// [`Error::Incompatible`].
    pub(super) fn refuse_another(&self, there: &Index) -> Result<()> {
        let fields = |i: &Index| {
            [
                ("schema", i.schema.clone()),
                ("target", i.target.clone()),
                ("artefact", i.artefact.clone()),
                ("contract_sha256", i.contract_sha256.clone()),
            ]
        };
        let differ: Vec<String> = fields(self)
            .into_iter()
            .zip(fields(there))
            .filter(|(here, there)| here != there)
            .map(|((name, here), (_, there))| format!("{name}: {there} there, {here} here"))
            .collect();
        match differ.is_empty() {
            true => Ok(()),
            false => Err(Error::Incompatible(format!(
                "the directory of -o holds another export:\n  {}\nuse another directory",
                differ.join("\n  ")
            ))),
        }
    }

    /// The entry of a slide whose files are still what this index says, made of the same features by the same version. The index is
    /// written last: a file of the right size that is not younger counts as unchanged, any other is read.
    pub(super) fn still_holds(&self, dir: &Path, id: &str, made_from: &str) -> Option<Entry> {
        let entry = self.slides.get(id).filter(|e| e.made_from == made_from && !e.files.is_empty())?;
        if self.paraffin != env!("CARGO_PKG_VERSION") {
            return None;
        }
        let written = std::fs::metadata(dir.join(NAME)).and_then(|m| m.modified()).ok();
        let unchanged = |modified: Option<SystemTime>| written.zip(modified).is_some_and(|(w, m)| m <= w);
        entry.files.iter().all(|file| done::check(dir, file, unchanged).is_ok()).then(|| entry.clone())
    }

    /// Tiles of all slides.
    pub(super) fn count(&self) -> u64 {
        self.slides.values().map(|e| e.tiles).sum()
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn write(&mut self, dir: &Path) -> Result<()> {
        self.counts = Counts { slides: self.slides.len() as u64, tiles: self.count() };
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(format!("{NAME}: {e}")))?;
        text.push(b'\n');
        publish::write_atomic(&dir.join(NAME), &text).map_err(|e| Error::write(NAME, e))
    }
}
