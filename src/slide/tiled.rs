//! Tiled TIFF pages as the levels of a slide: what Aperio SVS and generic pyramidal TIFF have in common.
//!
//! Codings: JPEG (7, tables in tag 347), none (1), LZW (5), deflate (8, 32946), zstd (50000), the last four with or without
//! predictor 2, 8 or 16 bits, grey, RGB or RGBA. A block of no bytes is background (sparse files). JPEG2000 and WebP are
//! [`Error::Unsupported`] here and go through OpenSlide where it knows them.

use super::tiff::{Page, Tiff, tag};
use super::{BlockAt, BlockKind, Level, Scale, SlideInfo, SlideReader, downsample_between};
use crate::codec::lossless::{Alpha, Packing, Samples};
use crate::codec::{BlockCoding, Scratch, Target, jpeg};
use crate::error::{Error, Result};

/// Largest block that is accepted, in pixels: 16 times the largest that scanners write (1024 x 1024 to 2048 x 2048).
pub(super) const MAX_BLOCK_PX: u64 = 1 << 26;
/// Most blocks in a level: a million pixels square in blocks of 256 has 15 million.
pub(super) const MAX_BLOCKS: u64 = 1 << 25;

/// One tiled page.
pub struct TiledPage {
    level: Level,
    columns: u32,
    coding: BlockCoding,
    /// The page's colour profile, unread: nothing but that tag.
    icc: Page,
    offsets: Vec<u64>,
    byte_counts: Vec<u64>,
}

/// Reads the pages' sizes: width, height.
///
/// # Errors
/// Words for a page that states an impossible size.
pub fn page_size(tiff: &Tiff, page: &Page) -> Result<(u32, u32), String> {
    let side = |tag, name| {
        let n = tiff.number_or(page, tag, 0)?;
        match u32::try_from(n) {
            Ok(n) if (1..1 << 31).contains(&n) => Ok(n),
            _ => Err(format!("{name} of {n} px")),
        }
    };
    Ok((side(tag::IMAGE_WIDTH, "a width")?, side(tag::IMAGE_LENGTH, "a height")?))
}

impl TiledPage {
    /// Reads a tiled page's geometry, coding and block table.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for valid pages beyond this reader, [`Error::Damaged`] for impossible ones.
    pub fn new(tiff: &Tiff, page: &Page) -> Result<Self> {
        let damaged = Error::Damaged;
        let number = |tag, default| tiff.number_or(page, tag, default).map_err(damaged);
        let (width, height) = page_size(tiff, page).map_err(damaged)?;
        let (block_width, block_height) = (number(tag::TILE_WIDTH, 0)?, number(tag::TILE_LENGTH, 0)?);
        if block_width == 0 || block_height == 0 || block_width.saturating_mul(block_height) > MAX_BLOCK_PX {
            return Err(Error::Damaged(format!("blocks of {block_width} x {block_height} px")));
        }
        if number(tag::PLANAR_CONFIGURATION, 1)? != 1 {
            return Err(Error::Unsupported("colours in separate planes (planar configuration 2)".into()));
        }
        let coding = block_coding(tiff, page)?;
        let level = Level {
            width,
            height,
            downsample: 1.0,
            block_width: block_width as u32,
            block_height: block_height as u32,
            coding: coding.kind(),
        };
        let (columns, rows) = level.block_grid();
        let blocks = u64::from(columns) * u64::from(rows);
        if blocks > MAX_BLOCKS {
            return Err(Error::Damaged(format!("{columns} x {rows} blocks of {block_width} x {block_height} px")));
        }
        Ok(TiledPage {
            offsets: tiff.table(page, tag::TILE_OFFSETS, blocks).map_err(damaged)?,
            byte_counts: tiff.table(page, tag::TILE_BYTE_COUNTS, blocks).map_err(damaged)?,
            level,
            columns,
            coding,
            icc: page.only(tag::ICC_PROFILE),
        })
    }

    /// Lets the level end before its page does: some writers fill pages up to whole blocks. Sides only shrink.
    pub fn cut(&mut self, width: u32, height: u32) {
        self.level.width = self.level.width.min(width.max(1));
        self.level.height = self.level.height.min(height.max(1));
    }

    /// Lets the JPEG streams' own markers say what their colours are, where they do: Bio-Formats stores whole JFIF files,
    /// which are YCbCr, and calls them RGB.
    pub fn believe_streams(&mut self, tiff: &Tiff) {
        let BlockCoding::Jpeg { colour, .. } = &mut self.coding else { return };
        let mut blocks = self.offsets.iter().zip(&self.byte_counts);
        let Some((offset, count)) = blocks.find(|(o, c)| **o > 0 && **c > 0) else { return };
        let mut head = Vec::new();
        // What cannot be read fails with its block.
        if tiff.source.read(*offset, (*count).min(4096) as usize, &mut head).is_ok()
            && *colour != jpeg::Colour::Grey
            && let Some(stated) = jpeg::stated_colour(&head)
        {
            *colour = stated;
        }
    }

    /// Width and height in pixels.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.level.width, self.level.height)
    }

    /// Width and height of a block in pixels.
    #[must_use]
    pub fn block_size(&self) -> (u32, u32) {
        (self.level.block_width, self.level.block_height)
    }

    /// Columns and rows of blocks.
    #[must_use]
    pub fn block_grid(&self) -> (u32, u32) {
        self.level.block_grid()
    }
}

fn block_coding(tiff: &Tiff, page: &Page) -> Result<BlockCoding> {
    let number = |tag, default| tiff.number_or(page, tag, default).map_err(Error::Damaged);
    let per_pixel = number(tag::SAMPLES_PER_PIXEL, 1)?;
    let photometric = number(tag::PHOTOMETRIC, 2)?;
    let bits = tiff.numbers(page, tag::BITS_PER_SAMPLE, 16).map_err(Error::Damaged)?;
    let bits = bits.filter(|bits| !bits.is_empty()).unwrap_or_else(|| vec![1]);
    if bits.iter().any(|b| *b != bits[0]) {
        return Err(Error::Unsupported(format!("samples of different sizes ({bits:?} bits)")));
    }
    let bits = bits[0];
    if number(tag::SAMPLE_FORMAT, 1)? != 1 {
        return Err(Error::Unsupported("samples that are no unsigned integers".into()));
    }
    let compression = number(tag::COMPRESSION, 1)?;
    let unsupported = |what: &str| {
        Err(Error::Unsupported(format!(
            "{what} with photometric interpretation {photometric}, {per_pixel} samples of {bits} bits"
        )))
    };
    if compression == 7 {
        let colour = match (photometric, per_pixel, bits) {
            (0 | 1, 1, 8) => jpeg::Colour::Grey,
            (2, 3, 8) => jpeg::Colour::Rgb,
            (6, 3, 8) => jpeg::Colour::YCbCr,
            _ => return unsupported("JPEG"),
        };
        let tables = tiff.blob(page, tag::JPEG_TABLES).map_err(Error::Damaged)?;
        // Some writers leave an empty stream (SOI, EOI) there.
        return Ok(BlockCoding::Jpeg { tables: tables.filter(|t| t.len() > 4), colour });
    }
    let packing = match compression {
        1 => Packing::None,
        5 => Packing::Lzw,
        8 | 32946 => Packing::Deflate,
        50000 => Packing::Zstd,
        33003 | 33005 | 34712 => return Err(Error::Unsupported("JPEG2000 blocks".into())),
        50001 => return Err(Error::Unsupported("WebP blocks".into())),
        other => return Err(Error::Unsupported(format!("TIFF compression {other}"))),
    };
    let predictor = match number(tag::PREDICTOR, 1)? {
        1 => false,
        2 => true,
        other => return Err(Error::Unsupported(format!("TIFF predictor {other}"))),
    };
    match (photometric, per_pixel, bits) {
        (0 | 1, 1 | 2, 8 | 16) | (2, 3 | 4, 8 | 16) => {}
        _ => return unsupported(packing.kind().name()),
    }
    let alpha = match number(tag::EXTRA_SAMPLES, 0)? {
        1 => Alpha::Associated,
        2 => Alpha::Unassociated,
        _ => Alpha::Ignored,
    };
    let samples = Samples {
        bits: bits as u16,
        per_pixel: per_pixel as u16,
        white_is_zero: photometric == 0,
        alpha,
        predictor,
        big_endian: tiff.big_endian,
    };
    Ok(BlockCoding::Packed { packing, samples })
}

/// A slide whose levels are tiled TIFF pages.
pub struct TiledTiff {
    tiff: Tiff,
    info: SlideInfo,
    pages: Vec<TiledPage>,
}

impl TiledTiff {
    /// Puts `pages`, the largest first, together as a pyramid; `info` comes without levels.
    ///
    /// Pages that are no reduction of the first (another aspect ratio) are left out with a note.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the first page is not the largest.
    pub fn new(tiff: Tiff, mut info: SlideInfo, mut pages: Vec<TiledPage>) -> Result<Self> {
        let (width, height) = pages
            .first()
            .map(TiledPage::size)
            .ok_or_else(|| Error::Unsupported("a TIFF whose first page is not tiled".into()))?;
        if let Some(larger) = pages.iter().position(|p| p.size().0 > width && p.size().1 > height) {
            return Err(Error::Damaged(format!("level {larger} is larger than level 0")));
        }
        let mut number = 0;
        pages.retain(|page| {
            let (w, h) = page.size();
            let (rx, ry) = (f64::from(width) / f64::from(w), f64::from(height) / f64::from(h));
            // A reduction is rounded to whole pixels, in some files to whole blocks of 2 or 4.
            let slack = (4.0 / f64::from(w)).max(4.0 / f64::from(h)).max(0.02);
            let fits = rx >= 1.0 && ry >= 1.0 && (rx / ry - 1.0).abs() <= slack;
            if !fits {
                info.notes
                    .push(format!("tiled page {number} ({w} x {h} px) is no reduction of level 0 and is left out"));
            }
            number += 1;
            fits
        });
        pages.sort_by_key(|p| std::cmp::Reverse(p.size()));
        pages.dedup_by_key(|p| p.size());
        for page in &mut pages {
            page.level.downsample = downsample_between((width, height), page.size());
        }
        Ok(Self::of_pages(tiff, info, pages))
    }

    /// Takes pages as they are, each as a level of its own: for readers that place their blocks themselves.
    #[must_use]
    pub fn of_pages(tiff: Tiff, mut info: SlideInfo, pages: Vec<TiledPage>) -> Self {
        for (number, page) in pages.iter().enumerate() {
            let ends = page.offsets.iter().zip(&page.byte_counts);
            let outside = ends.filter(|(o, c)| **c > 0 && !tiff.source.holds(**o, **c)).count();
            if outside > 0 {
                info.notes
                    .push(format!("{outside} blocks of level {number} lie past the file's end: the file is cut short"));
            }
        }
        info.levels = pages.iter().map(|p| p.level.clone()).collect();
        TiledTiff { tiff, info, pages }
    }
}

impl SlideReader for TiledTiff {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn icc_profile(&self) -> Result<Option<Vec<u8>>> {
        let level0 = &self.pages[0].icc;
        self.tiff.blob(level0, tag::ICC_PROFILE).map_err(|why| Error::Damaged(format!("the ICC profile: {why}")))
    }

    fn decode_block(
        &self,
        at: BlockAt,
        scale: Scale,
        scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<BlockKind> {
        let page = &self.pages[at.level];
        let block = at.row as usize * page.columns as usize + at.col as usize;
        let (width, height) = (page.level.block_width, page.level.block_height);
        let mut target = Target {
            pixels: out,
            pitch,
            width: (width / scale.divisor()) as usize,
            height: (height / scale.divisor()) as usize,
        };
        let (offset, count) = (page.offsets[block], page.byte_counts[block]);
        if offset == 0 || count == 0 {
            target.fill_white();
            return Ok(BlockKind::Background);
        }
        let wrong = |why: String| Error::Block { level: at.level, col: at.col, row: at.row, why };
        // A block that is many times its own pixels in size is damage, and would be read into memory.
        if count > u64::from(width) * u64::from(height) * 16 + 65536 {
            return Err(wrong(format!("{count} bytes for {width} x {height} px")));
        }
        self.tiff.source.read(offset, count as usize, &mut scratch.compressed).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => wrong(e.to_string()),
            _ => Error::Read(e),
        })?;
        page.coding.decode(scratch, (width, height), scale, &mut target).map_err(wrong)?;
        Ok(BlockKind::Decoded)
    }
    fn read_ahead(&self, blocks: &[BlockAt]) {
        let place = |at: &BlockAt| {
            let page = &self.pages[at.level];
            let block = at.row as usize * page.columns as usize + at.col as usize;
            (page.offsets[block], page.byte_counts[block])
        };
        self.tiff.source.will_need(blocks.iter().map(place).collect());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::slide::Slide;

    /// A classic little-endian TIFF of one page; each entry is (tag, type, count, value).
    fn open(entries: &[(u16, u16, u32, u32)]) -> Result<Slide> {
        let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
        bytes.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(&bytes).expect("writes");
        Slide::open_native(file.path())
    }

    /// Found by the fuzz target `tiff`.
    #[test]
    fn a_tag_without_values_is_as_good_as_absent() {
        let page = |bits: u32| {
            [
                (tag::IMAGE_WIDTH, 3, 1, 16),
                (tag::IMAGE_LENGTH, 3, 1, 16),
                (tag::BITS_PER_SAMPLE, 3, bits, 8),
                (tag::COMPRESSION, 3, 1, 1),
                (tag::PHOTOMETRIC, 3, 1, 1),
                (tag::TILE_WIDTH, 3, 1, 16),
                (tag::TILE_LENGTH, 3, 1, 16),
                (tag::TILE_OFFSETS, 4, 1, 8),
                (tag::TILE_BYTE_COUNTS, 4, 1, 16),
            ]
        };
        assert!(open(&page(1)).is_ok());
        // Absent means one bit, which is not read.
        assert!(matches!(open(&page(0)), Err(Error::Unsupported(_))));
    }
}
