//! Reads a feature or patches file back, chunk by chunk, to check it.

use std::path::Path;

use rust_hdf5::{H5Dataset, H5File};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Rows read at a time.
pub(super) const ROWS: usize = 256;

/// What a feature or patches file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// The root attribute `schema`.
    pub schema: String,
    /// The root attribute `contract_sha256`.
    pub contract_sha256: String,
    /// The root attributes `encoder` and `encoder_sha256`, where it has them.
    pub encoder: Option<(String, String)>,
    /// The dataset `features` of tiles; `None` in a patches file and in that of a slide vector.
    pub features: Option<FeatureContents>,
    /// The dataset `features` of a slide vector's file.
    pub vector: Option<VectorContents>,
    /// Rows of `coords`.
    pub coords_rows: usize,
    /// sha256 of the coordinates as little-endian int64, x and y in turn: equal where the coordinates are.
    pub coords_sha256: String,
    /// The attribute `name` of `coords`: the slide's id.
    pub name: String,
}

/// What a dataset `features` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureContents {
    /// N.
    pub rows: usize,
    /// D.
    pub dim: usize,
    /// "float32" or "float16".
    pub dtype: &'static str,
    /// Whether no value is infinite or NaN.
    pub finite: bool,
}

/// What a dataset `features` holds that is one vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorContents {
    /// The root attribute `slide_encoder`.
    pub slide_encoder: String,
    /// K; 0 where the slide has no tiles.
    pub dim: usize,
    /// "float32", or what else it is.
    pub dtype: &'static str,
    /// Whether no value is infinite or NaN.
    pub finite: bool,
}

/// Reads the file through once, in bounded memory.
///
/// # Errors
/// [`Error::Output`] where it is no HDF5 file, lacks one of the datasets and attributes, or cannot be decoded.
pub fn inspect(path: &Path) -> Result<Contents> {
    let file = H5File::options().no_locking().open(path).map_err(damaged)?;
    let names = file.dataset_names();
    let mut features = None;
    let mut vector = None;
    if names.iter().any(|n| n == "features") {
        let dataset = file.dataset("features").map_err(damaged)?;
        match dataset.ndims() {
            1 => vector = Some(read_vector(&dataset, file.attr_string("slide_encoder").map_err(damaged)?)?),
            _ => features = Some(read_features(&dataset)?),
        }
    }
    let coords = file.dataset("coords").map_err(damaged)?;
    let (coords_rows, coords_sha256) = read_coords(&coords)?;
    let attributes = file.attr_names().map_err(damaged)?;
    let text = |name: &str| file.attr_string(name).map_err(damaged);
    let encoder = match attributes.iter().any(|n| n == "encoder") {
        true => Some((text("encoder")?, text("encoder_sha256")?)),
        false => None,
    };
    Ok(Contents {
        schema: text("schema")?,
        contract_sha256: text("contract_sha256")?,
        encoder,
        features,
        vector,
        coords_rows,
        coords_sha256,
        name: coords.attr("name").and_then(|a| a.read_string()).map_err(damaged)?,
    })
}

fn read_features(dataset: &H5Dataset) -> Result<FeatureContents> {
    let (rows, dim) = shape(dataset, "features")?;
    let dtype = dtype(dataset)?;
    if !matches!(dtype, "float32" | "float16") {
        return Err(Error::Output("features are neither float32 nor float16".into()));
    }
    let mut finite = true;
    for start in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - start);
        // The reader widens float16 as it goes.
        finite &= if dtype == "float32" {
            let values: Vec<f32> = dataset.read_slice(&[start, 0], &[n, dim]).map_err(damaged)?;
            values.iter().all(|v| v.is_finite())
        } else {
            let values: Vec<f64> = dataset.read_numeric_slice_as(&[start, 0], &[n, dim]).map_err(damaged)?;
            values.iter().all(|v| v.is_finite())
        };
    }
    Ok(FeatureContents { rows, dim, dtype, finite })
}

fn read_vector(dataset: &H5Dataset, slide_encoder: String) -> Result<VectorContents> {
    let (dim, dtype) = (dataset.total_elements(), dtype(dataset)?);
    let values: Vec<f32> = match dtype {
        "float32" if dim > 0 => dataset.read_slice(&[0], &[dim]).map_err(damaged)?,
        _ => Vec::new(),
    };
    Ok(VectorContents { slide_encoder, dim, dtype, finite: values.iter().all(|v| v.is_finite()) })
}

fn read_coords(dataset: &H5Dataset) -> Result<(usize, String)> {
    let (rows, width) = shape(dataset, "coords")?;
    if width != 2 || dtype(dataset)? != "int64" {
        return Err(Error::Output("coords are not (N, 2) int64".into()));
    }
    let mut hash = Sha256::new();
    let step = ROWS * 16;
    for start in (0..rows).step_by(step) {
        let values: Vec<i64> = dataset.read_slice(&[start, 0], &[step.min(rows - start), 2]).map_err(damaged)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    Ok((rows, hash.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

pub(super) fn shape(dataset: &H5Dataset, name: &str) -> Result<(usize, usize)> {
    match dataset.shape()[..] {
        [rows, width] => Ok((rows, width)),
        ref other => Err(Error::Output(format!("{name} has {} dimensions, not 2", other.len()))),
    }
}

pub(super) fn dtype(dataset: &H5Dataset) -> Result<&'static str> {
    use rust_hdf5::DatatypeMessage::{FixedPoint, FloatingPoint};
    Ok(match dataset.datatype().map_err(damaged)? {
        FloatingPoint { size: 4, .. } => "float32",
        FloatingPoint { size: 2, .. } => "float16",
        FixedPoint { size: 8, signed: true, .. } => "int64",
        _ => "another type",
    })
}

pub(super) fn damaged(error: rust_hdf5::Hdf5Error) -> Error {
    Error::Output(error.to_string())
}
