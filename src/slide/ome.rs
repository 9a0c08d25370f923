//! OME-TIFF, as QuPath, Bio-Formats, bioformats2raw with raw2ometiff, libvips and wsic write it. Extensions `.ome.tif`,
//! `.ome.tiff`, `.ome.btf`.
//!
//! Recognised by: page 0 is described by OME-XML (the namespace of openmicroscopy.org/Schemas/OME).
//! mpp: PhysicalSizeX and PhysicalSizeY with their units; where they are missing, the resolution tags of the slide's page.
//! Power: NominalMagnification of the image's objective.
//! Layout: every Image of the XML names a page by TiffData; its reduced levels are that page's SubIFDs. The first Image with
//! levels is the slide; Images named label, macro, overview or thumbnail are associated images.
//! Codings: those of `tiled`. JPEG from Bio-Formats is YCbCr whatever the TIFF says: its own markers count.
//! Refused: several planes (z, t) or channels, and colours in a page each; the words say how to export brightfield RGB.
//! Reference: docs.openmicroscopy.org, OME-TIFF specification and the 2016-06 schema.
//! Fixtures: testdata/multi/ome_*.tif.
//! Known differences to OpenSlide: it takes these files for generic TIFF, sees no SubIFDs and refuses classic big-endian.

use roxmltree::Node;

use super::identifying::{Field, names};
use super::mpp::{MppSource, parse_number};
use super::tiff::{Page, Tiff, tag};
use super::tiled::{TiledPage, TiledTiff};
use super::xml::{self, child, children};
use super::{Probe, SlideInfo, SlideReader, StatedMpp};
use crate::error::{Error, Result};

/// What an Image's name says that is not the slide itself.
const ASSOCIATED: &[&str] = &["label", "macro", "overview", "thumbnail"];

/// How to make a slide of what is refused here.
const ADVICE: &str =
    "export brightfield as RGB (QuPath: OME-TIFF of an RGB image; raw2ometiff: --rgb; bfconvert: one -z, -timepoint)";

/// Elements and attributes that may identify a slide, a person, a day or a device.
const IDENTIFYING: &[(&str, Option<&str>)] = &[
    ("Image", Some("Name")),
    ("Image", Some("AcquiredDate")),
    ("AcquisitionDate", None),
    ("Description", None),
    ("Experimenter", None),
    ("ExperimenterGroup", None),
    ("Dataset", Some("Name")),
    ("Project", Some("Name")),
    ("Microscope", Some("SerialNumber")),
    ("Detector", Some("SerialNumber")),
    ("Objective", Some("SerialNumber")),
    ("StructuredAnnotations", None),
    ("UUID", Some("FileName")),
];

/// Whether this TIFF is described by OME-XML.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let text = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
        text.contains("openmicroscopy.org/Schemas/OME")
    })
}

/// Opens an OME-TIFF.
///
/// # Errors
/// [`Error::Refused`] for what is no brightfield RGB picture; otherwise as [`TiledPage::new`] and [`TiledTiff::new`].
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let text = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let document = xml::parse(&text, "the OME-XML")?;
    let root = document.root_element();
    let images = images(root, &tiff)?;
    let associated_images = images.iter().filter_map(|i| i.associated.map(str::to_string)).collect();
    let slide = images
        .iter()
        .find(|i| i.associated.is_none() && i.levels)
        .or_else(|| images.iter().find(|i| i.associated.is_none()))
        .ok_or_else(|| Error::Refused("OME-TIFF of associated images only (label, macro)".into()))?;
    refuse_what_is_no_picture(slide, &tiff)?;
    let (pages, mut notes) = pages(&tiff, slide.page_number).map_err(|e| match e {
        // OpenSlide takes the file's first page for the slide.
        Error::Unsupported(why) if slide.page_number != 0 => Error::Refused(why),
        e => e,
    })?;
    let further = images.iter().filter(|i| i.associated.is_none()).count() - 1;
    if further > 0 {
        notes.push(format!("{further} further images in the file are not read"));
    }
    let mut identifying_fields = super::generic::identifying_tags(&tiff);
    identifying_fields.extend(fields(root));
    let identifying_fields = names(&identifying_fields);
    let info = SlideInfo {
        format: "ome-tiff".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: stated_mpp(slide.pixels, &mut notes)
            .or_else(|| super::generic::resolution(&tiff, &tiff.pages[slide.page_number]))
            .into_iter()
            .collect(),
        objective_power: power(root, slide.node),
        associated_images,
        identifying_fields,
        icc_profile: tiff.pages[slide.page_number].has(tag::ICC_PROFILE),
        notes,
    };
    drop(images);
    Ok(Box::new(TiledTiff::new(tiff, info, pages)?))
}

/// An Image of the XML.
struct Image<'a> {
    node: Node<'a, 'a>,
    pixels: Node<'a, 'a>,
    /// Page of its first plane.
    page_number: usize,
    /// Whether that page has reduced levels.
    levels: bool,
    associated: Option<&'static str>,
}

/// The Images whose first plane lies in this file, in the order of the XML.
fn images<'a>(root: Node<'a, 'a>, tiff: &Tiff) -> Result<Vec<Image<'a>>> {
    let uuid = root.attribute("UUID");
    let nodes: Vec<Node> = children(root, "Image").collect();
    let (alone, mut images, mut elsewhere) = (nodes.len() == 1, Vec::new(), 0);
    for (number, node) in nodes.into_iter().enumerate() {
        let Some(pixels) = child(node, "Pixels") else { continue };
        let first = children(pixels, "TiffData").find(|data| {
            ["FirstZ", "FirstC", "FirstT"].iter().all(|a| data.attribute(*a).is_none_or(|v| v.trim() == "0"))
        });
        // Another file's UUID: this Image's pixels are there. File names do not count: files are renamed.
        let other = |data: Node| {
            let theirs = child(data, "UUID").and_then(|u| u.text());
            uuid.zip(theirs).is_some_and(|(ours, theirs)| ours.trim() != theirs.trim())
        };
        if first.is_some_and(other) {
            elsewhere += 1;
            continue;
        }
        let page_number = match first.and_then(|data| data.attribute("IFD")) {
            Some(text) => text.trim().parse().ok(),
            None if alone || first.is_some() => Some(0),
            None => Some(number),
        };
        let page = page_number.and_then(|n: usize| Some((n, tiff.pages.get(n)?)));
        let Some((page_number, page)) = page else {
            return Err(Error::Damaged(format!("OME-XML: image {number} names a page that the file lacks")));
        };
        let name = node.attribute("Name").unwrap_or_default().to_lowercase();
        let mut words = name.split(|c: char| !c.is_alphanumeric());
        let associated = words.find_map(|word| ASSOCIATED.iter().find(|a| **a == word));
        images.push(Image {
            node,
            pixels,
            page_number,
            levels: page.has(tag::SUB_IFDS),
            associated: associated.copied().filter(|_| !alone),
        });
    }
    if images.is_empty() {
        return Err(Error::Refused(match elsewhere {
            0 => "OME-TIFF without images of its own (its metadata may stand in a companion file)".into(),
            n => format!("OME-TIFF whose {n} images lie in other files; open the file that holds the pixels"),
        }));
    }
    Ok(images)
}

/// Refuses stacks, time series and channels that are no colours.
fn refuse_what_is_no_picture(image: &Image, tiff: &Tiff) -> Result<()> {
    let size = |name| image.pixels.attribute(name).and_then(|v| v.trim().parse::<u64>().ok()).unwrap_or(1);
    let (z, t, c) = (size("SizeZ"), size("SizeT"), size("SizeC"));
    if z > 1 || t > 1 {
        return Err(Error::Refused(format!("OME-TIFF of {z} focal planes and {t} points in time; {ADVICE}")));
    }
    let page = &tiff.pages[image.page_number];
    let samples = tiff.number_or(page, tag::SAMPLES_PER_PIXEL, 1).map_err(Error::Damaged)?;
    if c > samples {
        return Err(Error::Refused(format!(
            "OME-TIFF of {c} channels, {samples} in a page: fluorescence, or colours in a page each; {ADVICE}"
        )));
    }
    let planes = tiff.number_or(page, tag::PLANAR_CONFIGURATION, 1).map_err(Error::Damaged)?;
    if samples > 1 && planes != 1 {
        return Err(Error::Refused(format!("OME-TIFF with colours in separate planes; {ADVICE}")));
    }
    if samples == 2 || samples > 4 {
        return Err(Error::Refused(format!("OME-TIFF of {samples} channels in a page; {ADVICE}")));
    }
    Ok(())
}

/// The slide's page and its reduced levels, and what is to be said about them.
fn pages(tiff: &Tiff, number: usize) -> Result<(Vec<TiledPage>, Vec<String>)> {
    let first = &tiff.pages[number];
    let read = |page: &Page| {
        if !page.has(tag::TILE_WIDTH) {
            return Err(Error::Unsupported("an OME-TIFF without tiles; export it anew with tiles".into()));
        }
        let mut tiled = TiledPage::new(tiff, page)?;
        tiled.believe_streams(tiff);
        Ok(tiled)
    };
    let mut pages = vec![read(first)?];
    let mut notes = Vec::new();
    for (i, page) in tiff.sub_pages(first)?.iter().enumerate() {
        match read(page) {
            Ok(page) => pages.push(page),
            Err(e) => notes.push(format!("reduced level {} is left out: {e}", i + 1)),
        }
    }
    Ok((pages, notes))
}

/// The physical size of a pixel in µm; `None` where it is missing or in no unit of length.
fn stated_mpp(pixels: Node, notes: &mut Vec<String>) -> Option<StatedMpp> {
    let mut side = |value: &str, unit: &str| {
        let number = parse_number(pixels.attribute(value)?);
        let factor = um_per(pixels.attribute(unit).unwrap_or("µm"));
        if number.is_none() || factor.is_none() {
            notes.push(format!("the OME-XML's {value} is no length and is not used"));
        }
        Some(number? * factor?)
    };
    let x = side("PhysicalSizeX", "PhysicalSizeXUnit");
    let y = side("PhysicalSizeY", "PhysicalSizeYUnit");
    match (x, y) {
        (Some(x), Some(y)) => Some(StatedMpp { x, y, source: MppSource::OmeDicom }),
        (None, None) => None,
        _ => {
            notes.push("the OME-XML states the pixels' size in one direction only; it is not used".into());
            None
        }
    }
}

/// µm in a unit of the OME schema.
fn um_per(unit: &str) -> Option<f64> {
    Some(match unit.trim() {
        // The micro sign, the Greek letter, and what a lost encoding leaves of them.
        "µm" | "μm" | "um" | "\u{fffd}m" | "\u{fffd}\u{fffd}m" | "micron" | "microns" => 1.0,
        "nm" => 1e-3,
        "pm" => 1e-6,
        "Å" => 1e-4,
        "mm" => 1e3,
        "cm" => 1e4,
        "dm" => 1e5,
        "m" => 1e6,
        "in" => 25_400.0,
        _ => return None,
    })
}

/// The nominal magnification of the image's objective, or of the only one.
fn power(root: Node, image: Node) -> Option<f64> {
    let objectives: Vec<Node> =
        children(root, "Instrument").flat_map(|instrument| children(instrument, "Objective")).collect();
    let wanted = child(image, "ObjectiveSettings").and_then(|s| s.attribute("ID"));
    let named = objectives.iter().find(|o| wanted.is_some() && o.attribute("ID") == wanted);
    let objective = named.or(objectives.first().filter(|_| objectives.len() == 1))?;
    parse_number(objective.attribute("NominalMagnification")?)
}

/// What may identify: elements and attributes of the OME-XML, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF, or the XML is not sound.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let text = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let document = xml::parse(&text, "the OME-XML")?;
    let mut all = super::generic::identifying_tags(tiff);
    all.extend(fields(document.root_element()));
    all.extend(super::generic::tag_values(tiff));
    Ok(all)
}

fn fields(root: Node) -> Vec<Field> {
    let mut fields = Vec::new();
    for (element, attribute) in IDENTIFYING {
        for node in root.descendants().filter(|n| n.is_element() && n.tag_name().name() == *element) {
            match attribute {
                Some(attribute) => {
                    let value = node.attribute(*attribute).into_iter();
                    fields.extend(value.map(|value| Field::new(format!("ome.{element}.{attribute}"), value)));
                }
                None => {
                    let name = format!("ome.{element}");
                    fields.push(Field::new(name.clone(), ""));
                    let below = node.descendants().flat_map(|n| n.attributes().map(|a| a.value()).chain(n.text()));
                    fields.extend(below.map(|value| Field::new(name.clone(), value.trim())));
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mpp(pixels: &str) -> (Option<(f64, f64)>, usize) {
        let text = format!("<Pixels {pixels}/>");
        let mut notes = Vec::new();
        let got = stated_mpp(xml::parse(&text, "the OME-XML").expect("XML").root_element(), &mut notes);
        (got.map(|m| (m.x, m.y)), notes.len())
    }

    #[test]
    fn sizes_are_lengths_in_any_unit() {
        assert_eq!(mpp("PhysicalSizeX='0.25' PhysicalSizeY='0.26'"), (Some((0.25, 0.26)), 0));
        assert_eq!(
            mpp("PhysicalSizeX='250' PhysicalSizeXUnit='nm' PhysicalSizeY='0.00025' PhysicalSizeYUnit='mm'"),
            (Some((0.25, 0.25)), 0)
        );
        let unit = "PhysicalSizeX='0.5' PhysicalSizeXUnit='&#181;m' PhysicalSizeY='0.5' PhysicalSizeYUnit='\u{fffd}m'";
        assert_eq!(mpp(unit), (Some((0.5, 0.5)), 0));
        assert_eq!(
            mpp("PhysicalSizeX='1' PhysicalSizeXUnit='pixel' PhysicalSizeY='1' PhysicalSizeYUnit='pixel'").0,
            None
        );
        assert_eq!(mpp("PhysicalSizeX='0.5'"), (None, 1));
        assert_eq!(mpp(""), (None, 0));
    }

    /// Opens the smallest fixture with a piece of its XML put otherwise, of the same length.
    fn open_changed(from: &str, to: &str) -> Result<crate::slide::Slide> {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/multi/ome_label_first.ome.tif");
        let mut bytes = std::fs::read(fixture).expect("fixture");
        assert_eq!(from.len(), to.len());
        let places: Vec<_> = bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).collect();
        let places: Vec<usize> = places.into_iter().map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{from}");
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        let temp = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(temp.path(), bytes).expect("writes");
        crate::slide::Slide::open(temp.path())
    }

    #[test]
    fn the_first_image_with_levels_is_the_slide() {
        let slide = open_changed("PlaneCount", "PlaneCount").expect("opens");
        let info = slide.info();
        assert_eq!((info.levels.len(), info.levels[0].width), (2, 131));
        assert_eq!(info.associated_images, ["label", "macro"]);
        assert_eq!(info.objective_power, Some(40.0));
        let nanometres = info.stated_mpp[0];
        assert!((nanometres.x - 0.2525).abs() < 1e-9 && (nanometres.y - 0.2525).abs() < 1e-9, "{nanometres:?}");
    }

    #[test]
    fn what_is_no_brightfield_picture_is_refused_with_advice() {
        let words = |from, to| open_changed(from, to).err().map(|e| e.to_string()).unwrap_or_default();
        let stack = words("SizeZ=\"1\"", "SizeZ=\"5\"");
        assert!(
            stack.starts_with("unsupported slide: OME-TIFF of 5 focal planes") && stack.contains("QuPath"),
            "{stack}"
        );
        assert!(words("SizeT=\"1\"", "SizeT=\"7\"").contains("7 points in time"));
        let channels = words("SizeC=\"3\"", "SizeC=\"4\"");
        assert!(channels.contains("4 channels, 3 in a page") && channels.contains("--rgb"), "{channels}");
        assert!(words("IFD=\"2\"", "IFD=\"9\"").contains("a page that the file lacks"));
        assert!(words("<Pixels", "<Pixelx").contains("no sound XML"));
    }

    #[test]
    fn the_power_is_that_of_the_images_own_objective() {
        let text = "<OME><Instrument><Objective ID='a' NominalMagnification='20.0'/><Objective ID='b' \
                    NominalMagnification='40'/></Instrument><Image><ObjectiveSettings ID='b'/></Image><Image/></OME>";
        let document = xml::parse(text, "the OME-XML").expect("XML");
        let powers: Vec<_> =
            children(document.root_element(), "Image").map(|i| power(document.root_element(), i)).collect();
        assert_eq!(powers, [Some(40.0), None]);
    }

    #[test]
    fn identifying_fields_are_named_without_their_values() {
        let text = "<OME><Experimenter LastName='made-up'/><Image Name='made-up'><AcquisitionDate>1</AcquisitionDate>\
                    </Image></OME>";
        let document = xml::parse(text, "the OME-XML").expect("XML");
        let got = names(&fields(document.root_element()));
        assert_eq!(got, ["ome.Image.Name", "ome.AcquisitionDate", "ome.Experimenter"]);
    }
}
