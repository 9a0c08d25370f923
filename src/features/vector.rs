//! Slide vectors: a feature file read back as a bag, and the file of the one vector that is made of it.
//!
//! `slide_features_<name>/<id>.h5` holds `features` (K), float32, and the `coords` (N, 2) of the tiles behind it with their
//! attributes, as TRIDENT's does. A slide without tiles has no vector: `features` then has the shape (0), as in TRIDENT, which
//! nothing takes for a vector; zeros or NaN could be trained on unseen.

use std::path::Path;

use rust_hdf5::{H5Dataset, H5File};

use super::column::failed;
use super::hdf5::{CoordsColumn, create_file, publish};
use super::inspect::{ROWS, damaged, dtype, shape};
use super::{CoordsAttributes, FEATURES_SCHEMA, FeatureWriter, Published, RootAttributes, SLIDE_FEATURES_SCHEMA};
use crate::error::{Error, Result};
use crate::record::publish::TempFile;

/// The features of one slide, read from their file.
pub struct Bag {
    features: H5Dataset,
    half: bool,
    rows: usize,
    dim: usize,
    coords: Vec<[i64; 2]>,
    attributes: CoordsAttributes,
}

impl Bag {
    /// Most rows that [`Bag::read`] holds at a time.
    pub const STEP: usize = ROWS;

    /// Opens a feature file and reads its coordinates.
    ///
    /// # Errors
    /// [`Error::Output`] where it is no whole feature file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = H5File::options().no_locking().open(path).map_err(damaged)?;
        let schema = file.attr_string("schema").map_err(damaged)?;
        if schema != FEATURES_SCHEMA {
            return Err(Error::Output(format!("a feature file of the kind '{schema}', not '{FEATURES_SCHEMA}'")));
        }
        let features = file.dataset("features").map_err(damaged)?;
        let (rows, dim) = shape(&features, "features")?;
        let half = match dtype(&features)? {
            "float32" => false,
            "float16" => true,
            other => return Err(Error::Output(format!("features of {other}"))),
        };
        let dataset = file.dataset("coords").map_err(damaged)?;
        let coords = coords_of(&dataset)?;
        if coords.len() != rows {
            return Err(Error::Output("features and coords have different rows".into()));
        }
        let attributes = attributes(&dataset).map_err(damaged)?;
        Ok(Bag { features, half, rows, dim, coords, attributes })
    }

    /// Number of tiles, N.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a tile, D.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Upper left corners of the tiles in level-0 pixels, (x, y).
    #[must_use]
    pub fn coords(&self) -> &[[i64; 2]] {
        &self.coords
    }

    /// The attributes of `coords`.
    #[must_use]
    pub fn attributes(&self) -> &CoordsAttributes {
        &self.attributes
    }

    /// Hands over the features in the rows' order, at most [`Bag::STEP`] rows at a time, row-major. They are checked to be finite.
    ///
    /// # Errors
    /// [`Error::Output`] where they cannot be decoded or one is not finite, and whatever `take` returns.
    pub fn read(&self, mut take: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        for start in (0..self.rows).step_by(ROWS) {
            let values = self.read_rows(start, ROWS.min(self.rows - start))?;
            if !values.iter().all(|v| v.is_finite()) {
                return Err(Error::Output("features hold values that are infinite or not a number".into()));
            }
            take(&values)?;
        }
        Ok(())
    }

    /// `n` rows from row `start` on, n·D values, row-major.
    ///
    /// # Errors
    /// [`Error::Output`] where they cannot be decoded, also where there are fewer.
    pub fn read_rows(&self, start: usize, n: usize) -> Result<Vec<f32>> {
        let (at, size) = ([start, 0], [n, self.dim]);
        if self.half {
            // The reader widens float16 to float64; a float32 holds the same value.
            let wide: Vec<f64> = self.features.read_numeric_slice_as(&at, &size).map_err(damaged)?;
            return Ok(wide.iter().map(|v| *v as f32).collect());
        }
        self.features.read_slice(&at, &size).map_err(damaged)
    }

    /// Pushes all rows into a writer, some at a time: where a slide goes on that was stopped.
    ///
    /// # Errors
    /// [`Error::Output`] where they cannot be decoded, or the writer's.
    pub fn copy_to(&self, writer: &mut dyn FeatureWriter) -> Result<()> {
        let mut done = 0;
        self.read(|values| {
            let coords = &self.coords[done..done + values.len() / self.dim.max(1)];
            done += coords.len();
            writer.push(values, coords)
        })
    }

    /// All features, N·D values, row-major.
    ///
    /// # Errors
    /// [`Error::Output`] where they cannot be decoded.
    pub fn features(&self) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.rows * self.dim);
        self.read(|values| {
            all.extend_from_slice(values);
            Ok(())
        })?;
        Ok(all)
    }

    /// The mean of all rows, of N ≥ 1: summed in float64 in the rows' order and rounded once, so that it depends on the file
    /// alone. Empty where there are no rows.
    ///
    /// # Errors
    /// [`Error::Output`] where the features cannot be decoded.
    pub fn mean(&self) -> Result<Vec<f32>> {
        if self.rows == 0 {
            return Ok(Vec::new());
        }
        let mut sums = vec![0.0f64; self.dim];
        self.read(|values| {
            for row in values.chunks_exact(self.dim) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            Ok(())
        })?;
        Ok(sums.iter().map(|sum| (sum / self.rows as f64) as f32).collect())
    }
}

/// The coordinates in a feature or patches file: (N, 2), x and y in level-0 pixels.
///
/// # Errors
/// [`Error::Output`] where it has none.
pub fn read_coords(path: &Path) -> Result<Vec<[i64; 2]>> {
    let file = H5File::options().no_locking().open(path).map_err(damaged)?;
    coords_of(&file.dataset("coords").map_err(damaged)?)
}

fn coords_of(coords: &H5Dataset) -> Result<Vec<[i64; 2]>> {
    let (rows, width) = shape(coords, "coords")?;
    if width != 2 || dtype(coords)? != "int64" {
        return Err(Error::Output("coords are not (N, 2) int64".into()));
    }
    let values: Vec<i64> =
        if rows == 0 { Vec::new() } else { coords.read_slice(&[0, 0], &[rows, 2]).map_err(damaged)? };
    Ok(values.as_chunks::<2>().0.to_vec())
}

fn attributes(coords: &H5Dataset) -> rust_hdf5::Result<CoordsAttributes> {
    let int = |name: &str| coords.attr(name)?.read_numeric::<i64>();
    let number = |name: &str| {
        let attribute = coords.attr(name)?;
        attribute.read_numeric::<f64>().or_else(|_| attribute.read_numeric::<i64>().map(|v| v as f64))
    };
    Ok(CoordsAttributes {
        patch_size: int("patch_size")?,
        patch_size_level0: int("patch_size_level0")?,
        level0_magnification: number("level0_magnification")?,
        target_magnification: number("target_magnification")?,
        overlap: int("overlap")?,
        level0_width: int("level0_width")?,
        level0_height: int("level0_height")?,
        name: coords.attr("name")?.read_string()?,
    })
}

/// What made a slide vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorAttributes {
    /// `mean-<encoder>`, or the slide encoder's id.
    pub id: String,
    /// sha256 of the slide encoder's model; `None` for a pooling.
    pub sha256: Option<String>,
}

/// Writes and publishes the vector of a slide whose tiles are `bag`; an empty one where it has none.
///
/// # Errors
/// [`Error::Write`].
pub fn write_vector(
    temp: TempFile,
    vector: &[f32],
    bag: &Bag,
    root: &RootAttributes,
    by: &VectorAttributes,
) -> Result<Published> {
    let file = create_file(&temp, SLIDE_FEATURES_SCHEMA, root)?;
    file.set_attr_string("slide_encoder", &by.id).map_err(failed)?;
    if let Some(sha256) = &by.sha256 {
        file.set_attr_string("slide_encoder_sha256", sha256).map_err(failed)?;
    }
    let features = file.new_dataset::<f32>().shape([vector.len()]).create("features").map_err(failed)?;
    if !vector.is_empty() {
        features.write_raw(vector).map_err(failed)?;
    }
    drop(features);
    let mut coords = CoordsColumn::new(bag.attributes.clone());
    coords.push_all(&bag.coords, &file)?;
    coords.finish(&file)?;
    drop(coords);
    publish(file, temp, bag.rows as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{EncoderAttributes, FeatureFile, Precision, inspect};

    #[test]
    fn a_vector_of_each_kind_of_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| TempFile::new_in(directory.path(), name).expect("made");
        let attributes = CoordsAttributes {
            patch_size: 256,
            patch_size_level0: 512,
            level0_magnification: 40.0,
            target_magnification: 17.5,
            overlap: 0,
            level0_width: 2220,
            level0_height: 2967,
            name: "slide".into(),
        };
        let root = RootAttributes {
            contract_sha256: "ab".repeat(32),
            encoder: Some(EncoderAttributes { id: "test".into(), sha256: "cd".repeat(32) }),
            mpp_level0: 0.25,
            mpp_target: 0.5,
        };
        for precision in Precision::ALL {
            // 0, 1, 2, ... are exact in every kind; the mean of column c is 2 * (rows - 1) / 2 + c.
            for rows in [0, 1, 701] {
                let mut file = FeatureFile::create(at("a.h5"), 2, precision, attributes.clone(), &root).expect("made");
                for row in 0..rows {
                    file.push(&[2.0 * row as f32, 2.0 * row as f32 + 1.0], &[[row, -row]]).expect("written");
                }
                file.finish().expect("published");
                let bag = Bag::open(&directory.path().join("a.h5")).expect("opens");
                assert_eq!((bag.rows(), bag.dim(), bag.attributes()), (rows as usize, 2, &attributes));
                assert_eq!(bag.features().expect("read").len(), 2 * rows as usize);
                let mean = bag.mean().expect("read");
                let expected = if rows == 0 { vec![] } else { vec![rows as f32 - 1.0, rows as f32] };
                assert_eq!(mean, expected, "{precision}");
                let by = VectorAttributes { id: "mean-test".into(), sha256: None };
                let published = write_vector(at("v.h5"), &mean, &bag, &root, &by).expect("published");
                assert_eq!(published.rows, rows as u64);
                let contents = inspect(&directory.path().join("v.h5")).expect("read back");
                let vector = contents.vector.expect("a vector");
                assert_eq!((vector.dim, vector.dtype, vector.finite), (mean.len(), "float32", true));
                assert_eq!((vector.slide_encoder.as_str(), contents.coords_rows), ("mean-test", rows as usize));
                assert!(contents.features.is_none() && contents.schema == SLIDE_FEATURES_SCHEMA);
                assert!(Bag::open(&directory.path().join("v.h5")).is_err(), "a vector is no bag");
            }
        }
    }
}
