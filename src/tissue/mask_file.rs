//! A tissue mask given as a PNG picture.
//!
//! Any non-zero colour is tissue. A palette picture counts by its colours, not by its indices.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, ImageReader};

use super::mask::TissueMask;

/// The largest mask picture that is read, in pixels; at 8 µm/px this is a slide of 46 mm x 46 mm.
pub const MASK_PIXELS_MAX: u64 = 32 << 20;

/// Why a mask picture was refused. The path comes last.
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
    #[error("the tissue mask is not a PNG; save it as a lossless PNG, 0 = no tissue: {path:?}")]
    NotPng {
        /// The mask picture.
        path: PathBuf,
    },
    /// Damaged or unusual PNG.
    #[error("cannot decode the tissue mask ({source}); save it again as an 8-bit PNG: {path:?}")]
    Decode {
        /// What the decoder said.
        source: image::ImageError,
        /// The mask picture.
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

/// Reads a mask picture (PNG; a pixel with any non-zero colour and non-zero alpha is tissue) and stretches it over
/// the whole slide of `slide_width x slide_height` level-0 pixels.
///
/// # Errors
/// When the file can't be read or decoded, is no PNG, is larger than [`MASK_PIXELS_MAX`], or has another shape than
/// the slide (over 3 % in aspect ratio, after allowing for the rounding of small masks).
pub fn mask_from_file(path: &Path, slide_width: u32, slide_height: u32) -> Result<TissueMask, MaskFileError> {
    let read = |source| MaskFileError::Read { source, path: path.to_owned() };
    let decode = |source| MaskFileError::Decode { source, path: path.to_owned() };
    let open =
        || File::open(path).and_then(|file| ImageReader::new(BufReader::new(file)).with_guessed_format()).map_err(read);
    let reader = open()?;
    if reader.format() != Some(ImageFormat::Png) {
        return Err(MaskFileError::NotPng { path: path.to_owned() });
    }
    let (width, height) = reader.into_dimensions().map_err(decode)?;
    if u64::from(width) * u64::from(height) > MASK_PIXELS_MAX {
        return Err(MaskFileError::TooLarge { width, height, path: path.to_owned() });
    }
    let (w, h) = (f64::from(width), f64::from(height));
    let (slide_w, slide_h) = (f64::from(slide_width.max(1)), f64::from(slide_height.max(1)));
    let difference = ((w / h) / (slide_w / slide_h)).ln().abs();
    if difference > ASPECT_TOLERANCE + 1.0 / w + 1.0 / h {
        let percent = difference.exp_m1() * 100.0;
        return Err(MaskFileError::Aspect { width, height, slide_width, slide_height, percent, path: path.to_owned() });
    }
    let data = tissue_bytes(open()?.decode().map_err(decode)?);
    Ok(TissueMask::new(width, height, slide_w / w, slide_h / h, data))
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
            let mask = mask_from_file(&path, 200, 100).unwrap();
            assert_eq!(mask.data(), [0, 1], "{path:?}");
            assert_eq!(mask.downsample(), (100.0, 100.0));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn refusals_say_what_to_do() {
        let folder = folder("refusals");
        let message = |path: &Path| mask_from_file(path, 3000, 1000).unwrap_err().to_string();
        let path = folder.join("m.png");
        assert!(message(&path).contains("--tissue"));
        std::fs::write(&path, b"not a picture").unwrap();
        assert!(message(&path).contains("lossless PNG"));
        GrayImage::new(300, 107).save(&path).unwrap();
        assert!(message(&path).contains("whole slide"));
        let mut cut = std::fs::read(&path).unwrap();
        cut.truncate(50);
        std::fs::write(&path, cut).unwrap();
        assert!(mask_from_file(&path, 300, 107).unwrap_err().to_string().contains("cannot decode"));
        // A small mask may be off by a pixel of rounding.
        GrayImage::new(30, 11).save(&path).unwrap();
        assert!(mask_from_file(&path, 3000, 1000).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
