//! One table of all that lies in an OUT: a row for each slide and artefact, done or failed.

use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::failures;
use crate::error::{Error, Result};
use crate::record::{Record, artefacts, grid_dirs, record_paths};

/// A row. Fields that a failed slide does not have are empty.
#[derive(Serialize, Default)]
struct Row {
    id: String,
    grid: String,
    artefact: String,
    state: &'static str,
    tiles: Option<u64>,
    tiles_failed: Option<u64>,
    mpp: Option<f64>,
    mpp_source: String,
    format: String,
    width: Option<u32>,
    height: Option<u32>,
    file: String,
    bytes: Option<u64>,
    sha256: String,
    warnings: String,
}

/// How many rows a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Of records.
    pub done: usize,
    /// Of slides that failed and have not been done since.
    pub failed: usize,
    /// Records that cannot be read and have no row; `verify` names them.
    pub damaged: usize,
}

/// Writes the table of `out` as CSV, sorted by grid, artefact and id. Damaged records are counted, not listed.
///
/// # Errors
/// [`Error::Output`] where OUT cannot be listed, [`Error::Write`].
pub fn write(out: &Path, to: impl Write) -> Result<Rows> {
    let listed = |e: std::io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
    let mut count = Rows::default();
    let mut table = csv::Writer::from_writer(to);
    let failed = failures::notes(out)?;
    for grid_dir in grid_dirs(out).map_err(listed)? {
        let grid = grid_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for artefact in artefacts(&grid_dir).map_err(listed)? {
            let paths = record_paths(&grid_dir, &artefact).map_err(listed)?;
            // In parallel: on network storage each read waits for the server.
            let mut rows: Vec<Row> =
                paths.par_iter().filter_map(|path| Record::read(path).ok()).map(|record| row(&grid, record)).collect();
            count.damaged += paths.len() - rows.len();
            count.done += rows.len();
            for (_, _, note) in failed.iter().filter(|(g, a, _)| *g == grid && *a == artefact) {
                count.failed += 1;
                rows.push(Row {
                    id: note.id.clone(),
                    grid: grid.clone(),
                    artefact: artefact.clone(),
                    state: "failed",
                    warnings: format!("{}: {}", note.kind, note.message),
                    ..Row::default()
                });
            }
            rows.sort_by(|a, b| a.id.cmp(&b.id));
            rows.iter().try_for_each(|row| table.serialize(row)).map_err(|e| Error::write("the table", e.into()))?;
        }
    }
    table.flush().map_err(|e| Error::write("the table", e))?;
    Ok(count)
}

fn row(grid: &str, record: Record) -> Row {
    let file = record.files.into_iter().next();
    Row {
        id: record.id,
        grid: grid.to_string(),
        artefact: record.artefact,
        state: "done",
        tiles: Some(record.tiles.written),
        tiles_failed: Some(record.tiles.failed),
        mpp: Some((record.slide.mpp_x + record.slide.mpp_y) / 2.0),
        mpp_source: record.slide.mpp_source,
        format: record.slide.format,
        width: Some(record.slide.width),
        height: Some(record.slide.height),
        bytes: file.as_ref().map(|f| f.bytes),
        sha256: file.as_ref().map(|f| f.sha256.clone()).unwrap_or_default(),
        file: file.map(|f| f.path).unwrap_or_default(),
        warnings: record.warnings.join("; "),
    }
}
