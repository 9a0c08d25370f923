//! The data set of a DICOM file, element by element, up to the pixel data: nothing is loaded that nobody asked for.
//!
//! Every step moves forward in the file by at least eight bytes, a value or an item must end within what encloses it and
//! within the file, and nesting is bounded. So a header costs time in proportion to its bytes, and memory for wanted values.
//!
//! Reference: DICOM PS3.5 section 7 (data set), annex A.4 (encapsulated pixel data), PS3.10 section 7 (file meta).

use std::io::ErrorKind;

use super::super::source::Source;
use crate::error::{Error, Result};

/// A tag, group above element.
pub type Tag = u32;

/// Pixel data; the header ends before it.
pub const PIXEL_DATA: Tag = 0x7fe0_0010;
/// Begins an item of a sequence, or a fragment of encapsulated pixel data.
pub const ITEM: Tag = 0xfffe_e000;
const ITEM_END: Tag = 0xfffe_e00d;
const SEQUENCE_END: Tag = 0xfffe_e0dd;
const TRANSFER_SYNTAX: Tag = 0x0002_0010;

/// Sequences within sequences; real headers have about five.
const MAX_DEPTH: usize = 32;
/// Longest value that is ever loaded: texts, numbers and UIDs; profiles, tables and pictures are passed over.
const MAX_VALUE: u64 = 1 << 10;
/// Longest header: a million frames with a position each have a fifth of this.
const MAX_HEADER: u64 = 1 << 30;

/// Sequences that matter here: in implicit VR nothing in the file says that they are some.
const SEQUENCES: &[Tag] = &[
    0x0008_1110, // ReferencedStudySequence
    0x0018_a001, // ContributingEquipmentSequence
    0x0028_9110, // PixelMeasuresSequence
    0x0040_0560, // SpecimenDescriptionSequence
    0x0048_0105, // OpticalPathSequence
    0x0048_0207, // OpticalPathIdentificationSequence
    0x0048_021a, // PlanePositionSlideSequence
    0x5200_9229, // SharedFunctionalGroupsSequence
    0x5200_9230, // PerFrameFunctionalGroupsSequence
];

/// A place in nested sequences: a sequence and the number of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The sequence.
    pub sequence: Tag,
    /// The item, counted from 0.
    pub item: u32,
}

/// An element with a plain value.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    /// What it is.
    pub tag: Tag,
    /// Its value representation; blank where the transfer syntax leaves it out.
    pub vr: [u8; 2],
    /// Where its value lies in the file.
    pub offset: u64,
    /// Bytes of the value.
    pub length: u64,
}

/// Where the pixel data begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelData {
    /// First byte after the element's header.
    pub offset: u64,
    /// Bytes of native pixel data; `None` for encapsulated.
    pub length: Option<u64>,
}

/// What [`walk`] found at the end.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The transfer syntax UID.
    pub transfer_syntax: String,
    /// The pixel data, unless there is none or the visitor stopped before.
    pub pixel_data: Option<PixelData>,
}

/// Whether the first bytes are a DICOM file's.
#[must_use]
pub fn is_dicom(head: &[u8]) -> bool {
    head.get(128..132) == Some(b"DICM")
}

/// Reads forward through a file, a piece of it in memory.
pub struct Cursor<'a> {
    source: &'a Source,
    /// The next byte.
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a Source, at: u64) -> Self {
        Cursor { source, at, window: Vec::new(), window_at: 0 }
    }

    /// The bytes from `at`, `count` of them, small.
    fn peek(&mut self, at: u64, count: usize) -> Result<&[u8]> {
        let within = |c: &Self| at.checked_sub(c.window_at).filter(|d| d + count as u64 <= c.window.len() as u64);
        if within(self).is_none() {
            // Small at first (most headers need one read), larger where a header goes on and on.
            let piece = (self.window.len() as u64 * 2).clamp(16 << 10, 256 << 10).max(count as u64);
            let piece = piece.min(self.source.length().saturating_sub(at)).max(count as u64);
            self.window_at = at;
            if let Err(e) = self.source.read(at, piece as usize, &mut self.window) {
                self.window.clear();
                return Err(match e.kind() {
                    ErrorKind::UnexpectedEof => Error::Damaged("the DICOM header ends too early".into()),
                    _ => Error::Read(e),
                });
            }
        }
        let from = within(self).unwrap_or(0) as usize;
        Ok(&self.window[from..from + count])
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.peek(self.at, N)?);
        self.at += N as u64;
        Ok(out)
    }

    fn tag(&mut self) -> Result<Tag> {
        let [a, b, c, d] = self.take::<4>()?;
        Ok(Tag::from(u16::from_le_bytes([a, b])) << 16 | Tag::from(u16::from_le_bytes([c, d])))
    }

    /// An element's value; of a long one the first KiB.
    ///
    /// # Errors
    /// [`Error::Read`]; the value lies within the file.
    pub fn value(&mut self, element: &Element) -> Result<&[u8]> {
        self.peek(element.offset, element.length.min(MAX_VALUE) as usize)
    }

    /// Value representation and length after a tag; `None` is the undefined length.
    fn header(&mut self, implicit: bool) -> Result<([u8; 2], Option<u64>)> {
        let defined = |length: [u8; 4]| Some(u32::from_le_bytes(length)).filter(|l| *l != u32::MAX).map(u64::from);
        if implicit {
            return Ok(([b' '; 2], defined(self.take()?)));
        }
        let vr: [u8; 2] = self.take()?;
        match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV" => {
                self.take::<2>()?;
                Ok((vr, defined(self.take()?)))
            }
            [b'A'..=b'Z', b'A'..=b'Z'] => Ok((vr, Some(u64::from(u16::from_le_bytes(self.take()?))))),
            _ => Err(Error::Damaged("a DICOM element without value representation".into())),
        }
    }

    /// Passes over the fragments of pixel data that is not the file's own (an icon's).
    fn skip_fragments(&mut self, limit: u64) -> Result<()> {
        loop {
            let tag = self.tag()?;
            let length = u64::from(u32::from_le_bytes(self.take()?));
            match tag {
                SEQUENCE_END => return Ok(()),
                ITEM if self.at + length <= limit => self.at += length,
                _ => return Err(Error::Damaged("DICOM fragments without end".into())),
            }
        }
    }
}

/// An open sequence or item.
struct Open {
    item: bool,
    /// Where it ends; `None` where a delimiter ends it.
    end: Option<u64>,
    /// Where it must end at the latest.
    limit: u64,
    implicit: bool,
}

/// Shows `visit` every element with a plain value, file meta and nested ones included, up to the pixel data or until it
/// returns `false`.
///
/// # Errors
/// [`Error::NotASlide`] where this is no DICOM file, [`Error::Damaged`] for broken rules, [`Error::Unsupported`] for the
/// transfer syntaxes that pack or turn the header itself (deflated, big-endian), [`Error::Read`].
pub fn walk(source: &Source, mut visit: impl FnMut(&[Step], &Element, &mut Cursor) -> Result<bool>) -> Result<End> {
    let mut cursor = Cursor::new(source, 0);
    if source.length() < 132 || !is_dicom(cursor.peek(0, 132)?) {
        return Err(Error::NotASlide("no DICOM file".into()));
    }
    cursor.at = 132;
    let mut end = End::default();
    if !file_meta(&mut cursor, &mut end, &mut visit)? {
        return Ok(end);
    }
    let implicit = match end.transfer_syntax.as_str() {
        "1.2.840.10008.1.2" => true,
        "1.2.840.10008.1.2.1.99" => return Err(Error::Unsupported("a deflated DICOM data set".into())),
        "1.2.840.10008.1.2.2" => return Err(Error::Unsupported("a big-endian DICOM data set".into())),
        "" => return Err(Error::Damaged("a DICOM file without transfer syntax".into())),
        _ => false,
    };
    let mut open: Vec<Open> = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    loop {
        // What ends by its length ends here.
        while let Some(top) = open.last().filter(|o| o.end == Some(cursor.at)) {
            if !top.item {
                steps.pop();
            }
            open.pop();
        }
        let limit = open.last().map_or(source.length(), |o| o.limit);
        let (in_sequence, implicit) = open.last().map_or((false, implicit), |o| (!o.item, o.implicit));
        if cursor.at >= limit {
            // A file without pixel data; within something, it has been cut short or its lengths are wrong.
            return if open.is_empty() { Ok(end) } else { Err(outside()) };
        }
        if cursor.at > MAX_HEADER {
            return Err(Error::Damaged("a DICOM header of over 1 GiB".into()));
        }
        let tag = cursor.tag()?;
        match tag {
            ITEM | ITEM_END | SEQUENCE_END => {
                let length = u32::from_le_bytes(cursor.take()?);
                match (tag, open.last()) {
                    (ITEM, Some(top)) if !top.item => {
                        let end = (length != u32::MAX).then(|| cursor.at + u64::from(length));
                        let item = Open { item: true, end, limit: end.unwrap_or(limit), implicit };
                        if item.limit > limit {
                            return Err(outside());
                        }
                        open.push(item);
                        if let Some(step) = steps.last_mut() {
                            step.item = step.item.wrapping_add(1);
                        }
                    }
                    (ITEM_END, Some(top)) if top.item && top.end.is_none() => drop(open.pop()),
                    (SEQUENCE_END, Some(top)) if !top.item && top.end.is_none() => {
                        open.pop();
                        steps.pop();
                    }
                    _ => return Err(Error::Damaged("a DICOM item or delimiter where none can be".into())),
                }
            }
            _ if in_sequence => return Err(Error::Damaged("a DICOM sequence without items".into())),
            _ => {
                let (vr, length) = cursor.header(implicit)?;
                if tag == PIXEL_DATA && open.is_empty() {
                    end.pixel_data = Some(PixelData { offset: cursor.at, length });
                    return Ok(end);
                }
                if tag == PIXEL_DATA && length.is_none() {
                    cursor.skip_fragments(limit)?;
                    continue;
                }
                let last = length.map(|length| cursor.at + length);
                if last.is_some_and(|last| last > limit) {
                    return Err(outside());
                }
                let is_sequence = &vr == b"SQ" || length.is_none() || (implicit && SEQUENCES.contains(&tag));
                if is_sequence {
                    if !matches!(&vr, b"SQ" | b"UN" | b"  ") {
                        return Err(Error::Damaged("a DICOM value of undefined length".into()));
                    }
                    if open.len() >= MAX_DEPTH * 2 {
                        return Err(Error::Damaged(format!("DICOM sequences more than {MAX_DEPTH} deep")));
                    }
                    steps.push(Step { sequence: tag, item: u32::MAX });
                    // An unknown value of undefined length is a sequence in implicit VR (PS3.5 section 6.2.2).
                    let implicit = implicit || &vr == b"UN";
                    open.push(Open { item: false, end: last, limit: last.unwrap_or(limit), implicit });
                    continue;
                }
                let element = Element { tag, vr, offset: cursor.at, length: length.unwrap_or(0) };
                if !visit(&steps, &element, &mut cursor)? {
                    return Ok(end);
                }
                cursor.at = element.offset + element.length;
            }
        }
    }
}

fn outside() -> Error {
    Error::Damaged("a DICOM value reaches past its end".into())
}

/// The elements of group 2, always in explicit VR; `false` where the visitor has seen enough.
fn file_meta(
    cursor: &mut Cursor,
    end: &mut End,
    visit: &mut impl FnMut(&[Step], &Element, &mut Cursor) -> Result<bool>,
) -> Result<bool> {
    while cursor.at < cursor.source.length() {
        let start = cursor.at;
        let tag = cursor.tag()?;
        if tag >> 16 != 2 {
            cursor.at = start;
            break;
        }
        let (vr, length) = cursor.header(false)?;
        let element = Element { tag, vr, offset: cursor.at, length: length.ok_or_else(outside)? };
        if !cursor.source.holds(element.offset, element.length) {
            return Err(outside());
        }
        if tag == TRANSFER_SYNTAX {
            end.transfer_syntax = text(cursor.value(&element)?);
        }
        if !visit(&[], &element, cursor)? {
            return Ok(false);
        }
        cursor.at = element.offset + element.length;
    }
    Ok(true)
}

/// A text value without its padding.
#[must_use]
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_matches([' ', '\0']).to_string()
}

/// A whole number, written as text (IS) or in two, four or eight bytes.
#[must_use]
pub fn number(value: &[u8], vr: [u8; 2], as_text: bool) -> Option<i64> {
    if as_text {
        return text(value).split('\\').next()?.trim().parse().ok();
    }
    let signed = matches!(&vr, b"SL" | b"SS");
    match *value {
        [a, b] if signed => Some(i64::from(i16::from_le_bytes([a, b]))),
        [a, b] => Some(i64::from(u16::from_le_bytes([a, b]))),
        [a, b, c, d] if signed => Some(i64::from(i32::from_le_bytes([a, b, c, d]))),
        [a, b, c, d] => Some(i64::from(u32::from_le_bytes([a, b, c, d]))),
        _ => None,
    }
}
