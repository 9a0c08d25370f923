//! safetensors: `<id>.safetensors` with `coords` (N, 2) int64 in level-0 pixels, `features` (N, D) float32, and what made them as
//! metadata. No id and no path is in it.
//!
//! Reference: the format's description in huggingface/safetensors. The header is written here and not by the crate of that name: the
//! crate wants a tensor's bytes in one piece, and writes metadata in a hash map's order, which changes from run to run.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};

use serde_json::json;

use super::{Slide, unwritable};
use crate::error::{Error, Result};

/// Writes the file.
///
/// # Errors
/// [`Error::Write`], or what reading the features brings.
pub(super) fn write(slide: &Slide) -> Result<Vec<String>> {
    let path = format!("{}.safetensors", slide.record.id);
    let bag = slide.bag;
    let (rows, dim) = (bag.rows() as u64, bag.dim() as u64);
    let attributes = bag.attributes();
    let encoder = &slide.finished.encoder;
    // The wider type first, so that both begin at multiples of their size.
    let end = 16 * rows;
    let header = json!({
        "__metadata__": {
            "schema": "paraffin-export/1",
            "contract_sha256": slide.finished.contract_sha256,
            "encoder": encoder.id,
            "encoder_sha256": encoder.sha256,
            "mpp_level0": slide.mpp_level0().to_string(),
            "mpp_target": slide.finished.contract.grid.target_mpp.to_string(),
            "patch_size": attributes.patch_size.to_string(),
            "patch_size_level0": attributes.patch_size_level0.to_string(),
            "overlap": attributes.overlap.to_string(),
            "level0_width": attributes.level0_width.to_string(),
            "level0_height": attributes.level0_height.to_string(),
        },
        "coords": {"dtype": "I64", "shape": [rows, 2], "data_offsets": [0, end]},
        "features": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [end, end + 4 * rows * dim]},
    });
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("a header: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let temp = slide.begin(&path)?;
    let file = OpenOptions::new().write(true).open(temp.path()).map_err(unwritable)?;
    let mut file = BufWriter::with_capacity(1 << 18, file);
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(unwritable);
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    bag.coords().iter().flatten().try_for_each(|v| put(&v.to_le_bytes()))?;
    bag.read(|values| put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))?;
    file.flush().map_err(unwritable)?;
    drop(file);
    temp.commit().map_err(unwritable)?;
    Ok(vec![path])
}
