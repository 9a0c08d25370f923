//! Slides whose stored blocks do not lie on one regular grid from (0, 0): areas at an offset, overlapping blocks, parts of
//! blocks. What Leica SCN, Ventana BIF and Trestle have in common.
//!
//! A level is a white canvas with a virtual grid of blocks from (0, 0), of the size of the stored ones. The stored blocks
//! lie in [`Lattice`]s, that is at `at + index * advance`, so that a virtual block's stored blocks are found by arithmetic
//! and a slide's placement takes a few bytes per area, not per block. Decoding a virtual block decodes the stored blocks
//! that it touches and copies their parts in drawing order; a stored block that several virtual blocks touch stays in a
//! bounded cache (`cache`) meanwhile.
//!
//! Blocks that are missing in the file (sparse) are white; OpenSlide fails to read them in these formats.
//!
//! Places that are no whole pixels are rounded to the nearest one, halves up; OpenSlide interpolates there.
//!
//! A level that turns out to be a regular grid from (0, 0) is decoded straight from the file, at any scale. Others have
//! [`Coding::Composed`], which does not scale: a block's place need not be divisible by 2, 4 or 8.

mod cache;

use std::ops::Range;
use std::sync::Arc;

use self::cache::{BlockCache, Slot};
use super::tiff::Tiff;
use super::tiled::{MAX_BLOCKS, TiledPage, TiledTiff};
use super::{BlockAt, BlockKind, Coding, Level, Scale, SlideInfo, SlideReader};
use crate::codec::{Scratch, Target};
use crate::error::{Error, Result};

/// Most lattices in a slide; real ones have one per tissue area and level.
const MAX_LATTICES: usize = 4096;
/// Most parts that a stored block's side is cut into: levels reduced by 1024.
const MAX_PARTS: u32 = 1024;
/// A level's sides, and places on it, lie below this.
const MAX_SIDE: f64 = 2_147_483_647.0;

/// Pieces of a page at regular distances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lattice {
    /// Page that holds the stored blocks.
    pub page: usize,
    /// Parts that each side of a stored block is cut into; a piece is one part. 1: whole blocks.
    pub parts: u32,
    /// Column and row of the first piece, counted in pieces over the page.
    pub first: (u32, u32),
    /// Columns and rows of pieces.
    pub count: (u32, u32),
    /// Where the first piece lies, in pixels of the level.
    pub at: (f64, f64),
    /// From one piece to the next, in pixels of the level.
    pub advance: (f64, f64),
    /// What is drawn later: higher layers, within a layer higher rows of pieces, within a row higher columns.
    pub layer: u32,
}

impl Lattice {
    /// All blocks of a page, side by side, with their upper left corner at `at`.
    #[must_use]
    pub fn of_page(page: usize, stored: &TiledPage, at: (f64, f64)) -> Self {
        let (columns, rows) = stored.block_grid();
        let (width, height) = stored.block_size();
        let advance = (f64::from(width), f64::from(height));
        Lattice { page, parts: 1, first: (0, 0), count: (columns, rows), at, advance, layer: 0 }
    }

    /// Whether whole blocks lie side by side over all pixels of the level from `start` to `end`.
    fn fills(&self, page: &Level, start: (i64, i64), end: (i64, i64)) -> bool {
        let side = |at: f64, advance: f64, first: u32, count: u32, block: u32, page: u32, start: i64, end: i64| {
            let last = (f64::from(count) * advance).min(f64::from(page) - f64::from(first) * advance);
            advance == f64::from(block) && at.fract() == 0.0 && at <= start as f64 && at + last >= end as f64
        };
        let (at, advance, first, count) = (self.at, self.advance, self.first, self.count);
        self.parts == 1
            && side(at.0, advance.0, first.0, count.0, page.block_width, page.width, start.0, end.0)
            && side(at.1, advance.1, first.1, count.1, page.block_height, page.height, start.1, end.1)
    }
}

/// A level put together from lattices.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    /// Width and height of the canvas in pixels.
    pub size: (f64, f64),
    /// Level-0 pixels per pixel.
    pub downsample: f64,
    /// What is drawn on it.
    pub lattices: Vec<Lattice>,
}

enum Layout {
    /// The level is this page as it is.
    Page(usize),
    /// Lattices by layer, then by first column.
    Composed(Vec<Lattice>),
}

/// A slide whose levels are composed from the blocks of TIFF pages.
pub struct PlacedTiff {
    stored: TiledTiff,
    info: SlideInfo,
    layouts: Vec<Layout>,
    cache: BlockCache,
}

fn nearest(position: f64) -> i64 {
    (position + 0.5).floor() as i64
}

/// Where a part of a block's side begins.
fn cut(side: u32, part: u32, parts: u32) -> u32 {
    ((u64::from(side) * u64::from(part) * 2 + u64::from(parts)) / (u64::from(parts) * 2)) as u32
}

impl PlacedTiff {
    /// Puts `levels`, the finest first, together from `pages`; `info` comes without levels.
    ///
    /// # Errors
    /// [`Error::Damaged`] for sizes and places that are impossible.
    pub fn new(tiff: Tiff, mut info: SlideInfo, pages: Vec<TiledPage>, levels: Vec<Composition>) -> Result<Self> {
        if levels.is_empty() || levels.iter().map(|l| l.lattices.len()).sum::<usize>() > MAX_LATTICES {
            return Err(Error::Damaged("no levels, or more areas than can be".into()));
        }
        let stored = TiledTiff::of_pages(tiff, info.clone(), pages);
        info.notes = stored.info().notes.clone();
        let mut layouts = Vec::new();
        for (number, mut composition) in levels.into_iter().enumerate() {
            let wrong = |what: String| Error::Damaged(format!("level {number}: {what}"));
            let (width, height) = composition.size;
            if !(width >= 1.0 && height >= 1.0 && width < MAX_SIDE && height < MAX_SIDE) {
                return Err(wrong(format!("{width} x {height} px")));
            }
            let above = info
                .levels
                .last()
                .map_or((width, height, 1.0), |l: &Level| (f64::from(l.width), f64::from(l.height), l.downsample));
            if !(width <= above.0 && height <= above.1 && composition.downsample >= above.2) {
                return Err(wrong("larger than the level before it".into()));
            }
            for lattice in &composition.lattices {
                check(lattice, &stored.info().levels).map_err(wrong)?;
            }
            composition.lattices.sort_by_key(|l| (l.layer, l.first.0));
            let first = composition.lattices.first().ok_or_else(|| wrong("no blocks".into()))?;
            let page = &stored.info().levels[first.page];
            let mut level = Level {
                width: width as u32,
                height: height as u32,
                downsample: composition.downsample,
                coding: Coding::Composed,
                ..page.clone()
            };
            let whole = (f64::from(page.block_width), f64::from(page.block_height));
            let plain = composition.lattices.len() == 1
                && (first.parts, first.first, first.count) == (1, (0, 0), page.block_grid())
                && (first.at, first.advance) == ((0.0, 0.0), whole)
                && (level.width, level.height) == (page.width, page.height);
            layouts.push(if plain {
                level.coding = page.coding;
                Layout::Page(first.page)
            } else {
                Layout::Composed(composition.lattices)
            });
            let (columns, rows) = level.block_grid();
            if u64::from(columns) * u64::from(rows) > MAX_BLOCKS {
                return Err(wrong(format!("{columns} x {rows} blocks")));
            }
            info.levels.push(level);
        }
        Ok(PlacedTiff { stored, info, layouts, cache: BlockCache::default() })
    }

    /// Draws the pieces of `lattice` that lie in `row` of its pieces. Returns whether any had pixels.
    fn draw(&self, canvas: &mut Canvas, lattice: &Lattice, row: u32, columns: Range<u32>) -> Result<bool> {
        let page = &self.stored.info().levels[lattice.page];
        let (mut any, mut held): (bool, Option<(BlockAt, Arc<Slot>)>) = (false, None);
        let y = Span::of(lattice.at.1, lattice.advance.1, row, lattice.first.1, lattice.parts, page.block_height)
            .clipped(page.height, canvas.at.1, canvas.target.height);
        let Some(y) = y else { return Ok(false) };
        for column in columns {
            let x = Span::of(lattice.at.0, lattice.advance.0, column, lattice.first.0, lattice.parts, page.block_width)
                .clipped(page.width, canvas.at.0, canvas.target.width);
            let Some(x) = x else { continue };
            let at = BlockAt { level: lattice.page, row: y.block, col: x.block };
            let slot = match held.take() {
                Some((same, slot)) if same == at => slot,
                _ => self.decode(at, page, canvas.scratch),
            };
            let decoded = slot.decoded(canvas.block)?;
            any |= decoded.kind == BlockKind::Decoded;
            let (from, to, length) = (x.from as usize * 3, x.to * 3, x.length * 3);
            for line in 0..y.length {
                let out = &mut canvas.target.row(y.to + line)[to..to + length];
                let start = (y.from as usize + line) * page.block_width as usize * 3 + from;
                match decoded.kind {
                    BlockKind::Decoded => out.copy_from_slice(&decoded.pixels[start..start + length]),
                    // What lies below a block that was never scanned shows through.
                    BlockKind::Background if !canvas.is_white => out.fill(255),
                    BlockKind::Background => {}
                }
            }
            held = Some((at, slot));
        }
        Ok(any)
    }

    fn decode(&self, at: BlockAt, page: &Level, scratch: &mut Scratch) -> Arc<Slot> {
        let pitch = page.block_width as usize * 3;
        let bytes = pitch * page.block_height as usize;
        self.cache.get(at, bytes, |pixels| self.stored.decode_block(at, Scale::Full, scratch, pixels, pitch))
    }
}

/// Whether a lattice lies on its page and can lie on a level.
fn check(lattice: &Lattice, pages: &[Level]) -> Result<(), String> {
    let page = pages.get(lattice.page).ok_or("blocks of a page that is not there")?;
    if !(1..=MAX_PARTS.min(page.block_width).min(page.block_height)).contains(&lattice.parts) {
        return Err(format!("blocks cut into {} parts a side", lattice.parts));
    }
    let (columns, rows) = page.block_grid();
    let side = |first: u32, count: u32, blocks: u32, at: f64, advance: f64, block: u32| {
        let inside = u64::from(first) + u64::from(count) <= u64::from(blocks) * u64::from(lattice.parts);
        if count == 0 || !inside {
            return Err(format!("{count} blocks from {first} of {blocks} that are stored"));
        }
        // Real overlaps are a few hundredths of a block; a bound keeps the blocks that lie over one place few.
        let least = f64::from(block) / f64::from(lattice.parts) / 2.0;
        let end = at + f64::from(count) * advance;
        if !(advance >= least && at.abs() < MAX_SIDE && end.abs() < MAX_SIDE) {
            return Err(format!("blocks of {block} px, {advance} px apart from {at} px"));
        }
        Ok(())
    };
    side(lattice.first.0, lattice.count.0, columns, lattice.at.0, lattice.advance.0, page.block_width)?;
    side(lattice.first.1, lattice.count.1, rows, lattice.at.1, lattice.advance.1, page.block_height)
}

/// The indices of pieces that may touch the pixels from `left` to `right`, in one direction; a few too many are no harm.
fn touching(at: f64, advance: f64, count: u32, piece: f64, left: i64, right: i64) -> Range<u32> {
    let bound = |n: f64| n.clamp(0.0, f64::from(count)) as u32;
    let start = bound(((left as f64 - at - piece) / advance).floor() - 1.0);
    let end = bound(((right as f64 - at) / advance).ceil() + 1.0);
    start..end.max(start)
}

/// A piece in one direction: which stored block, from where in it, and where on the level.
struct Span {
    block: u32,
    side: u32,
    from: u32,
    end: u32,
    place: i64,
}

/// What of a piece lies on a canvas, in one direction.
struct Clipped {
    block: u32,
    from: u32,
    to: usize,
    length: usize,
}

impl Span {
    fn of(at: f64, advance: f64, index: u32, first: u32, parts: u32, side: u32) -> Self {
        let piece = first + index;
        let part = piece % parts;
        Span {
            block: piece / parts,
            side,
            from: cut(side, part, parts),
            end: cut(side, part + 1, parts),
            place: nearest(at + f64::from(index) * advance),
        }
    }

    /// Clips to a page's pixels (blocks reach past its edge) and to a canvas of `length` pixels at `left`.
    fn clipped(self, page: u32, left: i64, length: usize) -> Option<Clipped> {
        let end = self.end.min(page.saturating_sub(self.block * self.side));
        let start = self.place.max(left);
        let stop = (self.place + i64::from(end) - i64::from(self.from)).min(left + length as i64);
        (start < stop).then(|| Clipped {
            block: self.block,
            from: self.from + (start - self.place) as u32,
            to: (start - left) as usize,
            length: (stop - start) as usize,
        })
    }
}

/// A virtual block that is being drawn.
struct Canvas<'a, 'b> {
    block: BlockAt,
    at: (i64, i64),
    target: Target<'a>,
    scratch: &'b mut Scratch,
    /// Whether it was painted white; otherwise every pixel is drawn.
    is_white: bool,
}

impl SlideReader for PlacedTiff {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn decode_block(
        &self,
        at: BlockAt,
        scale: Scale,
        scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<BlockKind> {
        let lattices = match &self.layouts[at.level] {
            Layout::Page(page) => {
                let stored = self.stored.decode_block(BlockAt { level: *page, ..at }, scale, scratch, out, pitch);
                return stored.map_err(|e| match e {
                    Error::Block { why, .. } => Error::Block { level: at.level, col: at.col, row: at.row, why },
                    e => e,
                });
            }
            Layout::Composed(lattices) => lattices,
        };
        debug_assert_eq!(scale, Scale::Full, "composed levels have no reduced size");
        let Level { block_width, block_height, .. } = self.info.levels[at.level];
        let (left, top) = (i64::from(at.col) * i64::from(block_width), i64::from(at.row) * i64::from(block_height));
        let (width, height) = (block_width as usize, block_height as usize);
        let target = Target { pixels: out, pitch, width, height };
        let (right, bottom) = (left + i64::from(block_width), top + i64::from(block_height));
        let visible = |lattice: &Lattice| {
            let page = &self.stored.info().levels[lattice.page];
            let piece = |side: u32| f64::from(side) / f64::from(lattice.parts) + 1.0;
            let (at, advance, count) = (lattice.at, lattice.advance, lattice.count);
            let columns = touching(at.0, advance.0, count.0, piece(page.block_width), left, right);
            let rows = touching(at.1, advance.1, count.1, piece(page.block_height), top, bottom);
            (!columns.is_empty() && !rows.is_empty()).then_some((*lattice, columns, rows))
        };
        let visible: Vec<_> = lattices.iter().filter_map(visible).collect();
        // Within a lone area every pixel is drawn once; painting it white before would cost as much as drawing it.
        let lone = |v: &(Lattice, _, _)| v.0.fills(&self.stored.info().levels[v.0.page], (left, top), (right, bottom));
        let is_white = !(visible.len() == 1 && visible.iter().all(lone));
        let mut canvas = Canvas { block: at, at: (left, top), target, scratch, is_white };
        if is_white {
            canvas.target.fill_white();
        }
        let mut any = false;
        for layer in visible.chunk_by(|a, b| a.0.layer == b.0.layer) {
            // Rows of pieces over the whole layer: neighbouring areas share the page's grid.
            let rows = |(lattice, _, rows): &(Lattice, _, Range<u32>)| {
                (u64::from(lattice.first.1) + u64::from(rows.start))..(u64::from(lattice.first.1) + u64::from(rows.end))
            };
            let (start, end) = (layer.iter().map(|v| rows(v).start).min(), layer.iter().map(|v| rows(v).end).max());
            for row in start.unwrap_or(0)..end.unwrap_or(0) {
                for piece in layer.iter().filter(|v| rows(v).contains(&row)) {
                    let index = (row - u64::from(piece.0.first.1)) as u32;
                    any |= self.draw(&mut canvas, &piece.0, index, piece.1.clone())?;
                }
            }
        }
        Ok(if any { BlockKind::Decoded } else { BlockKind::Background })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_block_cover_it() {
        for (side, parts) in [(64, 1), (64, 4), (1360, 32), (5, 4)] {
            assert_eq!((cut(side, 0, parts), cut(side, parts, parts)), (0, side));
            assert!((0..parts).all(|p| cut(side, p, parts) < cut(side, p + 1, parts)), "{side} in {parts}");
        }
        assert_eq!((cut(1360, 1, 32), cut(1360, 2, 32)), (43, 85));
    }

    #[test]
    fn pieces_that_touch_are_found_and_far_ones_are_not() {
        for (at, advance, piece) in [(0.0, 64.0, 64.0), (-30.4, 57.3, 64.0), (1000.5, 1.3, 2.0), (7.0, 90.0, 64.0)] {
            for (left, right) in [(0, 64), (900, 1100), (5000, 5064)] {
                let found = touching(at, advance, 40, piece, left, right);
                for i in 0..40 {
                    let place = nearest(at + f64::from(i) * advance);
                    let touches = place < right && place + piece as i64 > left;
                    assert!(!touches || found.contains(&i), "{i} from {at} by {advance}");
                }
                assert!(found.len() as f64 <= (right - left) as f64 / advance + piece / advance + 6.0);
            }
        }
    }

    #[test]
    fn spans_are_clipped_to_page_and_canvas() {
        // Block 1 of 64 px on a page of 100 px, at level pixel 57: its 36 px lie on 57 to 93.
        let span = || Span::of(0.0, 57.0, 1, 0, 1, 64);
        let got = span().clipped(100, 0, 64).expect("seen");
        assert_eq!((got.block, got.from, got.to, got.length), (1, 0, 57, 7));
        let got = span().clipped(100, 64, 64).expect("seen");
        assert_eq!((got.from, got.to, got.length), (7, 0, 29));
        assert!(span().clipped(100, 93, 64).is_none());
        assert!(span().clipped(64, 0, 640).is_none(), "past the page");
    }
}
