//! Notes of slides that failed, in `site-private/failures/<grid>/<artefact>/<id>.json`: why, and where the slide lies. A note is
//! removed when the slide is done.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::publish::PRIVATE;
use super::sealed::Kept;
use super::{list, manifest, publish};
use crate::error::{Error, Result};

/// Why a slide failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureNote {
    /// The slide's id.
    pub id: String,
    /// [`Error::kind`].
    pub kind: String,
    /// The message, without the slide's path.
    pub message: String,
    /// Where the slide lies; `None` where it could not be encrypted.
    pub path: Option<Kept<String>>,
    /// The worker that it failed in, so that another attempt gives another note.
    #[serde(default)]
    pub worker: String,
}

/// The notes of one artefact of one grid.
#[derive(Clone, Debug)]
pub struct Failures {
    directory: PathBuf,
}

impl Failures {
    /// Those of `artefact` in the grid directory named `grid`.
    #[must_use]
    pub fn new(out: &Path, grid: &str, artefact: &str) -> Self {
        Failures { directory: root(out).join(grid).join(artefact) }
    }

    fn file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// Keeps a note.
    pub fn note(&self, note: &FailureNote) {
        let text = serde_json::to_string_pretty(note).unwrap_or_default() + "\n";
        // The failure itself is told in the table; a note that cannot be written is no second one.
        let _ = publish::create_dir_all(&self.directory)
            .and_then(|()| publish::write_atomic(&self.file(&note.id), text.as_bytes()));
    }

    /// Removes a slide's note.
    pub fn forget(&self, id: &str) {
        let _ = fs::remove_file(self.file(id));
    }

    /// The note of a slide, if it failed and has not been done since.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<FailureNote> {
        serde_json::from_slice(&fs::read(self.file(id)).ok()?).ok()
    }

    /// All notes, by id.
    ///
    /// # Errors
    /// [`Error::Output`] where they cannot be listed.
    pub fn all(&self) -> Result<BTreeMap<String, FailureNote>> {
        let names = list(&self.directory).map_err(unreadable)?.into_iter().filter(|(name, _)| !name.starts_with('.'));
        let notes = names.filter_map(|(name, _)| self.of(name.strip_suffix(".json")?));
        Ok(notes.map(|note| (note.id.clone(), note)).collect())
    }
}

fn unreadable(e: io::Error) -> Error {
    Error::Output(format!("{PRIVATE}/failures cannot be listed: {e}"))
}

fn root(out: &Path) -> PathBuf {
    out.join(PRIVATE).join("failures")
}

/// The directories that hold notes.
pub(crate) fn directories(out: &Path) -> io::Result<Vec<PathBuf>> {
    let root = root(out);
    let mut found = Vec::new();
    for (grid, _) in list(&root)? {
        let grid = root.join(grid);
        found.extend(list(&grid)?.into_iter().map(|(artefact, _)| grid.join(artefact)));
    }
    Ok(found)
}

/// The notes of all slides of `out` that failed and have not been done since, with their grid and artefact.
///
/// # Errors
/// [`Error::Output`] where they cannot be listed.
pub fn notes(out: &Path) -> Result<Vec<(String, String, FailureNote)>> {
    let mut found = Vec::new();
    for directory in directories(out).map_err(unreadable)? {
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let (grid, artefact) = (name(directory.parent()), name(Some(&directory)));
        // A note that vanishes is of a slide that another worker has just done.
        let notes = (Failures { directory }).all()?.into_values();
        found.extend(notes.map(|note| (grid.clone(), artefact.clone(), note)));
    }
    Ok(found)
}

/// The slides of `out` that failed and have not been done since, counted.
///
/// # Errors
/// [`Error::Output`] where they cannot be listed.
pub fn count(out: &Path) -> Result<manifest::Failures> {
    let mut failures = manifest::Failures::new();
    for (grid, artefact, note) in notes(out)? {
        let kinds: &mut BTreeMap<String, u64> = failures.entry((grid, artefact)).or_default();
        *kinds.entry(note.kind).or_default() += 1;
    }
    Ok(failures)
}
