//! Makes a small JPEG of a large one.

use image::{RgbImage, imageops};
use turbojpeg::{Decompressor, Image, PixelFormat, ScalingFactor, Subsamp};

/// Longest side of a JPEG that is looked at.
const SIDE_MAX: usize = 8192;

/// A JPEG whose longest side is at most `side`, without metadata. The decoder reduces first, by 1, 2, 4 or 8.
///
/// # Errors
/// What is wrong with the JPEG.
pub fn shrink(jpeg: &[u8], side: u32, quality: u8) -> Result<Vec<u8>, String> {
    let mut decoder = Decompressor::new().map_err(|e| e.to_string())?;
    let header = decoder.read_header(jpeg).map_err(|e| e.to_string())?;
    let longest = header.width.max(header.height);
    if longest > SIDE_MAX || longest == 0 {
        return Err(format!("a picture of {} x {} px", header.width, header.height));
    }
    let factors = [ScalingFactor::ONE_EIGHTH, ScalingFactor::ONE_QUARTER, ScalingFactor::ONE_HALF];
    // Three quarters of the side are as good to the eye, and may be a quarter of the work.
    let fits = |factor: &ScalingFactor| 4 * factor.scale(longest) >= 3 * side as usize;
    let factor = factors.into_iter().find(fits).unwrap_or(ScalingFactor::ONE);
    decoder.set_scaling_factor(factor).map_err(|e| e.to_string())?;
    let (width, height) = (factor.scale(header.width), factor.scale(header.height));
    let mut pixels = vec![0; width * height * 3];
    let target = Image { pixels: &mut pixels[..], width, pitch: width * 3, height, format: PixelFormat::RGB };
    decoder.decompress(jpeg, target).map_err(|e| e.to_string())?;
    let mut picture = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or("a picture without pixels")?;
    let longest = width.max(height) as u32;
    if longest > side {
        let scaled = |px: u32| (f64::from(px) * f64::from(side) / f64::from(longest)).round().max(1.0) as u32;
        picture = imageops::thumbnail(&picture, scaled(width as u32), scaled(height as u32));
    }
    encode(&picture, quality)
}

/// A JPEG by libjpeg-turbo, with halved colour resolution below a quality of 90.
///
/// # Errors
/// The library's words.
pub fn encode(picture: &RgbImage, quality: u8) -> Result<Vec<u8>, String> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels = &picture.as_raw()[..];
    let image = Image { pixels, width, pitch: width * 3, height, format: PixelFormat::RGB };
    let colour = if quality < 90 { Subsamp::Sub2x2 } else { Subsamp::None };
    let jpeg = turbojpeg::compress(image, i32::from(quality.clamp(1, 100)), colour);
    jpeg.map(|bytes| bytes.to_vec()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_shrink_and_never_grow() {
        let picture = RgbImage::from_fn(1000, 400, |x, _| image::Rgb([(x / 4) as u8, 100, 50]));
        let jpeg = encode(&picture, 90).expect("encodes");
        for (side, expected) in
            [(100, (100, 40)), (250, (250, 100)), (300, (250, 100)), (999, (999, 400)), (5000, (1000, 400))]
        {
            let small = shrink(&jpeg, side, 90).expect("shrinks");
            let small = image::load_from_memory(&small).expect("a JPEG").to_rgb8();
            assert_eq!(small.dimensions(), expected);
            let middle = small.get_pixel(expected.0 / 2, expected.1 / 2).0;
            assert!(middle[0].abs_diff(125) <= 4 && middle[1].abs_diff(100) <= 4, "{middle:?}");
        }
        assert!(shrink(b"no picture", 100, 90).is_err());
        assert!(shrink(&jpeg[..100], 100, 90).is_err(), "cut off");
    }
}
