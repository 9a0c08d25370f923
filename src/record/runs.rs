//! How runs went: `site-private/runs/<worker>.json`, one a run, for the report's charts. Times differ from run to run, so none of
//! them stands in what leaves.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::list;
use super::publish::{self, PRIVATE};
use crate::error::{Error, Result};

/// A run as it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunNote {
    /// [`RunNote::SCHEMA`].
    pub schema: String,
    /// The worker's name: this boot of this host, process, random.
    pub worker: String,
    /// The grid directory's name.
    pub grid: String,
    /// What it made.
    pub artefact: String,
    /// Slides it published.
    pub slides_done: u64,
    /// Slides that failed in it.
    pub slides_failed: u64,
    /// What was done and waited, summed over threads since the run began; the last is its end.
    pub samples: Vec<Sample>,
}

/// A moment of a run: seconds that threads spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the run began.
    pub seconds: f64,
    /// Tiles embedded.
    pub tiles: u64,
    /// Opening slides, finding tissue, planning.
    pub preparing: f64,
    /// Readers at work.
    pub reading: f64,
    /// Encoders at work.
    pub embedding: f64,
    /// Writing, compressing, publishing.
    pub writing: f64,
    /// Encoders waiting for tiles, after their first.
    pub model_waits: f64,
    /// Readers waiting for the model to take tiles.
    pub readers_wait_model: f64,
    /// All in reads of slide files.
    pub disk: f64,
}

impl RunNote {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-run/1";

    /// Keeps it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, out: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Error::Internal(e.to_string()))? + "\n";
        let directory = directory(out);
        publish::create_dir_all(&directory)
            .and_then(|()| publish::write_atomic(&directory.join(format!("{}.json", self.worker)), text.as_bytes()))
            .map_err(|e| Error::write("a note of the run", e))
    }

    /// The runs that made an artefact of a grid, in the order in which they ended. A damaged note is passed over: nothing
    /// depends on it.
    #[must_use]
    pub fn all(out: &Path, grid: &str, artefact: &str) -> Vec<RunNote> {
        let directory = directory(out);
        let names = list(&directory).unwrap_or_default().into_iter().filter(|(name, _)| !name.starts_with('.'));
        let read = names.filter_map(|(name, _)| {
            let path = directory.join(name);
            let ended = std::fs::metadata(&path).ok()?.modified().ok()?;
            let note: RunNote = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            (note.schema == Self::SCHEMA && note.grid == grid && note.artefact == artefact).then_some((ended, note))
        });
        let mut notes: Vec<_> = read.collect();
        notes.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.worker.cmp(&y.worker)));
        notes.into_iter().map(|(_, note)| note).collect()
    }
}

/// Where the notes lie.
#[must_use]
pub fn directory(out: &Path) -> PathBuf {
    out.join(PRIVATE).join("runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_of_an_artefact_come_back() {
        let out = tempfile::tempdir().expect("temporary directory");
        publish::create_private_dir(out.path()).expect("creates");
        let note = |worker: &str, artefact: &str| RunNote {
            schema: RunNote::SCHEMA.into(),
            worker: worker.into(),
            grid: "g".into(),
            artefact: artefact.into(),
            slides_done: 3,
            slides_failed: 1,
            samples: vec![Sample { seconds: 1.5, tiles: 7, ..Sample::default() }],
        };
        assert!(RunNote::all(out.path(), "g", "a").is_empty());
        for (worker, artefact) in [("w2", "a"), ("w1", "a"), ("w3", "b")] {
            note(worker, artefact).write(out.path()).expect("writes");
        }
        std::fs::write(directory(out.path()).join("w9.json"), "{").expect("writes");
        let all = RunNote::all(out.path(), "g", "a");
        assert_eq!(all.len(), 2);
        assert!(all.contains(&note("w1", "a")) && all.contains(&note("w2", "a")));
    }
}
