//! Lossless TIFF codings (none, LZW, deflate and zstd, with the horizontal predictor), DICOM's RLE, and the way from samples
//! to RGB.
//!
//! Reference: TIFF 6.0 sections 8 (photometric), 13 (LZW), 14 (predictor), 18 (extra samples); TIFF Technical Note on
//! deflate; libtiff's zstd (50000); DICOM PS3.5 annex G (RLE), PS3.3 C.7.6.3.1.2 (YBR_FULL).

use std::io::Read;

use super::{Coding, Target};

/// Byte-wise compression of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Uncompressed.
    None,
    /// LZW, most significant bit first, early change.
    Lzw,
    /// zlib stream.
    Deflate,
    /// Zstandard frame.
    Zstd,
    /// DICOM RLE: so many planes of bytes, each in a segment of its own.
    Rle {
        /// Bytes a pixel.
        planes: u16,
    },
}

impl Packing {
    /// What it is called.
    #[must_use]
    pub fn kind(self) -> Coding {
        match self {
            Packing::None => Coding::Raw,
            Packing::Lzw => Coding::Lzw,
            Packing::Deflate => Coding::Deflate,
            Packing::Zstd => Coding::Zstd,
            Packing::Rle { .. } => Coding::Rle,
        }
    }
}

/// What the samples of a block mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples {
    /// 8 or 16.
    pub bits: u16,
    /// Samples a pixel: 1 (grey), 2 (grey + extra), 3 (RGB) or 4 (RGB + extra).
    pub per_pixel: u16,
    /// Grey where 0 is white.
    pub white_is_zero: bool,
    /// What the extra sample is.
    pub alpha: Alpha,
    /// TIFF predictor 2: each sample is stored as the difference to its left neighbour.
    pub predictor: bool,
    /// Byte order of 16-bit samples.
    pub big_endian: bool,
    /// The three colours lie in planes, one after the other; of 8 bits, without predictor.
    pub planes: bool,
    /// The three colours are luma and chroma, full range; of 8 bits.
    pub ybr: bool,
}

/// The meaning of the sample after the colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpha {
    /// Unspecified: ignored.
    Ignored,
    /// Colours are already multiplied by it.
    Associated,
    /// Colours are not multiplied by it.
    Unassociated,
}

impl Samples {
    /// Bytes of a block of `width` x `height` pixels.
    #[must_use]
    pub fn bytes(&self, width: u32, height: u32) -> usize {
        width as usize * height as usize * usize::from(self.per_pixel) * usize::from(self.bits / 8)
    }
}

/// Unpacks `packed` into exactly `expected` bytes of `out` (cleared first).
///
/// # Errors
/// Says what is wrong: corrupt data, or fewer bytes than the block needs. Bytes past the need are ignored, as libtiff does.
pub fn unpack(packing: Packing, packed: &[u8], expected: usize, out: &mut Vec<u8>) -> Result<(), String> {
    out.clear();
    let got = match packing {
        Packing::None => {
            out.extend_from_slice(&packed[..packed.len().min(expected)]);
            Ok(())
        }
        Packing::Lzw => {
            out.resize(expected, 0);
            let (written, result) = unpack_lzw(packed, out);
            out.truncate(written);
            result
        }
        Packing::Deflate => read_up_to(flate2::read::ZlibDecoder::new(packed), expected, out)
            .map_err(|e| format!("corrupt deflate data: {e}")),
        Packing::Zstd => zstd::stream::read::Decoder::with_buffer(packed)
            .and_then(|d| read_up_to(d, expected, out))
            .map_err(|e| format!("corrupt zstd data: {e}")),
        Packing::Rle { planes } => unpack_rle(packed, usize::from(planes), expected, out),
    };
    if out.len() < expected {
        got?;
        return Err(format!("{} bytes in a block of {expected}", out.len()));
    }
    Ok(())
}

/// Bytes written, and what ended the stream before `out` was full.
fn unpack_lzw(packed: &[u8], out: &mut [u8]) -> (usize, Result<(), String>) {
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    let (mut read, mut written) = (0, 0);
    // A call may stop at a clear code; it is done when it neither reads nor writes.
    while written < out.len() {
        let result = decoder.decode_bytes(&packed[read..], &mut out[written..]);
        read += result.consumed_in;
        written += result.consumed_out;
        match result.status {
            Ok(weezl::LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(e) => return (written, Err(format!("corrupt LZW data: {e}"))),
        }
    }
    (written, Ok(()))
}

/// `planes` segments of PackBits runs, each a plane of the frame.
fn unpack_rle(packed: &[u8], planes: usize, expected: usize, out: &mut Vec<u8>) -> Result<(), String> {
    const HEADER: usize = 64;
    let corrupt = |why: String| format!("corrupt RLE data: {why}");
    let header = packed.get(..HEADER).ok_or_else(|| corrupt("no header".into()))?;
    let mut words = header.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let stated = words.next().unwrap_or(0);
    if stated != planes || planes >= HEADER / 4 {
        return Err(corrupt(format!("{stated} segments, {planes} expected")));
    }
    let mut begins: Vec<usize> = words.take(planes).collect();
    begins.push(packed.len());
    out.reserve_exact(expected);
    for (number, span) in begins.windows(2).enumerate() {
        let segment = packed.get(span[0]..span[1]).filter(|_| span[0] >= HEADER);
        let segment = segment.ok_or_else(|| corrupt(format!("segment {} lies outside the frame", number + 1)))?;
        unpack_bits(segment, expected / planes * (number + 1), out);
        if out.len() < expected / planes * (number + 1) {
            return Err(corrupt(format!("segment {} ends too early", number + 1)));
        }
    }
    Ok(())
}

/// PackBits runs until `out` has `end` bytes or they end; what is past either is ignored.
fn unpack_bits(mut packed: &[u8], end: usize, out: &mut Vec<u8>) {
    while let Some((&control, rest)) = packed.split_first()
        && out.len() < end
    {
        let room = end - out.len();
        packed = match (control, rest.split_first()) {
            (0..=127, _) => {
                let (literal, rest) = rest.split_at(rest.len().min(usize::from(control) + 1));
                out.extend_from_slice(&literal[..literal.len().min(room)]);
                rest
            }
            (128, _) => rest,
            (_, Some((&value, rest))) => {
                out.resize(out.len() + (257 - usize::from(control)).min(room), value);
                rest
            }
            (_, None) => return,
        };
    }
}

fn read_up_to(reader: impl Read, expected: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
    out.reserve_exact(expected);
    reader.take(expected as u64).read_to_end(out).map(|_| ())
}

/// Turns unpacked samples (row after row, chunky) into RGB. `samples` is changed in place where a predictor is undone.
pub fn to_rgb(bytes: &mut [u8], samples: Samples, target: &mut Target) {
    let per_pixel = usize::from(samples.per_pixel);
    if samples.planes && per_pixel == 3 {
        join_planes(bytes, target);
    } else {
        join_rows(bytes, samples, target);
    }
    if samples.ybr && per_pixel == 3 {
        for y in 0..target.height {
            ybr_to_rgb(target.row(y));
        }
    }
}

fn join_planes(bytes: &[u8], target: &mut Target) {
    let width = target.width;
    for (c, plane) in bytes.chunks_exact((width * target.height).max(1)).take(3).enumerate() {
        for (y, row) in plane.chunks_exact(width).enumerate() {
            for (to, value) in target.row(y).iter_mut().skip(c).step_by(3).zip(row) {
                *to = *value;
            }
        }
    }
}

fn ybr_to_rgb(row: &mut [u8]) {
    for pixel in row.chunks_exact_mut(3) {
        let [y, cb, cr] = [f32::from(pixel[0]), f32::from(pixel[1]) - 128.0, f32::from(pixel[2]) - 128.0];
        // PS3.3 C.7.6.3.1.2 (full range, ITU-R BT.601); the cast saturates.
        let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
        for (out, value) in pixel.iter_mut().zip(rgb) {
            *out = (value + 0.5) as u8;
        }
    }
}

fn join_rows(bytes: &mut [u8], samples: Samples, target: &mut Target) {
    let per_pixel = usize::from(samples.per_pixel);
    let row_bytes = target.width * per_pixel * usize::from(samples.bits / 8);
    for (y, row) in bytes.chunks_exact_mut(row_bytes).take(target.height).enumerate() {
        if samples.bits == 16 {
            if samples.predictor {
                undo_predictor_16(row, per_pixel, samples.big_endian);
            }
            narrow(row, samples.big_endian);
        } else if samples.predictor {
            for i in per_pixel..row.len() {
                row[i] = row[i].wrapping_add(row[i - per_pixel]);
            }
        }
        let row = &row[..target.width * per_pixel];
        let out = target.row(y);
        match per_pixel {
            3 => out.copy_from_slice(row),
            _ => {
                for (pixel, rgb) in row.chunks_exact(per_pixel).zip(out.chunks_exact_mut(3)) {
                    rgb.copy_from_slice(&rgb_of(pixel, samples));
                }
            }
        }
    }
}

fn undo_predictor_16(row: &mut [u8], per_pixel: usize, big_endian: bool) {
    let get = |b: &[u8]| if big_endian { u16::from_be_bytes([b[0], b[1]]) } else { u16::from_le_bytes([b[0], b[1]]) };
    for i in per_pixel..row.len() / 2 {
        let sum = get(&row[2 * i..]).wrapping_add(get(&row[2 * (i - per_pixel)..]));
        row[2 * i..2 * i + 2].copy_from_slice(&if big_endian { sum.to_be_bytes() } else { sum.to_le_bytes() });
    }
}

/// 16-bit samples to 8 bits, rounded (65535 becomes 255), packed into the row's first half.
fn narrow(row: &mut [u8], big_endian: bool) {
    for i in 0..row.len() / 2 {
        let pair = [row[2 * i], row[2 * i + 1]];
        let value = if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
        row[i] = ((u32::from(value) * 255 + 32767) / 65535) as u8;
    }
}

/// One pixel over white.
fn rgb_of(pixel: &[u8], samples: Samples) -> [u8; 3] {
    let grey = |v: u8| if samples.white_is_zero { 255 - v } else { v };
    let colours = if pixel.len() < 3 { [grey(pixel[0]); 3] } else { [pixel[0], pixel[1], pixel[2]] };
    let Some(&alpha) = pixel.len().is_multiple_of(2).then(|| pixel.last()).flatten() else { return colours };
    over_white(colours, alpha, samples.alpha)
}

/// A pixel of this opacity over white.
#[must_use]
pub fn over_white(colours: [u8; 3], alpha: u8, meaning: Alpha) -> [u8; 3] {
    match meaning {
        Alpha::Ignored => colours,
        Alpha::Associated => colours.map(|c| c.saturating_add(255 - alpha)),
        Alpha::Unassociated => colours.map(|c| {
            let (c, a) = (u32::from(c), u32::from(alpha));
            ((c * a + 255 * (255 - a) + 127) / 255) as u8
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB8: Samples = Samples {
        bits: 8,
        per_pixel: 3,
        white_is_zero: false,
        alpha: Alpha::Ignored,
        predictor: false,
        big_endian: false,
        planes: false,
        ybr: false,
    };

    fn rgb(mut bytes: Vec<u8>, samples: Samples, width: usize) -> Vec<u8> {
        let mut pixels = vec![0; width * 3];
        to_rgb(&mut bytes, samples, &mut Target { pixels: &mut pixels, pitch: width * 3, width, height: 1 });
        pixels
    }

    #[test]
    fn samples_become_rgb() {
        assert_eq!(rgb(vec![1, 2, 3, 4, 5, 6], RGB8, 2), [1, 2, 3, 4, 5, 6]);
        assert_eq!(rgb(vec![10, 20, 30, 1, 1, 255], Samples { predictor: true, ..RGB8 }, 2), [10, 20, 30, 11, 21, 29]);
        let grey = Samples { per_pixel: 1, ..RGB8 };
        assert_eq!(rgb(vec![7, 9], grey, 2), [7, 7, 7, 9, 9, 9]);
        assert_eq!(rgb(vec![7], Samples { white_is_zero: true, ..grey }, 1), [248; 3]);
        let rgba = Samples { per_pixel: 4, alpha: Alpha::Unassociated, ..RGB8 };
        assert_eq!(rgb(vec![100, 0, 255, 0, 100, 0, 255, 255], rgba, 2), [255, 255, 255, 100, 0, 255]);
        assert_eq!(rgb(vec![50, 0, 100, 100], Samples { alpha: Alpha::Associated, ..rgba }, 1), [205, 155, 255]);
    }

    #[test]
    fn planes_and_luma_become_rgb() {
        assert_eq!(rgb(vec![1, 2, 10, 20, 100, 200], Samples { planes: true, ..RGB8 }, 2), [1, 10, 100, 2, 20, 200]);
        let ybr = Samples { ybr: true, ..RGB8 };
        let got = rgb(vec![255, 128, 128, 76, 85, 255, 0, 0, 0], ybr, 3);
        assert_eq!(got, [255, 255, 255, 254, 0, 0, 0, 135, 0]);
    }

    /// Segments at the given offsets.
    fn rle(count: u32, offsets: &[u32], segments: &[u8]) -> Vec<u8> {
        let mut words = vec![count];
        words.extend_from_slice(offsets);
        words.resize(16, 0);
        [words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>(), segments.to_vec()].concat()
    }

    #[test]
    fn rle_is_unpacked_plane_by_plane() {
        let mut out = Vec::new();
        let mut unpacked = |packed: &[u8], planes, expected| {
            unpack(Packing::Rle { planes }, packed, expected, &mut out).map(|()| out.clone())
        };
        // A literal of three, a byte without meaning, a run of two; the padding and the too long run are ignored.
        let runs = [2, 1, 2, 3, 128, 255, 9, 0];
        assert_eq!(unpacked(&rle(1, &[64], &runs), 1, 5), Ok(vec![1, 2, 3, 9, 9]));
        assert_eq!(unpacked(&rle(1, &[64], &[129, 7]), 1, 5), Ok(vec![7; 5]));
        let three = rle(3, &[64, 66, 68], &[255, 1, 255, 2, 255, 3]);
        assert_eq!(unpacked(&three, 3, 6), Ok(vec![1, 1, 2, 2, 3, 3]));
        for (packed, planes, why) in [
            (three[..63].to_vec(), 3, "no header"),
            (three.clone(), 1, "3 segments, 1 expected"),
            (rle(u32::MAX, &[64], &runs), 1, "segments"),
            (three[..69].to_vec(), 3, "segment 3 ends too early"),
            (rle(1, &[64], &[2, 1]), 1, "ends too early"),
            (rle(3, &[64, 66, 900], &[255, 1, 255, 2, 255, 3]), 3, "segment 2 lies outside"),
            (rle(3, &[64, 62, 66], &[255, 1, 255, 2, 255, 3]), 3, "segment 1 lies outside"),
            (rle(1, &[0], &[255, 1]), 1, "segment 1 lies outside"),
        ] {
            let error = unpacked(&packed, planes, 6).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn sixteen_bits_are_rounded_in_either_byte_order() {
        let grey = Samples { bits: 16, per_pixel: 1, ..RGB8 };
        assert_eq!(rgb(vec![0xff, 0xff], grey, 1), [255; 3]);
        assert_eq!(rgb(vec![0x00, 0x80], grey, 1), [128; 3]);
        assert_eq!(rgb(vec![0x80, 0x00], Samples { big_endian: true, ..grey }, 1), [128; 3]);
        let differences = Samples { big_endian: true, predictor: true, ..grey };
        assert_eq!(rgb(vec![0x01, 0x01, 0x01, 0x01], differences, 2), [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn a_short_or_corrupt_block_is_an_error() {
        let mut out = Vec::new();
        assert!(unpack(Packing::None, &[1, 2], 3, &mut out).expect_err("short").contains("2 bytes in a block of 3"));
        assert!(unpack(Packing::Deflate, &[1, 2, 3], 3, &mut out).is_err());
        assert!(unpack(Packing::Zstd, &[1, 2, 3], 3, &mut out).is_err());
        assert!(unpack(Packing::Lzw, &[0xff, 0xff, 0xff], 300, &mut out).is_err());
        assert!(unpack(Packing::None, &[1, 2, 3, 4], 3, &mut out).is_ok());
        assert_eq!(out, [1, 2, 3]);
    }
}
