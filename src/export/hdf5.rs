//! Features and coordinates in an HDF5 file of another tool's names and types.

use rust_hdf5::H5File;

use super::Slide;
use crate::error::Result;
use crate::features::Bag;
use crate::features::column::{Column, Kind, failed};
use crate::record::publish::TempFile;

/// Level of deflate behind shuffle, where values compress; HDF5's own filters, which every reader has.
const DEFLATE: u32 = 1;

/// A root attribute.
pub(super) enum Attribute<'a> {
    Text(&'a str),
    Int(i64),
    Float(f64),
}

/// Writes `features` (N, D) float32 under the given name, `coords` (N, 2) of `kind` as `encode` makes their little-endian bytes, and the
/// root's attributes. No object times.
///
/// # Errors
/// [`crate::Error::Write`], or what reading the features brings.
pub(super) fn write(
    slide: &Slide,
    temp: TempFile,
    features_name: &'static str,
    kind: Kind,
    encode: impl Fn([i64; 2]) -> [[u8; 4]; 2],
    attributes: &[(&str, Attribute)],
) -> Result<()> {
    let bag = slide.bag;
    // The temporary name is ours alone: no lock, which some network file systems refuse.
    let file = H5File::options().track_times(false).no_locking().create(temp.path()).map_err(failed)?;
    for (name, value) in attributes {
        match value {
            Attribute::Text(text) => file.set_attr_string(name, text).map_err(failed)?,
            Attribute::Int(value) => file.set_attr_numeric(name, value).map_err(failed)?,
            Attribute::Float(value) => file.set_attr_numeric(name, value).map_err(failed)?,
        }
    }
    // Mantissas of 10 bits compress to half; those of 23 do not.
    let rounded = slide.finished.contract.storage.as_ref().is_some_and(|s| s.precision == "f32-m10");
    let mut features = Column::new(features_name, Kind::F32, bag.dim(), Bag::STEP, rounded.then_some(DEFLATE));
    let mut coords = Column::new("coords", kind, 2, Bag::STEP, Some(DEFLATE));
    let mut pieces = bag.coords().chunks(Bag::STEP);
    bag.read(|values| {
        features.buffer.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        features.advance(values.len() / bag.dim(), &file)?;
        let pairs = pieces.next().unwrap_or_default();
        coords.buffer.extend(pairs.iter().flat_map(|pair| encode(*pair)).flatten());
        coords.advance(pairs.len(), &file)
    })?;
    features.finish(&file)?;
    coords.finish(&file)?;
    // Datasets hold the file too; they go first.
    drop((features, coords));
    file.close_no_sync().map_err(failed)?;
    temp.commit().map_err(super::unwritable)
}
