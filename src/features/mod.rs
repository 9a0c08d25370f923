//! Features on disk: what a slide's bag looks like to CLAM, TRIDENT, torchmil and whoever else opens it.
//!
//! `features_<encoder>/<id>.h5` holds `features` (N, D) and `coords` (N, 2), `patches/<id>_patches.h5` holds `coords` and `qc`,
//! `slide_features_<slide encoder>/<id>.h5` holds `features` (K) and `coords`.
//! `coords` are int64 level-0 pixels of the tile's top left corner, x before y, and carry [`CoordsAttributes`]; the root
//! carries [`RootAttributes`]. Names and types are TRIDENT's, so that its readers and its descendants' work unchanged.

pub(crate) mod column;
mod finished;
pub mod hdf5;
pub mod inspect;
mod precision;
mod vector;
pub mod verify;

use crate::error::Result;
use crate::record::moments::Moments;
pub use finished::{Finished, refuse_inside};
pub use hdf5::{FeatureFile, write_patches};
pub use inspect::{Contents, FeatureContents, VectorContents, inspect};
pub use precision::{Precision, round_mantissa10};
pub use vector::{Bag, VectorAttributes, read_coords, write_vector};
pub use verify::verify;

/// Value of the root attribute `schema` of a feature file.
pub const FEATURES_SCHEMA: &str = "paraffin-features/1";
/// Value of the root attribute `schema` of a slide vector's file.
pub const SLIDE_FEATURES_SCHEMA: &str = "paraffin-slide-features/1";
/// Value of the root attribute `schema` of a patches file.
pub const PATCHES_SCHEMA: &str = "paraffin-patches/1";

/// Takes the features of one slide in plan order and publishes them whole. Dropped unfinished, it leaves nothing.
pub trait FeatureWriter: Send {
    /// Values per row, D.
    fn dim(&self) -> usize;

    /// Appends n rows: `rows` has n·D values, row-major; `coords` has n pairs (x, y) in level-0 pixels.
    ///
    /// # Errors
    /// [`Error::Encoder`](crate::Error::Encoder) for a value that is not finite or too large for the storage,
    /// [`Error::Write`](crate::Error::Write) if the file cannot be written, [`Error::Internal`](crate::Error::Internal) for
    /// lengths that do not belong together. The file is then lost.
    fn push(&mut self, rows: &[f32], coords: &[[i64; 2]]) -> Result<()>;

    /// Completes the file and gives it its name; it then survives a power cut.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    fn finish(self: Box<Self>) -> Result<Published>;

    /// Completes the file with the rows that it has and gives it the name `checkpoint`, on the same file system: a slide
    /// that is not finished yet. The same rows, read back with [`Bag`] and pushed into a new writer, and the ones after them
    /// give the bytes of an undisturbed run.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    fn keep(self: Box<Self>, checkpoint: &std::path::Path) -> Result<Published>;
}

/// A file that has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Rows in it, N.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its sha256, 64 hexadecimal digits.
    pub sha256: String,
    /// What its features are like as a whole; `None` where it holds none of tiles.
    pub moments: Option<Moments>,
}

/// TRIDENT's attributes of the dataset `coords`. `savetodir`, which TRIDENT fills with a path, is always written empty.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordsAttributes {
    /// Side of a tile in its own pixels (at the target resolution).
    pub patch_size: i64,
    /// Side of a tile in level-0 pixels.
    pub patch_size_level0: i64,
    /// Nominal magnification of level 0, such as 40. Written as int64 where whole, else as float64.
    pub level0_magnification: f64,
    /// Nominal magnification of the tiles. Written as int64 where whole, else as float64.
    pub target_magnification: f64,
    /// Overlap of neighbouring tiles in tile pixels.
    pub overlap: i64,
    /// Width of level 0 in pixels.
    pub level0_width: i64,
    /// Height of level 0 in pixels.
    pub level0_height: i64,
    /// The slide's id.
    pub name: String,
}

/// The data set `qc` of a patches file: a row a tile, which readers that know only `coords` pass over.
#[derive(Clone, Copy, Debug)]
pub struct QcTable<'a> {
    /// Names of the columns, its attribute `columns`.
    pub columns: &'a [&'a str],
    /// Values, row-major, float32.
    pub rows: &'a [f32],
    /// µm per pixel that tissue and colours, and that focus was measured at: its attributes `mpp` and `mpp_blur`.
    pub mpp: [f64; 2],
}

/// Attributes of a file's root, beside `schema`.
#[derive(Clone, Debug, PartialEq)]
pub struct RootAttributes {
    /// sha256 of the contract in canonical JSON, 64 hexadecimal digits.
    pub contract_sha256: String,
    /// The encoder's id and sha256; `None` in a patches file.
    pub encoder: Option<EncoderAttributes>,
    /// The slide's µm per level-0 pixel.
    pub mpp_level0: f64,
    /// The tiles' µm per pixel.
    pub mpp_target: f64,
}

/// Which model made the features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderAttributes {
    /// Id in the registry.
    pub id: String,
    /// sha256 of the model file and its external data, 64 hexadecimal digits.
    pub sha256: String,
}
