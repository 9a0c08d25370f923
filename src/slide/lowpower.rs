//! A low-power picture of the whole slide, from the cheapest level: reduced by the decoder where it can, averaged for the
//! rest, one row of blocks in memory at a time whatever the slide's size.

use rayon::prelude::*;

use super::{BlockAt, Level, Scale, Slide};
use crate::codec::Scratch;
use crate::error::{Error, Result};

/// The whole slide at low power.
pub struct LowPower {
    /// Pixels; pixel (i, j) averages the level-0 square from (i, j) times `downsample`.
    pub image: image::RgbImage,
    /// Level-0 pixels per pixel, both directions.
    pub downsample: f64,
    /// Blocks that could not be decoded, taken as white; 0 unless the caller allowed them.
    pub failed_blocks: u64,
}

impl LowPower {
    /// The picture averaged further, to about `wanted` level-0 pixels per pixel; `None` where it is as coarse already.
    #[must_use]
    pub fn reduced(&self, wanted: f64) -> Option<LowPower> {
        let average = (wanted * SLACK / self.downsample).floor() as usize;
        if average < 2 {
            return None;
        }
        let (width, height) = (self.image.width() as usize, self.image.height() as usize);
        let mut averager = Averager::new(width, height, average);
        let mut pixels = Vec::new();
        for line in self.image.as_raw().chunks_exact(width * 3) {
            averager.add(line, 0);
            pixels.extend(averager.end_line().into_iter().flatten());
        }
        Some(LowPower {
            image: picture(averager.out_w, pixels),
            downsample: self.downsample * average as f64,
            failed_blocks: self.failed_blocks,
        })
    }
}

/// A tenth coarser than wanted is as good; it saves decoding the next finer level.
const SLACK: f64 = 1.1;

/// Rows of blocks whose bytes are asked for ahead.
const AHEAD_ROWS: u32 = 4;

/// How a low-power picture is made of a level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reduction {
    /// Level that is read.
    pub level: usize,
    /// Scale that its blocks are decoded at.
    pub scale: Scale,
    /// Decoded pixels that are averaged, per side.
    pub average: u32,
}

/// Finds the cheapest way to about `wanted` level-0 pixels per pixel: the coarsest level that is not much coarser, the
/// decoder's reduction, then averaging.
#[must_use]
pub fn reduction(levels: &[Level], wanted: f64) -> Reduction {
    let most = wanted * SLACK;
    let level = levels.iter().rposition(|l| l.downsample <= most).unwrap_or(0);
    let Level { downsample, coding, block_width, block_height, .. } = levels[level];
    let scale = [Scale::Eighth, Scale::Quarter, Scale::Half]
        .into_iter()
        .find(|s| {
            let d = s.divisor();
            coding.scales() && downsample * f64::from(d) <= most && block_width % d == 0 && block_height % d == 0
        })
        .unwrap_or(Scale::Full);
    let average = (most / (downsample * f64::from(scale.divisor()))).floor().max(1.0) as u32;
    Reduction { level, scale, average }
}

/// Reads the whole slide at about `wanted` level-0 pixels per pixel. Blocks are decoded in parallel on rayon's pool.
///
/// # Errors
/// Those of [`super::SlideReader::decode_block`]; up to `allow_failed` damaged blocks are taken as white and counted.
pub fn read(slide: &Slide, wanted: f64, allow_failed: u64) -> Result<LowPower> {
    let Size { width, height, downsample } = size(slide, wanted);
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    let failed_blocks = read_lines(slide, wanted, allow_failed, &mut |line| {
        pixels.extend_from_slice(line);
        Ok(())
    })?;
    Ok(LowPower { image: picture(width as usize, pixels), downsample, failed_blocks })
}

fn picture(width: usize, pixels: Vec<u8>) -> image::RgbImage {
    let height = pixels.len() / 3 / width.max(1);
    image::RgbImage::from_raw(width as u32, height as u32, pixels).expect("as many pixels as lines of that width hold")
}

/// Sides and scale of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Level-0 pixels per pixel.
    pub downsample: f64,
}

/// What [`read`] would give.
#[must_use]
pub fn size(slide: &Slide, wanted: f64) -> Size {
    let Reduction { level, scale, average } = reduction(&slide.info().levels, wanted);
    let level = &slide.info().levels[level];
    let side = |px: u32| px.div_ceil(scale.divisor()).div_ceil(average);
    let downsample = level.downsample * f64::from(scale.divisor()) * f64::from(average);
    Size { width: side(level.width), height: side(level.height), downsample }
}

/// Reads what [`read`] reads, and hands it out line by line, from the top, without keeping it. Returns the number of blocks that
/// could not be decoded.
///
/// # Errors
/// As [`read`], and those of `sink`.
pub fn read_lines(
    slide: &Slide,
    wanted: f64,
    allow_failed: u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let Reduction { level: number, scale, average } = reduction(&slide.info().levels, wanted);
    let level = &slide.info().levels[number];
    let divisor = scale.divisor();
    let (columns, rows) = level.block_grid();
    let (block_w, block_h) = ((level.block_width / divisor) as usize, (level.block_height / divisor) as usize);
    let width = level.width.div_ceil(divisor) as usize;
    let height = level.height.div_ceil(divisor) as usize;
    let mut averager = Averager::new(width, height, average as usize);
    let mut blocks: Vec<Vec<u8>> = (0..columns).map(|_| Vec::new()).collect();
    let mut failed_blocks = 0;
    let of_rows = |rows: std::ops::Range<u32>| -> Vec<BlockAt> {
        rows.flat_map(|row| (0..columns).map(move |col| BlockAt { level: number, row, col })).collect()
    };
    slide.reader.read_ahead(&of_rows(0..rows.min(AHEAD_ROWS)));
    for row in 0..rows {
        if row + AHEAD_ROWS < rows {
            slide.reader.read_ahead(&of_rows(row + AHEAD_ROWS..row + AHEAD_ROWS + 1));
        }
        let results: Vec<Result<()>> = blocks
            .par_iter_mut()
            .enumerate()
            .map_init(Scratch::default, |scratch, (col, block)| {
                block.resize(block_w * block_h * 3, 255);
                let at = BlockAt { level: number, row, col: col as u32 };
                slide.reader.decode_block(at, scale, scratch, block, block_w * 3).map(|_| ())
            })
            .collect();
        for (block, result) in blocks.iter_mut().zip(results) {
            match result {
                Ok(()) => {}
                Err(Error::Block { .. }) if failed_blocks < allow_failed => {
                    failed_blocks += 1;
                    block.fill(255);
                }
                Err(e) => return Err(e),
            }
        }
        let top = row as usize * block_h;
        for y in 0..block_h.min(height - top) {
            for (col, block) in blocks.iter().enumerate() {
                let left = col * block_w;
                let pixels = &block[y * block_w * 3..(y * block_w + block_w.min(width - left)) * 3];
                averager.add(pixels, left);
            }
            if let Some(line) = averager.end_line() {
                sink(line)?;
            }
        }
    }
    Ok(failed_blocks)
}

/// Averages squares of pixels, line by line; squares at the right and lower edge may be smaller.
struct Averager {
    width: usize,
    height: usize,
    side: usize,
    out_w: usize,
    line: usize,
    sums: Vec<u32>,
    averages: Vec<u8>,
}

impl Averager {
    fn new(width: usize, height: usize, side: usize) -> Self {
        let out_w = width.div_ceil(side);
        Averager { width, height, side, out_w, line: 0, sums: vec![0; out_w * 3], averages: vec![0; out_w * 3] }
    }

    /// Adds RGB pixels of the current line, beginning at pixel `left`.
    fn add(&mut self, pixels: &[u8], left: usize) {
        for (i, pixel) in pixels.chunks_exact(3).enumerate() {
            let at = (left + i) / self.side * 3;
            for (sum, value) in self.sums[at..at + 3].iter_mut().zip(pixel) {
                *sum += u32::from(*value);
            }
        }
    }

    /// Ends the current line; every `side` lines give a line of the picture.
    fn end_line(&mut self) -> Option<&[u8]> {
        self.line += 1;
        if !self.line.is_multiple_of(self.side) && self.line != self.height {
            return None;
        }
        let lines = (self.line - 1) % self.side + 1;
        for x in 0..self.out_w {
            let count = (lines * self.side.min(self.width - x * self.side)) as u32;
            for c in x * 3..x * 3 + 3 {
                self.averages[c] = ((self.sums[c] + count / 2) / count) as u8;
            }
        }
        self.sums.fill(0);
        Some(&self.averages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::Coding;

    fn level(downsample: f64, coding: Coding) -> Level {
        Level { width: 1000, height: 1000, downsample, block_width: 256, block_height: 256, coding }
    }

    #[test]
    fn squares_are_averaged_also_at_the_edges() {
        let image = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([(x * 10) as u8, (y * 10) as u8, 7]));
        let low = LowPower { image, downsample: 4.0, failed_blocks: 0 };
        assert!(low.reduced(7.0).is_none());
        let low = low.reduced(8.0).expect("coarser");
        assert_eq!((low.image.dimensions(), low.downsample), ((3, 2), 8.0));
        assert_eq!(low.image.get_pixel(0, 0).0, [5, 5, 7]);
        assert_eq!(low.image.get_pixel(2, 1).0, [40, 20, 7]);
    }

    #[test]
    fn the_cheapest_way_is_taken() {
        use Coding::{Jpeg, Lzw};
        let jpeg = [level(1.0, Jpeg), level(4.0, Jpeg), level(16.0, Jpeg)];
        // 8 µm of 0.25 µm: 32 level-0 pixels, the last level at a half.
        assert_eq!(reduction(&jpeg, 32.0), Reduction { level: 2, scale: Scale::Half, average: 1 });
        assert_eq!(reduction(&jpeg[..1], 32.0), Reduction { level: 0, scale: Scale::Eighth, average: 4 });
        assert_eq!(reduction(&[level(1.0, Lzw)], 32.0), Reduction { level: 0, scale: Scale::Full, average: 35 });
        assert_eq!(reduction(&jpeg, 0.5), Reduction { level: 0, scale: Scale::Full, average: 1 });
    }
}
