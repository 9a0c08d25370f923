//! What is done: a slide counts as done when its record is there, was made under this contract, and every file it names is
//! whole.
//!
//! The record is written last. A file that was changed after its record (by modification time) is read and its sha256 taken;
//! one that was not is trusted, which makes a second run over finished slides a matter of milliseconds. `verify` reads all.

use std::fs;
use std::path::{Path, PathBuf};

use super::Record;
use super::contract::Contract;
use super::publish;
use crate::digest::file_sha256;
use crate::error::{Error, Result};

/// What OUT holds of a slide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of it, whole.
    Done,
    /// Nothing that counts.
    Missing,
    /// Something that does not count, and why.
    Changed(String),
}

impl Status {
    /// Whether nothing remains to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        *self == Status::Done
    }

    /// Why what is there does not count.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Status::Changed(why) => Some(why),
            _ => None,
        }
    }
}

/// The record of a slide's artefact.
#[must_use]
pub fn record_path(grid_dir: &Path, artefact: &str, id: &str) -> PathBuf {
    grid_dir.join("records").join(artefact).join(format!("{id}.json"))
}

/// Judges what `grid_dir` holds of a slide.
#[must_use]
pub fn status(grid_dir: &Path, artefact: &str, id: &str, contract_sha256: &str) -> Status {
    let path = record_path(grid_dir, artefact, id);
    let Ok(bytes) = fs::read(&path) else { return Status::Missing };
    let changed = |why: &str| Status::Changed(why.to_string());
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return changed("its record is unreadable") };
    if record.contract_sha256 != contract_sha256 {
        return changed("its record is of another contract");
    }
    let recorded = fs::metadata(&path).and_then(|m| m.modified()).ok();
    for entry in &record.files {
        let file = grid_dir.join(&entry.path);
        let Ok(metadata) = fs::metadata(&file) else { return changed("its file is missing") };
        if metadata.len() != entry.bytes {
            return changed("its file has another size than was recorded");
        }
        let untouched = metadata.modified().ok().zip(recorded).is_some_and(|(file, record)| file <= record);
        if !untouched && file_sha256(&file).ok().as_deref() != Some(entry.sha256.as_str()) {
            return changed("its file has another content than was recorded");
        }
    }
    Status::Done
}

/// Lays the contract down beside the records, once; or compares with the one that lies there.
///
/// # Errors
/// [`Error::Incompatible`] naming every field that differs.
pub fn claim_contract(grid_dir: &Path, artefact: &str, contract: &Contract) -> Result<()> {
    let path = grid_dir.join("records").join(artefact).join("contract.json");
    let failed = |e| Error::write("contract.json", e);
    let text = serde_json::to_vec_pretty(contract).map_err(|e| Error::Internal(e.to_string()))?;
    if publish::create_once(&path, &text).map_err(failed)? {
        return Ok(());
    }
    let there = fs::read(&path).map_err(failed)?;
    let there: Contract = serde_json::from_slice(&there)
        .map_err(|e| Error::Output(format!("the contract beside the records of {artefact} is unreadable: {e}")))?;
    let differences = contract.differences(&there);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Incompatible(format!(
        "OUT holds {artefact} made with other settings; give another OUT, or the same settings again:\n  {}",
        differences.join("\n  ")
    )))
}
