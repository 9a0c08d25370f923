//! A dataset of rows that grows chunk by chunk.

use std::io;

use rust_hdf5::dataset::DatasetBuilder;
use rust_hdf5::{ByteOrder, DatatypeMessage, H5Dataset, H5File, H5Type};

use crate::error::{Error, Result};

/// An HDF5 failure as a write error.
pub(crate) fn failed(error: rust_hdf5::Hdf5Error) -> Error {
    let source = match error {
        rust_hdf5::Hdf5Error::Io(e) => e,
        other => {
            let text = other.to_string();
            // The system's reason is inside, in a type that cannot be named from here; it tells a full disk from a bug.
            os_error(&text).map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error)
        }
    };
    Error::write("an HDF5 file", source)
}

/// The number in what the standard library says of a system's error: "... (os error 28)".
fn os_error(text: &str) -> Option<i32> {
    text.rsplit_once("(os error ")?.1.strip_suffix(')')?.parse().ok()
}

/// Stored element, little-endian.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    I64,
    I32,
    F32,
    F16,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::I64 => 8,
            Kind::F32 | Kind::I32 => 4,
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
pub(crate) struct Column {
    name: &'static str,
    kind: Kind,
    width: usize,
    chunk_rows: usize,
    /// Level of deflate behind shuffle; `None` for plain chunks.
    deflate: Option<u32>,
    /// Made with the first chunk: its height is known then.
    dataset: Option<H5Dataset>,
    /// Encoded rows that do not fill a chunk yet.
    pub(crate) buffer: Vec<u8>,
    pub(crate) buffered: usize,
    written: usize,
}

impl Column {
    /// An empty dataset of `width` columns whose chunks will have `chunk_rows` rows, or fewer if it never gets more.
    pub(crate) fn new(name: &'static str, kind: Kind, width: usize, chunk_rows: usize, deflate: Option<u32>) -> Self {
        Column { name, kind, width, chunk_rows, deflate, dataset: None, buffer: Vec::new(), buffered: 0, written: 0 }
    }

    /// The dataset, once its first chunk is written or it is finished.
    pub(crate) fn dataset(&self) -> Option<&H5Dataset> {
        self.dataset.as_ref()
    }

    /// Rows taken so far.
    pub(crate) fn rows(&self) -> usize {
        self.written + self.buffered
    }

    /// Takes note of `n` rows that were added to the buffer, and writes it when it holds a chunk.
    pub(crate) fn advance(&mut self, n: usize, file: &H5File) -> Result<()> {
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
    pub(crate) fn finish(&mut self, file: &H5File) -> Result<()> {
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
            Kind::I32 => self.build(file.new_dataset::<i32>(), chunk_rows),
            Kind::F32 => self.build(file.new_dataset::<f32>(), chunk_rows),
            Kind::F16 => self.build(file.new_dataset::<u16>().datatype(Kind::float16()), chunk_rows),
        }
    }

    fn build<T: H5Type>(&self, builder: DatasetBuilder<T>, chunk_rows: usize) -> rust_hdf5::Result<H5Dataset> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_reason_is_found_in_the_words() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(os_error(&format!("hdf5-io error: I/O error: {full}")), Some(libc::ENOSPC));
        assert_eq!(os_error("invalid state"), None);
    }
}
