//! What one DICOM file says of itself: the attributes that reading its frames needs.
//!
//! Reference: DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy Image), C.8.12.4 (its module), C.7.6.16 (functional groups).

use std::collections::BTreeSet;

use super::super::identifying::{Field, lenient};
use super::super::source::Source;
use super::identify;
use super::parse::{self, Element, PixelData, Step, Tag};
use crate::error::{Error, Result};

/// VL Whole Slide Microscopy Image Storage.
const WHOLE_SLIDE: &str = "1.2.840.10008.5.1.4.1.1.77.1.6";
/// Optical paths that are told apart; scanners write up to some dozens.
const MAX_PATHS: usize = 256;
/// Most frames whose positions are kept: a million pixels square in frames of 256 has 15 million.
const MAX_POSITIONS: usize = 1 << 24;

const SOP_CLASS: Tag = 0x0008_0016;
const IMAGE_TYPE: Tag = 0x0008_0008;
const SERIES: Tag = 0x0020_000e;
const OPTICAL_PATHS: Tag = 0x0048_0105;
const SHARED: Tag = 0x5200_9229;
const PER_FRAME: Tag = 0x5200_9230;

/// What an image of a series is, by the third value of ImageType.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A level of the pyramid.
    Volume,
    /// The whole slide, small.
    Thumbnail,
    /// The label; never read.
    Label,
    /// The slide with its label from afar; never read.
    Overview,
    /// Something else; never read.
    #[default]
    Other,
}

impl Kind {
    /// The name among associated images, OpenSlide's where it has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Volume => "volume",
            Kind::Thumbnail => "thumbnail",
            Kind::Label => "label",
            Kind::Overview => "macro",
            Kind::Other => "unnamed",
        }
    }
}

/// Enough to tell series apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Brief {
    /// Whether it is a whole-slide image.
    pub whole_slide: bool,
    /// What it shows.
    pub kind: Kind,
    /// The series that it belongs to.
    pub series: String,
}

/// Where a frame of a sparse image lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Column of its left edge in the total pixel matrix, counted from 1.
    pub column: i32,
    /// Row of its upper edge, counted from 1.
    pub row: i32,
    /// Its height above the slide, µm.
    pub z: f32,
    /// Its optical path, counted from 1 in the order that frames name them; 0 where it names none.
    pub path: u16,
}

const NOWHERE: Position = Position { column: 0, row: 0, z: 0.0, path: 0 };

/// One instance's header.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// What tells series apart.
    pub brief: Brief,
    /// Whether the fourth value of ImageType says that it was computed from a finer image.
    pub resampled: bool,
    /// Transfer syntax UID.
    pub transfer_syntax: String,
    /// Where its pixel data begins.
    pub pixel_data: Option<PixelData>,
    /// Where the extended offset table lies, and its bytes.
    pub extended_offsets: Option<(u64, u64)>,
    /// Where the frames' lengths lie, and their bytes.
    pub extended_lengths: Option<(u64, u64)>,
    /// Its own UID.
    pub instance: String,
    /// Its number in the series.
    pub instance_number: i64,
    /// The pyramid that it is a level of.
    pub pyramid: String,
    /// The coordinate system that it lies in.
    pub frame_of_reference: String,
    /// The concatenation that it is a part of.
    pub concatenation: String,
    /// Frames in the parts before it.
    pub concatenation_offset: Option<i64>,
    /// Parts of the concatenation; 0 where it is not stated.
    pub concatenation_total: i64,
    /// `TILED_FULL` or `TILED_SPARSE`.
    pub organisation: String,
    /// Focal planes.
    pub focal_planes: i64,
    /// Width of the whole image.
    pub total_columns: i64,
    /// Height of the whole image.
    pub total_rows: i64,
    /// Width of a frame.
    pub columns: i64,
    /// Height of a frame.
    pub rows: i64,
    /// Frames.
    pub frames: i64,
    /// Samples a pixel.
    pub samples: i64,
    /// What they mean.
    pub photometric: String,
    /// 0 chunky, 1 planes.
    pub planar: i64,
    /// Bits that a sample takes.
    pub bits_allocated: i64,
    /// Bits that it uses.
    pub bits_stored: i64,
    /// 0 unsigned, 1 signed.
    pub representation: i64,
    /// Distance of rows and of columns, mm.
    pub spacing: Option<(f64, f64)>,
    /// Width and height of what was imaged, mm.
    pub volume: (Option<f64>, Option<f64>),
    /// Magnification.
    pub objective_power: Option<f64>,
    /// Items of the optical path sequence.
    pub paths: u32,
    /// Whether an optical path has an ICC profile.
    pub icc_profile: bool,
    /// Whether somebody wrote into the pixels.
    pub annotated: bool,
    /// Attributes that may identify.
    pub identifying: BTreeSet<Field>,
    /// Optical paths in the order that frames name them.
    pub path_names: Vec<String>,
}

/// Reads as much of a file as tells its series.
///
/// # Errors
/// As [`parse::walk`].
pub fn brief(source: &Source) -> Result<Brief> {
    let mut header = Header::default();
    parse::walk(source, |steps, element, cursor| {
        if !steps.is_empty() {
            return Ok(true);
        }
        if matches!(element.tag, SOP_CLASS | IMAGE_TYPE | SERIES) {
            let value = cursor.value(element)?.to_vec();
            header.plain(element, &value);
        }
        Ok(element.tag < SERIES)
    })?;
    Ok(header.brief)
}

/// Reads a file's header.
///
/// # Errors
/// As [`parse::walk`]; [`Error::Unsupported`] for pixels that are no integers.
pub fn read(source: &Source) -> Result<(Header, Vec<Position>)> {
    let mut header = Header { focal_planes: 1, frames: 1, bits_allocated: 8, ..Header::default() };
    let mut positions = Vec::new();
    let mut stored = None;
    let end = parse::walk(source, |steps, element, cursor| {
        if matches!(element.tag, 0x7fe0_0001 | 0x7fe0_0002) && steps.is_empty() {
            let table = Some((element.offset, element.length));
            if element.tag == 0x7fe0_0001 {
                header.extended_offsets = table;
            } else {
                header.extended_lengths = table;
            }
            return Ok(true);
        }
        if matches!(element.tag, 0x7fe0_0008 | 0x7fe0_0009) {
            return Err(Error::Unsupported("DICOM pixels that are no integers".into()));
        }
        let value = cursor.value(element)?;
        // A position is four or five small elements, and there may be a million of them: no names among these.
        if steps.first().is_none_or(|s| s.sequence != PER_FRAME)
            && let Some(name) = identify::name_of(element, value)
        {
            header.identifying.insert(Field::new(name, lenient(value)));
        }
        match steps {
            [] if element.tag == 0x0028_0101 => stored = parse::number(value, element.vr, false),
            [] => header.plain(element, value),
            [Step { sequence: OPTICAL_PATHS, item }] => {
                header.paths = header.paths.max(item.saturating_add(1));
                match element.tag {
                    0x0028_2000 => header.icc_profile |= element.length > 0,
                    0x0048_0112 if header.objective_power.is_none() => header.objective_power = decimal(value),
                    _ => {}
                }
            }
            [Step { sequence: SHARED, .. }, Step { sequence: 0x0028_9110, .. }] => header.measures(element, value),
            [Step { sequence: PER_FRAME, item }, inner] => {
                header.frame(*item, inner, element, value, &mut positions)?
            }
            _ => {}
        }
        Ok(true)
    })?;
    header.bits_stored = stored.unwrap_or(header.bits_allocated);
    header.transfer_syntax = end.transfer_syntax;
    header.pixel_data = end.pixel_data;
    Ok((header, positions))
}

impl Header {
    fn plain(&mut self, element: &Element, value: &[u8]) {
        let number = || parse::number(value, element.vr, false).unwrap_or(0);
        let text = || parse::text(value);
        match element.tag {
            IMAGE_TYPE => {
                let text = text();
                let mut values = text.split('\\').map(str::trim).skip(2);
                self.brief.kind = match values.next() {
                    Some("VOLUME") => Kind::Volume,
                    Some("THUMBNAIL") => Kind::Thumbnail,
                    Some("LABEL") => Kind::Label,
                    Some("OVERVIEW" | "LOCALIZER") => Kind::Overview,
                    _ => Kind::Other,
                };
                self.resampled = values.next() == Some("RESAMPLED");
            }
            SOP_CLASS => self.brief.whole_slide = text() == WHOLE_SLIDE,
            SERIES => self.brief.series = text(),
            0x0008_0018 => self.instance = text(),
            0x0008_0019 => self.pyramid = text(),
            0x0020_0013 => self.instance_number = parse::number(value, element.vr, true).unwrap_or(0),
            0x0020_0052 => self.frame_of_reference = text(),
            0x0020_9161 => self.concatenation = text(),
            0x0020_9163 => self.concatenation_total = number(),
            0x0020_9228 => self.concatenation_offset = Some(number()),
            0x0020_9311 => self.organisation = text(),
            0x0028_0002 => self.samples = number(),
            0x0028_0004 => self.photometric = text(),
            0x0028_0006 => self.planar = number(),
            0x0028_0008 => self.frames = parse::number(value, element.vr, true).unwrap_or(0),
            0x0028_0010 => self.rows = number(),
            0x0028_0011 => self.columns = number(),
            0x0028_0100 => self.bits_allocated = number(),
            0x0028_0103 => self.representation = number(),
            0x0028_0301 => self.annotated = text() == "YES",
            0x0048_0001 => self.volume.0 = single(value),
            0x0048_0002 => self.volume.1 = single(value),
            0x0048_0006 => self.total_columns = number(),
            0x0048_0007 => self.total_rows = number(),
            0x0048_0303 => self.focal_planes = number(),
            _ => {}
        }
    }

    /// PixelSpacing: the distance of rows, then that of columns.
    fn measures(&mut self, element: &Element, value: &[u8]) {
        if element.tag == 0x0028_0030 && self.spacing.is_none() {
            let text = parse::text(value);
            let mut values = text.split('\\').map(|v| v.trim().parse().ok());
            self.spacing = values.next().flatten().zip(values.next().flatten());
        }
    }

    /// What is stated of frame `item`.
    fn frame(
        &mut self,
        item: u32,
        inner: &Step,
        element: &Element,
        value: &[u8],
        positions: &mut Vec<Position>,
    ) -> Result<()> {
        match (inner.sequence, element.tag) {
            (0x0028_9110, _) => {
                self.measures(element, value);
                return Ok(());
            }
            (0x0048_021a, 0x0048_021e | 0x0048_021f | 0x0040_074a) | (0x0048_0207, 0x0048_0106) => {}
            _ => return Ok(()),
        }
        // Items follow each other in the file, so this grows with what was read.
        if item as usize >= MAX_POSITIONS {
            return Err(Error::Damaged(format!("more than {MAX_POSITIONS} frames with a position")));
        }
        positions.resize(item as usize + 1, NOWHERE);
        let Some(position) = positions.last_mut() else { return Ok(()) };
        match element.tag {
            // Signed, also where the file leaves out the value representation.
            0x0048_021e => position.column = parse::number(value, element.vr, false).map_or(0, |n| n as i32),
            0x0048_021f => position.row = parse::number(value, element.vr, false).map_or(0, |n| n as i32),
            0x0040_074a => position.z = decimal(value).map_or(0.0, |z| z as f32),
            _ => {
                let name = parse::text(value);
                let known = self.path_names.iter().position(|n| *n == name);
                let path = known.unwrap_or_else(|| {
                    self.path_names.push(name);
                    self.path_names.len() - 1
                });
                if path >= MAX_PATHS {
                    return Err(Error::Unsupported(format!("more than {MAX_PATHS} optical paths")));
                }
                position.path = path as u16 + 1;
            }
        }
        Ok(())
    }
}

fn decimal(value: &[u8]) -> Option<f64> {
    parse::text(value).split('\\').next()?.trim().parse().ok()
}

fn single(value: &[u8]) -> Option<f64> {
    value.try_into().ok().map(|v| f64::from(f32::from_le_bytes(v)))
}
