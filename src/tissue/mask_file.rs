//! A tissue mask that is given: a PNG or TIFF picture, or polygons as GeoJSON.
//!
//! Any non-zero colour is tissue. A palette PNG counts by its colours, not by its indices. Of a TIFF with several sizes of the
//! picture the largest is read that fits.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, ImageReader};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::{ColorType, TiffError};

use super::geojson;
use super::mask::TissueMask;

/// The largest mask picture that is read, in pixels; at 8 µm/px this is a slide of 46 mm x 46 mm.
pub const MASK_PIXELS_MAX: u64 = 32 << 20;

/// The largest GeoJSON that is read, in bytes.
const GEOJSON_BYTES_MAX: u64 = 512 << 20;

/// Why a mask was refused. The path comes last.
#[derive(Debug, thiserror::Error)]
pub enum MaskFileError {
    /// Missing or unreadable file.
    #[error("cannot read the tissue mask ({source}); check the path given with --tissue: {path:?}")]
    Read {
        /// What the system said.
        source: std::io::Error,
        /// The mask picture.
        path: PathBuf,
    },
    /// Another format; JPEG for example has no exact zeros.
    #[error("the tissue mask is neither PNG nor TIFF; save it as a lossless PNG, 0 = no tissue: {path:?}")]
    NoPicture {
        /// The mask picture.
        path: PathBuf,
    },
    /// Damaged or unusual picture.
    #[error("cannot decode the tissue mask ({why}); save it again as an 8-bit PNG: {path:?}")]
    Decode {
        /// What the decoder said.
        why: String,
        /// The mask picture.
        path: PathBuf,
    },
    /// Polygons that are no GeoJSON, or not of this slide.
    #[error("the tissue mask is not usable as GeoJSON ({why}): {path:?}")]
    GeoJson {
        /// What is wrong.
        why: String,
        /// The file.
        path: PathBuf,
    },
    /// More than [`MASK_PIXELS_MAX`] pixels.
    #[error(
        "the tissue mask has {width} x {height} pixels; reduce it to about 8 µm/px (at most {MASK_PIXELS_MAX} pixels): {path:?}"
    )]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The mask picture.
        path: PathBuf,
    },
    /// The mask has not the slide's shape.
    #[error(
        "the tissue mask is {width} x {height} pixels but the slide {slide_width} x {slide_height}: the aspect ratios differ by \
         {percent:.1} %; a mask covers the whole slide, unrotated and uncropped: {path:?}"
    )]
    Aspect {
        /// Mask pixels across.
        width: u32,
        /// Mask pixels down.
        height: u32,
        /// Level-0 pixels across.
        slide_width: u32,
        /// Level-0 pixels down.
        slide_height: u32,
        /// Difference of the aspect ratios in percent.
        percent: f64,
        /// The mask picture.
        path: PathBuf,
    },
}

/// The largest accepted difference between the aspect ratios of mask and slide, beside a pixel of rounding.
const ASPECT_TOLERANCE: f64 = 0.03;

/// Reads a mask. A picture (PNG, TIFF; a pixel with any non-zero colour and non-zero alpha is tissue) is stretched over the whole
/// slide of `slide_width x slide_height` level-0 pixels. Polygons (.geojson, .json) are in level-0 pixels, as QuPath writes
/// them, and become a raster of about `downsample` level-0 pixels per pixel.
///
/// # Errors
/// When the file can't be read or decoded, is none of these, is larger than [`MASK_PIXELS_MAX`], has another shape than
/// the slide (over 3 % in aspect ratio, after allowing for the rounding of small masks), or lies beside it.
pub fn mask_from_file(
    path: &Path,
    slide_width: u32,
    slide_height: u32,
    downsample: f64,
) -> Result<TissueMask, MaskFileError> {
    let read = |source| MaskFileError::Read { source, path: path.to_owned() };
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    if matches!(extension.as_deref(), Some("geojson" | "json")) {
        let refused = |why| MaskFileError::GeoJson { why, path: path.to_owned() };
        let mut text = Vec::new();
        File::open(path).and_then(|file| file.take(GEOJSON_BYTES_MAX + 1).read_to_end(&mut text)).map_err(read)?;
        if text.len() as u64 > GEOJSON_BYTES_MAX {
            return Err(refused("it is larger than 512 MiB".into()));
        }
        // Finer than this shows nothing, and a slide of any size fits.
        let (w, h) = (f64::from(slide_width.max(1)), f64::from(slide_height.max(1)));
        let downsample = downsample.max((w * h / (MASK_PIXELS_MAX as f64 * 0.99)).sqrt()).max(1.0);
        return geojson::from_geojson(&text, slide_width, slide_height, downsample).map_err(refused);
    }
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(read)?;
    let is_tiff = file.read(&mut magic).map_err(read)? == 4 && matches!(&magic[..2], b"II" | b"MM");
    file.rewind().map_err(read)?;
    let (width, height, data) =
        if is_tiff { from_tiff(BufReader::new(file), path)? } else { from_png(BufReader::new(file), path)? };
    let (w, h) = (f64::from(width), f64::from(height));
    let (slide_w, slide_h) = (f64::from(slide_width.max(1)), f64::from(slide_height.max(1)));
    let difference = ((w / h) / (slide_w / slide_h)).ln().abs();
    if difference > ASPECT_TOLERANCE + 1.0 / w + 1.0 / h {
        let percent = difference.exp_m1() * 100.0;
        return Err(MaskFileError::Aspect { width, height, slide_width, slide_height, percent, path: path.to_owned() });
    }
    Ok(TissueMask::new(width, height, slide_w / w, slide_h / h, data))
}

fn check_size(width: u32, height: u32, path: &Path) -> Result<(), MaskFileError> {
    match u64::from(width) * u64::from(height) {
        0 => Err(MaskFileError::Decode { why: "it has no pixels".into(), path: path.to_owned() }),
        1..=MASK_PIXELS_MAX => Ok(()),
        _ => Err(MaskFileError::TooLarge { width, height, path: path.to_owned() }),
    }
}

fn from_png(file: BufReader<File>, path: &Path) -> Result<(u32, u32, Vec<u8>), MaskFileError> {
    let decode = |e: image::ImageError| MaskFileError::Decode { why: e.to_string(), path: path.to_owned() };
    let read = |source| MaskFileError::Read { source, path: path.to_owned() };
    let reader = ImageReader::new(file).with_guessed_format().map_err(read)?;
    if reader.format() != Some(ImageFormat::Png) {
        return Err(MaskFileError::NoPicture { path: path.to_owned() });
    }
    let (width, height) = reader.into_dimensions().map_err(decode)?;
    check_size(width, height, path)?;
    let again = File::open(path).map_err(read)?;
    let picture = ImageReader::with_format(BufReader::new(again), ImageFormat::Png).decode().map_err(decode)?;
    Ok((width, height, tissue_bytes(picture)))
}

fn from_tiff(file: BufReader<File>, path: &Path) -> Result<(u32, u32, Vec<u8>), MaskFileError> {
    let decode = |e: TiffError| MaskFileError::Decode { why: e.to_string(), path: path.to_owned() };
    let mut decoder = Decoder::new(file).map_err(decode)?;
    // The first page is the picture; reduced copies of it may follow.
    let first = decoder.dimensions().map_err(decode)?;
    let (mut page, mut size) = (0, first);
    let same_shape = |(w, h): (u32, u32)| {
        let ratio = (f64::from(w) / f64::from(h.max(1))) / (f64::from(first.0) / f64::from(first.1.max(1)));
        (ratio - 1.0).abs() < ASPECT_TOLERANCE
    };
    while check_size(size.0, size.1, path).is_err() && decoder.more_images() && page < 64 {
        decoder.next_image().map_err(decode)?;
        page += 1;
        size = decoder.dimensions().ok().filter(|&size| same_shape(size)).unwrap_or(first);
    }
    check_size(size.0, size.1, path)?;
    let colours = decoder.colortype().map_err(decode)?;
    let values = decoder.read_image().map_err(decode)?;
    let data = tiff_bytes(colours, &values, size);
    let data =
        data.ok_or_else(|| MaskFileError::Decode { why: format!("{colours:?} is no mask"), path: path.to_owned() })?;
    Ok((size.0, size.1, data))
}

/// 1 where a pixel has any colour and, where it has alpha, is not transparent; `None` for kinds that are no masks.
fn tiff_bytes(colours: ColorType, values: &DecodingResult, (width, height): (u32, u32)) -> Option<Vec<u8>> {
    let (samples, alpha) = match colours {
        ColorType::Gray(_) => (1, false),
        ColorType::GrayA(_) => (2, true),
        ColorType::RGB(_) => (3, false),
        ColorType::RGBA(_) => (4, true),
        _ => return None,
    };
    let pixels = width as usize * height as usize;
    if let (ColorType::Gray(bits @ 1..=7), DecodingResult::U8(packed)) = (colours, values) {
        // Lines begin at bytes.
        let (bits, line) = (usize::from(bits), (width as usize * usize::from(bits)).div_ceil(8));
        let value =
            |x: usize, y: usize| packed[y * line + x * bits / 8] >> (8 - bits - x * bits % 8) & ((1 << bits) - 1);
        let whole = packed.len() >= line * height as usize && 8 % bits == 0;
        return whole
            .then(|| (0..pixels).map(|i| u8::from(value(i % width as usize, i / width as usize) != 0)).collect());
    }
    fn set<T: Copy + PartialEq + Default>(values: &[T], samples: usize, alpha: bool) -> Vec<u8> {
        let zero = T::default();
        let colours = samples - usize::from(alpha);
        let pixel = |p: &[T]| p[..colours].iter().any(|v| *v != zero) && (!alpha || p[colours] != zero);
        values.chunks_exact(samples).map(|p| u8::from(pixel(p))).collect()
    }
    let data = match values {
        DecodingResult::U8(v) => set(v, samples, alpha),
        DecodingResult::U16(v) => set(v, samples, alpha),
        DecodingResult::U32(v) => set(v, samples, alpha),
        DecodingResult::I8(v) => set(v, samples, alpha),
        DecodingResult::I16(v) => set(v, samples, alpha),
        DecodingResult::I32(v) => set(v, samples, alpha),
        DecodingResult::F32(v) => set(v, samples, alpha),
        _ => return None,
    };
    (data.len() == pixels).then_some(data)
}

fn tissue_bytes(picture: DynamicImage) -> Vec<u8> {
    let visible = |coloured: bool, alpha: bool| u8::from(coloured && alpha);
    match picture {
        DynamicImage::ImageLuma8(grey) => grey.into_raw(),
        DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) | DynamicImage::ImageLumaA8(_) => {
            picture.into_rgba8().pixels().map(|p| visible(p.0[..3] != [0; 3], p.0[3] != 0)).collect()
        }
        // 16 bits a channel: eight would round small labels down to zero.
        deep => deep.into_rgba16().pixels().map(|p| visible(p.0[..3] != [0; 3], p.0[3] != 0)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageBuffer, Luma, LumaA};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("paraffin_mask_file_{}_{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn non_zero_is_tissue_at_any_depth() {
        let folder = folder("depth");
        let grey = folder.join("grey.png");
        GrayImage::from_raw(2, 1, vec![0, 1]).unwrap().save(&grey).unwrap();
        let deep = folder.join("deep.png");
        ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, vec![0u16, 1]).unwrap().save(&deep).unwrap();
        let alpha = folder.join("alpha.png");
        ImageBuffer::<LumaA<u8>, _>::from_raw(2, 1, vec![255, 0, 255, 255]).unwrap().save(&alpha).unwrap();
        for path in [grey, deep, alpha] {
            let mask = mask_from_file(&path, 200, 100, 8.0).unwrap();
            assert_eq!(mask.data(), [0, 1], "{path:?}");
            assert_eq!(mask.downsample(), (100.0, 100.0));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn refusals_say_what_to_do() {
        let folder = folder("refusals");
        let message = |path: &Path| mask_from_file(path, 3000, 1000, 8.0).unwrap_err().to_string();
        let path = folder.join("m.png");
        assert!(message(&path).contains("--tissue"));
        std::fs::write(&path, b"not a picture").unwrap();
        assert!(message(&path).contains("lossless PNG"));
        GrayImage::new(300, 107).save(&path).unwrap();
        assert!(message(&path).contains("whole slide"));
        let mut cut = std::fs::read(&path).unwrap();
        cut.truncate(50);
        std::fs::write(&path, cut).unwrap();
        assert!(mask_from_file(&path, 300, 107, 8.0).unwrap_err().to_string().contains("cannot decode"));
        // A small mask may be off by a pixel of rounding.
        GrayImage::new(30, 11).save(&path).unwrap();
        assert!(mask_from_file(&path, 3000, 1000, 8.0).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
