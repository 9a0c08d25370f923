//! The file that `torch.save` makes of a float32 tensor, written without torch: a zip archive, stored, of a pickle that names the
//! tensor's shape and one file of its values. `torch.load(weights_only=True)` reads it: the pickle calls nothing but torch's own
//! rebuilding of a tensor.
//!
//! Reference: pytorch, `torch/serialization.py` and `torch/_utils.py::_rebuild_tensor_v2`; `caffe2/serialize/inline_container.cc` for the
//! archive (entries stored, values at multiples of 64 bytes, `version` 3).

use std::fs::OpenOptions;
use std::io::{BufWriter, Seek, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::unwritable;
use crate::error::{Error, Result};
use crate::features::Bag;
use crate::record::publish::TempFile;

/// Writes the features as a tensor (N, D).
///
/// # Errors
/// [`Error::Write`], or what reading the features brings.
pub(super) fn write(temp: TempFile, bag: &Bag) -> Result<()> {
    let file = OpenOptions::new().write(true).open(temp.path()).map_err(unwritable)?;
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 18, file));
    let bytes = (bag.rows() * bag.dim()) as u64 * 4;
    entry(&mut zip, "archive/data.pkl", 0, &pickle(bag.rows(), bag.dim()))?;
    entry(&mut zip, "archive/byteorder", 0, b"little")?;
    begin(&mut zip, "archive/data/0", bytes)?;
    bag.read(|values| {
        let piece: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        zip.write_all(&piece).map_err(unwritable)
    })?;
    entry(&mut zip, "archive/version", 0, b"3\n")?;
    zip.finish().map_err(unzippable)?.flush().map_err(unwritable)?;
    temp.commit().map_err(unwritable)
}

/// Begins a stored entry of so many bytes, without a time, its content at a multiple of 64 bytes.
pub(super) fn begin<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: u64) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .with_alignment(64)
        .large_file(bytes >= u64::from(u32::MAX));
    zip.start_file(name, options).map_err(unzippable)
}

/// Writes a small entry.
fn entry<W: Write + Seek>(zip: &mut ZipWriter<W>, name: &str, bytes: u64, content: &[u8]) -> Result<()> {
    begin(zip, name, bytes)?;
    zip.write_all(content).map_err(unwritable)
}

pub(super) fn unzippable(error: zip::result::ZipError) -> Error {
    unwritable(std::io::Error::other(error))
}

/// The pickle, protocol 2, of a contiguous tensor (N, D) whose values are the storage `0`:
///
/// `_rebuild_tensor_v2(persistent(('storage', FloatStorage, '0', 'cpu', N·D)), 0, (N, D), (D, 1), False, OrderedDict())`
fn pickle(rows: usize, dim: usize) -> Vec<u8> {
    let mut out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    text(&mut out, "storage");
    out.extend_from_slice(b"ctorch\nFloatStorage\n");
    text(&mut out, "0");
    text(&mut out, "cpu");
    int(&mut out, rows * dim);
    // TUPLE, BINPERSID: the storage.
    out.extend_from_slice(b"tQ");
    int(&mut out, 0);
    for pair in [[rows, dim], [dim, 1]] {
        int(&mut out, pair[0]);
        int(&mut out, pair[1]);
        // TUPLE2.
        out.push(0x86);
    }
    // NEWFALSE, an empty OrderedDict (EMPTY_TUPLE, REDUCE), TUPLE, REDUCE, STOP.
    out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR.");
    out
}

/// BINUNICODE.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// BININT, or LONG1 of nine bytes (the ninth for the sign) where that has no room.
fn int(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend_from_slice(&value.to_le_bytes());
        }
        Err(_) => {
            out.extend_from_slice(&[0x8a, 9]);
            out.extend_from_slice(&(value as u64).to_le_bytes());
            out.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as Python's `pickletools.dis` reads them; `tests/export_formats.rs` lets Python read whole files.
    #[test]
    fn numbers_of_any_size() {
        for (value, bytes) in [
            (0, &b"J\0\0\0\0"[..]),
            (1280, b"J\0\x05\0\0"),
            (0x7fff_ffff, b"J\xff\xff\xff\x7f"),
            (0x8000_0000, b"\x8a\x09\0\0\0\x80\0\0\0\0\0"),
        ] {
            let mut out = Vec::new();
            int(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }
}
