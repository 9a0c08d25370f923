//! Checks the pyramid that OpenSlide reports, and says where on level 0 a position of a level lies for OpenSlide.
//!
//! OpenSlide takes a region's corner in whole level-0 pixels and divides it by the level's downsample, which is the mean
//! of the ratios of widths and heights: 4.0017, say, where a quarter of 8063 × 6011 was cut to whole pixels. Where the
//! quotient is no whole number, cairo interpolates. With a whole downsample every block lies at a whole position; with
//! another one the nearest position is off by at most half a level-0 pixel, 1/8 pixel of a level at 4, which a note tells.
//! Source: openslide.c (`read_region`, `openslide_open`) and openslide-grid.c of OpenSlide 4.0.

use super::protocol::Info;
use crate::error::{Error, Result};
use crate::slide::{Coding, Level, downsample_between};

/// Sides of the regions that stand for blocks, in the level's pixels. Level-0 positions of all blocks are whole where the
/// level's downsample is.
pub const BLOCK_SIDE: u32 = 512;
/// Sizes of a level must fit a signed 32-bit number.
const SIZE_LIMIT: u32 = i32::MAX as u32;
/// Most levels.
const LEVELS_LIMIT: usize = 64;

/// A level that passed: where it is in OpenSlide, and how OpenSlide scales positions on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// OpenSlide's level.
    pub level: u32,
    /// OpenSlide's own downsample.
    pub downsample: f64,
}

/// The levels that can be used, finest first, and a note for each that cannot.
pub fn check(info: &Info) -> Result<(Vec<Level>, Vec<Source>, Vec<String>)> {
    let count = info.levels.len();
    if count == 0 || count > LEVELS_LIMIT {
        return Err(Error::Damaged(format!("OpenSlide reports {count} levels")));
    }
    let (mut levels, mut sources, mut notes) = (Vec::<Level>::new(), Vec::new(), Vec::new());
    for (index, &(width, height, downsample)) in (0_u32..).zip(&info.levels) {
        let sound = (1..=SIZE_LIMIT).contains(&width)
            && (1..=SIZE_LIMIT).contains(&height)
            && downsample.is_finite()
            && downsample >= 1.0;
        let Some(first) = levels.first() else {
            if !sound || downsample > 1.0 {
                return Err(Error::Damaged(format!(
                    "level 0 has {width} × {height} pixels at downsample {downsample}"
                )));
            }
            levels.push(level(width, height, 1.0));
            sources.push(Source { level: index, downsample: 1.0 });
            continue;
        };
        let above = levels.last().unwrap_or(first);
        let coarser = width <= above.width && height <= above.height && downsample > above.downsample;
        if sound && coarser && spans(first.width, width, downsample) && spans(first.height, height, downsample) {
            // The scanner's own reduction, where the sizes tell it; otherwise what OpenSlide makes of them.
            let nominal = downsample_between((first.width, first.height), (width, height));
            let nominal = if nominal.fract() == 0.0 { nominal } else { downsample };
            levels.push(level(width, height, nominal));
            sources.push(Source { level: index, downsample });
            if downsample.fract() != 0.0 && width.max(height) > BLOCK_SIDE {
                notes.push(format!(
                    "level {index} is interpolated by OpenSlide (downsample {downsample:.4}): its pixels are moved by up \
                     to {:.2} px",
                    0.5 / downsample
                ));
            }
        } else {
            notes.push(format!(
                "level {index} ({width} × {height} pixels, downsample {downsample:.3}) is left out: it is not a coarser \
                 picture of level 0 ({} × {} pixels)",
                first.width, first.height
            ));
        }
    }
    Ok((levels, sources, notes))
}

fn level(width: u32, height: u32, downsample: f64) -> Level {
    Level { width, height, downsample, block_width: BLOCK_SIDE, block_height: BLOCK_SIDE, coding: Coding::OpenSlide }
}

/// Whether a side of level 0 reduced by `downsample` is this level's side, within 5 % (padding) and a pixel (rounding).
fn spans(side_level0: u32, side: u32, downsample: f64) -> bool {
    (f64::from(side_level0) / downsample - f64::from(side)).abs() <= 1.0 + 0.05 * f64::from(side)
}

/// The whole level-0 position nearest to `position`, which is in the level's pixels; `downsample` is OpenSlide's own.
pub fn position_level0(position: u32, downsample: f64) -> u32 {
    // Within level 0, whose sides fit 31 bits, and a little more; `as` saturates.
    (f64::from(position) * downsample).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(levels: &[(u32, u32, f64)]) -> Result<(Vec<Level>, Vec<Source>, Vec<String>)> {
        check(&Info { levels: levels.to_vec(), ..Info::default() })
    }

    fn downsamples(levels: &[(u32, u32, f64)]) -> Vec<f64> {
        checked(levels).unwrap().0.iter().map(|level| level.downsample).collect()
    }

    #[test]
    fn downsamples_are_whole_where_the_sizes_allow_it() {
        // The Aperio rounding of composed/small_ycc420.svs, and boxes.tiff.
        let aperio = [(8063, 6011, 1.0), (2015, 1502, 4.001_743), (503, 375, 16.029_577)];
        assert_eq!(downsamples(&aperio), [1.0, 4.0, 16.0]);
        let boxes = [(300, 250, 1.0), (150, 125, 2.0), (75, 62, 4.016_129), (37, 31, 8.086_312)];
        assert_eq!(downsamples(&boxes), [1.0, 2.0, 4.0, 8.0]);
        // No whole number explains these.
        assert_eq!(downsamples(&[(1000, 800, 1.0), (390, 312, 2.564)]), [1.0, 2.564]);
    }

    #[test]
    fn odd_levels_are_left_out_and_told() {
        // The hostile level1_wider_than_level0.svs.
        let (levels, sources, notes) = checked(&[(1300, 1000, 1.0), (5000, 250, 2.13), (81, 62, 16.09)]).unwrap();
        assert_eq!(levels.len(), 2);
        assert_eq!(sources[1].level, 2);
        assert!(notes[0].starts_with("level 1 (5000 × 250 pixels"), "{notes:?}");
        for bad in
            [(100, 100, 1.0), (100, 100, f64::NAN), (50, 50, 0.5), (50, 0, 2.0), (50, 10, 2.0), (u32::MAX, 50, 2.0)]
        {
            assert_eq!(checked(&[(100, 100, 1.0), bad]).unwrap().0.len(), 1, "{bad:?}");
        }
        // A level twice.
        assert_eq!(checked(&[(100, 100, 1.0), (50, 50, 2.0), (50, 50, 2.0)]).unwrap().0.len(), 2);
    }

    #[test]
    fn an_impossible_level_0_is_an_error() {
        for bad in
            [&[][..], &[(0, 5, 1.0)], &[(1 << 31, 5, 1.0)], &[(5, 5, f64::NAN)], &[(5, 5, 2.0)], &[(5, 5, 1.0); 65]]
        {
            assert!(matches!(checked(bad), Err(Error::Damaged(_))), "{} levels", bad.len());
        }
    }

    #[test]
    fn positions_are_whole_where_the_downsample_is() {
        for (position, downsample, expected) in
            [(512, 4.0, 2048), (1024, 16.0, 16_384), (3584, 1.0, 3584), (512, 4.001_743, 2049), (0, 4.001_743, 0)]
        {
            assert_eq!(position_level0(position, downsample), expected);
        }
        let notes = checked(&[(8063, 6011, 1.0), (2015, 1502, 4.001_743), (503, 375, 16.029_577)]).unwrap().2;
        assert_eq!(notes.len(), 1, "level 2 is one block, read from the origin: {notes:?}");
        assert!(notes[0].starts_with("level 1 is interpolated by OpenSlide"), "{notes:?}");
    }
}
