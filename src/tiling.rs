//! Where tiles lie and how each is read: numbers in, numbers out.
//!
//! Frame: level-0 pixels, origin at the slide's upper left corner. The grid is anchored at (0, 0); rows run from top to
//! bottom, tiles within a row from left to right.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::resample::{Crop, Filter};
use crate::slide::Scale;
use crate::slide::region::Region;

/// Relative tolerance between a resolution that is there and the one that is wanted, as hs2p has it: within it pixels are
/// taken as they are.
pub const MPP_TOLERANCE: f64 = 0.05;

/// The level rule in the contract's words.
pub const LEVEL_RULE: &str =
    "coarsest level at most 5 % coarser than the target; a reduction within 5 % of 1, 2, 4, ... is taken as that";

/// How a block is decoded where the reduction allows a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeMode {
    /// Every pixel is decoded; all reduction is resampling, as in the pipelines that encoders were validated with.
    #[default]
    Exact,
    /// JPEG's own scaled decoding does reductions by 2, 4 and 8: faster, and other pixels.
    Scaled,
}

impl DecodeMode {
    /// The name in contracts and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DecodeMode::Scaled => "scaled",
            DecodeMode::Exact => "exact",
        }
    }
}

impl fmt::Display for DecodeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DecodeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [DecodeMode::Exact, DecodeMode::Scaled]
            .into_iter()
            .find(|m| m.name() == text)
            .ok_or_else(|| format!("unknown decode mode '{text}'; one of exact, scaled"))
    }
}

/// What the user wants of every slide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TilingOptions {
    /// Wanted µm per pixel of a tile.
    pub target_mpp: f64,
    /// Side of a tile in its own pixels.
    pub tile_px: u32,
    /// Overlap of neighbouring tiles, in tile pixels.
    pub overlap_px: u32,
    /// How blocks are decoded.
    pub decode: DecodeMode,
    /// Filter of the resampling that remains.
    pub resample: Filter,
    /// Whether a slide that is coarser than the target may be magnified.
    pub allow_upsample: bool,
    /// Least share of a tile that must be tissue, 0 to 1.
    pub min_tissue_fraction: f64,
}

impl Default for TilingOptions {
    fn default() -> Self {
        TilingOptions {
            target_mpp: 0.5,
            tile_px: 256,
            overlap_px: 0,
            decode: DecodeMode::default(),
            resample: Filter::Bilinear,
            allow_upsample: false,
            min_tissue_fraction: 0.1,
        }
    }
}

impl TilingOptions {
    /// Refuses values that make no grid.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let usage = |words: String| Err(Error::Usage(words));
        if !(0.05..=100.0).contains(&self.target_mpp) {
            return usage(format!("--target-mpp {} is outside 0.05 to 100 µm per pixel", self.target_mpp));
        }
        if !(16..=8192).contains(&self.tile_px) {
            return usage(format!("--tile-px {} is outside 16 to 8192", self.tile_px));
        }
        if self.overlap_px >= self.tile_px {
            return usage(format!("--overlap-px {} leaves no step: a tile is {} px", self.overlap_px, self.tile_px));
        }
        if !(0.0..=1.0).contains(&self.min_tissue_fraction) {
            return usage(format!("--min-tissue-fraction {} is outside 0 to 1", self.min_tissue_fraction));
        }
        Ok(())
    }
}

/// A level as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelGeometry {
    /// Level-0 pixels per pixel of the level.
    pub downsample: f64,
    /// Whether its blocks can be decoded at 1/2, 1/4, 1/8, cheaper than whole.
    pub scales: bool,
    /// Sides of its blocks in its own pixels.
    pub block: (u32, u32),
}

/// How every tile of one slide is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadPlan {
    /// Level that is read.
    pub level: usize,
    /// Its level-0 pixels per pixel.
    pub downsample: f64,
    /// Scale that its blocks are decoded at.
    pub scale: Scale,
    /// Pixels of the level per tile pixel; whole where it was within the tolerance of a power of two.
    pub reduction: f64,
    /// Side of a tile in level-0 pixels.
    pub tile_size_level0: u32,
    /// Distance of neighbouring tiles in level-0 pixels.
    pub step_level0: u32,
    /// Side of a tile in its own pixels.
    pub tile_px: u32,
    /// Side of what is decoded for a tile, in decoded pixels; `tile_px` where nothing remains to be resampled.
    pub source_px: f64,
}

impl ReadPlan {
    /// Tiles of the whole grid, tissue or not.
    #[must_use]
    pub fn positions(&self, level0: (u32, u32)) -> u64 {
        positions(level0, self.step_level0)
    }

    /// Chooses level, scale and footprint for a slide of `mpp` µm per level-0 pixel.
    ///
    /// # Errors
    /// [`Error::Mpp`] where the slide is coarser than the target and magnifying was not allowed.
    pub fn new(levels: &[LevelGeometry], mpp: f64, options: &TilingOptions) -> Result<Self> {
        let target = options.target_mpp;
        let fine_enough = |l: &LevelGeometry| mpp * l.downsample <= target * (1.0 + MPP_TOLERANCE);
        let level = match levels.iter().rposition(fine_enough) {
            Some(level) => level,
            None if options.allow_upsample => 0,
            None => {
                return Err(Error::Mpp(format!(
                    "the slide's {mpp} µm per pixel is coarser than the target of {target}: choose a coarser --target-mpp \
                     (lower --mag), or magnify with --allow-upsample"
                )));
            }
        };
        let LevelGeometry { downsample, scales, block } = levels[level];
        let factor = target / (mpp * downsample);
        let snapped = 2f64.powf(factor.log2().round());
        let reduction =
            if snapped >= 1.0 && (factor / snapped - 1.0).abs() <= MPP_TOLERANCE { snapped } else { factor };
        let wanted = if reduction == snapped { reduction } else { reduction / 2.0 };
        let scale = [Scale::Eighth, Scale::Quarter, Scale::Half]
            .into_iter()
            .find(|s| {
                let d = s.divisor();
                f64::from(d) <= wanted && block.0 % d == 0 && block.1 % d == 0
            })
            .filter(|_| scales && options.decode == DecodeMode::Scaled)
            .unwrap_or(Scale::Full);
        let level0_per_px = reduction * downsample;
        let tile_size_level0 = (f64::from(options.tile_px) * level0_per_px).round() as u32;
        let step_level0 = (f64::from(options.tile_px - options.overlap_px) * level0_per_px).round().max(1.0) as u32;
        let source_px = if reduction == snapped {
            f64::from(options.tile_px) * reduction / f64::from(scale.divisor())
        } else {
            f64::from(tile_size_level0) / downsample / f64::from(scale.divisor())
        };
        Ok(ReadPlan {
            level,
            downsample,
            scale,
            reduction,
            tile_size_level0,
            step_level0,
            tile_px: options.tile_px,
            source_px,
        })
    }

    /// Whether decoded pixels are the tile's pixels.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.source_px == f64::from(self.tile_px)
    }

    /// µm per tile pixel that this plan really gives.
    #[must_use]
    pub fn effective_mpp(&self, mpp: f64) -> f64 {
        mpp * f64::from(self.tile_size_level0) / f64::from(self.tile_px)
    }

    /// What is decoded for the tile at (`x`, `y`) in level-0 pixels, and what part of that becomes the tile.
    ///
    /// A direct plan rounds to whole decoded pixels; otherwise the part may begin and end between them.
    #[must_use]
    pub fn footprint(&self, x: i64, y: i64) -> (Region, Crop) {
        let per_decoded = self.downsample * f64::from(self.scale.divisor());
        let (left, top) = (x as f64 / per_decoded, y as f64 / per_decoded);
        let region = |x0: f64, y0: f64, x1: f64, y1: f64| Region {
            level: self.level,
            scale: self.scale,
            x: x0 as i64,
            y: y0 as i64,
            width: (x1 - x0) as u32,
            height: (y1 - y0) as u32,
        };
        let side = self.source_px;
        // A whole number of decoded pixels is taken as they lie; half a pixel of position is below what any grid promises.
        if side.fract() == 0.0 {
            let (left, top) = (left.round(), top.round());
            let crop = Crop { left: 0.0, top: 0.0, width: side, height: side };
            return (region(left, top, left + side, top + side), crop);
        }
        let (x0, y0) = (left.floor(), top.floor());
        let crop = Crop { left: left - x0, top: top - y0, width: side, height: side };
        (region(x0, y0, (left + side).ceil(), (top + side).ceil()), crop)
    }
}

/// Tiles of a whole grid whose neighbours are `step_level0` level-0 pixels apart, on a slide of this width and height.
#[must_use]
pub fn positions((width, height): (u32, u32), step_level0: u32) -> u64 {
    let along = |side: u32| u64::from(side.div_ceil(step_level0));
    along(width) * along(height)
}

/// Upper left corners, in level-0 pixels, of all grid tiles that touch a slide of this size and that `keep` wants, row by
/// row.
pub fn grid((width, height): (u32, u32), plan: &ReadPlan, mut keep: impl FnMut(i64, i64) -> bool) -> Vec<[i64; 2]> {
    let mut tiles = Vec::new();
    for y in (0..i64::from(height)).step_by(plan.step_level0 as usize) {
        for x in (0..i64::from(width)).step_by(plan.step_level0 as usize) {
            if keep(x, y) {
                tiles.push([x, y]);
            }
        }
    }
    tiles
}

/// TRIDENT's name for a set of coordinates: magnification (10 / mpp), tile and overlap, e.g. `20x_256px_0px_overlap`.
#[must_use]
pub fn directory_name(options: &TilingOptions) -> String {
    let magnification = magnification(options.target_mpp);
    format!("{magnification}x_{}px_{}px_overlap", options.tile_px, options.overlap_px)
}

/// The nominal magnification of a resolution, 10 / mpp, to six significant digits as `%g` prints it.
#[must_use]
pub fn magnification(mpp: f64) -> f64 {
    let exact = 10.0 / mpp;
    let digits = 5 - exact.log10().floor() as i32;
    let unit = 10f64.powi(digits);
    (exact * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(downsamples: &[f64]) -> Vec<LevelGeometry> {
        downsamples.iter().map(|d| LevelGeometry { downsample: *d, scales: true, block: (256, 256) }).collect()
    }

    fn plan(downsamples: &[f64], mpp: f64, target: f64, decode: DecodeMode) -> ReadPlan {
        let options = TilingOptions { target_mpp: target, decode, ..TilingOptions::default() };
        ReadPlan::new(&levels(downsamples), mpp, &options).expect("plans")
    }

    #[test]
    fn level_scale_and_footprint() {
        use DecodeMode::{Exact, Scaled};
        // (downsamples, mpp, target, decode) -> (level, scale, tile_size_level0, source_px)
        type Case<'a> = (&'a [f64], f64, f64, DecodeMode, usize, u32, u32, f64);
        let table: &[Case] = &[
            (&[1.0, 4.0, 16.0], 0.2525, 0.5, Scaled, 0, 2, 512, 256.0),
            (&[1.0, 4.0, 16.0], 0.2525, 0.5, Exact, 0, 1, 512, 512.0),
            (&[1.0], 0.499, 0.5, Scaled, 0, 1, 256, 256.0),
            (&[1.0, 4.0, 16.0], 0.25, 1.0, Scaled, 1, 1, 1024, 256.0),
            (&[1.0, 2.0, 4.0], 0.25, 0.5, Scaled, 1, 1, 512, 256.0),
            // 0.3 to 0.5 is 1.667: one resampling from whole pixels.
            (&[1.0, 4.0], 0.3, 0.5, Scaled, 0, 1, 427, 427.0),
            // A single level, reduction 16: an eighth by the decoder, the rest resampled.
            (&[1.0], 0.25, 4.0, Scaled, 0, 8, 4096, 512.0),
            // 6.67: a half by the decoder would leave 3.3, a quarter only 1.67.
            (&[1.0], 0.3, 2.0, Scaled, 0, 2, 1707, 853.5),
            // The 5 % tolerance takes a level that is a little too coarse.
            (&[1.0, 2.0], 0.262, 0.5, Scaled, 1, 1, 512, 256.0),
        ];
        for &(downsamples, mpp, target, decode, level, divisor, size, source) in table {
            let p = plan(downsamples, mpp, target, decode);
            assert_eq!(
                (p.level, p.scale.divisor(), p.tile_size_level0, p.source_px),
                (level, divisor, size, source),
                "{downsamples:?} {mpp} {target} {decode:?}"
            );
            assert!((p.effective_mpp(mpp) / target - 1.0).abs() <= MPP_TOLERANCE);
        }
    }

    #[test]
    fn magnifying_must_be_allowed() {
        let options = TilingOptions { target_mpp: 0.25, ..TilingOptions::default() };
        let error = ReadPlan::new(&levels(&[1.0]), 0.5, &options).expect_err("refused").to_string();
        assert!(error.contains("--allow-upsample"), "{error}");
        let options = TilingOptions { allow_upsample: true, ..options };
        let p = ReadPlan::new(&levels(&[1.0]), 0.5, &options).expect("allowed");
        assert_eq!((p.tile_size_level0, p.source_px), (128, 128.0));
    }

    #[test]
    fn footprints_are_whole_where_nothing_is_resampled() {
        let p = plan(&[1.0, 4.0], 0.25, 0.5, DecodeMode::Scaled);
        let (region, _) = p.footprint(512, 1024);
        assert_eq!((region.x, region.y, region.width, region.height), (256, 512, 256, 256));
        let p = plan(&[1.0], 0.3, 2.0, DecodeMode::Scaled);
        let (region, crop) = p.footprint(1707, 0);
        assert_eq!((region.x, region.y, region.width, region.height), (853, 0, 854, 854));
        assert_eq!((crop.left, crop.top, crop.width), (0.5, 0.0, 853.5));
    }

    #[test]
    fn the_grid_is_anchored_and_runs_row_by_row() {
        let p = plan(&[1.0], 0.5, 0.5, DecodeMode::Scaled);
        assert_eq!(grid((600, 256), &p, |_, _| true), [[0, 0], [256, 0], [512, 0]]);
        assert_eq!(grid((600, 300), &p, |x, y| x == 256 && y == 256), [[256, 256]]);
        let options = TilingOptions { overlap_px: 128, ..TilingOptions::default() };
        let p = ReadPlan::new(&levels(&[1.0]), 0.5, &options).expect("plans");
        assert_eq!(p.step_level0, 128);
    }

    #[test]
    fn directories_are_named_as_trident_names_them() {
        let name = |target_mpp| directory_name(&TilingOptions { target_mpp, ..TilingOptions::default() });
        assert_eq!(name(0.5), "20x_256px_0px_overlap");
        assert_eq!(name(0.25), "40x_256px_0px_overlap");
        assert_eq!(name(4.0), "2.5x_256px_0px_overlap");
        assert_eq!(name(0.48), "20.8333x_256px_0px_overlap");
    }

    #[test]
    fn options_that_make_no_grid_are_refused() {
        let bad = [
            TilingOptions { overlap_px: 256, ..TilingOptions::default() },
            TilingOptions { target_mpp: f64::NAN, ..TilingOptions::default() },
            TilingOptions { tile_px: 0, ..TilingOptions::default() },
            TilingOptions { min_tissue_fraction: 1.5, ..TilingOptions::default() },
        ];
        for options in bad {
            assert!(options.check().is_err(), "{options:?}");
        }
        assert!(TilingOptions::default().check().is_ok());
    }
}
