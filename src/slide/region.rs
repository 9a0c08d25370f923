//! Regions of a level, put together from its blocks: built once, for every format.
//!
//! Coordinates are pixels of the level divided by the scale that blocks are decoded at. What lies outside the level is white.

use super::{BlockAt, Level, Scale, SlideReader};
use crate::codec::Scratch;
use crate::error::Result;

/// A rectangle in pixels of a level at a scale; may reach outside the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Level, 0 is the finest.
    pub level: usize,
    /// Scale that blocks are decoded at.
    pub scale: Scale,
    /// Left edge.
    pub x: i64,
    /// Upper edge.
    pub y: i64,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// One block's share of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The block.
    pub block: BlockAt,
    /// Left edge of the share within the block.
    pub block_x: usize,
    /// Upper edge of the share within the block.
    pub block_y: usize,
    /// Left edge of the share within the region.
    pub x: usize,
    /// Upper edge of the share within the region.
    pub y: usize,
    /// Width of the share.
    pub width: usize,
    /// Height of the share.
    pub height: usize,
    /// Whether the region wants all of the block, so that it can be decoded in place.
    pub whole: bool,
}

/// The blocks that a region needs, row by row, and what it takes of each.
pub fn parts(level: &Level, region: &Region) -> impl Iterator<Item = Part> + use<> {
    let divisor = region.scale.divisor();
    let (block_w, block_h) = (i64::from(level.block_width / divisor), i64::from(level.block_height / divisor));
    let (level_w, level_h) = (i64::from(level.width.div_ceil(divisor)), i64::from(level.height.div_ceil(divisor)));
    let (left, top) = (region.x.max(0), region.y.max(0));
    let right = (region.x + i64::from(region.width)).min(level_w);
    let bottom = (region.y + i64::from(region.height)).min(level_h);
    let region = *region;
    let rows = if top < bottom && left < right { top / block_h..(bottom - 1) / block_h + 1 } else { 0..0 };
    rows.flat_map(move |row| {
        (left / block_w..(right - 1) / block_w + 1).map(move |col| {
            let (x0, y0) = ((col * block_w).max(left), (row * block_h).max(top));
            let (x1, y1) = (((col + 1) * block_w).min(right), ((row + 1) * block_h).min(bottom));
            Part {
                block: BlockAt { level: region.level, row: row as u32, col: col as u32 },
                block_x: (x0 - col * block_w) as usize,
                block_y: (y0 - row * block_h) as usize,
                x: (x0 - region.x) as usize,
                y: (y0 - region.y) as usize,
                width: (x1 - x0) as usize,
                height: (y1 - y0) as usize,
                whole: x1 - x0 == block_w && y1 - y0 == block_h,
            }
        })
    })
}

/// Whether a region lies within the level, so that its parts cover it.
#[must_use]
pub fn is_inside(level: &Level, region: &Region) -> bool {
    let divisor = region.scale.divisor();
    region.x >= 0
        && region.y >= 0
        && region.x + i64::from(region.width) <= i64::from(level.width.div_ceil(divisor))
        && region.y + i64::from(region.height) <= i64::from(level.height.div_ceil(divisor))
}

/// Copies a part from its decoded block to the region's pixels (`width` pixels wide, RGB).
pub fn copy_part(part: &Part, block: &[u8], block_width: usize, out: &mut [u8], width: usize) {
    for y in 0..part.height {
        let from = ((part.block_y + y) * block_width + part.block_x) * 3;
        let to = ((part.y + y) * width + part.x) * 3;
        out[to..to + part.width * 3].copy_from_slice(&block[from..from + part.width * 3]);
    }
}

/// Reads a region as interleaved RGB, `width * height * 3` bytes, decoding each block it touches.
///
/// # Errors
/// Those of [`SlideReader::decode_block`].
pub fn read_region(reader: &dyn SlideReader, region: &Region, scratch: &mut Scratch) -> Result<Vec<u8>> {
    let level = &reader.info().levels[region.level];
    let width = region.width as usize;
    let mut out = vec![255; width * region.height as usize * 3];
    let divisor = region.scale.divisor();
    let block_width = (level.block_width / divisor) as usize;
    let mut block = vec![0; block_width * (level.block_height / divisor) as usize * 3];
    for part in parts(level, region) {
        reader.decode_block(part.block, region.scale, scratch, &mut block, block_width * 3)?;
        copy_part(&part, &block, block_width, &mut out, width);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slide::Coding;

    const LEVEL: Level =
        Level { width: 100, height: 70, downsample: 1.0, block_width: 32, block_height: 32, coding: Coding::Jpeg };

    #[test]
    fn parts_cover_a_region_once() {
        for (x, y, width, height) in
            [(0, 0, 100, 70), (5, 9, 40, 30), (-8, -8, 20, 20), (90, 60, 50, 50), (200, 0, 5, 5)]
        {
            for scale in [Scale::Full, Scale::Half] {
                let region = Region { level: 0, scale, x, y, width, height };
                let mut seen = vec![0u8; (width * height) as usize];
                for part in parts(&LEVEL, &region) {
                    for py in part.y..part.y + part.height {
                        for px in part.x..part.x + part.width {
                            seen[py * width as usize + px] += 1;
                        }
                    }
                }
                let d = i64::from(scale.divisor());
                for (i, n) in seen.iter().enumerate() {
                    let (px, py) = (x + i as i64 % i64::from(width), y + i as i64 / i64::from(width));
                    let inside = (0..(100 + d - 1) / d).contains(&px) && (0..(70 + d - 1) / d).contains(&py);
                    assert_eq!(*n, u8::from(inside), "{region:?} at {px},{py}");
                }
            }
        }
    }

    #[test]
    fn only_wanted_blocks_are_touched() {
        let region = Region { level: 0, scale: Scale::Full, x: 32, y: 32, width: 32, height: 32 };
        let got: Vec<_> = parts(&LEVEL, &region).collect();
        assert_eq!(got.len(), 1);
        assert!(got[0].whole && got[0].block == BlockAt { level: 0, row: 1, col: 1 });
        assert!(is_inside(&LEVEL, &region));
        assert!(!is_inside(&LEVEL, &Region { x: 90, ..region }));
    }
}
