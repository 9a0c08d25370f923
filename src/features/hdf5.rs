//! Writes feature and patches files as HDF5.
//!
//! Rows are gathered to whole chunks of 256 and leave memory chunk by chunk, so a writer holds one chunk whatever the slide's
//! size. A file depends on its content alone: no times, no names of programs, and the same bytes however the rows were
//! split into pushes. Rounded float32 goes through HDF5's shuffle and deflate filters, which every HDF5 reader has; level 1
//! is the knee (levels up to 9 gain under 2 % and cost up to several times the time).

use std::io;

use rust_hdf5::{ByteOrder, DatatypeMessage, H5Dataset, H5File, VarLenUnicode};

use super::{CoordsAttributes, FEATURES_SCHEMA, FeatureWriter, PATCHES_SCHEMA, Precision, Published, RootAttributes};
use crate::digest;
use crate::error::{Error, Result};
use crate::record::publish::TempFile;

/// Rows of a full chunk of `features`.
const FEATURE_ROWS: usize = 256;
/// Rows of a full chunk of `coords`; a multiple of [`FEATURE_ROWS`], so that chunks are written in one order.
const COORD_ROWS: usize = 4096;
const FEATURE_DEFLATE: u32 = 1;
const COORDS_DEFLATE: u32 = 6;

/// The feature file of one slide, under construction.
pub struct FeatureFile {
    // Fields drop in this order: the HDF5 file is closed before its temporary file is removed.
    features: Column,
    coords: CoordsColumn,
    file: H5File,
    temp: TempFile,
    precision: Precision,
    dim: usize,
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
        let features = Column {
            name: "features",
            kind: match precision {
                Precision::F16 => Kind::F16,
                Precision::F32 | Precision::F32M10 => Kind::F32,
            },
            width: dim,
            chunk_rows: FEATURE_ROWS,
            deflate: (precision == Precision::F32M10).then_some(FEATURE_DEFLATE),
            dataset: None,
            buffer: Vec::new(),
            buffered: 0,
            written: 0,
        };
        Ok(FeatureFile { features, coords: CoordsColumn::new(coords), file, temp, precision, dim })
    }

    /// Completes the file and gives it its name; see [`FeatureWriter::finish`].
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<Published> {
        self.features.finish(&self.file)?;
        self.coords.finish(&self.file)?;
        let rows = self.features.rows() as u64;
        // Datasets hold the file too; they go first.
        drop((self.features, self.coords));
        publish(self.file, self.temp, rows)
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
}

/// Writes and publishes a slide's coordinates, (N, 2) int64 in level-0 pixels. The root's encoder, if any, is left out.
///
/// # Errors
/// [`Error::Write`].
pub fn write_patches(
    temp: TempFile,
    coords: &[[i64; 2]],
    attributes: CoordsAttributes,
    root: &RootAttributes,
) -> Result<Published> {
    let root = RootAttributes { encoder: None, ..root.clone() };
    let file = create_file(&temp, PATCHES_SCHEMA, &root)?;
    let mut column = CoordsColumn::new(attributes);
    for pairs in coords.chunks(COORD_ROWS) {
        column.push(pairs, &file)?;
    }
    column.finish(&file)?;
    drop(column);
    publish(file, temp, coords.len() as u64)
}

fn create_file(temp: &TempFile, schema: &str, root: &RootAttributes) -> Result<H5File> {
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

fn publish(file: H5File, temp: TempFile, rows: u64) -> Result<Published> {
    // Without sync: committing syncs.
    file.close_no_sync().map_err(failed)?;
    let write = |e| Error::write("an HDF5 file", e);
    let sha256 = digest::file_sha256(temp.path()).map_err(write)?;
    let bytes = std::fs::metadata(temp.path()).map_err(write)?.len();
    temp.commit().map_err(write)?;
    Ok(Published { rows, bytes, sha256 })
}

fn failed(error: rust_hdf5::Hdf5Error) -> Error {
    let source = match error {
        rust_hdf5::Hdf5Error::Io(e) => e,
        other => io::Error::other(other.to_string()),
    };
    Error::write("an HDF5 file", source)
}

#[derive(Clone, Copy)]
enum Kind {
    I64,
    F32,
    F16,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::I64 => 8,
            Kind::F32 => 4,
            Kind::F16 => 2,
        }
    }

    /// IEEE 754 binary16, little-endian, as NumPy's float16 is described in HDF5.
    fn float16() -> DatatypeMessage {
        DatatypeMessage::FloatingPoint {
            size: 2,
            byte_order: ByteOrder::LittleEndian,
            sign_location: 15,
            bit_offset: 0,
            bit_precision: 16,
            exponent_location: 10,
            exponent_size: 5,
            mantissa_location: 0,
            mantissa_size: 10,
            exponent_bias: 15,
        }
    }
}

/// A dataset that grows by rows.
struct Column {
    name: &'static str,
    kind: Kind,
    width: usize,
    chunk_rows: usize,
    deflate: Option<u32>,
    /// Made with the first chunk: its height is known then.
    dataset: Option<H5Dataset>,
    /// Encoded rows that do not fill a chunk yet.
    buffer: Vec<u8>,
    buffered: usize,
    written: usize,
}

impl Column {
    fn rows(&self) -> usize {
        self.written + self.buffered
    }

    /// Takes note of `n` rows that were added to the buffer, and writes it when it holds a chunk.
    fn advance(&mut self, n: usize, file: &H5File) -> Result<()> {
        self.buffered += n;
        if self.buffered == self.chunk_rows { self.write_chunk(file) } else { Ok(()) }
    }

    fn write_chunk(&mut self, file: &H5File) -> Result<()> {
        if self.dataset.is_none() {
            self.dataset = Some(self.create(file, self.buffered).map_err(failed)?);
            // From here on chunks have the first one's height.
            self.chunk_rows = self.buffered;
        }
        let dataset = self.dataset.as_ref().ok_or_else(|| Error::Internal("no dataset".into()))?;
        self.buffer.resize(self.chunk_rows * self.width * self.kind.bytes(), 0);
        dataset.write_chunk(self.written / self.chunk_rows, &self.buffer).map_err(failed)?;
        self.written += self.buffered;
        self.buffered = 0;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left and settles the shape.
    fn finish(&mut self, file: &H5File) -> Result<()> {
        if self.buffered > 0 {
            self.write_chunk(file)?;
        }
        match &self.dataset {
            Some(dataset) => dataset.extend(&[self.written, self.width]).map_err(failed),
            None => {
                self.dataset = Some(self.create(file, 0).map_err(failed)?);
                Ok(())
            }
        }
    }

    fn create(&self, file: &H5File, chunk_rows: usize) -> rust_hdf5::Result<H5Dataset> {
        match self.kind {
            Kind::I64 => self.build(file.new_dataset::<i64>(), chunk_rows),
            Kind::F32 => self.build(file.new_dataset::<f32>(), chunk_rows),
            Kind::F16 => self.build(file.new_dataset::<u16>().datatype(Kind::float16()), chunk_rows),
        }
    }

    fn build<T: rust_hdf5::H5Type>(
        &self,
        builder: rust_hdf5::dataset::DatasetBuilder<T>,
        chunk_rows: usize,
    ) -> rust_hdf5::Result<H5Dataset> {
        let mut builder = builder.shape([0, self.width]);
        if chunk_rows > 0 {
            builder = builder.chunk(&[chunk_rows, self.width]).max_shape(&[None, Some(self.width)]);
            if let Some(level) = self.deflate {
                builder = builder.shuffle_deflate(level);
            }
        }
        builder.create(self.name)
    }
}

/// `coords` and its attributes.
struct CoordsColumn {
    column: Column,
    attributes: CoordsAttributes,
}

impl CoordsColumn {
    fn new(attributes: CoordsAttributes) -> Self {
        let column = Column {
            name: "coords",
            kind: Kind::I64,
            width: 2,
            chunk_rows: COORD_ROWS,
            deflate: Some(COORDS_DEFLATE),
            dataset: None,
            buffer: Vec::new(),
            buffered: 0,
            written: 0,
        };
        CoordsColumn { column, attributes }
    }

    /// Adds rows that do not cross a chunk's border.
    fn push(&mut self, pairs: &[[i64; 2]], file: &H5File) -> Result<()> {
        self.column.buffer.extend(pairs.iter().flatten().flat_map(|v| v.to_le_bytes()));
        self.column.advance(pairs.len(), file)
    }

    fn finish(&mut self, file: &H5File) -> Result<()> {
        self.column.finish(file)?;
        match &self.column.dataset {
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
