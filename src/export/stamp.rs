//! STAMP: `<id>.h5` with `feats` (N, D) float32 and `coords` (N, 2) float32, the tiles' upper left corners **in µm**, and root
//! attributes from which it takes the tile's size, the extractor and the version that its reader must have.
//!
//! Reference: KatherLab/STAMP, `modeling/data.py::get_coords`, `preprocessing/__init__.py` (writes), `preprocessing/config.py` (names of
//! extractors). A file of TRIDENT's layout must not be given these attributes: STAMP would take its pixels for µm.

use super::hdf5::Attribute::{Float, Int, Text};
use super::{Slide, hdf5};
use crate::error::Result;
use crate::features::column::Kind;

/// STAMP refuses files of a version newer than its own; `tile_size_um` came with this one.
const STAMP_VERSION: &str = "2.1.0";

/// Encoders that STAMP calls otherwise; its slide encoders ask for these names. Each gives what STAMP's extractor of the name gives.
const EXTRACTORS: &[(&str, &str)] = &[
    ("conch", "mahmood-conch"),
    ("conch-v1.5", "mahmood-conch1_5"),
    ("ctranspath-chief", "chief-ctranspath"),
    ("prov-gigapath", "gigapath"),
    ("uni", "mahmood-uni"),
    ("uni2-h", "mahmood-uni2"),
    ("virchow", "virchow_full"),
    ("virchow-cls", "virchow"),
    // STAMP's virchow2 is the class token alone; both tokens have no name there.
    ("virchow2", "virchow2-full"),
    ("virchow2-cls", "virchow2"),
];

/// Writes the file.
///
/// # Errors
/// [`crate::Error::Write`].
pub(super) fn write(slide: &Slide) -> Result<Vec<String>> {
    let path = format!("{}.h5", slide.record.id);
    let facts = &slide.record.slide;
    let id = slide.finished.encoder.id.as_str();
    let extractor = EXTRACTORS.iter().find(|(ours, _)| *ours == id).map_or(id, |(_, theirs)| theirs);
    let attributes = [
        ("stamp_version", Text(STAMP_VERSION)),
        ("extractor", Text(extractor)),
        ("unit", Text("um")),
        // What a tile covers on the slide, so that coordinates of neighbours lie so far apart.
        ("tile_size_um", Float(slide.bag.attributes().patch_size_level0 as f64 * slide.mpp_level0())),
        ("tile_size_px", Int(slide.bag.attributes().patch_size)),
        // STAMP tells its own versions of the preprocessing apart by eight digits.
        ("code_hash", Text(&slide.finished.contract_sha256[..8])),
        ("feat_type", Text("tile")),
    ];
    let encode = |[x, y]: [i64; 2]| {
        [(x as f64 * facts.mpp_x) as f32, (y as f64 * facts.mpp_y) as f32].map(|um: f32| um.to_le_bytes())
    };
    hdf5::write(slide, slide.begin(&path)?, "feats", Kind::F32, encode, &attributes)?;
    Ok(vec![path])
}
