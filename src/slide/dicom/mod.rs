//! DICOM whole-slide images (VL Whole Slide Microscopy Image Storage), of many scanners and converters. Extension `.dcm`.
//!
//! Recognised by: `DICM` after the preamble; the SOP class decides whether it is a slide.
//! mpp: PixelSpacing of the finest level, otherwise ImagedVolumeWidth and -Height; power: ObjectiveLensPower.
//! Layout: a slide is the files of one SeriesInstanceUID in one directory. ImageType names each: VOLUME (and a THUMBNAIL
//! that is an exact reduction) is a level, LABEL and OVERVIEW are never read. A level may be split (concatenation).
//! TILED_FULL, TILED_SPARSE (a missing frame is background); of several focal planes the middle one is read, several
//! optical paths are refused.
//! Codings: JPEG baseline and extended of 8 bits, JPEG2000, uncompressed (grey, RGB, YBR_FULL; chunky or planes), JPEG-LS and
//! RLE of 8 bits (the same colours); explicit and implicit VR, little endian. Others are [`Error::Unsupported`] here and go
//! through OpenSlide where it knows them.
//! Reference: DICOM PS3.3 A.32.8 and C.8.12, PS3.5; openslide.org/formats/dicom.
//! Fixtures: testdata/dicom/.
//! Known differences to OpenSlide: what a JPEG stream says of its colours goes before PhotometricInterpretation (as pydicom
//! does it); JPEG-LS, RLE, implicit VR, YBR_FULL, grey, planes, 16 bits and sparse images with focal planes are read; an incomplete
//! TILED_FULL image or concatenation is damaged, not white; a thumbnail can be a level.

mod coding;
mod frames;
mod header;
mod identify;
mod level;
mod parse;
pub mod series;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::header::{Header, Kind};
use self::level::{DicomLevel, Instance};
use super::identifying::{Field, names};
use super::mpp::MppSource;
use super::source::Source;
use super::{BlockAt, BlockKind, Probe, Scale, SlideInfo, SlideReader, StatedMpp, downsample_between};
use crate::codec::Scratch;
use crate::error::{Error, Result};

pub use self::parse::is_dicom;

/// Largest relative difference between PixelSpacing and the imaged volume's size that is passed over.
const MAX_VOLUME_DISAGREEMENT: f64 = 0.05;

/// Whether this is a DICOM file. One that is a TIFF too (both headers, one file) is what its name says.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    is_dicom(&probe.head) && probe.tiff.is_none()
}

/// Opens the series that a file belongs to.
///
/// # Errors
/// [`Error::NotASlide`] for DICOM files of other kinds, [`Error::Damaged`], [`Error::Unsupported`], [`Error::Read`].
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    Ok(Box::new(DicomSlide::open(probe.path)?))
}

struct DicomSlide {
    info: SlideInfo,
    levels: Vec<DicomLevel>,
}

fn instance(path: &Path) -> Result<Instance> {
    let source = Source::open(path).map_err(Error::Read)?;
    let (header, positions) = header::read(&source)?;
    Ok(Instance { header, positions, source })
}

/// What may identify: attributes of all files of the series, label and overview among them.
///
/// # Errors
/// As [`open`], though pixels need not be readable.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let own = instance(probe.path)?;
    let mut fields = own.header.identifying;
    if !own.header.brief.series.is_empty() {
        for file in series::members(probe.path, &own.header.brief.series)? {
            fields.append(&mut instance(&file)?.header.identifying);
        }
    }
    Ok(fields.into_iter().collect())
}

impl DicomSlide {
    fn open(path: &Path) -> Result<Self> {
        let own = instance(path)?;
        if !own.header.brief.whole_slide {
            return Err(Error::NotASlide("a DICOM file of another kind than whole-slide microscopy".into()));
        }
        let series = own.header.brief.series.clone();
        let mut instances = Vec::new();
        let mut own = Some(own);
        if series.is_empty() {
            instances.extend(own.take());
        } else {
            for file in series::members(path, &series)? {
                // A damaged file of the series may be its finest level: nothing is read in its place.
                let next = if file == path { own.take() } else { None };
                instances.push(next.map_or_else(|| instance(&file), Ok)?);
            }
        }
        Self::assemble(instances)
    }

    fn assemble(instances: Vec<Instance>) -> Result<Self> {
        let mut notes = Vec::new();
        let mut identifying = BTreeSet::new();
        let mut associated: Vec<Kind> = Vec::new();
        // A concatenation is one image; so is a file without.
        let mut images: BTreeMap<(usize, String), Vec<Instance>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (number, mut instance) in instances.into_iter().enumerate() {
            identifying.append(&mut instance.header.identifying);
            let header = &instance.header;
            if !header.instance.is_empty() && !seen.insert(header.instance.clone()) {
                notes.push("a file of the series is there twice; one is read".into());
                continue;
            }
            if header.annotated && header.brief.kind == Kind::Volume {
                notes.push("the header says that somebody's annotations are burned into the pixels".into());
            }
            if header.brief.kind != Kind::Volume {
                associated.push(header.brief.kind);
            }
            if matches!(header.brief.kind, Kind::Volume | Kind::Thumbnail) {
                let concatenation = header.concatenation.clone();
                let key = if concatenation.is_empty() { (number + 1, concatenation) } else { (0, concatenation) };
                images.entry(key).or_default().push(instance);
            }
        }
        let mut images: Vec<Vec<Instance>> = images.into_values().collect();
        let levels = levels(&mut images, &mut notes)?;
        let [(top, finest), ..] = &levels[..] else {
            return Err(Error::NotASlide(
                "a DICOM series of labels and overviews, without an image of the slide".into(),
            ));
        };
        if top.resampled {
            notes.push("the finest level was computed from a finer one that is not in this directory".into());
        }
        associated.sort();
        associated.dedup();
        let mut said = BTreeSet::new();
        notes.retain(|note| said.insert(note.clone()));
        let info = SlideInfo {
            format: "dicom".into(),
            reader: "native".into(),
            levels: levels.iter().map(|(_, l)| l.level.clone()).collect(),
            stated_mpp: stated_mpp(top, (finest.level.width, finest.level.height), &mut notes).into_iter().collect(),
            objective_power: top.objective_power,
            associated_images: associated.into_iter().map(|kind| kind.name().to_string()).collect(),
            identifying_fields: names(&Vec::from_iter(identifying)),
            icc_profile: top.icc_profile,
            notes,
        };
        Ok(DicomSlide { info, levels: levels.into_iter().map(|(_, level)| level).collect() })
    }
}

/// The levels, finest first, each with the header of its first file.
fn levels(images: &mut Vec<Vec<Instance>>, notes: &mut Vec<String>) -> Result<Vec<(Header, DicomLevel)>> {
    images.sort_by_cached_key(|image| {
        let Some(Instance { header, .. }) = image.first() else { return (true, std::cmp::Reverse(0), 0) };
        let (width, height) = level::size(header).unwrap_or((u32::MAX, u32::MAX));
        let area = u64::from(width) * u64::from(height);
        (header.brief.kind == Kind::Thumbnail, std::cmp::Reverse(area), header.instance_number)
    });
    let mut levels: Vec<(Header, DicomLevel)> = Vec::new();
    for image in std::mem::take(images) {
        let Some(header) = image.first().map(|i| i.header.clone()) else { continue };
        let thumbnail = header.brief.kind == Kind::Thumbnail;
        let Some((top, finest)) = levels.first() else {
            if !thumbnail {
                levels.push((header, DicomLevel::new(image, notes)?));
            }
            continue;
        };
        let (width, height) = (finest.level.width, finest.level.height);
        let Some((w, h)) = level::size(&header) else {
            notes.push("an image of the series without a size is left out".into());
            continue;
        };
        if let Some((same, _)) = levels.iter().find(|(_, l)| (l.level.width, l.level.height) == (w, h)) {
            if !thumbnail && same.samples == 1 {
                return Err(Error::Unsupported(
                    "several grey images of one size (channels); copy the one to work with to a directory of its own"
                        .into(),
                ));
            }
            if !thumbnail {
                notes.push(format!("a second image of {w} x {h} px (another focal plane?) is left out"));
            }
            continue;
        }
        let other_pyramid = !top.pyramid.is_empty() && !header.pyramid.is_empty() && top.pyramid != header.pyramid;
        if !thumbnail && (other_pyramid || !is_reduction((width, height), (w, h), false)) {
            notes.push(format!("an image of {w} x {h} px is no reduction of level 0 and is left out"));
            continue;
        }
        if thumbnail && !is_reduction((width, height), (w, h), true) {
            continue;
        }
        let mut remarks = Vec::new();
        match DicomLevel::new(image, &mut remarks) {
            Ok(mut level) => {
                level.level.downsample = downsample_between((width, height), (w, h));
                levels.push((header, level));
                notes.extend(remarks);
            }
            // A thumbnail is not needed.
            Err(_) if thumbnail => {}
            Err(e) => return Err(e),
        }
    }
    levels.sort_by_key(|(_, l)| std::cmp::Reverse((l.level.width, l.level.height)));
    Ok(levels)
}

/// Whether a size is that of a reduced level 0: the same shape, up to rounding. `exactly`: to the nearest pixel.
fn is_reduction(level0: (u32, u32), level: (u32, u32), exactly: bool) -> bool {
    let ((width, height), (w, h)) =
        ((f64::from(level0.0), f64::from(level0.1)), (f64::from(level.0), f64::from(level.1)));
    let (rx, ry) = (width / w, height / h);
    if exactly {
        return rx > 1.0 && ry > 1.0 && ((height / rx - h).abs() < 1.0 || (width / ry - w).abs() < 1.0);
    }
    // As for TIFF: rounded to whole pixels, in some files to whole blocks of 2 or 4.
    let slack = (4.0 / w).max(4.0 / h).max(0.02);
    rx >= 1.0 && ry >= 1.0 && (rx / ry - 1.0).abs() <= slack
}

/// µm per pixel: PixelSpacing (mm; the distance of rows comes first), or what was imaged divided by its pixels.
fn stated_mpp(top: &Header, (width, height): (u32, u32), notes: &mut Vec<String>) -> Option<StatedMpp> {
    let per_pixel = |mm: Option<f64>, pixels: u32| mm.filter(|mm| *mm > 0.0).map(|mm| mm * 1000.0 / f64::from(pixels));
    let volume = per_pixel(top.volume.0, width).zip(per_pixel(top.volume.1, height));
    let stated = |(x, y)| StatedMpp { x, y, source: MppSource::OmeDicom };
    let Some((rows, columns)) = top.spacing else {
        if volume.is_some() {
            notes.push("no PixelSpacing: the resolution is computed from the imaged volume's width and height".into());
        }
        return volume.map(stated);
    };
    let (x, y) = (columns * 1000.0, rows * 1000.0);
    let apart = |a: f64, b: f64| (a / b - 1.0).abs() > MAX_VOLUME_DISAGREEMENT;
    if volume.is_some_and(|(vx, vy)| apart(x, vx) || apart(y, vy)) {
        notes.push("PixelSpacing and the imaged volume's width and height contradict each other by over 5 %".into());
    }
    Some(stated((x, y)))
}

impl SlideReader for DicomSlide {
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
        let decoded = self.levels[at.level].decode((at.row, at.col), scale, scratch, (out, pitch));
        decoded.map_err(Error::Read)?.map_err(|why| Error::Block { level: at.level, col: at.col, row: at.row, why })
    }

    fn read_ahead(&self, blocks: &[BlockAt]) {
        for (number, level) in self.levels.iter().enumerate() {
            level.read_ahead(blocks.iter().filter(|at| at.level == number).map(|at| (at.row, at.col)));
        }
    }
}
