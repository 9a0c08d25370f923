//! Whether a slide is done: record present, its contract the wanted one, its files what the record says.

use std::path::Path;

use super::{FileEntry, Record, record_path};
use crate::digest;
use crate::error::{Error, Result};

/// What is known of a slide's artefact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Finished under the same contract, and whole.
    Done,
    /// Never finished.
    Missing,
    /// Finished, but no longer what it was; the reason, without the slide's name. It is to be redone.
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

/// Looks at a slide's record and files.
///
/// A record is written last. So a file of the right size that was not modified after its record is taken as unchanged,
/// which costs no reading; any other is read and its sha256 compared. `verify` reads everything.
#[must_use]
pub fn status(grid_dir: &Path, artefact: &str, id: &str, contract_sha256: &str) -> Status {
    let path = record_path(grid_dir, artefact, id);
    let written = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Status::Missing,
        Err(e) => return Status::Changed(format!("its record cannot be read: {e}")),
        Ok(metadata) => metadata.modified().ok(),
    };
    let record = match Record::read(&path) {
        Ok(record) => record,
        Err(Error::Output(why)) => return Status::Changed(why),
        Err(other) => return Status::Changed(other.to_string()),
    };
    if record.id != id || record.artefact != artefact {
        return Status::Changed("its record is that of another slide or artefact".into());
    }
    if record.contract_sha256 != contract_sha256 {
        return Status::Changed("it was made under another contract".into());
    }
    if record.files.is_empty() {
        return Status::Changed("its record names no file".into());
    }
    for entry in &record.files {
        if let Err(why) = check(grid_dir, entry, |modified| written.zip(modified).is_some_and(|(w, m)| m <= w)) {
            return Status::Changed(why);
        }
    }
    Status::Done
}

/// Removes a slide's record, so that it counts as never finished. Call it before a slide is done again.
///
/// # Errors
/// [`Error::Write`].
pub fn retract(grid_dir: &Path, artefact: &str, id: &str) -> Result<()> {
    let path = record_path(grid_dir, artefact, id);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::write("a record", e)),
        Ok(()) => {
            super::publish::sync_directory(path.parent().unwrap_or(grid_dir)).map_err(|e| Error::write("a record", e))
        }
    }
}

/// Compares a file with its entry; its content only where `trusted` does not vouch for its time of modification.
pub(crate) fn check(
    grid_dir: &Path,
    entry: &FileEntry,
    trusted: impl Fn(Option<std::time::SystemTime>) -> bool,
) -> Result<(), String> {
    let folder = entry.path.split('/').next().unwrap_or_default();
    let path = entry.locate(grid_dir).ok_or("its record names a file outside the grid directory")?;
    let metadata = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(format!("its file in {folder} is missing")),
        Err(e) => return Err(format!("its file in {folder} cannot be read: {e}")),
        Ok(metadata) => metadata,
    };
    if metadata.len() != entry.bytes {
        return Err(format!("its file in {folder} has {} bytes, not {}", metadata.len(), entry.bytes));
    }
    if trusted(metadata.modified().ok()) {
        return Ok(());
    }
    match digest::file_sha256(&path) {
        Ok(sha256) if sha256 == entry.sha256 => Ok(()),
        Ok(_) => Err(format!("the content of its file in {folder} has changed")),
        Err(e) => Err(format!("its file in {folder} cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{examples, publish};
    use std::fs::{self, File};
    use std::time::{Duration, Instant, SystemTime};

    const SHA: &str = "contract";

    fn finish(grid: &Path, id: &str, size: usize) {
        let path = format!("features_x/{id}.h5");
        fs::create_dir_all(grid.join("features_x")).unwrap();
        publish::write_atomic(&grid.join(&path), &vec![7; size]).unwrap();
        let entry = FileEntry::of(grid, &path).unwrap();
        examples::record(id, "features_x", SHA, vec![entry], 1).write(grid).unwrap();
    }

    fn reason(grid: &Path, id: &str) -> String {
        match status(grid, "features_x", id, SHA) {
            Status::Changed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Writes and makes sure that the time of modification shows it, however coarse the file system's clock is.
    fn damage(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(SystemTime::now() + Duration::from_secs(2))
            .unwrap();
    }

    #[test]
    fn every_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let grid = dir.path();
        assert_eq!(status(grid, "features_x", "a", SHA), Status::Missing);
        finish(grid, "a", 1000);
        assert!(matches!(status(grid, "features_x", "a", SHA), Status::Done));
        let file = grid.join("features_x/a.h5");

        // Touched, with the same content: still done.
        damage(&file, &[7; 1000]);
        assert!(matches!(status(grid, "features_x", "a", SHA), Status::Done));
        let mut flipped = vec![7; 1000];
        flipped[500] = 6;
        damage(&file, &flipped);
        assert!(reason(grid, "a").contains("content"));
        damage(&file, &[7; 999]);
        assert!(reason(grid, "a").contains("999 bytes, not 1000"));
        fs::remove_file(&file).unwrap();
        assert!(reason(grid, "a").contains("missing"));

        finish(grid, "a", 1000);
        assert!(matches!(status(grid, "features_x", "a", "other"), Status::Changed(why) if why.contains("contract")));
        let record = record_path(grid, "features_x", "a");
        let whole = fs::read(&record).unwrap();
        fs::write(&record, &whole[..whole.len() / 2]).unwrap();
        assert!(reason(grid, "a").contains("damaged"));
        fs::write(&record, String::from_utf8(whole.clone()).unwrap().replace("record/1", "record/9")).unwrap();
        assert!(reason(grid, "a").contains("record/9"));
        fs::copy(&record, record_path(grid, "features_x", "b")).unwrap();
        fs::write(record_path(grid, "features_x", "b"), &whole).unwrap();
        assert!(reason(grid, "b").contains("another slide"));
        retract(grid, "features_x", "a").unwrap();
        retract(grid, "features_x", "a").unwrap();
        assert_eq!(status(grid, "features_x", "a", SHA), Status::Missing);
    }

    #[test]
    fn a_hundred_finished_slides_take_no_time() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..100 {
            finish(dir.path(), &format!("s{i}"), 200_000);
        }
        let start = Instant::now();
        for i in 0..100 {
            assert!(matches!(status(dir.path(), "features_x", &format!("s{i}"), SHA), Status::Done));
        }
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
}
