//! slideflow, and PathBench-MIL, which is built on it: `<id>.pt` holds the features, a float32 tensor (N, D); `<id>.index.npz` holds
//! `arr_0` (N, 2) int64, the **centres** of the tiles in level-0 pixels; `bags_config.json` says what made them.
//!
//! Reference: slideflow 3.0.2, `model/features.py::to_torch` (writes), `util/tfrecord2idx.py`, `mil/` (reads). The extractor's class is
//! paraffin's: slideflow trains and evaluates on such bags, and cannot make more of them.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};
use zip::ZipWriter;

use super::{Slide, torch, unwritable};
use crate::error::{Error, Result};
use crate::features::Finished;
use crate::record::publish;

/// Name of the file that stands beside the bags.
const CONFIG: &str = "bags_config.json";

/// Writes both files of a slide.
///
/// # Errors
/// [`Error::Write`].
pub(super) fn write(slide: &Slide) -> Result<Vec<String>> {
    let id = &slide.record.id;
    let (pt, index) = (format!("{id}.pt"), format!("{id}.index.npz"));
    torch::write(slide.begin(&pt)?, slide.bag)?;
    let temp = slide.begin(&index)?;
    let file = OpenOptions::new().write(true).open(temp.path()).map_err(unwritable)?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let half = slide.bag.attributes().patch_size_level0 / 2;
    let coords = slide.bag.coords();
    torch::begin(&mut zip, "arr_0.npy", 16 * coords.len() as u64)?;
    let values: Vec<u8> = coords.iter().flatten().flat_map(|v| (v + half).to_le_bytes()).collect();
    zip.write_all(&npy_header(coords.len())).and_then(|()| zip.write_all(&values)).map_err(unwritable)?;
    zip.finish().map_err(torch::unzippable)?.flush().map_err(unwritable)?;
    temp.commit().map_err(unwritable)?;
    Ok(vec![pt, index])
}

/// Header of an array (N, 2) of int64 in NumPy's format 1.0, which is 128 bytes long.
fn npy_header(rows: usize) -> Vec<u8> {
    let words = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({rows}, 2), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&118u16.to_le_bytes());
    header.extend_from_slice(format!("{words:<117}\n").as_bytes());
    header
}

/// Writes `bags_config.json`.
///
/// # Errors
/// [`Error::Write`].
pub(super) fn write_config(finished: &Finished, dir: &Path) -> Result<Vec<String>> {
    let grid = &finished.contract.grid;
    let um = f64::from(grid.tile_px) * grid.target_mpp;
    let config = json!({
        "extractor": {"class": format!("paraffin.{}", finished.encoder.id), "kwargs": {}},
        "normalizer": Value::Null,
        "num_features": finished.encoder.dim,
        "tile_px": grid.tile_px,
        // slideflow's are whole.
        "tile_um": um.round() as i64,
        "contract_sha256": finished.contract_sha256,
    });
    let mut text = serde_json::to_vec_pretty(&config).map_err(|e| Error::Internal(format!("{CONFIG}: {e}")))?;
    text.push(b'\n');
    publish::write_atomic(&dir.join(CONFIG), &text).map_err(|e| Error::write(CONFIG, e))?;
    Ok(vec![CONFIG.into()])
}
