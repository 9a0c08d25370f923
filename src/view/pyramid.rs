//! A slide as DeepZoom: square tiles at powers of two of level 0, read and reduced when they are asked for.
//!
//! DeepZoom's level `l` of a slide whose longer side has between 2^(m-1) and 2^m pixels is level 0 reduced by 2^(m-l). Coarse
//! levels are cut from one low-power picture of the slide, which is made once; the finer ones from the slide's own levels.

use std::cell::RefCell;
use std::path::Path;
use std::sync::OnceLock;

use image::{RgbImage, imageops};

use crate::codec::Scratch;
use crate::error::{Error, Result};
use crate::report::thumbnail;
use crate::resample::{Crop, Filter, Resampler};
use crate::slide::lowpower::{self, LowPower};
use crate::slide::region::{Region, read_region};
use crate::slide::{Scale, Slide};

/// Side of a tile in pixels.
pub const TILE: u32 = 512;
/// Longest side that the low-power picture has at least, where the slide has as many pixels.
const LOW_POWER_PX: f64 = 2048.0;
/// Most pixels a side that are read for one tile: of slides without the levels for it, the low-power picture is magnified
/// instead.
const SOURCE_MAX: f64 = 4096.0;
const QUALITY: u8 = 92;
/// Unreadable blocks that the low-power picture may have; they are white.
const ALLOWED: u64 = u64::MAX;

/// An open slide that gives DeepZoom's tiles; any number of threads may ask.
pub struct Pyramid {
    slide: Slide,
    low: OnceLock<Result<LowPower, String>>,
}

thread_local! {
    static BUFFERS: RefCell<(Scratch, Resampler)> = RefCell::default();
}

impl Pyramid {
    /// Opens a slide.
    ///
    /// # Errors
    /// Those of [`Slide::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Pyramid { slide: Slide::open(path)?, low: OnceLock::new() })
    }

    /// Width and height of level 0.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.slide.level0().width, self.slide.level0().height)
    }

    /// The slide.
    #[must_use]
    pub fn slide(&self) -> &Slide {
        &self.slide
    }

    /// DeepZoom's finest level.
    #[must_use]
    pub fn max_level(&self) -> u32 {
        let (width, height) = self.size();
        u64::from(width.max(height)).next_power_of_two().trailing_zeros()
    }

    /// A tile as JPEG; `None` where the slide has no such tile.
    ///
    /// # Errors
    /// Those of reading the slide.
    pub fn tile(&self, level: u32, column: u32, row: u32) -> Result<Option<Vec<u8>>> {
        let Some(power) = self.max_level().checked_sub(level) else { return Ok(None) };
        let reduction = 1u64 << power;
        let (width, height) = self.size();
        // Of the level: what remains from the tile's corner on, at most a tile.
        let side = |full: u32, at: u32| {
            let whole = u64::from(full).div_ceil(reduction);
            whole.saturating_sub(u64::from(at) * u64::from(TILE)).min(u64::from(TILE)) as u32
        };
        let (tile_width, tile_height) = (side(width, column), side(height, row));
        if tile_width == 0 || tile_height == 0 {
            return Ok(None);
        }
        let reduction = reduction as f64;
        let corner = (f64::from(column * TILE) * reduction, f64::from(row * TILE) * reduction);
        let picture = match self.source(reduction, TILE) {
            Some((number, scale)) => {
                let square = self.read_level(number, scale, reduction, corner, TILE)?;
                imageops::crop_imm(&square, 0, 0, tile_width, tile_height).to_image()
            }
            None => self.cut_low_power(reduction, corner, (tile_width, tile_height))?,
        };
        thumbnail::encode(&picture, QUALITY).map(Some).map_err(Error::Internal)
    }

    /// The square of `side` level-0 pixels at a corner as a JPEG of `px` pixels a side.
    ///
    /// # Errors
    /// Those of reading the slide.
    pub fn crop(&self, corner: [i64; 2], side: u32, px: u32) -> Result<Vec<u8>> {
        let reduction = f64::from(side) / f64::from(px);
        let corner = (corner[0] as f64, corner[1] as f64);
        let picture = match self.source(reduction, px) {
            Some((number, scale)) => self.read_level(number, scale, reduction, corner, px)?,
            None => self.cut_low_power(reduction, corner, (px, px))?,
        };
        thumbnail::encode(&picture, QUALITY).map_err(Error::Internal)
    }

    /// The level and the decoder's scale that squares of `px` pixels at this reduction are read from; `None` for the low-power
    /// picture.
    fn source(&self, reduction: f64, px: u32) -> Option<(usize, Scale)> {
        let (width, height) = self.size();
        let low = f64::from(width.max(height)) / LOW_POWER_PX;
        if reduction > 1.0 && reduction >= low {
            return None;
        }
        let levels = &self.slide.info().levels;
        let number = levels.iter().rposition(|l| l.downsample <= reduction * 1.001).unwrap_or(0);
        let level = &levels[number];
        let factor = reduction / level.downsample;
        let scale = [Scale::Eighth, Scale::Quarter, Scale::Half].into_iter().find(|s| {
            let d = s.divisor();
            let divides = level.block_width.is_multiple_of(d) && level.block_height.is_multiple_of(d);
            level.coding.scales() && f64::from(d) <= factor * 1.001 && divides
        });
        let scale = scale.unwrap_or(Scale::Full);
        let source_px = f64::from(px) * factor / f64::from(scale.divisor());
        (source_px <= SOURCE_MAX).then_some((number, scale))
    }

    /// A whole square of `px` pixels; white outside the slide.
    fn read_level(&self, number: usize, scale: Scale, reduction: f64, corner: (f64, f64), px: u32) -> Result<RgbImage> {
        let per_px = self.slide.info().levels[number].downsample * f64::from(scale.divisor());
        let side = f64::from(px) * reduction / per_px;
        let (left, top) = (corner.0 / per_px, corner.1 / per_px);
        let (x0, y0) = (left.floor(), top.floor());
        let region = Region {
            level: number,
            scale,
            x: x0 as i64,
            y: y0 as i64,
            width: ((left + side).ceil() - x0) as u32,
            height: ((top + side).ceil() - y0) as u32,
        };
        BUFFERS.with_borrow_mut(|(scratch, resampler)| {
            let pixels = read_region(self.slide.reader.as_ref(), &region, scratch)?;
            let square = if (region.width, region.height) == (px, px) {
                pixels
            } else {
                let mut out = vec![0; (px * px * 3) as usize];
                let crop = Crop { left: left - x0, top: top - y0, width: side, height: side };
                let size = (region.width, region.height);
                resampler.square(Filter::Bilinear, &pixels, size, crop, &mut out, px).map_err(Error::Internal)?;
                out
            };
            RgbImage::from_raw(px, px, square).ok_or_else(|| Error::Internal("a tile of another size".into()))
        })
    }

    /// A part of the low-power picture, `size` pixels large.
    fn cut_low_power(&self, reduction: f64, corner: (f64, f64), size: (u32, u32)) -> Result<RgbImage> {
        let (width, height) = self.size();
        let low = self.low.get_or_init(|| {
            let wanted = f64::from(width.max(height)) / LOW_POWER_PX;
            lowpower::read(&self.slide, wanted.max(1.0), ALLOWED).map_err(|e| e.to_string())
        });
        let low = low.as_ref().map_err(|why| Error::Damaged(why.clone()))?;
        let factor = reduction / low.downsample;
        let span = |corner: f64, px: u32, limit: u32| {
            let from = (corner / low.downsample).round().clamp(0.0, f64::from(limit - 1)) as u32;
            (from, ((f64::from(px) * factor).round() as u32).clamp(1, limit - from))
        };
        let (left, across) = span(corner.0, size.0, low.image.width());
        let (top, down) = span(corner.1, size.1, low.image.height());
        let part = imageops::crop_imm(&low.image, left, top, across, down).to_image();
        if (across, down) == size {
            return Ok(part);
        }
        if factor > 1.0 {
            return Ok(imageops::thumbnail(&part, size.0, size.1));
        }
        Ok(imageops::resize(&part, size.0, size.1, imageops::FilterType::Triangle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real() -> Pyramid {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/CMU-1-Small-Region.svs");
        Pyramid::open(&path).expect("opens")
    }

    fn tile(pyramid: &Pyramid, level: u32, column: u32, row: u32) -> RgbImage {
        let jpeg = pyramid.tile(level, column, row).expect("reads").expect("there");
        image::load_from_memory(&jpeg).expect("a JPEG").to_rgb8()
    }

    #[test]
    fn tiles_have_deep_zooms_sizes() {
        // 2220 x 2967 px.
        let pyramid = real();
        assert_eq!(pyramid.max_level(), 12);
        assert_eq!(tile(&pyramid, 12, 0, 0).dimensions(), (512, 512));
        assert_eq!(tile(&pyramid, 12, 4, 5).dimensions(), (2220 - 2048, 2967 - 2560));
        assert_eq!(tile(&pyramid, 11, 2, 2).dimensions(), (1110 - 1024, 1484 - 1024));
        assert_eq!(tile(&pyramid, 9, 0, 0).dimensions(), (278, 371));
        assert_eq!(tile(&pyramid, 0, 0, 0).dimensions(), (1, 1));
        for (level, column, row) in [(12, 5, 0), (12, 0, 6), (9, 1, 0), (13, 0, 0), (u32::MAX, 0, 0), (12, u32::MAX, 0)]
        {
            assert!(pyramid.tile(level, column, row).expect("no failure").is_none(), "{level} {column} {row}");
        }
    }

    #[test]
    fn every_level_shows_the_same_place() {
        // The mean of a square of level 0 against the same square of each coarser level.
        let pyramid = real();
        let region = Region { level: 0, scale: Scale::Full, x: 1024, y: 1536, width: 512, height: 512 };
        let exact = read_region(pyramid.slide.reader.as_ref(), &region, &mut Scratch::default()).expect("reads");
        let mean = |pixels: &[u8]| pixels.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels.len() as f64;
        for level in 8..=12u32 {
            let side = 512 >> (12 - level);
            let (x, y) = (1024 >> (12 - level), 1536 >> (12 - level));
            let tile = tile(&pyramid, level, x / TILE, y / TILE);
            let part = imageops::crop_imm(&tile, x % TILE, y % TILE, side, side).to_image();
            assert!((mean(part.as_raw()) - mean(&exact)).abs() < 4.0, "level {level}");
        }
    }
}
