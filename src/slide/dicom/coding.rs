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
    /// The coding, once `native` has been undone.
    pub block: BlockCoding,
    /// What must be done to native samples before.
    pub native: Native,
    /// What the user should know.
    pub note: Option<String>,
}

/// Native samples that do not lie as the codec wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// The colours lie in planes, one after the other (planar configuration 1).
    pub planes: bool,
    /// The colours are luma and chroma, full range.
    pub ybr: bool,
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
            let (white_is_zero, ybr) = match (photometric, samples, bits_allocated, bits_stored) {
                ("MONOCHROME2", 1, 8, 8) | ("MONOCHROME2", 1, 16, 16) => (false, false),
                ("MONOCHROME1", 1, 8, 8) | ("MONOCHROME1", 1, 16, 16) => (true, false),
                ("RGB", 3, 8, 8) | ("RGB", 3, 16, 16) => (false, false),
                ("YBR_FULL", 3, 8, 8) => (false, true),
                _ => return unsupported("uncompressed DICOM frames"),
            };
            let samples = Samples {
                bits: bits_allocated as u16,
                per_pixel: samples as u16,
                white_is_zero,
                alpha: Alpha::Ignored,
                predictor: false,
                big_endian: false,
            };
            let native = Native { planes: header.planar == 1 && samples.per_pixel == 3, ybr };
            if native.planes && samples.bits != 8 {
                return unsupported("uncompressed DICOM frames in planes");
            }
            Ok(FrameCoding { block: BlockCoding::Packed { packing: Packing::None, samples }, native, note: None })
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
            Ok(FrameCoding { block, native: Native::default(), note })
        }
        // The codestream's own component transform (YBR_ICT, YBR_RCT) is undone by its decoder.
        ".4.90" | ".4.91" => {
            let colour = match (photometric, samples, bits_allocated) {
                ("MONOCHROME2", 1, 8) => jpeg::Colour::Grey,
                ("RGB" | "YBR_ICT" | "YBR_RCT", 3, 8) => jpeg::Colour::Rgb,
                _ => return unsupported("JPEG2000 frames"),
            };
            Ok(FrameCoding { block: BlockCoding::Jpeg2000 { colour }, native: Native::default(), note: None })
        }
        ".4.80" | ".4.81" => Err(Error::Unsupported("JPEG-LS frames".into())),
        ".5" => Err(Error::Unsupported("run-length coded (RLE) frames".into())),
        _ => Err(Error::Unsupported("DICOM frames of another transfer syntax than are known here".into())),
    }
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

impl Native {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self == Native::default()
    }

    /// Brings 8-bit samples of three colours into the order R G B, pixel after pixel. `staging` is changed.
    pub fn to_rgb(self, samples: &mut Vec<u8>, staging: &mut Vec<u8>) {
        if self.planes {
            let plane = samples.len() / 3;
            staging.clear();
            staging.resize(plane * 3, 0);
            for (c, from) in samples.chunks_exact(plane.max(1)).take(3).enumerate() {
                for (to, value) in staging.iter_mut().skip(c).step_by(3).zip(from) {
                    *to = *value;
                }
            }
            std::mem::swap(samples, staging);
        }
        if self.ybr {
            for pixel in samples.chunks_exact_mut(3) {
                let [y, cb, cr] = [f32::from(pixel[0]), f32::from(pixel[1]) - 128.0, f32::from(pixel[2]) - 128.0];
                // PS3.3 C.7.6.3.1.2 (full range, ITU-R BT.601); the cast saturates.
                let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
                for (out, value) in pixel.iter_mut().zip(rgb) {
                    *out = (value + 0.5) as u8;
                }
            }
        }
    }
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

    #[test]
    fn native_samples_become_rgb() {
        let mut staging = Vec::new();
        let mut planes = vec![1, 2, 10, 20, 100, 200];
        Native { planes: true, ybr: false }.to_rgb(&mut planes, &mut staging);
        assert_eq!(planes, [1, 10, 100, 2, 20, 200]);
        let mut ybr = vec![255, 128, 128, 76, 85, 255, 0, 0, 0];
        Native { planes: false, ybr: true }.to_rgb(&mut ybr, &mut staging);
        assert_eq!(ybr, [255, 255, 255, 254, 0, 0, 0, 135, 0]);
    }
}
