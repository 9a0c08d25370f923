//! The frames of one DICOM file: where each lies, and its bytes.
//!
//! Native frames follow each other. Encapsulated ones are fragments with an item header each; where they begin is in the
//! extended offset table, in the basic one, or must be found by walking from header to header. That is done when the first
//! frame is wanted, so that a slide opens without it.
//!
//! Reference: DICOM PS3.5 annex A.4, PS3.3 C.7.6.3 (extended offset table).

use std::io::{self, ErrorKind};
use std::sync::OnceLock;

use super::super::source::Source;
use super::header::Header;
use super::parse::ITEM;
use crate::error::{Error, Result};

/// Fragments that are walked over at most.
const MAX_FRAGMENTS: usize = 1 << 25;

/// Where a table lies in the file, and its bytes.
type Place = (u64, u64);

/// Where the frames lie.
#[derive(Debug)]
enum Index {
    /// Begin and end of each frame, item headers within or not.
    Spans { spans: Vec<(u64, u64)>, headers: bool },
    /// The first begins at `first`; each has `bytes`.
    Native { first: u64, bytes: u64 },
}

/// One file's frames.
pub struct Frames {
    source: Source,
    count: u64,
    pixels: u64,
    extended: Option<(Place, Option<Place>)>,
    index: OnceLock<Result<Index, String>>,
}

impl Frames {
    /// Frames of `native_bytes` each, or encapsulated ones.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the header and the pixel data contradict each other.
    pub fn new(source: Source, header: &Header, native_bytes: Option<u64>) -> Result<Self> {
        let damaged = |why: &str| Err(Error::Damaged(why.into()));
        let Some(pixel_data) = header.pixel_data else { return damaged("a DICOM image without pixel data") };
        let count = u64::try_from(header.frames).unwrap_or(0);
        let index = OnceLock::new();
        match (native_bytes, pixel_data.length) {
            (Some(bytes), Some(length)) => {
                if bytes.checked_mul(count).is_none_or(|all| all > length) {
                    return damaged("the DICOM pixel data is shorter than its frames");
                }
                index.get_or_init(|| Ok(Index::Native { first: pixel_data.offset, bytes }));
            }
            (None, None) => {}
            (Some(_), None) => return damaged("encapsulated DICOM pixel data where the transfer syntax has none"),
            (None, Some(_)) => return damaged("native DICOM pixel data where the transfer syntax has fragments"),
        }
        let extended = header.extended_offsets.map(|offsets| (offsets, header.extended_lengths));
        Ok(Frames { source, count, pixels: pixel_data.offset, extended, index })
    }

    /// Frames that the header states.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first bytes of the first frame, up to `count`; none where they cannot be read.
    #[must_use]
    pub fn first_bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let first = match self.index.get() {
            Some(Ok(Index::Native { first, .. })) => Some(*first),
            _ => self.first_item().ok().and_then(|first| first.checked_add(8)),
        };
        let there = first.map_or(0, |first| self.source.length().saturating_sub(first));
        if first.is_none_or(|first| self.source.read(first, there.min(count as u64) as usize, &mut bytes).is_err()) {
            bytes.clear();
        }
        bytes
    }

    /// Fetches these frames in the background, as [`Source::will_need`] does.
    pub fn will_need(&self, numbers: impl Iterator<Item = u64>) {
        let Ok(index) = self.index.get_or_init(|| self.find()) else { return };
        let place = |number: u64| match index {
            Index::Native { first, bytes } => (number < self.count).then(|| (first + number * bytes, *bytes)),
            Index::Spans { spans, .. } => spans.get(number as usize).map(|(begin, end)| (*begin, end - begin)),
        };
        self.source.will_need(numbers.filter_map(place).collect());
    }

    /// Reads frame `number` to `out` (cleared first), its fragments put together.
    ///
    /// # Errors
    /// The inner one says in words what is wrong with the file, the outer one that it cannot be read.
    pub fn read(&self, number: u64, most_bytes: u64, out: &mut Vec<u8>) -> io::Result<Result<(), String>> {
        let index = self.index.get_or_init(|| self.find());
        let (begin, end, headers) = match index {
            Err(why) => return Ok(Err(why.clone())),
            Ok(Index::Native { first, bytes }) if number < self.count => {
                (first + number * bytes, first + (number + 1) * bytes, false)
            }
            Ok(Index::Native { .. }) => return Ok(Err(format!("frame {} is not in the file", number + 1))),
            Ok(Index::Spans { spans, headers }) => match spans.get(number as usize) {
                Some((begin, end)) => (*begin, *end, *headers),
                None => return Ok(Err(format!("frame {} is not in the file", number + 1))),
            },
        };
        let bytes = end - begin;
        // A frame that is many times its own pixels in size is damage, and would be read into memory.
        if bytes > most_bytes {
            return Ok(Err(format!("frame {} has {bytes} bytes", number + 1)));
        }
        match self.source.read(begin, bytes as usize, out) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(Err(e.to_string())),
            Err(e) => Err(e),
            Ok(()) if headers => Ok(join_fragments(out)),
            Ok(()) => Ok(Ok(())),
        }
    }

    /// Tag and length of an item, and the first four bytes of what it holds; `None` at the file's end.
    fn item(&self, at: u64) -> Result<Option<(u32, u32, [u8; 4])>, String> {
        let mut bytes = Vec::new();
        let there = self.source.length().saturating_sub(at).min(12) as usize;
        if there < 8 {
            return Ok(None);
        }
        self.source.read(at, there, &mut bytes).map_err(|e| e.to_string())?;
        bytes.resize(12, 0);
        let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Ok(Some((word(0).rotate_left(16), word(4), word(8).to_le_bytes())))
    }

    /// Where the first fragment's header lies: after the basic offset table.
    fn first_item(&self) -> Result<u64, String> {
        match self.item(self.pixels)? {
            Some((ITEM, length, _)) if self.source.holds(self.pixels + 8, u64::from(length)) => {
                Ok(self.pixels + 8 + u64::from(length))
            }
            _ => Err("the DICOM pixel data does not begin with an offset table".into()),
        }
    }

    fn find(&self) -> Result<Index, String> {
        let first = self.first_item()?;
        if let Some(index) = self.extended_table(first)? {
            return Ok(index);
        }
        if let Some(index) = self.basic_table(first)? {
            return Ok(index);
        }
        self.walk(first)
    }

    /// Numbers of `width` bytes, if there is one for each frame.
    fn table(&self, (offset, length): (u64, u64), width: u64) -> Result<Option<Vec<u64>>, String> {
        if self.count == 0 || Some(length) != self.count.checked_mul(width) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.source.read(offset, length as usize, &mut bytes).map_err(|e| e.to_string())?;
        let number = |b: &[u8]| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        Ok(Some(bytes.chunks_exact(width as usize).map(number).collect()))
    }

    fn extended_table(&self, first: u64) -> Result<Option<Index>, String> {
        let Some((offsets, lengths)) = self.extended else { return Ok(None) };
        let Some(offsets) = self.table(offsets, 8)? else { return Ok(None) };
        let Some(lengths) = lengths.map(|l| self.table(l, 8)).transpose()?.flatten() else {
            return self.spans_between(first, offsets);
        };
        let place = |(offset, length): (u64, u64)| {
            let begin = first.checked_add(8)?.checked_add(offset)?;
            Some((begin, begin.checked_add(length)?))
        };
        let spans: Option<Vec<_>> = offsets.into_iter().zip(lengths).map(place).collect();
        let spans = spans.ok_or("the DICOM extended offset table points past every file's end")?;
        Ok(Some(Index::Spans { spans, headers: false }))
    }

    fn basic_table(&self, first: u64) -> Result<Option<Index>, String> {
        let (offset, length) = (self.pixels + 8, first - self.pixels - 8);
        match self.table((offset, length), 4)? {
            Some(offsets) => self.spans_between(first, offsets),
            None => Ok(None),
        }
    }

    /// Frames from each offset to the next; `None` where they are not in order (as after 4 GiB in a basic table).
    fn spans_between(&self, first: u64, offsets: Vec<u64>) -> Result<Option<Index>, String> {
        let (Some(0), Some(last)) = (offsets.first(), offsets.last()) else { return Ok(None) };
        if !offsets.is_sorted_by(|a, b| a < b) || !self.source.holds(first, *last) {
            return Ok(None);
        }
        // The last frame ends where its fragments do.
        let mut end = first + last;
        let mut fragments = 0;
        while let Some((ITEM, length, _)) = self.item(end)? {
            end += 8 + u64::from(length);
            fragments += 1;
            if fragments > MAX_FRAGMENTS {
                return Err("too many DICOM fragments".into());
            }
        }
        let mut begins = offsets.into_iter().map(|o| first + o).chain([end]);
        let mut begin = begins.next().unwrap_or(first);
        let spans = begins.map(|next| (std::mem::replace(&mut begin, next), next)).collect();
        Ok(Some(Index::Spans { spans, headers: true }))
    }

    /// Finds the frames by their fragments: one each, or each from a fragment that starts an image.
    fn walk(&self, first: u64) -> Result<Index, String> {
        let mut spans: Vec<(u64, u64)> = Vec::new();
        let mut starts = Vec::new();
        let mut at = first;
        while let Some((ITEM, length, bytes)) = self.item(at)? {
            let end = at + 8 + u64::from(length);
            starts.push(begins_image(&bytes));
            spans.push((at, end));
            at = end;
            if spans.len() > MAX_FRAGMENTS {
                return Err("too many DICOM fragments".into());
            }
        }
        let cut_short = at >= self.source.length();
        let wanted = self.count as usize;
        if spans.len() != wanted && !(cut_short && spans.len() < wanted && starts.iter().all(|s| *s)) {
            let mut joined: Vec<(u64, u64)> = Vec::new();
            for (span, start) in spans.into_iter().zip(starts) {
                match joined.last_mut() {
                    Some(last) if !start || wanted == 1 => last.1 = span.1,
                    _ => joined.push(span),
                }
            }
            if joined.len() != wanted && !cut_short {
                return Err(format!("{} frames in the DICOM pixel data, {wanted} stated", joined.len()));
            }
            spans = joined;
        }
        Ok(Index::Spans { spans, headers: true })
    }
}

/// Whether a fragment starts an image: JPEG, JPEG-LS, JPEG 2000.
fn begins_image(bytes: &[u8; 4]) -> bool {
    bytes[..3] == [0xff, 0xd8, 0xff] || *bytes == [0xff, 0x4f, 0xff, 0x51] || *bytes == [0, 0, 0, 12]
}

/// Takes the item headers out of a frame's bytes.
fn join_fragments(bytes: &mut Vec<u8>) -> Result<(), String> {
    let (mut from, mut to) = (0, 0);
    while let Some(&[g0, g1, e0, e1, l0, l1, l2, l3]) = bytes.get(from..from + 8) {
        let tag = u32::from(u16::from_le_bytes([g0, g1])) << 16 | u32::from(u16::from_le_bytes([e0, e1]));
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if tag != ITEM || length > bytes.len() - from - 8 {
            break;
        }
        bytes.copy_within(from + 8..from + 8 + length, to);
        from += 8 + length;
        to += length;
    }
    if from < bytes.len() {
        return Err("the frame's fragments do not fit its place in the offset table".into());
    }
    bytes.truncate(to);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_joined() {
        let mut bytes = b"\xfe\xff\x00\xe0\x02\0\0\0ab\xfe\xff\x00\xe0\x01\0\0\0c".to_vec();
        join_fragments(&mut bytes).expect("joins");
        assert_eq!(bytes, b"abc");
        let mut short = b"\xfe\xff\x00\xe0\x09\0\0\0ab".to_vec();
        assert!(join_fragments(&mut short).is_err());
        let mut empty = Vec::new();
        assert!(join_fragments(&mut empty).is_ok());
    }
}
