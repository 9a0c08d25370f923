//! How a DICOM image's frames are coded, and what their samples mean.
//!
//! What a JPEG's components are is told by the stream where it tells: Adobe's colour transform, component ids R G B, a JFIF
//! header. Only where it does not, PhotometricInterpretation counts (RGB there means that nothing was transformed). Writers
//! are known to leave RGB there and compress YCbCr, and the other way round.
//!
//! Reference: DICOM PS3.5 section 8.2 and annex A.4, PS3.3 C.7.6.3.1.2 (photometric interpretation); ITU-T T.871 (JFIF).

use super::header::Header;
use crate::codec::lossless::{Alpha, Packing, Samples};
use crate::codec::{BlockCoding, jpeg};
use crate::error::{Error, Result};

/// How frames become RGB.
pub struct FrameCoding {
    /// The coding.
    pub block: BlockCoding,
    /// What the user should know.
    pub note: Option<String>,
}

/// Bytes of a native frame; `None` for encapsulated ones.
#[must_use]
pub fn native_bytes(header: &Header) -> Option<u64> {
    if !matches!(header.transfer_syntax.as_str(), "1.2.840.10008.1.2" | "1.2.840.10008.1.2.1") {
        return None;
    }
    let numbers = [header.rows, header.columns, header.samples, header.bits_allocated / 8];
    Some(numbers.iter().fold(1, |bytes: u64, n| bytes.saturating_mul(u64::try_from(*n).unwrap_or(0))))
}

/// The coding of an image's frames. `first` is the beginning of its first frame.
///
/// # Errors
/// [`Error::Unsupported`] for codings beyond this reader, which OpenSlide may know.
pub fn frame_coding(header: &Header, first: &[u8]) -> Result<FrameCoding> {
    let Header { samples, bits_allocated, bits_stored, .. } = *header;
    let photometric = header.photometric.as_str();
    let unsupported = |what: &str| {
        Err(Error::Unsupported(format!(
            "{what} with photometric interpretation {}, {samples} samples of {bits_stored} bits in {bits_allocated}",
            plain(photometric)
        )))
    };
    if header.representation != 0 {
        return unsupported("signed DICOM samples");
    }
    let syntax = header.transfer_syntax.strip_prefix("1.2.840.10008.1.2").unwrap_or("?");
    match syntax {
        "" | ".1" => {
            let Some(mut samples) = samples_of(header) else { return unsupported("uncompressed DICOM frames") };
            samples.planes = header.planar == 1 && samples.per_pixel == 3;
            if samples.planes && samples.bits != 8 {
                return unsupported("uncompressed DICOM frames in planes");
            }
            Ok(FrameCoding { block: BlockCoding::Packed { packing: Packing::None, samples }, note: None })
        }
        ".4.50" | ".4.51" => {
            let stated = match (photometric, samples, bits_allocated) {
                ("MONOCHROME2", 1, 8) => jpeg::Colour::Grey,
                ("RGB", 3, 8) => jpeg::Colour::Rgb,
                ("YBR_FULL" | "YBR_FULL_422" | "YBR_PARTIAL_420", 3, 8) => jpeg::Colour::YCbCr,
                _ => return unsupported("JPEG frames"),
            };
            let told = jpeg_colour(first).filter(|_| samples == 3);
            let note = told.filter(|told| *told != stated).map(|told| {
                let told = if told == jpeg::Colour::Rgb { "RGB" } else { "YCbCr" };
                format!(
                    "the JPEG frames say that they are {told}, the DICOM header says {}; the frames are believed",
                    plain(photometric)
                )
            });
            let block = BlockCoding::Jpeg { tables: None, colour: told.unwrap_or(stated) };
            Ok(FrameCoding { block, note })
        }
        // The codestream's own component transform (YBR_ICT, YBR_RCT) is undone by its decoder.
        ".4.90" | ".4.91" => {
            let colour = match (photometric, samples, bits_allocated) {
                ("MONOCHROME2", 1, 8) => jpeg::Colour::Grey,
                ("RGB" | "YBR_ICT" | "YBR_RCT", 3, 8) => jpeg::Colour::Rgb,
                _ => return unsupported("JPEG2000 frames"),
            };
            Ok(FrameCoding { block: BlockCoding::Jpeg2000 { colour }, note: None })
        }
        ".4.80" | ".4.81" => match samples_of(header) {
            Some(samples) if samples.bits == 8 => {
                Ok(FrameCoding { block: BlockCoding::JpegLs { samples }, note: None })
            }
            _ => unsupported("JPEG-LS frames"),
        },
        // Always in planes, whatever PlanarConfiguration says.
        ".5" => match samples_of(header) {
            Some(samples) if samples.bits == 8 => {
                let packing = Packing::Rle { planes: samples.per_pixel };
                let samples = Samples { planes: samples.per_pixel == 3, ..samples };
                Ok(FrameCoding { block: BlockCoding::Packed { packing, samples }, note: None })
            }
            _ => unsupported("run-length coded (RLE) frames"),
        },
        _ => Err(Error::Unsupported("DICOM frames of another transfer syntax than are known here".into())),
    }
}

/// What the samples of frames mean that are neither JPEG nor JPEG2000, where all bits are used.
fn samples_of(header: &Header) -> Option<Samples> {
    let Header { samples, bits_allocated: bits, .. } = *header;
    let (white_is_zero, ybr) = match (header.photometric.as_str(), samples, bits) {
        ("MONOCHROME2", 1, 8 | 16) | ("RGB", 3, 8 | 16) => (false, false),
        ("MONOCHROME1", 1, 8 | 16) => (true, false),
        ("YBR_FULL", 3, 8) => (false, true),
        _ => return None,
    };
    (header.bits_stored == bits).then_some(Samples {
        bits: bits as u16,
        per_pixel: samples as u16,
        white_is_zero,
        alpha: Alpha::Ignored,
        predictor: false,
        big_endian: false,
        planes: false,
        ybr,
    })
}

/// A code string as it may stand in a message: the standard's words hold nothing else.
fn plain(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').take(16).collect()
}

/// What a JPEG stream says of its three components, if it says it.
fn jpeg_colour(stream: &[u8]) -> Option<jpeg::Colour> {
    use jpeg::Colour::{Rgb, YCbCr};
    let (mut adobe, mut jfif, mut ids) = (None, None, None);
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = stream.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low])).max(2);
        let segment = stream.get(at + 4..at + 2 + length).unwrap_or_default();
        match (marker, segment) {
            (0xff, _) => {
                at += 1;
                continue;
            }
            (0xd8..=0xda, _) => break,
            (0xee, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                adobe = Some(if *transform == 0 { Rgb } else { YCbCr });
            }
            (0xe0, [b'J', b'F', b'I', b'F', ..]) => jfif = Some(YCbCr),
            (0xc0..=0xc2, [_, _, _, _, _, 3, a, _, _, b, _, _, c, ..]) => {
                ids = matches!([a, b, c], [b'R', b'G', b'B'] | [b'r', b'g', b'b']).then_some(Rgb);
                break;
            }
            _ => {}
        }
        at += 2 + length;
    }
    adobe.or(ids).or(jfif)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_stream_tells_its_colours() {
        let adobe = |transform| [b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat();
        assert_eq!(jpeg_colour(&adobe(0)), Some(jpeg::Colour::Rgb));
        assert_eq!(jpeg_colour(&adobe(1)), Some(jpeg::Colour::YCbCr));
        assert_eq!(jpeg_colour(b"\xff\xd8\xff\xe0\0\x08JFIF\0\x01"), Some(jpeg::Colour::YCbCr));
        let frame = |ids: [u8; 3]| {
            let [a, b, c] = ids;
            [b"\xff\xd8\xff\xc0\0\x11\x08\0\x40\0\x40\x03".as_slice(), &[a, 0x11, 0, b, 0x11, 0, c, 0x11, 0]].concat()
        };
        assert_eq!(jpeg_colour(&frame(*b"RGB")), Some(jpeg::Colour::Rgb));
        assert_eq!(jpeg_colour(&frame([1, 2, 3])), None);
        assert_eq!(jpeg_colour(b""), None);
        assert_eq!(jpeg_colour(&[0xff; 40]), None);
    }
}
