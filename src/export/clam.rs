//! CLAM, and HistoFL, which reads the same: `pt_files/<id>.pt` holds the features, a float32 tensor (N, D), and
//! `h5_files/<id>.h5` holds `features` (N, D) float32 and `coords` (N, 2) int32 in level-0 pixels, as CLAM's own extractor writes them.
//!
//! Reference: mahmoodlab/CLAM, `dataset_modules/dataset_generic.py` (reads), `utils/file_utils.py` (writes). A CLAM dataset takes the
//! directory as `data_dir`, and a table whose `slide_id` is the id.

use super::{Slide, hdf5, torch};
use crate::error::{Error, Result};
use crate::features::column::Kind;

/// Writes both files.
///
/// # Errors
/// [`Error::Output`] for coordinates beyond int32, [`Error::Write`].
pub(super) fn write(slide: &Slide) -> Result<Vec<String>> {
    let id = &slide.record.id;
    let (pt, h5) = (format!("pt_files/{id}.pt"), format!("h5_files/{id}.h5"));
    if slide.bag.coords().iter().flatten().any(|v| i32::try_from(*v).is_err()) {
        return Err(Error::Output("coordinates beyond the int32 that CLAM stores".into()));
    }
    torch::write(slide.begin(&pt)?, slide.bag)?;
    // Checked above.
    let encode = |pair: [i64; 2]| pair.map(|v| (v as i32).to_le_bytes());
    hdf5::write(slide, slide.begin(&h5)?, "features", Kind::I32, encode, &[])?;
    Ok(vec![pt, h5])
}
