//! Resampling of RGB pixels with Pillow's antialiased filters (`fast_image_resize`; at most 1 of 255 away from Pillow for
//! bilinear and bicubic, 2 for lanczos).

use std::fmt;
use std::str::FromStr;

use fast_image_resize as fir;
use serde::{Deserialize, Serialize};

/// The filter's name, as Pillow and torchvision call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle filter, widened by the reduction.
    #[default]
    Bilinear,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Filter {
    /// All filters.
    pub const ALL: [Filter; 3] = [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos];

    /// The name in contracts and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
            Filter::Lanczos => "lanczos",
        }
    }

    fn kind(self) -> fir::FilterType {
        match self {
            Filter::Bilinear => fir::FilterType::Bilinear,
            Filter::Bicubic => fir::FilterType::CatmullRom,
            Filter::Lanczos => fir::FilterType::Lanczos3,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Filter::ALL.into_iter().find(|f| f.name() == text);
        found.ok_or_else(|| format!("unknown filter '{text}'; one of bilinear, bicubic, lanczos"))
    }
}

/// The part of the source that is resampled, in source pixels; may start and end between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// One thread's resampler: keeps its coefficient and row buffers.
#[derive(Default)]
pub struct Resampler {
    resizer: fir::Resizer,
}

impl Resampler {
    /// Resamples `crop` of an RGB picture (`width` x `height`, 3 bytes a pixel) to `out` (`out_px` x `out_px`).
    ///
    /// # Errors
    /// Words, where sizes and buffers do not fit; a caller's fault.
    pub fn square(
        &mut self,
        filter: Filter,
        source: &[u8],
        (width, height): (u32, u32),
        crop: Crop,
        out: &mut [u8],
        out_px: u32,
    ) -> Result<(), String> {
        let source =
            fir::images::ImageRef::new(width, height, source, fir::PixelType::U8x3).map_err(|e| e.to_string())?;
        let mut target =
            fir::images::Image::from_slice_u8(out_px, out_px, out, fir::PixelType::U8x3).map_err(|e| e.to_string())?;
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter.kind())).crop(
            crop.left,
            crop.top,
            crop.width,
            crop.height,
        );
        self.resizer.resize(&source, &mut target, Some(&options)).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_a_checkerboard_of_two_by_two_blocks_is_exact_in_the_middle() {
        let mut resampler = Resampler::default();
        let source: Vec<u8> = (0..16 * 16).flat_map(|i| [if i % 16 < 8 { 0 } else { 200 }; 3]).collect();
        let mut out = vec![0; 8 * 8 * 3];
        let whole = Crop { left: 0.0, top: 0.0, width: 16.0, height: 16.0 };
        resampler.square(Filter::Bilinear, &source, (16, 16), whole, &mut out, 8).expect("fits");
        assert_eq!((out[0], out[7 * 3]), (0, 200));
        let crop = Crop { left: 8.0, top: 0.0, width: 8.0, height: 8.0 };
        resampler.square(Filter::Lanczos, &source, (16, 16), crop, &mut out, 8).expect("fits");
        assert!(out.iter().all(|v| *v == 200), "a crop does not see beyond its edge");
    }

    #[test]
    fn names_are_read_back() {
        for filter in Filter::ALL {
            assert_eq!(filter.name().parse(), Ok(filter));
        }
        assert!("box".parse::<Filter>().is_err());
    }
}
