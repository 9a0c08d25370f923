//! Writes feature and patches files as HDF5.
//!
//! Rows are gathered to whole chunks of 256 and leave memory chunk by chunk, so a writer holds one chunk whatever the slide's
//! size. A file depends on its content alone: no times, no names of programs, and the same bytes however the rows were
//! split into pushes. Rounded float32 goes through HDF5's shuffle and deflate filters, which every HDF5 reader has, at level
//! 1: 1.5 to 1.9 bytes a value; level 6 takes 13 times as long for at most 5 % less, and for normal values more.

use std::path::Path;

use rust_hdf5::{H5Dataset, H5File, VarLenUnicode};

use super::column::{Column, Kind, failed};
use super::{
    CoordsAttributes, FEATURES_SCHEMA, FeatureWriter, PATCHES_SCHEMA, Precision, Published, QcTable, RootAttributes,
};
use crate::digest;
use crate::error::{Error, Result};
use crate::record::moments::Accumulator;
use crate::record::publish::TempFile;

/// Rows of a full chunk of `features`.
const FEATURE_ROWS: usize = 256;
/// Rows of a full chunk of `coords`; a multiple of [`FEATURE_ROWS`], so that chunks are written in one order.
const COORD_ROWS: usize = 4096;
const FEATURE_DEFLATE: u32 = 1;
const COORDS_DEFLATE: u32 = 6;
/// What a file's structures take beside its chunks, and more.
const RESERVE_BYTES: u64 = 1 << 20;

/// The feature file of one slide, under construction.
pub struct FeatureFile {
    // Fields drop in this order: the HDF5 file is closed before its temporary file is removed.
    features: Column,
    coords: CoordsColumn,
    file: H5File,
    temp: TempFile,
    precision: Precision,
    dim: usize,
    moments: Accumulator,
    /// Whether room was reserved that may not have been needed.
    reserved: bool,
}

impl FeatureFile {
    /// Begins a file of rows of `dim` values that will be published where `temp` says.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn create(
        temp: TempFile,
        dim: usize,
        precision: Precision,
        coords: CoordsAttributes,
        root: &RootAttributes,
    ) -> Result<Self> {
        if dim == 0 {
            return Err(Error::Internal("features of 0 values".into()));
        }
        let file = create_file(&temp, FEATURES_SCHEMA, root)?;
        let kind = match precision {
            Precision::F16 => Kind::F16,
            Precision::F32 | Precision::F32M10 => Kind::F32,
        };
        let deflate = (precision == Precision::F32M10).then_some(FEATURE_DEFLATE);
        let features = Column::new("features", kind, dim, FEATURE_ROWS, deflate);
        let (coords, moments) = (CoordsColumn::new(coords), Accumulator::new(dim));
        Ok(FeatureFile { features, coords, file, temp, precision, dim, moments, reserved: false })
    }

    /// Completes the file and gives it its name; see [`FeatureWriter::finish`].
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(self) -> Result<Published> {
        let destination = self.temp.destination().to_owned();
        self.finish_as(&destination)
    }

    /// Makes sure that the next chunk of rows, or the end of the file, has room on the disk. Nothing is known of it on file
    /// systems that cannot tell.
    ///
    /// # Errors
    /// [`Error::Write`] where there is none.
    pub fn reserve(&mut self) -> Result<()> {
        let chunk = FEATURE_ROWS * self.dim * size_of::<f32>() + COORD_ROWS * 2 * size_of::<i64>();
        self.reserved = true;
        self.temp.reserve((2 * chunk) as u64 + RESERVE_BYTES).map_err(|e| Error::write("a feature file", e))
    }

    /// Whether the next rows bring a chunk to the disk.
    #[must_use]
    pub fn is_due(&self, rows: usize) -> bool {
        self.features.buffered + rows >= FEATURE_ROWS
    }

    fn finish_as(mut self, destination: &Path) -> Result<Published> {
        self.features.finish(&self.file)?;
        self.coords.finish(&self.file)?;
        let rows = self.features.rows() as u64;
        // Datasets hold the file too; they go first.
        drop((self.features, self.coords));
        let published = publish_as(self.file, self.temp, destination, rows, self.reserved)?;
        Ok(Published { moments: Some(self.moments.moments()), ..published })
    }
}

impl FeatureWriter for FeatureFile {
    fn dim(&self) -> usize {
        self.dim
    }

    fn push(&mut self, rows: &[f32], coords: &[[i64; 2]]) -> Result<()> {
        if rows.len() != coords.len() * self.dim {
            let (values, pairs) = (rows.len(), coords.len());
            return Err(Error::Internal(format!(
                "{values} feature values of dim {} for {pairs} coordinates",
                self.dim
            )));
        }
        let (mut rows, mut coords) = (rows, coords);
        while !coords.is_empty() {
            let n = (FEATURE_ROWS - self.features.buffered).min(coords.len());
            let (now, later) = rows.split_at(n * self.dim);
            if !self.precision.encode(now, &mut self.features.buffer) {
                let first = self.features.rows();
                return Err(Error::Encoder(format!(
                    "a feature value in rows {first} to {} is not finite, or too large for {}",
                    first + n - 1,
                    self.precision
                )));
            }
            let stored = |value: &f32| self.precision.stored(*value);
            now.chunks_exact(self.dim).for_each(|row| self.moments.add(row.iter().map(stored)));
            self.features.advance(n, &self.file)?;
            let (pairs, pairs_later) = coords.split_at(n);
            self.coords.push(pairs, &self.file)?;
            (rows, coords) = (later, pairs_later);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Published> {
        FeatureFile::finish(*self)
    }

    fn keep(self: Box<Self>, checkpoint: &Path) -> Result<Published> {
        self.finish_as(checkpoint)
    }
}

/// Writes and publishes a slide's coordinates, (N, 2) int64 in level-0 pixels, and the quality of its tiles, (N, columns) float32.
/// The root's encoder, if any, is left out.
///
/// # Errors
/// [`Error::Write`].
pub fn write_patches(
    temp: TempFile,
    coords: &[[i64; 2]],
    qc: &QcTable,
    attributes: CoordsAttributes,
    root: &RootAttributes,
) -> Result<Published> {
    if qc.rows.len() != coords.len() * qc.columns.len() {
        return Err(Error::Internal(format!("{} values of quality for {} tiles", qc.rows.len(), coords.len())));
    }
    let root = RootAttributes { encoder: None, ..root.clone() };
    let file = create_file(&temp, PATCHES_SCHEMA, &root)?;
    let mut column = CoordsColumn::new(attributes);
    column.push_all(coords, &file)?;
    column.finish(&file)?;
    drop(column);
    write_qc(qc, &file)?;
    publish(file, temp, coords.len() as u64)
}

fn write_qc(qc: &QcTable, file: &H5File) -> Result<()> {
    let width = qc.columns.len();
    let mut column = Column::new("qc", Kind::F32, width, COORD_ROWS, Some(COORDS_DEFLATE));
    for rows in qc.rows.chunks(COORD_ROWS * width) {
        column.buffer.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
        column.advance(rows.len() / width, file)?;
    }
    column.finish(file)?;
    let Some(dataset) = column.dataset() else { return Ok(()) };
    let names = dataset.new_attr::<VarLenUnicode>().shape([width]).create("columns").map_err(failed)?;
    names.write_string_array(qc.columns).map_err(failed)?;
    for (name, value) in ["mpp", "mpp_blur"].into_iter().zip(qc.mpp) {
        let attribute = dataset.new_attr::<f64>().shape(()).create(name).map_err(failed)?;
        attribute.write_numeric(&value).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn create_file(temp: &TempFile, schema: &str, root: &RootAttributes) -> Result<H5File> {
    // The temporary name is ours alone: no lock, which some network file systems refuse.
    let file = H5File::options().track_times(false).no_locking().create(temp.path()).map_err(failed)?;
    file.set_attr_string("schema", schema).map_err(failed)?;
    file.set_attr_string("contract_sha256", &root.contract_sha256).map_err(failed)?;
    if let Some(encoder) = &root.encoder {
        file.set_attr_string("encoder", &encoder.id).map_err(failed)?;
        file.set_attr_string("encoder_sha256", &encoder.sha256).map_err(failed)?;
    }
    file.set_attr_numeric("mpp_level0", &root.mpp_level0).map_err(failed)?;
    file.set_attr_numeric("mpp_target", &root.mpp_target).map_err(failed)?;
    Ok(file)
}

pub(super) fn publish(file: H5File, temp: TempFile, rows: u64) -> Result<Published> {
    let destination = temp.destination().to_owned();
    publish_as(file, temp, &destination, rows, false)
}

fn publish_as(file: H5File, temp: TempFile, destination: &Path, rows: u64, reserved: bool) -> Result<Published> {
    // Without sync: committing syncs.
    file.close_no_sync().map_err(failed)?;
    let write = |e| Error::write("an HDF5 file", e);
    let sha256 = digest::file_sha256(temp.path()).map_err(write)?;
    let bytes = std::fs::metadata(temp.path()).map_err(write)?.len();
    if reserved {
        temp.release().map_err(write)?;
    }
    temp.commit_as(destination).map_err(write)?;
    Ok(Published { rows, bytes, sha256, moments: None })
}

/// `coords` and its attributes.
pub(super) struct CoordsColumn {
    column: Column,
    attributes: CoordsAttributes,
}

impl CoordsColumn {
    pub(super) fn new(attributes: CoordsAttributes) -> Self {
        let column = Column::new("coords", Kind::I64, 2, COORD_ROWS, Some(COORDS_DEFLATE));
        CoordsColumn { column, attributes }
    }

    /// Adds rows that do not cross a chunk's border.
    fn push(&mut self, pairs: &[[i64; 2]], file: &H5File) -> Result<()> {
        self.column.buffer.extend(pairs.iter().flatten().flat_map(|v| v.to_le_bytes()));
        self.column.advance(pairs.len(), file)
    }

    /// Adds all rows of a file.
    pub(super) fn push_all(&mut self, pairs: &[[i64; 2]], file: &H5File) -> Result<()> {
        pairs.chunks(COORD_ROWS).try_for_each(|pairs| self.push(pairs, file))
    }

    pub(super) fn finish(&mut self, file: &H5File) -> Result<()> {
        self.column.finish(file)?;
        match self.column.dataset() {
            Some(dataset) => set_attributes(dataset, &self.attributes).map_err(failed),
            None => Ok(()),
        }
    }
}

fn set_attributes(dataset: &H5Dataset, a: &CoordsAttributes) -> rust_hdf5::Result<()> {
    let int = |name: &str, value: i64| dataset.new_attr::<i64>().shape(()).create(name)?.write_numeric(&value);
    let float = |name: &str, value: f64| dataset.new_attr::<f64>().shape(()).create(name)?.write_numeric(&value);
    let text =
        |name: &str, value: &str| dataset.new_attr::<VarLenUnicode>().shape(()).create(name)?.write_string(value);
    let number = |name: &str, value: f64| {
        // Exact below 2^53.
        if value.fract() == 0.0 && value.abs() < 9e15 { int(name, value as i64) } else { float(name, value) }
    };
    int("patch_size", a.patch_size)?;
    int("patch_size_level0", a.patch_size_level0)?;
    number("level0_magnification", a.level0_magnification)?;
    number("target_magnification", a.target_magnification)?;
    int("overlap", a.overlap)?;
    int("level0_width", a.level0_width)?;
    int("level0_height", a.level0_height)?;
    text("name", &a.name)?;
    text("savetodir", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Bag, EncoderAttributes, inspect};

    fn attributes() -> CoordsAttributes {
        CoordsAttributes {
            patch_size: 256,
            patch_size_level0: 512,
            level0_magnification: 40.0,
            target_magnification: 17.5,
            overlap: 0,
            level0_width: 2220,
            level0_height: 2967,
            name: "slide".into(),
        }
    }

    fn root() -> RootAttributes {
        RootAttributes {
            contract_sha256: "ab".repeat(32),
            encoder: Some(EncoderAttributes { id: "test".into(), sha256: "cd".repeat(32) }),
            mpp_level0: 0.25,
            mpp_target: 0.5,
        }
    }

    fn begin(dir: &Path, dim: usize, precision: Precision) -> FeatureFile {
        let temp = TempFile::new_in(dir, "a.h5").unwrap();
        FeatureFile::create(temp, dim, precision, attributes(), &root()).unwrap()
    }

    fn write(dir: &Path, dim: usize, rows: usize, precision: Precision, split: usize) -> (Vec<u8>, Published) {
        let mut file = begin(dir, dim, precision);
        let values: Vec<f32> = (0..rows * dim).map(|i| ((i * 7919) % 10_007) as f32 / 100.0 - 50.0).collect();
        let coords: Vec<[i64; 2]> = (0..rows as i64).map(|i| [i * 512, -i]).collect();
        for (values, coords) in values.chunks(split * dim).zip(coords.chunks(split)) {
            file.push(values, coords).unwrap();
        }
        let published = file.finish().unwrap();
        (std::fs::read(dir.join("a.h5")).unwrap(), published)
    }

    #[test]
    fn bytes_depend_on_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        for precision in Precision::ALL {
            for rows in [0, 1, 255, 256, 257, 9000] {
                let (whole, published) = write(dir.path(), 3, rows, precision, 10_000);
                assert_eq!(published.rows, rows as u64);
                assert_eq!(published.bytes, whole.len() as u64);
                assert_eq!(published.sha256, digest::sha256(&whole));
                for split in [1, 100, 256, 4099] {
                    assert!(write(dir.path(), 3, rows, precision, split).0 == whole, "{precision} {rows} by {split}");
                }
            }
        }
    }

    #[test]
    fn kept_and_continued_the_bytes_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept.h5");
        for precision in Precision::ALL {
            for (rows, stop) in [(257, 1), (300, 256), (300, 300), (5000, 257), (5000, 4098)] {
                let (whole, published) = write(dir.path(), 3, rows, precision, 100);
                let values: Vec<f32> = (0..rows * 3).map(|i| ((i * 7919) % 10_007) as f32 / 100.0 - 50.0).collect();
                let coords: Vec<[i64; 2]> = (0..rows as i64).map(|i| [i * 512, -i]).collect();
                let mut file = begin(dir.path(), 3, precision);
                file.push(&values[..3 * stop], &coords[..stop]).unwrap();
                assert_eq!(Box::new(file).keep(&kept).unwrap().rows, stop as u64);
                let mut file = begin(dir.path(), 3, precision);
                Bag::open(&kept).unwrap().copy_to(&mut file).unwrap();
                file.push(&values[3 * stop..], &coords[stop..]).unwrap();
                assert_eq!(file.finish().unwrap(), published, "{precision}: {rows} rows, stopped at {stop}");
                assert!(std::fs::read(dir.path().join("a.h5")).unwrap() == whole);
            }
        }
    }

    #[test]
    fn contents_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut coords_of_1000 = Vec::new();
        for precision in Precision::ALL {
            for (rows, dim) in [(0, 5), (1, 1), (256, 384), (1000, 7)] {
                write(dir.path(), dim, rows, precision, 64);
                let contents = inspect(&dir.path().join("a.h5")).unwrap();
                let features = contents.features.unwrap();
                assert_eq!((features.rows, features.dim, features.finite), (rows, dim, true));
                assert_eq!(features.dtype, precision.dtype());
                assert_eq!(contents.coords_rows, rows);
                assert_eq!(contents.contract_sha256, root().contract_sha256);
                assert_eq!(contents.encoder, Some(("test".into(), "cd".repeat(32))));
                assert_eq!((contents.schema.as_str(), contents.name.as_str()), (FEATURES_SCHEMA, "slide"));
                if rows == 1000 {
                    coords_of_1000.push(contents.coords_sha256);
                }
            }
        }
        let coords: Vec<[i64; 2]> = (0..1000).map(|i| [i * 512, -i]).collect();
        let temp = TempFile::new_in(dir.path(), "p.h5").unwrap();
        let rows: Vec<f32> = (0..2000).map(|i| i as f32 / 7.0).collect();
        let qc = QcTable { columns: &["tissue", "blur"], rows: &rows, mpp: [8.0, 4.0] };
        assert_eq!(write_patches(temp, &coords, &qc, attributes(), &root()).unwrap().rows, 1000);
        let patches = inspect(&dir.path().join("p.h5")).unwrap();
        assert!(patches.features.is_none() && patches.encoder.is_none() && patches.schema == PATCHES_SCHEMA);
        assert!(coords_of_1000.iter().all(|c| *c == patches.coords_sha256));
    }

    #[test]
    fn no_object_keeps_times() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 2, 300, Precision::F32M10, 50);
        let file = H5File::open(dir.path().join("a.h5")).unwrap();
        for object in ["/", "features", "coords"] {
            assert!(!file.object_records_times(object).unwrap(), "{object}");
        }
    }

    #[test]
    fn bad_values_and_lengths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = begin(dir.path(), 2, Precision::F16);
        file.push(&[1.0, 2.0], &[[0, 0]]).unwrap();
        assert!(matches!(file.push(&[1.0, 2.0], &[]), Err(Error::Internal(_))));
        let error = file.push(&[1.0, 7e4], &[[0, 0]]).unwrap_err();
        assert!(matches!(&error, Error::Encoder(why) if why.contains("rows 1 to 1")), "{error}");
        let mut file = begin(dir.path(), 2, Precision::F32M10);
        assert!(matches!(file.push(&[f32::NAN, 0.0], &[[0, 0]]), Err(Error::Encoder(_))));
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = begin(dir.path(), 2, Precision::F32M10);
        file.push(&[0.5; 1000], &[[0, 0]; 500]).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_told_not_panicked() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, _) = write(dir.path(), 3, 700, Precision::F32M10, 700);
        let path = dir.path().join("broken.h5");
        for at in (0..whole.len()).step_by(23) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x5a;
            std::fs::write(&path, &flipped).unwrap();
            // Many flips change a value and no more; the file's sha256 finds those.
            let _ = inspect(&path);
        }
        for end in [0, 7, 100, whole.len() / 2] {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(matches!(inspect(&path), Err(Error::Output(_))), "cut at {end}");
        }
    }
}
