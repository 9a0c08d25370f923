//! TIFF pages in tiles or strips as the levels of a slide: what Aperio SVS and generic pyramidal TIFF have in common.
//!
//! Strips are as wide as the page and may be a single row high; so many of them make a block that reading it is worth while.
//!
//! Codings: JPEG (7, tables in tag 347), none (1), LZW (5), deflate (8, 32946), zstd (50000), the last four with or without
//! predictor 2, 8 or 16 bits, grey, RGB or RGBA, JPEG2000 (33003, 33005, 34712; tiles only), WebP
//! (50001). A block of no bytes is background (sparse files).

use super::tiff::{Page, Tiff, tag};
use super::{BlockAt, BlockKind, Coding, Level, Scale, SlideInfo, SlideReader, downsample_between};
use crate::codec::lossless::{Alpha, Packing, Samples};
use crate::codec::{BlockCoding, Scratch, Target, jpeg};
use crate::error::{Error, Result};

/// Largest block that is accepted, in pixels: 16 times the largest that scanners write (1024 x 1024 to 2048 x 2048).
pub(super) const MAX_BLOCK_PX: u64 = 1 << 26;
/// Most blocks in a level: a million pixels square in blocks of 256 has 15 million.
pub(super) const MAX_BLOCKS: u64 = 1 << 25;

/// Rows that a block of strips has at most, where one strip has not more.
const STRIP_BLOCK_ROWS: u32 = 256;
/// Pixels that a block of several strips has at most.
const STRIP_BLOCK_PX: u64 = 1 << 22;

/// One page in tiles or strips.
pub struct TiledPage {
    level: Level,
    columns: u32,
    coding: BlockCoding,
    /// The page's colour profile, unread: nothing but that tag.
    icc: Page,
    /// Rows of one strip; `None` for tiles.
    strip_rows: Option<u32>,
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
        if !page.has(tag::TILE_WIDTH) {
            return Self::strips(tiff, page);
        }
        let damaged = Error::Damaged;
        let number = |tag, default| tiff.number_or(page, tag, default).map_err(damaged);
        let (width, height) = page_size(tiff, page).map_err(damaged)?;
        let (block_width, block_height) = (number(tag::TILE_WIDTH, 0)?, number(tag::TILE_LENGTH, 0)?);
        if block_width == 0 || block_height == 0 || block_width.saturating_mul(block_height) > MAX_BLOCK_PX {
            return Err(Error::Damaged(format!("blocks of {block_width} x {block_height} px")));
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
            strip_rows: None,
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

    fn strips(tiff: &Tiff, page: &Page) -> Result<Self> {
        let damaged = Error::Damaged;
        let number = |tag, default| tiff.number_or(page, tag, default).map_err(damaged);
        let (width, height) = page_size(tiff, page).map_err(damaged)?;
        let rows = number(tag::ROWS_PER_STRIP, u64::from(u32::MAX))?.min(u64::from(height)) as u32;
        if rows == 0 {
            return Err(Error::Damaged("strips of no rows".into()));
        }
        let coding = block_coding(tiff, page)?;
        let packed = matches!(coding, BlockCoding::Packed { .. });
        if !packed && rows < height && !rows.is_multiple_of(Scale::Eighth.divisor()) {
            return Err(Error::Unsupported(format!("{} in strips of {rows} rows", coding.kind().name())));
        }
        if coding.kind() == Coding::Jpeg2000 {
            return Err(Error::Unsupported("JPEG2000 in strips".into()));
        }
        let strips = u64::from(height.div_ceil(rows));
        if strips > MAX_BLOCKS {
            return Err(Error::Damaged(format!("{strips} strips")));
        }
        let mut offsets = tiff.table(page, tag::STRIP_OFFSETS, strips).map_err(damaged)?;
        let mut byte_counts = tiff.table(page, tag::STRIP_BYTE_COUNTS, strips).map_err(damaged)?;
        let wanted = STRIP_BLOCK_ROWS.min((STRIP_BLOCK_PX / u64::from(width)).max(1) as u32);
        let mut rows = rows;
        if let BlockCoding::Packed { packing: Packing::None, samples } = &coding
            && strips == 1
            && offsets[0] > 0
            && rows > wanted
        {
            // The rows of a page that was stored in one piece, uncompressed, can be had apart.
            let row = samples.bytes(width, 1) as u64;
            if byte_counts[0] < row.saturating_mul(u64::from(height)) {
                return Err(Error::Damaged(format!("{} bytes for {width} x {height} px", byte_counts[0])));
            }
            let starts = (0..height).step_by(wanted as usize);
            byte_counts = starts.clone().map(|y| row * u64::from(wanted.min(height - y))).collect();
            offsets = starts.map(|y| offsets[0].saturating_add(row * u64::from(y))).collect();
            rows = wanted;
        }
        if u64::from(width) * u64::from(rows) > MAX_BLOCK_PX {
            return Err(Error::Unsupported(format!(
                "strips of {width} x {rows} px, too many to be decoded at once; convert it to a tiled pyramid (vips \
                 tiffsave --tile --pyramid)"
            )));
        }
        let level = Level {
            width,
            height,
            downsample: 1.0,
            block_width: width,
            block_height: rows * (wanted / rows).max(1),
            coding: coding.kind(),
        };
        let icc = page.only(tag::ICC_PROFILE);
        Ok(TiledPage { level, columns: 1, coding, icc, strip_rows: Some(rows), offsets, byte_counts })
    }

    /// A block's pieces: its tile, or its strips with their first rows within the block and their heights.
    fn pieces(&self, at: BlockAt) -> impl Iterator<Item = (usize, u32, u32)> + use<> {
        let Level { height, block_height, .. } = self.level;
        let top = at.row * block_height;
        let (first, rows) = match self.strip_rows {
            Some(rows) => ((top / rows) as usize, rows),
            None => (at.row as usize * self.columns as usize + at.col as usize, block_height),
        };
        // A tile is whole where it reaches past the page, a strip is not.
        let bottom = if self.strip_rows.is_some() { (height - top).min(block_height) } else { block_height };
        (0..bottom).step_by(rows as usize).enumerate().map(move |(i, y)| (first + i, y, rows.min(bottom - y)))
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
    if number(tag::PLANAR_CONFIGURATION, 1)? != 1 {
        return Err(Error::Unsupported("colours in separate planes (planar configuration 2)".into()));
    }
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
    if matches!(compression, 33003 | 33005 | 34712) {
        // Aperio says YCbCr or RGB by the compression, whatever the photometric tag holds.
        let colour = match (compression, photometric, per_pixel, bits) {
            (33003, _, 3, 8) | (34712, 6, 3, 8) => jpeg::Colour::YCbCr,
            (33005, _, 3, 8) | (34712, 2, 3, 8) => jpeg::Colour::Rgb,
            (_, 1, 1, 8) => jpeg::Colour::Grey,
            _ => return unsupported("JPEG2000"),
        };
        return Ok(BlockCoding::Jpeg2000 { colour });
    }
    if compression == 50001 {
        return match (photometric, per_pixel, bits) {
            (2, 3 | 4, 8) => Ok(BlockCoding::Webp),
            _ => unsupported("WebP"),
        };
    }
    let packing = match compression {
        1 => Packing::None,
        5 => Packing::Lzw,
        8 | 32946 => Packing::Deflate,
        50000 => Packing::Zstd,
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
        planes: false,
        ybr: false,
    };
    Ok(BlockCoding::Packed { packing, samples })
}

/// A slide whose levels are TIFF pages in tiles or strips.
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
            .ok_or_else(|| Error::Unsupported("a TIFF whose first page is neither tiled nor stripped".into()))?;
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
                info.notes.push(format!("page {number} ({w} x {h} px) is no reduction of level 0 and is left out"));
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
        let (width, divisor) = (page.level.block_width, scale.divisor());
        let wrong = |why: String| Error::Block { level: at.level, col: at.col, row: at.row, why };
        let mut kind = BlockKind::Background;
        for (piece, y, height) in page.pieces(at) {
            let mut target = Target {
                pixels: &mut out[(y / divisor) as usize * pitch..],
                pitch,
                width: (width / divisor) as usize,
                height: height.div_ceil(divisor) as usize,
            };
            let (offset, count) = (page.offsets[piece], page.byte_counts[piece]);
            if offset == 0 || count == 0 {
                target.fill_white();
                continue;
            }
            // A block that is many times its own pixels in size is damage, and would be read into memory.
            if count > u64::from(width) * u64::from(height) * 16 + 65536 {
                return Err(wrong(format!("{count} bytes for {width} x {height} px")));
            }
            self.tiff.source.read(offset, count as usize, &mut scratch.compressed).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => wrong(e.to_string()),
                _ => Error::Read(e),
            })?;
            page.coding.decode(scratch, (width, height), scale, &mut target).map_err(wrong)?;
            kind = BlockKind::Decoded;
        }
        Ok(kind)
    }
    fn read_ahead(&self, blocks: &[BlockAt]) {
        let places = |at: &BlockAt| {
            let page = &self.pages[at.level];
            page.pieces(*at).map(|(piece, ..)| (page.offsets[piece], page.byte_counts[piece]))
        };
        self.tiff.source.will_need(blocks.iter().flat_map(places).collect());
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
