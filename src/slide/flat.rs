//! Flat images: PNG and JPEG files as slides of one level. Extensions `.png`, `.jpg`, `.jpeg`.
//!
//! Recognised by: the file's first bytes; directories are not searched for them, a file must be named.
//! mpp: none is taken from the file (dots per inch are the screen's), so `--mpp` or the slide list must give it.
//! Layout: the whole picture is decoded once, when its first block is wanted, and held; at most [`MAX_PX`] pixels. EXIF
//! orientation is ignored: coordinates are those of the stored pixels.
//! Codings: PNG of any kind, to 8 bits and over white; JPEG of grey, YCbCr or RGB.
//! Reference: W3C PNG; ITU-T T.81.
//! Fixtures: testdata/codings/flat*.
//! Known differences to OpenSlide: OpenSlide does not open them. A MIRAX slide's `.mrxs`, a JPEG too, stays OpenSlide's.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use image::{DynamicImage, ImageDecoder};

use super::identifying::{Field, names, printable_runs};
use super::source::Source;
use super::{BlockAt, BlockKind, Coding, Level, Probe, Scale, SlideInfo, SlideReader};
use crate::codec::Scratch;
use crate::codec::lossless::{Alpha, over_white};
use crate::error::{Error, Result};

/// Most pixels: 384 MiB decoded.
pub const MAX_PX: u64 = 1 << 27;
/// Largest file, in bytes: more than that many pixels need.
const MAX_BYTES: u64 = 1 << 30;
/// Side of the blocks that the picture is handed out in.
const BLOCK: u32 = 512;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Whether this is a PNG file.
#[must_use]
pub fn recognise_png(probe: &Probe) -> bool {
    probe.head.starts_with(PNG)
}

/// Whether this is a JPEG file, and not the entry file of a MIRAX slide.
#[must_use]
pub fn recognise_jpeg(probe: &Probe) -> bool {
    probe.head.starts_with(&[0xff, 0xd8, 0xff]) && !super::is_foreign(probe.path, &probe.head)
}

/// Opens a PNG file.
///
/// # Errors
/// [`Error::Unsupported`] for too many pixels, [`Error::Damaged`] for broken headers, [`Error::Read`].
pub fn open_png(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let bytes = whole(probe.path)?;
    let decoder =
        image::codecs::png::PngDecoder::new(Cursor::new(&bytes)).map_err(|e| Error::Damaged(e.to_string()))?;
    let size = decoder.dimensions();
    drop(decoder);
    Ok(Box::new(Flat::new("png", size, bytes, decode_png)?))
}

/// Opens a JPEG file.
///
/// # Errors
/// As [`open_png`].
pub fn open_jpeg(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let bytes = whole(probe.path)?;
    let header = turbojpeg::read_header(&bytes).map_err(|e| Error::Damaged(e.to_string()))?;
    if matches!(header.colorspace, turbojpeg::Colorspace::CMYK | turbojpeg::Colorspace::YCCK) {
        return Err(Error::Unsupported("a JPEG file in CMYK: convert it to RGB".into()));
    }
    Ok(Box::new(Flat::new("jpeg", (header.width as u32, header.height as u32), bytes, decode_jpeg)?))
}

fn whole(path: &Path) -> Result<Vec<u8>> {
    let source = Source::open(path).map_err(Error::Read)?;
    if source.length() > MAX_BYTES {
        return Err(Error::Unsupported(format!("a flat image of {} bytes; {ADVICE}", source.length())));
    }
    let mut bytes = Vec::new();
    source.read(0, source.length() as usize, &mut bytes).map_err(Error::Read)?;
    Ok(bytes)
}

const ADVICE: &str = "convert it to a tiled pyramid (vips tiffsave --tile --pyramid)";

type Decode = fn(&[u8], (u32, u32)) -> std::result::Result<Vec<u8>, String>;

fn decode_jpeg(bytes: &[u8], (width, height): (u32, u32)) -> std::result::Result<Vec<u8>, String> {
    let mut decompressor = turbojpeg::Decompressor::new().map_err(|e| e.to_string())?;
    decompressor.set_scan_limit(100).map_err(|e| e.to_string())?;
    let (width, height) = (width as usize, height as usize);
    let mut pixels = vec![0; width * height * 3];
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &mut pixels[..], width, pitch: width * 3, height, format };
    decompressor.decompress(bytes, image).map_err(|e| e.to_string())?;
    Ok(pixels)
}

fn decode_png(bytes: &[u8], _: (u32, u32)) -> std::result::Result<Vec<u8>, String> {
    let mut decoder = image::codecs::png::PngDecoder::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(MAX_PX * 8);
    decoder.set_limits(limits).map_err(|e| e.to_string())?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    if !picture.color().has_alpha() {
        return Ok(picture.into_rgb8().into_raw());
    }
    let pixels = picture.into_rgba8().into_raw();
    let (pixels, _) = pixels.as_chunks::<4>();
    Ok(pixels.iter().flat_map(|[r, g, b, a]| over_white([*r, *g, *b], *a, Alpha::Unassociated)).collect())
}

/// What may identify: EXIF, and a PNG's texts.
///
/// # Errors
/// [`Error::Read`].
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let source = Source::open(probe.path).map_err(Error::Read)?;
    let mut bytes = Vec::new();
    source.read(0, source.length().min(METADATA_BYTES as u64) as usize, &mut bytes).map_err(Error::Read)?;
    Ok(fields(if recognise_png(probe) { "png" } else { "jpeg" }, &bytes))
}

fn fields(format: &str, bytes: &[u8]) -> Vec<Field> {
    let marks: [(&[u8], &str); 4] =
        [(b"Exif\0\0", "jpeg.EXIF"), (b"eXIf", "png.eXIf"), (b"tEXt", "png.tEXt"), (b"iTXt", "png.iTXt")];
    let mut fields = Vec::new();
    for (mark, name) in marks.iter().filter(|(_, name)| name.starts_with(format)) {
        let bytes = &bytes[..bytes.len().min(METADATA_BYTES)];
        let places = bytes.windows(mark.len()).enumerate().filter(|(_, w)| w == mark).map(|(at, _)| at + mark.len());
        for at in places {
            fields.push(Field::new(*name, ""));
            let texts = printable_runs(&bytes[at..bytes.len().min(at + 4096)]);
            fields.extend(texts.into_iter().map(|text| Field::new(*name, text)));
        }
    }
    fields
}

/// Where metadata lies in a flat image: near its beginning.
const METADATA_BYTES: usize = 1 << 16;

/// Whether a mark stands near the file's beginning, where metadata lies.
fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes[..bytes.len().min(METADATA_BYTES)].windows(mark.len()).any(|w| w == mark)
}

/// An image file of one level.
struct Flat {
    info: SlideInfo,
    bytes: Vec<u8>,
    decode: Decode,
    picture: OnceLock<std::result::Result<Arc<[u8]>, String>>,
}

impl Flat {
    fn new(format: &str, (width, height): (u32, u32), bytes: Vec<u8>, decode: Decode) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::Damaged(format!("an image of {width} x {height} px")));
        }
        if u64::from(width) * u64::from(height) > MAX_PX {
            return Err(Error::Unsupported(format!(
                "a flat image of {width} x {height} px, over {} million; {ADVICE}",
                MAX_PX >> 20
            )));
        }
        let level =
            Level { width, height, downsample: 1.0, block_width: BLOCK, block_height: BLOCK, coding: Coding::Flat };
        let identifying_fields = names(&fields(format, &bytes));
        let info = SlideInfo {
            format: format.into(),
            reader: "native".into(),
            levels: vec![level],
            stated_mpp: Vec::new(),
            objective_power: None,
            associated_images: Vec::new(),
            identifying_fields,
            icc_profile: holds(&bytes, if format == "png" { b"iCCP" } else { b"ICC_PROFILE\0" }),
            notes: Vec::new(),
        };
        Ok(Flat { info, bytes, decode, picture: OnceLock::new() })
    }
}

impl SlideReader for Flat {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn decode_block(&self, at: BlockAt, _: Scale, _: &mut Scratch, out: &mut [u8], pitch: usize) -> Result<BlockKind> {
        let (width, height) = (self.info.levels[0].width, self.info.levels[0].height);
        // Others wait for the one that decodes: the picture is needed by all of them.
        let picture = self.picture.get_or_init(|| {
            let pixels = (self.decode)(&self.bytes, (width, height))?;
            if pixels.len() as u64 != u64::from(width) * u64::from(height) * 3 {
                return Err("it decodes to another size than it states".into());
            }
            Ok(pixels.into())
        });
        let wrong = |why: &String| Error::Block { level: 0, col: at.col, row: at.row, why: why.clone() };
        let picture = picture.as_ref().map_err(wrong)?;
        let (left, top) = (at.col * BLOCK, at.row * BLOCK);
        let bytes = BLOCK.min(width - left) as usize * 3;
        for y in 0..BLOCK.min(height - top) {
            let from = ((top + y) as usize * width as usize + left as usize) * 3;
            let to = y as usize * pitch;
            out[to..to + bytes].copy_from_slice(&picture[from..from + bytes]);
        }
        Ok(BlockKind::Decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_pixels_are_refused_before_they_are_decoded() {
        let decode: Decode = |_, _| panic!("decoded");
        let error = Flat::new("png", (20_000, 20_000), Vec::new(), decode).err().expect("refused").to_string();
        assert!(error.contains("vips tiffsave"), "{error}");
    }
}
