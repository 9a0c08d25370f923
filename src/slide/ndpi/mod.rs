//! Hamamatsu NDPI. Extension `.ndpi`.
//!
//! Recognised by: tag 65420 in page 0.
//! mpp: XResolution, YResolution and ResolutionUnit of level 0; power: SourceLens (65421) of level 0.
//! Layout: one page a level and focal plane, each one strip: a whole JPEG. SourceLens -1 is the macro picture, -2 a map of
//! what was scanned. Focal planes other than 0 (65424) are not read. Files over 4 GB: see `tiff`.
//! Blocks: a strip is too long to be decoded for a region, but JPEG's restart markers cut it into intervals that decode by
//! themselves, each a run of MCUs, usually a part of one MCU row. McuStarts (65426, high halves in 65432) says where they
//! lie; where it is missing or wrong, the strip is searched. A block is one interval wide and some hundred rows high: its
//! intervals are put together as a JPEG of their own (`strip`).
//! Codings: baseline JPEG, grey or YCbCr. Levels without restart markers are one block.
//! Reference: openslide.org/formats/hamamatsu; tifffile's notes on NDPI; ITU-T T.81 (restart intervals).
//! Fixtures: testdata/multi/*.ndpi.
//! Known differences to OpenSlide: levels that it makes up below the smallest stored one are not offered; 4:2:0 with restart
//! markers and frame headers without sizes at any size are read, where OpenSlide fails.

mod strip;

use super::identifying::{Field, names};
use super::tiff::{Page, Tiff, tag};
use super::tiled::page_size;
use super::{BlockAt, BlockKind, Probe, Scale, SlideInfo, SlideReader, downsample_between};
use crate::codec::{BlockCoding, Scratch, Target};
use crate::error::{Error, Result};
use strip::Strip;

/// Tags whose values may identify a slide, a person or a device.
const IDENTIFYING: &[(u16, &str)] = &[
    (tag::NDPI_REFERENCE, "hamamatsu.Reference"),
    (tag::NDPI_AUTH_CODE, "hamamatsu.AuthCode"),
    (tag::NDPI_SERIAL_NUMBER, "hamamatsu.ScannerSerialNumber"),
];
/// Keys of the property text (65449) of which the same holds.
const IDENTIFYING_PROPERTIES: &[&str] = &["Created", "Updated", "NDP.S/N", "Macro.S/N", "Slide.Label", "Barcode"];

/// Whether this TIFF is an NDPI.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| tiff.pages[0].has(tag::NDPI_VERSION))
}

/// An NDPI's levels.
struct Ndpi {
    tiff: Tiff,
    info: SlideInfo,
    strips: Vec<Strip>,
}

/// What a page holds.
enum Kind {
    Level,
    OtherFocalPlane,
    Associated(&'static str),
}

/// Opens an NDPI.
///
/// # Errors
/// [`Error::Unsupported`] where level 0 is coded in a way beyond this reader, [`Error::Damaged`] where tags or JPEG headers
/// break their rules.
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let mut notes = Vec::new();
    let (mut associated_images, mut planes, mut levels) = (Vec::new(), 0, Vec::new());
    for page in &tiff.pages {
        match kind(&tiff, page)? {
            Kind::Level => levels.push((page_size(&tiff, page).map_err(Error::Damaged)?, page)),
            Kind::OtherFocalPlane => planes += 1,
            Kind::Associated(kind) => associated_images.push(kind.to_string()),
        }
    }
    if planes > 0 {
        notes.push(format!("{planes} pages of other focal planes are not read"));
    }
    levels.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    levels.dedup_by_key(|(size, _)| *size);
    let Some(&(size0, page0)) = levels.first() else {
        return Err(Error::Damaged("NDPI without a level in focal plane 0".into()));
    };
    let mut strips: Vec<Strip> = Vec::new();
    for (number, (size, page)) in levels.iter().enumerate() {
        let ratios = (f64::from(size0.0) / f64::from(size.0), f64::from(size0.1) / f64::from(size.1));
        if (ratios.0 / ratios.1 - 1.0).abs() > 0.02 + 4.0 / f64::from(size.0.min(size.1)) {
            notes.push(format!("a page of {} x {} px is no reduction of level 0 and is left out", size.0, size.1));
            continue;
        }
        match Strip::new(&tiff, page, *size, downsample_between(size0, *size)) {
            Ok(strip) => strips.push(strip),
            Err(Error::Unsupported(why)) if number > 0 => {
                notes.push(format!("a level of {} x {} px is left out: {why}", size.0, size.1));
            }
            Err(e) => return Err(e),
        }
    }
    let lens = tiff.rational(page0, tag::NDPI_SOURCE_LENS).filter(|lens| *lens > 0.0);
    let info = SlideInfo {
        format: "ndpi".into(),
        reader: "native".into(),
        levels: strips.iter().map(|s| s.level.clone()).collect(),
        stated_mpp: super::generic::resolution(&tiff, page0).into_iter().collect(),
        objective_power: lens,
        associated_images,
        identifying_fields: names(&fields(&tiff, page0)),
        icc_profile: page0.has(tag::ICC_PROFILE),
        notes,
    };
    Ok(Box::new(Ndpi { tiff, info, strips }))
}

fn kind(tiff: &Tiff, page: &Page) -> Result<Kind> {
    let lens = tiff
        .rational(page, tag::NDPI_SOURCE_LENS)
        .ok_or_else(|| Error::Damaged(format!("NDPI page without a magnification (tag {})", tag::NDPI_SOURCE_LENS)))?;
    Ok(match lens {
        _ if lens > 0.0 => {
            // A signed number of 4 bytes; only whether it is 0 counts.
            let z = tiff.blob(page, tag::NDPI_Z_OFFSET).map_err(Error::Damaged)?.unwrap_or_default();
            if z.iter().all(|b| *b == 0) { Kind::Level } else { Kind::OtherFocalPlane }
        }
        -1.0 => Kind::Associated("macro"),
        -2.0 => Kind::Associated("map"),
        _ => Kind::Associated("unnamed"),
    })
}

/// What may identify: Hamamatsu's tags and properties, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let mut all = fields(tiff, &tiff.pages[0]);
    all.extend(super::generic::tag_values(tiff));
    Ok(all)
}

fn fields(tiff: &Tiff, page: &Page) -> Vec<Field> {
    let mut fields = super::generic::identifying_tags(tiff);
    let present = IDENTIFYING.iter().filter(|(tag, _)| page.has(*tag));
    fields.extend(present.map(|(tag, name)| Field::new(*name, tiff.text(page, *tag).unwrap_or_default())));
    let properties = tiff.text(page, tag::NDPI_PROPERTIES).unwrap_or_default();
    let stated = |key: &str| properties.lines().filter_map(|l| l.split_once('=')).find(|(k, _)| *k == key);
    let stated = IDENTIFYING_PROPERTIES.iter().filter_map(|key| stated(key));
    fields.extend(stated.map(|(key, value)| Field::new(format!("hamamatsu.{key}"), value.trim())));
    fields
}

impl SlideReader for Ndpi {
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
        let strip = &self.strips[at.level];
        let wrong = |why: String| Error::Block { level: at.level, col: at.col, row: at.row, why };
        let size = strip.assemble(&self.tiff.source, at.row, at.col, scratch).map_err(|e| match e {
            strip::Failure::Read(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Error::Read(e),
            strip::Failure::Read(e) => wrong(e.to_string()),
            strip::Failure::Damaged(why) => wrong(why),
        })?;
        let divisor = scale.divisor();
        // A block at the right or lower edge ends with the level: what lies past it is unspecified.
        let mut target = Target {
            pixels: out,
            pitch,
            width: size.0.div_ceil(divisor) as usize,
            height: size.1.div_ceil(divisor) as usize,
        };
        let coding = BlockCoding::Jpeg { tables: None, colour: strip.colour };
        coding.decode(scratch, size, scale, &mut target).map_err(wrong)?;
        Ok(BlockKind::Decoded)
    }

    fn read_ahead(&self, blocks: &[BlockAt]) {
        let places = blocks.iter().flat_map(|at| self.strips[at.level].places(at.row, at.col));
        self.tiff.source.will_need(places.collect());
    }
}

#[cfg(test)]
mod tests;
