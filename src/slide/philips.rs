//! Philips TIFF, as IntelliSite's scanners export it. Extension `.tiff`.
//!
//! Recognised by: Software starts with `Philips`, or the ImageDescription is the XML of a DPUfsImport.
//! mpp: DICOM_PIXEL_SPACING of the scanned image of type WSI (mm, row before column, in quotes).
//! Layout: page 0 is level 0, further tiled pages are levels. Their sizes are filled up to whole blocks; the XML's
//! DICOM_PIXEL_SPACING of each PixelDataRepresentation says how far a level is reduced, and level 0 by that is its size.
//! Label and macro are pages of their own or stand in the XML (Base64); neither is read.
//! Codings: those of `tiled`. A block without bytes lies outside the scanned regions: background.
//! Reference: openslide.org/formats/philips.
//! Fixtures: testdata/multi/philips_*.tiff.
//! Known differences to OpenSlide: levels whose spacing is missing in the XML are taken for halves of the one before, with a
//! note, where OpenSlide refuses the slide.

use roxmltree::Node;

use super::identifying::{Field, names};
use super::mpp::{MppSource, parse_number};
use super::tiff::{Tiff, tag};
use super::tiled::{TiledPage, TiledTiff};
use super::xml::{self, child, children};
use super::{Probe, SlideInfo, SlideReader, StatedMpp};
use crate::error::{Error, Result};

/// Attributes of the XML that may identify a slide, a person, a day or a device.
const IDENTIFYING: &[&str] = &[
    "DICOM_ACQUISITION_DATETIME",
    "DICOM_DATE_OF_LAST_CALIBRATION",
    "DICOM_TIME_OF_LAST_CALIBRATION",
    "DICOM_DERIVATION_DESCRIPTION",
    "DICOM_DEVICE_SERIAL_NUMBER",
    "DICOM_PATIENT_ID",
    "DICOM_PATIENT_NAME",
    "DICOM_ACCESSION_NUMBER",
    "PIM_DP_UFS_BARCODE",
    "PIIM_DP_SCANNER_OPERATOR_ID",
    "PIIM_DP_SCANNER_RACK_NUMBER",
    "PIIM_DP_SCANNER_SLOT_NUMBER",
    "UFS_BARCODE",
];

/// Whether this TIFF comes from Philips.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let text = |tag| tiff.text(&tiff.pages[0], tag).unwrap_or_default();
        text(tag::SOFTWARE).starts_with("Philips")
            || text(tag::IMAGE_DESCRIPTION).contains("<DataObject ObjectType=\"DPUfsImport\"")
    })
}

/// What may identify: attributes of the XML, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF, or the XML is not sound.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let text = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let mut all = fields(tiff, xml::parse(&text, "the Philips XML")?.root_element());
    all.extend(super::generic::tag_values(tiff));
    Ok(all)
}

fn fields(tiff: &Tiff, root: Node) -> Vec<Field> {
    let mut fields = super::generic::identifying_tags(tiff);
    for name in IDENTIFYING {
        let named = root.descendants().filter(|n| n.attribute("Name") == Some(*name));
        fields.extend(named.map(|n| Field::new(format!("philips.{name}"), n.text().unwrap_or_default().trim())));
    }
    fields
}

/// Opens a Philips TIFF.
///
/// # Errors
/// [`Error::Damaged`] where the XML is missing or not sound; otherwise as [`TiledPage::new`] and [`TiledTiff::new`].
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let text = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let document = xml::parse(&text, "the Philips XML")?;
    let root = document.root_element();
    let scanned = scanned_images(root);
    let mut slides = scanned.iter().filter(|image| image_type(**image) == "WSI");
    let (Some(slide), None) = (slides.next(), slides.next()) else {
        return Err(Error::Unsupported("Philips XML without exactly one scanned image of type WSI".into()));
    };
    let mut associated_images = Vec::new();
    let mut pages = Vec::new();
    for page in &tiff.pages {
        if page.has(tag::TILE_WIDTH) {
            pages.push(TiledPage::new(&tiff, page)?);
            continue;
        }
        let text = tiff.text(page, tag::IMAGE_DESCRIPTION).unwrap_or_default();
        let kinds = [("Label", "label"), ("Macro", "macro")];
        let kind = kinds.iter().find_map(|(begin, kind)| text.starts_with(begin).then_some(*kind));
        associated_images.push(kind.unwrap_or("unnamed").to_string());
    }
    for (image_kind, kind) in [("LABELIMAGE", "label"), ("MACROIMAGE", "macro")] {
        let in_xml = scanned.iter().any(|image| image_type(*image) == image_kind);
        if in_xml && !associated_images.iter().any(|a| a == kind) {
            associated_images.push(kind.to_string());
        }
    }
    let mut notes = Vec::new();
    let reductions = match reductions(*slide) {
        Some(stated) if stated.len() == pages.len() => stated,
        _ => {
            notes.push("the XML does not state every level's pixel spacing; each is taken for half of the last".into());
            (0..pages.len() as u32).map(|n| 1u32.checked_shl(n).unwrap_or(u32::MAX)).collect()
        }
    };
    if let Some((width, height)) = pages.first().map(TiledPage::size) {
        for (page, reduction) in pages.iter_mut().zip(&reductions) {
            page.cut(width / reduction, height / reduction);
        }
    }
    let identifying_fields = names(&fields(&tiff, root));
    let info = SlideInfo {
        format: "philips".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: value(*slide, "DICOM_PIXEL_SPACING").and_then(spacing).map(stated).into_iter().collect(),
        objective_power: None,
        associated_images,
        identifying_fields,
        icc_profile: tiff.pages[0].has(tag::ICC_PROFILE),
        notes,
    };
    Ok(Box::new(TiledTiff::new(tiff, info, pages)?))
}

/// The child `Attribute` of this name.
fn attribute<'a, 'i: 'a>(object: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    children(object, "Attribute").find(|a| a.attribute("Name") == Some(name))
}

/// The text of the child `Attribute` of this name.
fn value<'a, 'i: 'a>(object: Node<'a, 'i>, name: &str) -> Option<&'a str> {
    attribute(object, name)?.text().map(str::trim)
}

/// The objects of an `Attribute` that is an array.
fn objects<'a, 'i: 'a>(object: Node<'a, 'i>, name: &str) -> Vec<Node<'a, 'i>> {
    let array = attribute(object, name).and_then(|a| child(a, "Array"));
    array.map(|a| children(a, "DataObject").collect()).unwrap_or_default()
}

fn scanned_images<'a, 'i: 'a>(root: Node<'a, 'i>) -> Vec<Node<'a, 'i>> {
    objects(root, "PIM_DP_SCANNED_IMAGES")
}

fn image_type<'a, 'i: 'a>(image: Node<'a, 'i>) -> &'a str {
    value(image, "PIM_DP_IMAGE_TYPE").unwrap_or_default()
}

/// By how much each level is reduced, as whole numbers, by the levels' spacings; `None` where they make no pyramid.
fn reductions(slide: Node) -> Option<Vec<u32>> {
    let levels = objects(slide, "PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE");
    let levels = levels.iter().filter(|l| l.attribute("ObjectType") == Some("PixelDataRepresentation"));
    let spacings: Vec<_> = levels.filter_map(|l| spacing(value(*l, "DICOM_PIXEL_SPACING")?)).collect();
    let (x0, y0) = *spacings.first()?;
    let reduction = |(x, y): &(f64, f64)| {
        let ratio = ((x / x0 + y / y0) / 2.0).round();
        (1.0..=1e6).contains(&ratio).then_some(ratio as u32)
    };
    spacings.iter().map(reduction).collect()
}

/// A pixel spacing, `"0.00025" "0.00025"` in mm, row before column: (x, y).
fn spacing(text: &str) -> Option<(f64, f64)> {
    let mut numbers = text.split_whitespace().map(|word| parse_number(word.trim_matches('"')));
    let (y, x) = (numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some((x, y))
}

fn stated((x, y): (f64, f64)) -> StatedMpp {
    // Millimetres, as written in decimals: 0.000247 becomes 0.247 and not 0.24700000000000003.
    let um = |mm: f64| (mm * 1e9).round() / 1e6;
    StatedMpp { x: um(x), y: um(y), source: MppSource::Vendor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacings_are_row_before_column_in_quotes() {
        assert_eq!(spacing("\"0.000226\" \"0.000227\""), Some((0.000_227, 0.000_226)));
        assert_eq!(spacing("0.5 0.5"), Some((0.5, 0.5)));
        assert_eq!(spacing("\"0.5\""), None);
        assert_eq!(spacing("\"a\" \"b\""), None);
        assert_eq!(spacing("1 2 3"), None);
        let mpp = stated((0.000_247, f64::NAN));
        assert!(mpp.x == 0.247 && mpp.y.is_nan());
    }

    #[test]
    fn reductions_are_whole_numbers() {
        let level = |s: &str| {
            format!(
                "<DataObject ObjectType='PixelDataRepresentation'><Attribute Name='DICOM_PIXEL_SPACING'>{s}</Attribute>\
                 </DataObject>"
            )
        };
        let of = |levels: &[&str]| {
            let levels: String = levels.iter().map(|s| level(s)).collect();
            let text = format!(
                "<DataObject><Attribute Name='PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE'><Array>{levels}</Array></Attribute>\
                 </DataObject>"
            );
            reductions(xml::parse(&text, "the Philips XML").expect("XML").root_element())
        };
        assert_eq!(of(&["0.000227 0.000227", "0.000453 0.000454", "0.000906 0.000906"]), Some(vec![1, 2, 4]));
        assert_eq!(of(&["0 0", "1 1"]), None);
        assert_eq!(of(&["1 1", "0 0"]), None);
        assert_eq!(of(&[]), None);
    }
}
