//! One level's strip: where its restart intervals lie, and blocks put together of them.
//!
//! In JPEG's entropy-coded data a byte 0xff is followed by 0, or it begins a marker. A restart marker (0xffd0 to 0xffd7, in
//! turn) ends an interval and resets the decoder, so intervals may stand in another order behind another frame header, if
//! the markers between them are numbered anew.

use std::io;

use super::super::source::Source;
use super::super::tiff::{Page, Tiff, tag};
use super::super::tiled::MAX_BLOCK_PX;
use super::super::{Coding, Level};
use crate::codec::Scratch;
use crate::codec::jpeg::{self, Colour};
use crate::error::{Error, Result};

/// Most bytes that a strip's headers may have; real ones have 660.
const MAX_HEADER: u64 = 1 << 16;
/// Most restart intervals: a million pixels square in intervals of 512 x 8 has 245 million, real levels under a million.
const MAX_INTERVALS: u64 = 1 << 25;
/// Longest strip that is searched for restart markers, in bytes.
const MAX_SCAN: u64 = 4 << 30;
/// About how many pixels a block should have.
const BLOCK_PX: u32 = 1 << 20;
/// How many places of McuStarts are looked at when a slide is opened.
const SAMPLES: u64 = 16;
/// The longest side that libjpeg decodes.
const MAX_SIDE: u32 = 65500;

/// A strip that is a level.
pub struct Strip {
    /// The level that it makes.
    pub level: Level,
    /// What its components are.
    pub colour: Colour,
    header: Header,
    /// Where the strip begins and ends in the file.
    begin: u64,
    end: u64,
    cut: Option<Cut>,
}

/// How restart markers cut a strip.
struct Cut {
    /// Intervals beside each other.
    across: u32,
    /// Height of an interval in pixels.
    height: u32,
    /// Rows of intervals in the strip.
    down: u32,
    /// Rows of intervals in a block.
    rows: u32,
    /// Where each interval begins, from the strip's beginning; one after the last that stands for the strip's end.
    starts: Vec<u64>,
}

/// A strip's JPEG headers, from SOI to the end of the scan header.
struct Header {
    bytes: Vec<u8>,
    /// Where the frame's height stands in it, followed by the width.
    size_at: usize,
    /// Width and height of an MCU in pixels.
    mcu: (u32, u32),
    /// The restart interval in MCUs; 0 without restart markers.
    interval: u16,
    components: u8,
    baseline: bool,
}

/// Why a block could not be put together.
pub enum Failure {
    /// Its bytes could not be read.
    Read(io::Error),
    /// They break the rules.
    Damaged(String),
}

impl Strip {
    /// Reads a page's headers and its table of intervals.
    ///
    /// # Errors
    /// [`Error::Damaged`] for broken headers or tags, [`Error::Unsupported`] for strips that cannot be cut into blocks.
    pub fn new(tiff: &Tiff, page: &Page, (width, height): (u32, u32), downsample: f64) -> Result<Self> {
        let damaged = Error::Damaged;
        let one = |tag| {
            let values = tiff.numbers(page, tag, 2).map_err(damaged)?;
            match values.as_deref() {
                Some([value]) => Ok(*value),
                _ => Err(Error::Unsupported("an NDPI level of several strips".into())),
            }
        };
        let compression = tiff.number_or(page, tag::COMPRESSION, 1).map_err(damaged)?;
        if compression != 7 {
            return Err(Error::Unsupported(format!("an NDPI level with TIFF compression {compression}")));
        }
        let (begin, count) = (one(tag::STRIP_OFFSETS)?, one(tag::STRIP_BYTE_COUNTS)?);
        if begin == 0 || !tiff.source.holds(begin, count) {
            return Err(Error::Damaged("an NDPI level lies past the file's end: the file is cut short".into()));
        }
        let mut bytes = Vec::new();
        tiff.source.read(begin, count.min(MAX_HEADER) as usize, &mut bytes).map_err(Error::Read)?;
        let header = Header::parse(bytes).map_err(|why| Error::Damaged(format!("an NDPI level: {why}")))?;
        let colour = match header.components {
            1 => Colour::Grey,
            _ => jpeg::stated_colour(&header.bytes).unwrap_or(Colour::YCbCr),
        };
        let end = begin + count;
        let cut = Cut::of(tiff, page, &header, (width, height), (begin, end))?;
        let (block_width, block_height) = match &cut {
            Some(cut) => (width.div_ceil(header.mcu.0).div_ceil(cut.across) * header.mcu.0, cut.rows * cut.height),
            None => {
                if u64::from(width) * u64::from(height) > MAX_BLOCK_PX || width > MAX_SIDE || height > MAX_SIDE {
                    return Err(Error::Unsupported(format!(
                        "an NDPI level of {width} x {height} px without usable restart markers"
                    )));
                }
                (width.next_multiple_of(8), height.next_multiple_of(8))
            }
        };
        let level = Level { width, height, downsample, block_width, block_height, coding: Coding::Jpeg };
        Ok(Strip { level, colour, header, begin, end, cut })
    }

    /// Where the bytes of a block lie, as (offset, count).
    pub fn places(&self, row: u32, col: u32) -> Vec<(u64, u64)> {
        let Some(cut) = &self.cut else {
            let from = self.begin + self.header.bytes.len() as u64;
            return vec![(from, self.end.saturating_sub(from))];
        };
        let rows = row * cut.rows..((row + 1) * cut.rows).min(cut.down);
        let place = |row: u32| {
            let at = row as usize * cut.across as usize + col as usize;
            let (from, to) = (cut.starts.get(at)?, cut.starts.get(at + 1)?);
            Some((self.begin + from, to.saturating_sub(*from)))
        };
        rows.filter_map(place).collect()
    }

    /// Puts a block's JPEG together in `scratch.compressed`; returns its width and height.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn assemble(&self, source: &Source, row: u32, col: u32, scratch: &mut Scratch) -> Result<(u32, u32), Failure> {
        let level = &self.level;
        let left = |at: u32, block: u32, whole: u32| whole.saturating_sub(at * block).min(block);
        let width = left(col, level.block_width, level.width);
        let height = left(row, level.block_height, level.height);
        let Scratch { compressed: out, staging: piece, .. } = scratch;
        self.header.write((width, height), out);
        let Some(cut) = &self.cut else {
            let from = self.begin + self.header.bytes.len() as u64;
            let count = self.end.saturating_sub(from);
            check_length(count, width, height)?;
            source.read(from, count as usize, piece).map_err(Failure::Read)?;
            out.extend_from_slice(piece);
            return Ok((width, height));
        };
        let rows = row * cut.rows..((row + 1) * cut.rows).min(cut.down);
        for (number, row) in rows.enumerate() {
            let at = row as usize * cut.across as usize + col as usize;
            let (Some(from), Some(to)) = (cut.starts.get(at), cut.starts.get(at + 1)) else {
                return Err(Failure::Damaged("there is no such restart interval".into()));
            };
            let count = to.saturating_sub(*from);
            check_length(count, level.block_width, cut.height)?;
            source.read(self.begin + from, count as usize, piece).map_err(Failure::Read)?;
            let data = entropy_data(piece, at + 2 == cut.starts.len(), at)?;
            if number > 0 {
                out.extend_from_slice(&[0xff, 0xd0 + ((number - 1) % 8) as u8]);
            }
            out.extend_from_slice(data);
        }
        out.extend_from_slice(&[0xff, 0xd9]);
        Ok((width, height))
    }
}

/// Refuses what is many times its own pixels in size: that is damage, and would be read into memory.
fn check_length(count: u64, width: u32, height: u32) -> Result<(), Failure> {
    if count == 0 || count > u64::from(width) * u64::from(height) * 16 + 65536 {
        return Err(Failure::Damaged(format!("{count} bytes for {width} x {height} px")));
    }
    Ok(())
}

/// An interval's data without the marker that ends it: the restart marker of its number, or anything after the last.
fn entropy_data(piece: &[u8], last: bool, number: usize) -> Result<&[u8], Failure> {
    if last {
        let end = piece.windows(2).position(|w| w[0] == 0xff && w[1] != 0);
        return Ok(&piece[..end.unwrap_or(piece.len())]);
    }
    match piece {
        [data @ .., 0xff, marker] if *marker == 0xd0 + (number % 8) as u8 => Ok(data),
        _ => Err(Failure::Damaged("no restart marker where the table of intervals puts one".into())),
    }
}

impl Cut {
    /// How the strip is cut; `None` where it has to be decoded whole.
    fn of(
        tiff: &Tiff,
        page: &Page,
        header: &Header,
        (width, height): (u32, u32),
        (begin, end): (u64, u64),
    ) -> Result<Option<Self>> {
        let (per_row, mcu_rows) = (width.div_ceil(header.mcu.0), height.div_ceil(header.mcu.1));
        let interval = u32::from(header.interval);
        // Only whole parts of a row, or whole rows, make rectangles.
        let (across, rows) = match interval {
            0 => return Ok(None),
            n if per_row.is_multiple_of(n) => (per_row / n, 1),
            n if n.is_multiple_of(per_row) => (1, n / per_row),
            _ => return Ok(None),
        };
        let height_px = rows.saturating_mul(header.mcu.1);
        let (block_width, down) = (per_row / across * header.mcu.0, mcu_rows.div_ceil(rows));
        let count = u64::from(across) * u64::from(down);
        if !header.baseline || count < 2 || block_width > MAX_SIDE || height_px > MAX_SIDE {
            return Ok(None);
        }
        if count > MAX_INTERVALS || count > end - begin {
            return Err(Error::Damaged(format!("an NDPI level of {count} restart intervals in {} bytes", end - begin)));
        }
        let source = &tiff.source;
        let first = header.bytes.len() as u64;
        let stated = stated_starts(tiff, page, count)
            .filter(|starts| starts.first() == Some(&first) && believable(source, begin, end - begin, starts));
        let mut starts = match stated {
            Some(starts) => starts,
            None => found_starts(source, (begin, end), first, count)?,
        };
        starts.push(end - begin);
        let wanted = (BLOCK_PX / block_width).clamp(64, 512);
        // Powers of two of MCU rows, so that blocks end where coarser scales do.
        let mut in_block = 1;
        while in_block * 2 * height_px <= wanted {
            in_block *= 2;
        }
        Ok(Some(Cut { across, height: height_px, down, rows: in_block, starts }))
    }
}

/// McuStarts with its high halves; `None` where it is missing, of another length, or unreadable.
fn stated_starts(tiff: &Tiff, page: &Page, count: u64) -> Option<Vec<u64>> {
    if tiff.count(page, tag::NDPI_MCU_STARTS) != count {
        return None;
    }
    let mut starts = tiff.table(page, tag::NDPI_MCU_STARTS, count).ok()?;
    if page.has(tag::NDPI_MCU_STARTS_HIGH) {
        let high = tiff.table(page, tag::NDPI_MCU_STARTS_HIGH, count).ok()?;
        for (start, high) in starts.iter_mut().zip(high) {
            *start |= high.checked_shl(32)?;
        }
    }
    Some(starts)
}

/// Whether starts rise, lie within the strip, and a sample of them stand behind the right markers. The others are looked at
/// with their blocks.
fn believable(source: &Source, begin: u64, length: u64, starts: &[u64]) -> bool {
    let rise = starts.windows(2).all(|pair| pair[1].checked_sub(pair[0]).is_some_and(|n| n >= 2))
        && starts.last().is_some_and(|s| *s <= length);
    let count = starts.len() as u64;
    let mut bytes = Vec::new();
    let mut marked = |number: u64| {
        let start = starts[number as usize];
        let marker = 0xd0 + ((number - 1) % 8) as u8;
        source.read(begin + start - 2, 2, &mut bytes).is_ok() && bytes[..] == [0xff, marker]
    };
    rise && (1..=SAMPLES.min(count - 1)).all(|i| marked((count - 1) * i / SAMPLES.min(count - 1)))
}

/// Searches a strip for restart markers.
fn found_starts(source: &Source, (begin, end): (u64, u64), first: u64, count: u64) -> Result<Vec<u64>> {
    let damaged =
        |found: usize| Error::Damaged(format!("an NDPI level has {found} restart intervals, {count} expected"));
    if end - begin > MAX_SCAN {
        return Err(Error::Unsupported("an NDPI level over 4 GB without a table of restart intervals".into()));
    }
    let mut starts = vec![first];
    let (mut at, mut piece, mut after_ff) = (begin + first, Vec::new(), false);
    while at < end {
        let length = (end - at).min(1 << 20) as usize;
        source.read(at, length, &mut piece).map_err(Error::Read)?;
        for (i, byte) in piece.iter().enumerate() {
            if after_ff && (0xd0..=0xd7).contains(byte) {
                // In turn: a marker left out or put twice shifts everything after it.
                if *byte != 0xd0 + ((starts.len() - 1) % 8) as u8 || starts.len() as u64 == count {
                    return Err(damaged(starts.len()));
                }
                starts.push(at - begin + i as u64 + 1);
            } else if after_ff && *byte == 0xd9 {
                at = end;
                break;
            }
            after_ff = *byte == 0xff;
        }
        at = at.saturating_add(length as u64);
    }
    if starts.len() as u64 == count { Ok(starts) } else { Err(damaged(starts.len())) }
}

impl Header {
    fn parse(mut bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.get(..2) != Some(&[0xff, 0xd8]) {
            return Err("not a JPEG stream".into());
        }
        let short = || "JPEG headers end too early".to_string();
        let (mut at, mut interval, mut frame) = (2, 0, None);
        loop {
            let [0xff, marker, high, low, ..] = *bytes.get(at..).ok_or_else(short)? else { return Err(short()) };
            let length = usize::from(u16::from_be_bytes([high, low])).max(2);
            let body = bytes.get(at + 4..at + 2 + length).ok_or_else(short)?;
            match (marker, body) {
                (0xda, _) => {
                    bytes.truncate(at + 2 + length);
                    break;
                }
                (0xdd, [high, low, ..]) => interval = u16::from_be_bytes([*high, *low]),
                (0xc0..=0xc2, [_, _, _, _, _, components, factors @ ..]) => {
                    let factors: Vec<u8> = factors.chunks(3).filter_map(|c| c.get(1).copied()).collect();
                    let most = |shift: u8| factors.iter().map(|f| u32::from(f >> shift & 15)).max().unwrap_or(0);
                    // A scan of one component is not interleaved: its MCU is one block of 8 x 8 samples.
                    let (h, v) = if *components == 1 { (1, 1) } else { (most(4), most(0)) };
                    if factors.len() != usize::from(*components) || !(1..=4).contains(&h) || !(1..=4).contains(&v) {
                        return Err("JPEG frame header with impossible components".into());
                    }
                    frame = Some((at + 5, (h * 8, v * 8), *components, marker != 0xc2));
                }
                _ => {}
            }
            at += 2 + length;
        }
        let (size_at, mcu, components, baseline) = frame.ok_or("JPEG scan before its frame header")?;
        if !matches!(components, 1 | 3) {
            return Err(format!("JPEG with {components} components"));
        }
        Ok(Header { bytes, size_at, mcu, interval, components, baseline })
    }

    /// The headers for a picture of this size, whatever size they state (none in levels over 65535 px).
    fn write(&self, (width, height): (u32, u32), out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let sides = [height as u16, width as u16].map(u16::to_be_bytes).concat();
        out[self.size_at..self.size_at + 4].copy_from_slice(&sides);
    }
}
