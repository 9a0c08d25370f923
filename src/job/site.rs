//! What a site says of itself, from what its OUT holds: the site manifest, with the slides that failed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ids::PRIVATE;
use super::ids::sealed::Kept;
use crate::error::{Error, Result};
use crate::record::list;
use crate::record::manifest::{Failures, SiteManifest};

/// Why a slide failed, as `site-private/failures` keeps it.
#[derive(Serialize, Deserialize)]
pub(super) struct FailureNote {
    pub(super) id: String,
    /// [`Error::kind`].
    pub(super) kind: String,
    pub(super) message: String,
    pub(super) path: Option<Kept<String>>,
}

/// Where the notes of failed slides lie, by grid and artefact.
pub(super) fn failures_dir(out: &Path) -> PathBuf {
    out.join(PRIVATE).join("failures")
}

/// Writes `site-manifest.json` from what `out` holds, whichever runs made it.
///
/// # Errors
/// [`Error::Output`] where OUT cannot be read, [`Error::Write`].
pub fn write_manifest(out: &Path) -> Result<()> {
    SiteManifest::gather(out, &failures(out)?)?.write(out)
}

/// The slides that failed and have not been done since, counted.
fn failures(out: &Path) -> Result<Failures> {
    let listed = |directory: &Path| {
        list(directory).map_err(|e| Error::Output(format!("{PRIVATE}/failures cannot be listed: {e}")))
    };
    let mut failures = Failures::new();
    let root = failures_dir(out);
    for (grid, _) in listed(&root)? {
        for (artefact, _) in listed(&root.join(&grid))? {
            let directory = root.join(&grid).join(&artefact);
            let kinds: &mut BTreeMap<String, u64> = failures.entry((grid.clone(), artefact)).or_default();
            for (name, _) in listed(&directory)?.iter().filter(|(name, _)| !name.starts_with('.')) {
                let note = fs::read(directory.join(name)).ok();
                let note = note.and_then(|text| serde_json::from_slice::<FailureNote>(&text).ok());
                // None where another worker has just done the slide.
                if let Some(note) = note {
                    *kinds.entry(note.kind).or_default() += 1;
                }
            }
        }
    }
    Ok(failures)
}
