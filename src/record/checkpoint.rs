//! Slides that were begun: `checkpoints/<artefact>/<id>.h5` holds the rows that were done when a run stopped, as a feature file
//! of fewer rows, and `<id>.json`, written after it, says what they belong to. Whoever comes next may go on with them; they
//! go when the slide is published.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::publish::{self, TempFile};
use super::{FileEntry, Runtime, done, list};
use crate::digest;
use crate::error::{Error, Result};

/// The directory below a grid's.
pub const DIRECTORY: &str = "checkpoints";

/// What the rows of a checkpoint belong to. Rows continue a slide only where all of it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// sha256 of the contract in canonical JSON: encoder, grid, tissue, storage.
    pub contract_sha256: String,
    /// sha256 of the plan: the slide's content as its fingerprint has it, level, and every tile's place.
    pub plan_sha256: String,
    /// What computed them: another device gives other last bits.
    pub runtime: Runtime,
}

/// How far a slide came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`Checkpoint::SCHEMA`].
    pub schema: String,
    /// The slide's id.
    pub id: String,
    /// `features_<encoder>`.
    pub artefact: String,
    /// What the rows belong to.
    pub work: Work,
    /// Tiles in the plan.
    pub tiles: u64,
    /// The first tile of the plan that is not done.
    pub next: usize,
    /// Tiles before it, by their place in the plan, that could not be read and have no row.
    pub unreadable: Vec<usize>,
    /// The file with the rows.
    pub rows: FileEntry,
}

impl Checkpoint {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-checkpoint/1";

    /// Publishes the note that makes the rows count: call it after their file is published.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, mut place: Place) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Internal(e.to_string()))? + "\n";
        let written = std::io::Write::write_all(&mut place.file, text.as_bytes());
        written.and_then(|()| place.note.commit()).map_err(|e| Error::write("a checkpoint", e))
    }

    /// Reads a slide's checkpoint; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Output`] where it cannot be read, is damaged or of another kind.
    pub fn read(grid_dir: &Path, artefact: &str, id: &str) -> Result<Option<Self>> {
        let text = match std::fs::read(note_path(grid_dir, artefact, id)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| Error::Output(format!("its checkpoint cannot be read: {e}")))?,
        };
        let checkpoint: Checkpoint =
            serde_json::from_slice(&text).map_err(|e| Error::Output(format!("its checkpoint is damaged: {e}")))?;
        if checkpoint.schema != Self::SCHEMA || checkpoint.id != id || checkpoint.artefact != artefact {
            return Err(Error::Output("its checkpoint is of another kind or slide".into()));
        }
        Ok(Some(checkpoint))
    }

    /// Whether the file with the rows is the one that was written, byte by byte.
    ///
    /// # Errors
    /// [`Error::Output`] says what is wrong.
    pub fn check_rows(&self, grid_dir: &Path) -> Result<PathBuf> {
        let path = rows_path(grid_dir, &self.artefact, &self.id);
        if self.rows.locate(grid_dir).as_deref() != Some(&path) {
            return Err(Error::Output("its checkpoint names another file".into()));
        }
        match digest::file_sha256(&path) {
            Ok(sha256) if sha256 == self.rows.sha256 => Ok(path),
            Ok(_) => Err(Error::Output("its checkpoint's rows are not those that were written".into())),
            Err(e) => Err(Error::Output(format!("its checkpoint's rows cannot be read: {e}"))),
        }
    }
}

/// The directory of an artefact's checkpoints, with a note that is going to be written in it.
pub struct Place {
    note: TempFile,
    file: File,
}

impl Place {
    /// Makes the directory, and keeps others from removing it as empty.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn make(grid_dir: &Path, artefact: &str, id: &str) -> Result<Self> {
        let path = note_path(grid_dir, artefact, id);
        let make = || {
            publish::create_dir_all(path.parent().unwrap_or(grid_dir))?;
            let note = TempFile::for_path(&path)?;
            let file = OpenOptions::new().write(true).open(note.path())?;
            Ok(Place { note, file })
        };
        // Between the two another run may have removed its last checkpoint, and the directory with it.
        let mut result = make();
        for _ in 0..8 {
            match &result {
                Err(e) if io::Error::kind(e) == io::ErrorKind::NotFound => result = make(),
                _ => break,
            }
        }
        result.map_err(|e| Error::write(DIRECTORY, e))
    }
}

/// Where the rows of a checkpoint lie.
#[must_use]
pub fn rows_path(grid_dir: &Path, artefact: &str, id: &str) -> PathBuf {
    grid_dir.join(relative_rows_path(artefact, id))
}

/// The same, relative to the grid directory.
#[must_use]
pub fn relative_rows_path(artefact: &str, id: &str) -> String {
    format!("{DIRECTORY}/{artefact}/{id}.h5")
}

fn note_path(grid_dir: &Path, artefact: &str, id: &str) -> PathBuf {
    grid_dir.join(DIRECTORY).join(artefact).join(format!("{id}.json"))
}

/// Removes a slide's checkpoint, if it has one; the note first, without which rows count for nothing.
pub fn discard(grid_dir: &Path, artefact: &str, id: &str) {
    // One that cannot be removed is judged again by whoever meets it.
    let _ = std::fs::remove_file(note_path(grid_dir, artefact, id));
    let _ = std::fs::remove_file(rows_path(grid_dir, artefact, id));
    // Only where they are empty.
    let _ = std::fs::remove_dir(grid_dir.join(DIRECTORY).join(artefact));
    let _ = std::fs::remove_dir(grid_dir.join(DIRECTORY));
}

/// The artefacts of a grid directory that have checkpoints, now or before.
///
/// # Errors
/// The operating system's reason.
pub fn artefacts(grid_dir: &Path) -> io::Result<Vec<String>> {
    let there = list(&grid_dir.join(DIRECTORY))?;
    Ok(there.into_iter().filter(|(_, is_dir)| *is_dir).map(|(name, _)| name).collect())
}

/// The ids of an artefact's slides that have a checkpoint, or rows of one.
///
/// # Errors
/// The operating system's reason.
pub fn ids(grid_dir: &Path, artefact: &str) -> io::Result<Vec<String>> {
    let there = list(&grid_dir.join(DIRECTORY).join(artefact))?;
    let names = there.iter().filter(|(name, is_dir)| !is_dir && !publish::is_part(name));
    let mut ids: Vec<String> =
        names.filter_map(|(name, _)| name.strip_suffix(".json").or(name.strip_suffix(".h5"))).map(Into::into).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Clears away the checkpoints of slides that are finished: a run that was cut off between the two leaves them.
///
/// # Errors
/// The operating system's reason.
pub fn sweep_finished(grid_dir: &Path) -> io::Result<()> {
    for artefact in artefacts(grid_dir)? {
        publish::sweep_stale_parts(&grid_dir.join(DIRECTORY).join(&artefact))?;
        for id in ids(grid_dir, &artefact)? {
            let finished = match Checkpoint::read(grid_dir, &artefact, &id) {
                Ok(Some(c)) => done::status(grid_dir, &artefact, &id, &c.work.contract_sha256).is_done(),
                Ok(None) => super::record_path(grid_dir, &artefact, &id).exists(),
                Err(_) => false,
            };
            if finished {
                discard(grid_dir, &artefact, &id);
            }
        }
    }
    Ok(())
}
