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
    // A tenth coarser than wanted is as good; it saves decoding the next finer level.
    let most = wanted * 1.1;
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
    let Reduction { level: number, scale, average } = reduction(&slide.info().levels, wanted);
    let level = &slide.info().levels[number];
    let divisor = scale.divisor();
    let (columns, rows) = level.block_grid();
    let (block_w, block_h) = ((level.block_width / divisor) as usize, (level.block_height / divisor) as usize);
    let width = level.width.div_ceil(divisor) as usize;
    let height = level.height.div_ceil(divisor) as usize;
    let average = average as usize;
    let (out_w, out_h) = (width.div_ceil(average), height.div_ceil(average));
    let mut image = image::RgbImage::new(out_w as u32, out_h as u32);
    let mut sums = vec![0u32; out_w * 3];
    let mut blocks: Vec<Vec<u8>> = (0..columns).map(|_| Vec::new()).collect();
    let mut failed_blocks = 0;
    for row in 0..rows {
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
                add(&mut sums, pixels, left, average);
            }
            let line = top + y;
            if (line + 1) % average == 0 || line + 1 == height {
                let lines = line % average + 1;
                let out_y = line / average;
                for x in 0..out_w {
                    let count = (lines * average.min(width - x * average)) as u32;
                    let at = (out_y * out_w + x) * 3;
                    for c in 0..3 {
                        image.as_mut()[at + c] = ((sums[x * 3 + c] + count / 2) / count) as u8;
                    }
                }
                sums.fill(0);
            }
        }
    }
    Ok(LowPower { image, downsample: level.downsample * f64::from(divisor) * average as f64, failed_blocks })
}

/// Adds a row of RGB pixels that starts at `left` to the sums of `average` pixels each.
fn add(sums: &mut [u32], pixels: &[u8], left: usize, average: usize) {
    for (i, pixel) in pixels.chunks_exact(3).enumerate() {
        let at = (left + i) / average * 3;
        for c in 0..3 {
            sums[at + c] += u32::from(pixel[c]);
        }
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
