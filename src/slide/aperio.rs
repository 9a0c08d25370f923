//! Aperio (Leica Biosystems) SVS. Extension `.svs`; also seen as `.tif`.
//!
//! Recognised by: page 0 is tiled and its ImageDescription starts with `Aperio`.
//! mpp: `MPP = ` in that description (decimal comma accepted; of duplicate keys the last counts); power: `AppMag = `.
//! Layout: page 0 is level 0, page 1 a stripped thumbnail, further tiled pages are levels, stripped pages label and macro.
//! Codings: JPEG as YCbCr and as RGB without an Adobe marker, JPEG2000 (33003 YCbCr, 33005 RGB), LZW.
//! Reference: openslide.org/formats/aperio; the description's keys as found in the fixtures.
//! Fixtures: testdata/CMU-1-Small-Region.svs and testdata/generated/aperio_*.svs.
//! Known differences to OpenSlide: big-endian files are read; downsamples are whole where the sizes allow it; a block that is
//! missing is white, while OpenSlide computes lower levels over a missing level-0 block from level 0.

use super::identifying::{Field, names};
use super::mpp::{MppSource, parse_number};
use super::tiff::{Tiff, tag};
use super::tiled::{TiledPage, TiledTiff};
use super::{Probe, SlideInfo, SlideReader, StatedMpp};
use crate::error::Result;

/// Keys of the description that may identify a slide, a person, a day or a device.
const IDENTIFYING: &[&str] = &[
    "Filename",
    "Date",
    "Time",
    "Time Zone",
    "User",
    "ScanScope ID",
    "ImageID",
    "DSR ID",
    "Title",
    "Barcode",
    "SlideID",
    "Rack",
    "Slide",
    "Parmset",
    "CaseID",
    "Label",
];

/// Whether this TIFF is an SVS.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let page = &tiff.pages[0];
        page.has(tag::TILE_WIDTH) && tiff.text(page, tag::IMAGE_DESCRIPTION).is_some_and(|t| t.starts_with("Aperio"))
    })
}

/// Opens an SVS.
///
/// # Errors
/// As [`TiledPage::new`] and [`TiledTiff::new`].
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let description = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let value = |key: &str| values(&description).filter(|(k, _)| *k == key).last().map(|(_, v)| v);
    let mut notes = Vec::new();
    let mut number = |key: &str| {
        let text = value(key)?;
        let number = parse_number(text);
        if number.is_none() {
            notes.push(format!("the description's {key} is no number and is not used"));
        }
        number
    };
    let mpp = number("MPP");
    let objective_power = number("AppMag");
    let mut pages = Vec::new();
    let mut associated_images = Vec::new();
    for (i, page) in tiff.pages.iter().enumerate() {
        if page.has(tag::TILE_WIDTH) {
            pages.push(TiledPage::new(&tiff, page)?);
        } else {
            let text = tiff.text(page, tag::IMAGE_DESCRIPTION).unwrap_or_default();
            associated_images.push(associated_kind(i, &text).to_string());
        }
    }
    let mut identifying_fields = names(&fields(&tiff, &description));
    identifying_fields.sort();
    let info = SlideInfo {
        format: "aperio".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: mpp.map(|m| StatedMpp { x: m, y: m, source: MppSource::Vendor }).into_iter().collect(),
        objective_power,
        associated_images,
        identifying_fields,
        icc_profile: tiff.pages[0].has(tag::ICC_PROFILE),
        notes,
    };
    Ok(Box::new(TiledTiff::new(tiff, info, pages)?))
}

/// What may identify: fields of the description, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    // Every page has a description of its own; that of a level below may name another day.
    let described = tiff.pages.iter().filter_map(|page| tiff.text(page, tag::IMAGE_DESCRIPTION));
    let first = described.clone().next().unwrap_or_default();
    let wanted = names(&fields(tiff, &first));
    let further = described.skip(1).flat_map(|text| fields(tiff, &text));
    let further = further.filter(|f| wanted.contains(&f.name)).chain(super::generic::tag_values(tiff));
    Ok(fields(tiff, &first).into_iter().chain(further).collect())
}

fn fields(tiff: &Tiff, description: &str) -> Vec<Field> {
    let named = values(description).filter(|(key, _)| IDENTIFYING.contains(key));
    let named = named.map(|(key, value)| Field::new(format!("aperio.{key}"), value));
    named.chain(super::generic::identifying_tags(tiff)).collect()
}

/// `key = value` pairs of a description: everything after the first bar.
fn values(description: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = description.split('|').skip(1);
    pairs.filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.trim(), v.trim())))
}

/// The kind of an untiled page: its description's second line starts with it, the thumbnail (page 1) has only sizes there.
fn associated_kind(page: usize, description: &str) -> &'static str {
    let line = description.lines().nth(1).unwrap_or("").trim_start();
    ["label", "macro"].into_iter().find(|kind| line.starts_with(kind)).unwrap_or(if page == 1 {
        "thumbnail"
    } else {
        "unnamed"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read_by_key() {
        let text = "Aperio Image Library v10\r\n100x100|AppMag = 20|MPP = 0,4990|Filename = X = Y|MPP = 0.25";
        let got: Vec<_> = values(text).collect();
        assert_eq!(got, [("AppMag", "20"), ("MPP", "0,4990"), ("Filename", "X = Y"), ("MPP", "0.25")]);
    }

    #[test]
    fn untiled_pages_are_named_by_their_second_line() {
        assert_eq!(associated_kind(1, "Aperio Image\r\n2220x2967 -> 574x768"), "thumbnail");
        assert_eq!(associated_kind(5, "Aperio Image\r\nlabel 387x463"), "label");
        assert_eq!(associated_kind(6, "Aperio Image\r\nmacro 1280x431"), "macro");
        assert_eq!(associated_kind(6, ""), "unnamed");
    }
}
