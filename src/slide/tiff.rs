//! The structure of TIFF files: classic and BigTIFF, either byte order. Structure only; pixels are the codecs' matter.
//! Also Hamamatsu's NDPI: classic little-endian directories, made fit for files over 4 GB. Its offsets of directories have
//! 8 bytes; after a directory's last entry and the offset of the next directory stand 4 bytes for every entry, the high half
//! of its value or offset.
//!
//! Made for hostile files: every offset is checked against the file's length, every count against a bound, pages are
//! visited once (no loops), and arrays are read when asked for. The `tiff` crate is not used because it hides the
//! compressed bytes of a block, stops at page 0 when it dislikes its coding, and needs a shared cursor.
//!
//! Reference: TIFF 6.0; BigTIFF (libtiff's "BigTIFF Design"); openslide.org/formats/hamamatsu and tifffile for NDPI.

use std::collections::{BTreeMap, HashSet};

use super::source::Source;
use crate::error::{Error, Result};

/// Tags that paraffin reads, by number.
pub mod tag {
    #![allow(missing_docs, reason = "TIFF 6.0's own names")]
    pub const NEW_SUBFILE_TYPE: u16 = 254;
    pub const IMAGE_WIDTH: u16 = 256;
    pub const IMAGE_LENGTH: u16 = 257;
    pub const BITS_PER_SAMPLE: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const DOCUMENT_NAME: u16 = 269;
    pub const IMAGE_DESCRIPTION: u16 = 270;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const SAMPLES_PER_PIXEL: u16 = 277;
    pub const ROWS_PER_STRIP: u16 = 278;
    pub const STRIP_BYTE_COUNTS: u16 = 279;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const PLANAR_CONFIGURATION: u16 = 284;
    pub const PAGE_NAME: u16 = 285;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const SOFTWARE: u16 = 305;
    pub const DATE_TIME: u16 = 306;
    pub const ARTIST: u16 = 315;
    pub const HOST_COMPUTER: u16 = 316;
    pub const PREDICTOR: u16 = 317;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_LENGTH: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_BYTE_COUNTS: u16 = 325;
    pub const SUB_IFDS: u16 = 330;
    pub const EXTRA_SAMPLES: u16 = 338;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const JPEG_TABLES: u16 = 347;
    pub const XMP: u16 = 700;
    pub const COPYRIGHT: u16 = 33432;
    pub const ICC_PROFILE: u16 = 34675;
    pub const NDPI_VERSION: u16 = 65420;
    pub const NDPI_SOURCE_LENS: u16 = 65421;
    pub const NDPI_Z_OFFSET: u16 = 65424;
    pub const NDPI_MCU_STARTS: u16 = 65426;
    pub const NDPI_REFERENCE: u16 = 65427;
    pub const NDPI_AUTH_CODE: u16 = 65428;
    pub const NDPI_MCU_STARTS_HIGH: u16 = 65432;
    pub const NDPI_SERIAL_NUMBER: u16 = 65442;
    pub const NDPI_PROPERTIES: u16 = 65449;
}

/// Most pages in a file; the deepest real pyramids have a few dozen.
const MAX_PAGES: usize = 4096;
/// Most tags in a page; real pages have a few dozen.
const MAX_ENTRIES: u64 = 4096;
/// Longest text that is read, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// An open TIFF file.
pub struct Tiff {
    /// Where its bytes come from.
    pub source: Source,
    /// Byte order of the file, and of its 16-bit samples.
    pub big_endian: bool,
    big: bool,
    /// Whether directories have NDPI's layout.
    ndpi: bool,
    /// Pages in the order of their chain.
    pub pages: Vec<Page>,
}

/// One page (image file directory).
#[derive(Clone, Debug, Default)]
pub struct Page {
    entries: BTreeMap<u16, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: u16,
    count: u64,
    /// The value field itself: 4 bytes in a classic file, 8 in a BigTIFF; in NDPI its high half from after the directory.
    value: [u8; 8],
}

impl Entry {
    /// Bytes of one value of this type, where the type is known.
    fn size(&self) -> Option<u64> {
        Some(match self.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => return None,
        })
    }
}

impl Page {
    /// Whether the page has this tag.
    #[must_use]
    pub fn has(&self, tag: u16) -> bool {
        self.entries.contains_key(&tag)
    }

    /// This page with one of its tags only, for a value that is read later or never.
    #[must_use]
    pub fn only(&self, tag: u16) -> Page {
        Page { entries: self.entries.get(&tag).map(|entry| (tag, *entry)).into_iter().collect() }
    }
}

/// Whether a file that starts with `head` (4 bytes or more) claims to be a TIFF.
#[must_use]
pub fn is_tiff(head: &[u8]) -> bool {
    matches!(head.get(..4), Some(b"II\x2a\0" | b"MM\0\x2a" | b"II\x2b\0" | b"MM\0\x2b"))
}

impl Tiff {
    /// Reads the header and all pages' directories.
    ///
    /// # Errors
    /// [`Error::NotASlide`] where the file is no TIFF, [`Error::Damaged`] where a directory breaks the rules.
    pub fn open(source: Source) -> Result<Self> {
        let mut bytes = Vec::new();
        let head = source.length().min(16) as usize;
        source.read(0, head, &mut bytes).map_err(Error::Read)?;
        if !is_tiff(&bytes) {
            return Err(Error::NotASlide("no TIFF header".into()));
        }
        let big_endian = bytes[0] == b'M';
        let big = bytes[2] == 0x2b || bytes[3] == 0x2b;
        let mut tiff = Tiff { source, big_endian, big, ndpi: false, pages: Vec::new() };
        let short = || Error::Damaged("the TIFF header is cut short".into());
        let mut next = if big {
            if bytes.len() < 16 {
                return Err(short());
            }
            tiff.number(&bytes[8..16])
        } else {
            if bytes.len() < 8 {
                return Err(short());
            }
            tiff.number(&bytes[4..8])
        };
        if !big && !big_endian && bytes.len() >= 12 {
            // NDPI's first offset has 8 bytes. In another file they lead nowhere, or to a directory without NDPI's mark.
            let first = tiff.number(&bytes[4..12]);
            tiff.ndpi = true;
            tiff.ndpi = first != 0 && tiff.directory(first).is_ok_and(|(page, _)| page.has(tag::NDPI_VERSION));
            if tiff.ndpi {
                next = first;
            }
        }
        let mut seen = HashSet::new();
        while next != 0 {
            let number = tiff.pages.len();
            if !seen.insert(next) {
                return Err(Error::Damaged(format!("TIFF page {number} leads back to an earlier page")));
            }
            if number == MAX_PAGES {
                return Err(Error::Damaged(format!("more than {MAX_PAGES} TIFF pages")));
            }
            let (page, after) = tiff
                .directory(next)
                .map_err(|why| Error::Damaged(format!("TIFF page {number} (at byte {next}): {why}")))?;
            tiff.pages.push(page);
            next = after;
        }
        if tiff.pages.is_empty() {
            return Err(Error::Damaged("a TIFF without pages".into()));
        }
        Ok(tiff)
    }

    /// The pages that a page names as its own (tag 330), such as an OME-TIFF's reduced levels; their own are not followed.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a directory breaks the rules.
    pub fn sub_pages(&self, page: &Page) -> Result<Vec<Page>> {
        let offsets = self.numbers(page, tag::SUB_IFDS, MAX_PAGES as u64).map_err(Error::Damaged)?.unwrap_or_default();
        let page = |offset: &u64| {
            let read = self.directory(*offset);
            read.map(|(page, _)| page).map_err(|why| Error::Damaged(format!("TIFF page at byte {offset}: {why}")))
        };
        offsets.iter().map(page).collect()
    }

    fn directory(&self, offset: u64) -> Result<(Page, u64), String> {
        let (count_size, entry_size, next_size) = match (self.big, self.ndpi) {
            (true, _) => (8, 20, 8),
            (_, true) => (2, 12, 8),
            _ => (2, 12, 4),
        };
        let mut bytes = Vec::new();
        let mut read = |at: u64, count: u64| -> Result<Vec<u8>, String> {
            self.source.read(at, count as usize, &mut bytes).map_err(|e| e.to_string())?;
            Ok(bytes.clone())
        };
        let count = self.number(&read(offset, count_size)?);
        if count == 0 || count > MAX_ENTRIES {
            return Err(format!("{count} tags"));
        }
        let at = offset.checked_add(count_size).ok_or("an impossible offset")?;
        let body = read(at, count * entry_size + next_size)?;
        // Smaller files need no high halves, and old ones have none.
        let halves = if self.ndpi && self.source.length() > u64::from(u32::MAX) {
            read(at + body.len() as u64, count * 4)?
        } else {
            Vec::new()
        };
        let mut page = Page::default();
        for (i, raw) in body.chunks_exact(entry_size as usize).take(count as usize).enumerate() {
            let tag = self.number(&raw[..2]) as u16;
            let kind = self.number(&raw[2..4]) as u16;
            let (count, field) = if self.big { (&raw[4..12], &raw[12..20]) } else { (&raw[4..8], &raw[8..12]) };
            let mut value = [0; 8];
            value[..field.len()].copy_from_slice(field);
            if let Some(half) = halves.get(i * 4..i * 4 + 4) {
                value[4..].copy_from_slice(half);
            }
            page.entries.insert(tag, Entry { kind, count: self.number(count), value });
        }
        let next = &body[(count * entry_size) as usize..];
        Ok((page, self.number(next)))
    }

    /// An unsigned number of 1, 2, 4 or 8 bytes in the file's byte order.
    fn number(&self, bytes: &[u8]) -> u64 {
        let fold = |acc: u64, b: &u8| acc << 8 | u64::from(*b);
        if self.big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    }

    /// Bytes of a value field that values may stand in.
    fn inline(&self) -> u64 {
        if self.big { 8 } else { 4 }
    }

    /// Where values stand that the field has no room for.
    fn offset(&self, entry: &Entry) -> u64 {
        self.number(&entry.value[..if self.big || self.ndpi { 8 } else { 4 }])
    }

    /// The raw bytes of a tag's values; `Ok(None)` where the page lacks it.
    fn bytes(&self, page: &Page, tag: u16, most: u64) -> Result<Option<(Vec<u8>, Entry)>, String> {
        let Some(&entry) = page.entries.get(&tag) else { return Ok(None) };
        let size = entry.size().ok_or_else(|| format!("tag {tag} has the unknown type {}", entry.kind))?;
        let total = entry.count.checked_mul(size).filter(|t| *t <= most);
        let total = total.ok_or_else(|| format!("tag {tag} has {} values", entry.count))?;
        if total <= self.inline() {
            return Ok(Some((entry.value[..total as usize].to_vec(), entry)));
        }
        let mut out = Vec::new();
        let at = self.offset(&entry);
        self.source.read(at, total as usize, &mut out).map_err(|e| format!("tag {tag}: {e}"))?;
        Ok(Some((out, entry)))
    }

    /// All values of an unsigned tag (BYTE, SHORT, LONG, LONG8, IFD), at most `most` of them; `None` where it is absent.
    ///
    /// # Errors
    /// Says which tag is damaged and how.
    pub fn numbers(&self, page: &Page, tag: u16, most: u64) -> Result<Option<Vec<u64>>, String> {
        let Some((bytes, entry)) = self.bytes(page, tag, most.saturating_mul(8))? else { return Ok(None) };
        let size = match entry.kind {
            1 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            other => return Err(format!("tag {tag} has type {other} where a whole number must be")),
        };
        if self.ndpi && entry.count == 1 && size == 4 {
            // A single number, such as a strip's offset, has a high half of its own.
            return Ok(Some(vec![self.number(&entry.value)]));
        }
        Ok(Some(bytes.chunks_exact(size).map(|b| self.number(b)).collect()))
    }

    /// The first `need` values of an unsigned tag: block tables may be longer than the image needs.
    ///
    /// # Errors
    /// Says which tag is missing, too short or damaged.
    pub fn table(&self, page: &Page, tag: u16, need: u64) -> Result<Vec<u64>, String> {
        let entry = page.entries.get(&tag).ok_or_else(|| format!("tag {tag} is missing"))?;
        if entry.count < need {
            return Err(format!("tag {tag} has {} values, {need} blocks need one each", entry.count));
        }
        // A shortened table keeps its place: where the whole one stands apart, so does its beginning.
        let apart = entry.count.saturating_mul(entry.size().unwrap_or(8)) > self.inline();
        let size = match entry.kind {
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            other => return Err(format!("tag {tag} has type {other} where a whole number must be")),
        };
        if !apart {
            return Ok(self.numbers(page, tag, need)?.unwrap_or_default().into_iter().take(need as usize).collect());
        }
        let mut bytes = Vec::new();
        let at = self.offset(entry);
        self.source.read(at, (need * size) as usize, &mut bytes).map_err(|e| format!("tag {tag}: {e}"))?;
        Ok(bytes.chunks_exact(size as usize).map(|b| self.number(b)).collect())
    }

    /// The first value of an unsigned tag, or `default` where it is absent or empty.
    ///
    /// # Errors
    /// As [`Tiff::numbers`].
    pub fn number_or(&self, page: &Page, tag: u16, default: u64) -> Result<u64, String> {
        Ok(self.numbers(page, tag, 4096)?.and_then(|v| v.first().copied()).unwrap_or(default))
    }

    /// An ASCII tag without its terminator, with invalid UTF-8 replaced; `None` where it is absent or unreadable.
    #[must_use]
    pub fn text(&self, page: &Page, tag: u16) -> Option<String> {
        let (bytes, _) = self.bytes(page, tag, MAX_TEXT).ok()??;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// A tag's raw bytes (UNDEFINED or BYTE), e.g. JPEG tables; `None` where it is absent.
    ///
    /// # Errors
    /// Says which tag is damaged and how.
    pub fn blob(&self, page: &Page, tag: u16) -> Result<Option<Vec<u8>>, String> {
        Ok(self.bytes(page, tag, MAX_TEXT)?.map(|(bytes, _)| bytes))
    }

    /// How many values a tag has; 0 where the page lacks it.
    #[must_use]
    pub fn count(&self, page: &Page, tag: u16) -> u64 {
        page.entries.get(&tag).map_or(0, |e| e.count)
    }

    /// A RATIONAL (or FLOAT, DOUBLE) tag's first value; `None` where it is absent or no number.
    #[must_use]
    pub fn rational(&self, page: &Page, tag: u16) -> Option<f64> {
        let (bytes, entry) = self.bytes(page, tag, 64).ok()??;
        match entry.kind {
            5 if bytes.len() >= 8 => Some(self.number(&bytes[..4]) as f64 / self.number(&bytes[4..8]) as f64),
            11 if bytes.len() >= 4 => Some(f64::from(f32::from_bits(self.number(&bytes[..4]) as u32))),
            12 if bytes.len() >= 8 => Some(f64::from_bits(self.number(&bytes[..8]))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A classic little-endian file of the given directories; each entry is (tag, type, count, value).
    fn file(pages: &[&[(u16, u16, u32, u32)]], last_next: u32) -> Result<Tiff> {
        let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
        for (i, entries) in pages.iter().enumerate() {
            bytes.extend((entries.len() as u16).to_le_bytes());
            for (tag, kind, count, value) in *entries {
                bytes.extend(tag.to_le_bytes());
                bytes.extend(kind.to_le_bytes());
                bytes.extend(count.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            let next = if i + 1 == pages.len() { last_next } else { bytes.len() as u32 + 4 };
            bytes.extend(next.to_le_bytes());
        }
        let mut temp = tempfile::NamedTempFile::new().expect("temporary file");
        temp.write_all(&bytes).expect("writes");
        Tiff::open(Source::open(temp.path()).expect("opens"))
    }

    #[test]
    fn pages_and_values() {
        let tiff = file(&[&[(256, 3, 1, 640), (257, 4, 1, 480)], &[(256, 3, 1, 64)]], 0).expect("opens");
        assert_eq!(tiff.pages.len(), 2);
        assert_eq!(tiff.number_or(&tiff.pages[0], tag::IMAGE_WIDTH, 0), Ok(640));
        assert_eq!(tiff.number_or(&tiff.pages[0], tag::IMAGE_LENGTH, 0), Ok(480));
        assert_eq!(tiff.number_or(&tiff.pages[1], tag::IMAGE_LENGTH, 7), Ok(7));
    }

    #[test]
    fn loops_and_wild_offsets_are_refused() {
        let words = |r: Result<Tiff>| r.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words(file(&[&[(256, 3, 1, 1)]], 8)).contains("leads back"));
        assert!(words(file(&[&[(256, 3, 1, 1)]], 1 << 30)).contains("past the file's end"));
        let tiff = file(&[&[(324, 4, u32::MAX, 8)]], 0).expect("opens");
        assert!(tiff.numbers(&tiff.pages[0], 324, 100).expect_err("bounded").contains("4294967295 values"));
        let tiff = file(&[&[(324, 4, 1000, 8)]], 0).expect("opens");
        assert!(tiff.numbers(&tiff.pages[0], 324, 1000).expect_err("past the end").contains("past the file's end"));
    }
}
