//! Generic pyramidal TIFF, as libvips, QuPath, ASAP and many converters write it. Extensions `.tif`, `.tiff`.
//!
//! Recognised by: page 0 is tiled or stripped and no other format claims the file.
//! mpp: XResolution, YResolution and ResolutionUnit (inch or centimetre; without a unit they state nothing).
//! Layout: page 0 is level 0; every further tiled page that is a reduction of it is a level, likewise stripped pages that
//! are marked as reduced images, and page 0's SubIFDs.
//! Codings: those of `tiled`.
//! Reference: TIFF 6.0; openslide.org/formats/generic-tiff.
//! Fixtures: testdata/generated/generic_*.tif, testdata/codings/*.tif.
//! Known differences to OpenSlide: tiled pages need no "reduced image" flag; grey, zstd, WebP, JPEG2000 34712, strips,
//! SubIFDs and big-endian 16-bit are read.

use super::identifying::{Field, names};
use super::mpp::MppSource;
use super::tiff::{Page, Tiff, tag};
use super::tiled::{TiledPage, TiledTiff};
use super::xml;
use super::{Probe, SlideInfo, SlideReader, StatedMpp};
use crate::error::Result;

/// TIFF tags whose values may identify a slide, a person, a day or a machine.
const IDENTIFYING: &[(u16, &str)] = &[
    (tag::DATE_TIME, "tiff.DateTime"),
    (tag::ARTIST, "tiff.Artist"),
    (tag::HOST_COMPUTER, "tiff.HostComputer"),
    (tag::DOCUMENT_NAME, "tiff.DocumentName"),
    (tag::PAGE_NAME, "tiff.PageName"),
    (tag::COPYRIGHT, "tiff.Copyright"),
    (tag::XMP, "tiff.XMP"),
];

/// A TIFF's own tags that may identify, by name alone; vendors add theirs.
pub(super) fn identifying_tags(tiff: &Tiff) -> Vec<Field> {
    let present = IDENTIFYING.iter().filter(|(tag, _)| tiff.pages.iter().any(|p| p.has(*tag)));
    present.map(|(_, name)| Field::new(*name, "")).collect()
}

/// The values of these tags, of all pages; of XMP at most [`XMP_VALUES`] in a page.
pub(super) fn tag_values(tiff: &Tiff) -> Vec<Field> {
    let mut fields = Vec::new();
    for (tag, name) in IDENTIFYING {
        for page in tiff.pages.iter().filter(|p| p.has(*tag)) {
            let text = tiff.text(page, *tag).unwrap_or_default();
            match (*tag == tag::XMP).then(|| xml::parse(&text, "XMP").ok()).flatten() {
                Some(document) => {
                    let values = xml::values(document.root()).take(XMP_VALUES);
                    fields.extend(values.map(|value| Field::new(*name, value)));
                }
                None => fields.push(Field::new(*name, text.trim())),
            }
        }
    }
    fields
}

const XMP_VALUES: usize = 1000;

/// What may identify in a TIFF of no vendor.
///
/// # Errors
/// Where the probe is no TIFF.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let mut fields = identifying_tags(tiff);
    fields.extend(tag_values(tiff));
    Ok(fields)
}

/// Whether this TIFF can be read as a generic pyramid: no vendor's mark, and tiles or strips.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let page = &tiff.pages[0];
        let stripped = || {
            // A label or macro that was taken out of an SVS is no slide.
            let aperio = tiff.text(page, tag::IMAGE_DESCRIPTION).is_some_and(|t| t.starts_with("Aperio"));
            page.has(tag::STRIP_OFFSETS) && !aperio
        };
        (page.has(tag::TILE_WIDTH) || stripped()) && foreign_vendor(tiff).is_none()
    })
}

/// The vendor whose files look like TIFF but need their own reader (today: OpenSlide's).
#[must_use]
pub fn foreign_vendor(tiff: &Tiff) -> Option<&'static str> {
    let page = &tiff.pages[0];
    let description = tiff.text(page, tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let software = tiff.text(page, tag::SOFTWARE).unwrap_or_default();
    let xmp = tiff.text(page, tag::XMP).unwrap_or_default();
    [
        ("leica", description.contains("http://www.leica-microsystems.com/scn")),
        ("trestle", software.starts_with("MedScan")),
        ("ventana", xmp.contains("<iScan") || description.contains("level=0 mag=")),
    ]
    .into_iter()
    .find_map(|(vendor, is)| is.then_some(vendor))
}

/// Opens a generic TIFF.
///
/// # Errors
/// As [`TiledPage::new`] and [`TiledTiff::new`].
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let mut pages = Vec::new();
    let mut notes = Vec::new();
    let sub_pages = tiff.sub_pages(&tiff.pages[0]).unwrap_or_else(|e| {
        notes.push(format!("the first page's SubIFDs are left out: {e}"));
        Vec::new()
    });
    for (i, page) in tiff.pages.iter().chain(&sub_pages).enumerate() {
        let reduced = i >= tiff.pages.len() || tiff.number_or(page, tag::NEW_SUBFILE_TYPE, 0).is_ok_and(|t| t & 1 == 1);
        let stripped = page.has(tag::STRIP_OFFSETS) && (i == 0 || reduced);
        if !page.has(tag::TILE_WIDTH) && !stripped {
            continue;
        }
        match TiledPage::new(&tiff, page) {
            Ok(page) => pages.push(page),
            Err(e) if i == 0 => return Err(e),
            Err(e) => notes.push(format!("page {i} is left out: {e}")),
        }
    }
    let info = SlideInfo {
        format: "generic-tiff".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: resolution(&tiff, &tiff.pages[0]).into_iter().collect(),
        objective_power: None,
        associated_images: Vec::new(),
        identifying_fields: names(&identifying_tags(&tiff)),
        icc_profile: tiff.pages[0].has(tag::ICC_PROFILE),
        notes,
    };
    Ok(Box::new(TiledTiff::new(tiff, info, pages)?))
}

/// µm per pixel from a page's resolution tags; `None` without a physical unit.
pub(super) fn resolution(tiff: &Tiff, page: &Page) -> Option<StatedMpp> {
    let um_per_unit = match tiff.number_or(page, tag::RESOLUTION_UNIT, 2).ok()? {
        2 => 25_400.0,
        3 => 10_000.0,
        _ => return None,
    };
    let x = tiff.rational(page, tag::X_RESOLUTION)?;
    let y = tiff.rational(page, tag::Y_RESOLUTION).unwrap_or(x);
    Some(StatedMpp { x: um_per_unit / x, y: um_per_unit / y, source: MppSource::TiffResolution })
}
