//! Leica SCN400 and SCN400F. Extension `.scn`; BigTIFF.
//!
//! Recognised by: page 0 is tiled and its ImageDescription names the XML namespace .../scn/2010/03/10 or .../scn/2010/10/01.
//! mpp: an area's `view` size in nm over its pixels; after that the resolution tags. Power: `objective`.
//! Layout: a `collection` (the slide, in nm) of `image`s. One that covers the collection is the macro, the others are areas,
//!   each a pyramid whose `dimension`s name their pages (`ifd`). A level is the whole collection in white with every
//!   brightfield area at its offset, cut to whole pixels; of areas that overlap, the first named is on top. Focal planes (`z`) and
//!   channels (`c`) other than 0 are not read; areas of different objectives or pyramids are refused, and so is fluorescence.
//! Codings: those of `tiled`.
//! Reference: openslide.org/formats/leica; OpenSlide 4.0.1's behaviour.
//! Fixtures: testdata/placed/scn_*.scn: emulated fixtures only, no real file was at hand.
//! Known differences to OpenSlide: downsamples are whole where the sizes allow it; mpp comes from nm, not from the tags; the
//!   macro may have any illumination; a lower level's area may begin a pixel off where an offset is no whole pixel (as there).

use std::collections::HashSet;

use roxmltree::Node;

use super::identifying::{Field, names};
use super::mpp::{MppSource, parse_number};
use super::placed::{Composition, Lattice, PlacedTiff};
use super::tiff::{Tiff, tag};
use super::tiled::TiledPage;
use super::xml::{self, children, number, whole};
use super::{Probe, SlideInfo, SlideReader, StatedMpp, downsample_between};
use crate::error::{Error, Result};

const NAMESPACES: [&str; 2] =
    ["http://www.leica-microsystems.com/scn/2010/03/10", "http://www.leica-microsystems.com/scn/2010/10/01"];
/// Areas of one level may differ by this much in resolution: their sizes are rounded to pixels.
const MAX_DIFFERENCE: f64 = 0.02;

/// Whether this TIFF is an SCN.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let page = &tiff.pages[0];
        let description = tiff.text(page, tag::IMAGE_DESCRIPTION).unwrap_or_default();
        page.has(tag::TILE_WIDTH) && NAMESPACES.iter().any(|n| description.contains(n))
    })
}

/// One `image` of the collection.
struct Image {
    is_macro: bool,
    is_brightfield: bool,
    objective: String,
    /// nm from the collection's upper left corner.
    offset: (f64, f64),
    /// Widest first.
    dimensions: Vec<Dimension>,
    /// Whether there are focal planes or channels besides.
    has_others: bool,
}

struct Dimension {
    page: usize,
    width: u32,
    /// nm per pixel.
    nm: (f64, f64),
}

/// Opens an SCN.
///
/// # Errors
/// [`Error::Unsupported`] without brightfield areas or with areas that do not fit together, [`Error::Damaged`] where the
/// XML lacks what it must have or names pages that are not there.
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let description = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let document = xml::parse(&description, "the description")?;
    let root = document.root_element();
    let collection = children(root, "collection").next();
    let collection = collection.ok_or_else(|| Error::Damaged("the description has no collection".into()))?;
    let size = (positive(collection, "sizeX")?, positive(collection, "sizeY")?);
    let images: Vec<Image> = children(collection, "image").map(|node| image(node, size)).collect::<Result<_>>()?;
    let (macros, areas): (Vec<Image>, Vec<Image>) = images.into_iter().partition(|i| i.is_macro);
    let scanned = areas.len();
    let areas: Vec<Image> = areas.into_iter().filter(|i| i.is_brightfield).collect();
    let first = areas.first().ok_or_else(|| {
        Error::Unsupported(match scanned {
            0 => "an SCN of nothing but the macro image".into(),
            _ => "an SCN without brightfield areas (fluorescence): only brightfield slides can be embedded".into(),
        })
    })?;
    let same = |a: &Image| a.objective == first.objective && a.dimensions.len() == first.dimensions.len();
    if !areas.iter().all(same) {
        return Err(Error::Unsupported("areas of different objectives or levels; export them one by one".into()));
    }
    let mut notes = Vec::new();
    if scanned > areas.len() {
        notes.push(format!("{} areas that are not brightfield are left out", scanned - areas.len()));
    }
    if areas.iter().any(|a| a.has_others) {
        notes.push("focal planes and channels besides the first are left out".into());
    }
    let mut stated_mpp = Vec::new();
    if let Some(dimension) = first.dimensions.first() {
        let (x, y) = dimension.nm;
        stated_mpp.push(StatedMpp { x: x / 1000.0, y: y / 1000.0, source: MppSource::Vendor });
        stated_mpp.extend(tiff.pages.get(dimension.page).and_then(|page| super::generic::resolution(&tiff, page)));
    }
    let info = SlideInfo {
        format: "leica".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp,
        objective_power: parse_number(&first.objective),
        associated_images: macros.iter().map(|_| "macro".to_string()).collect(),
        identifying_fields: named(&fields(&tiff, collection)),
        icc_profile: first
            .dimensions
            .first()
            .is_some_and(|d| tiff.pages.get(d.page).is_some_and(|p| p.has(tag::ICC_PROFILE))),
        notes,
    };
    let (pages, levels) = compose(&tiff, size, &areas)?;
    Ok(Box::new(PlacedTiff::new(tiff, info, pages, levels)?))
}

/// The areas' pages, and the levels that they make on a collection of `size` nm.
fn compose(tiff: &Tiff, size: (f64, f64), areas: &[Image]) -> Result<(Vec<TiledPage>, Vec<Composition>)> {
    let (mut pages, mut levels, mut seen) = (Vec::new(), Vec::<Composition>::new(), HashSet::new());
    for number in 0..areas.first().map_or(0, |a| a.dimensions.len()) {
        let of_level: Vec<(&Image, &Dimension)> = areas.iter().map(|a| (a, &a.dimensions[number])).collect();
        let (nm, first) = (of_level.iter().map(|(_, d)| d.nm.0).fold(f64::INFINITY, f64::min), of_level[0].1.nm.0);
        if of_level.iter().any(|(_, d)| (d.nm.0 / first - 1.0).abs() > MAX_DIFFERENCE) {
            return Err(Error::Unsupported(format!("areas of different resolution on level {number}")));
        }
        let mut lattices = Vec::new();
        for (order, (area, dimension)) in (0_u32..).zip(of_level) {
            let page = tiff.pages.get(dimension.page);
            let page = page.ok_or_else(|| Error::Damaged("an area on a page that is not there".into()))?;
            if !seen.insert(dimension.page) {
                return Err(Error::Damaged("two areas on one page".into()));
            }
            let stored = TiledPage::new(tiff, page)?;
            let at = ((area.offset.0 / nm).trunc(), (area.offset.1 / nm).trunc());
            lattices.push(Lattice { layer: u32::MAX - order, ..Lattice::of_page(pages.len(), &stored, at) });
            pages.push(stored);
        }
        let size = ((size.0 / nm).ceil(), (size.1 / nm).ceil());
        let pixels = |size: (f64, f64)| ((size.0 as u32).max(1), (size.1 as u32).max(1));
        let downsample = levels.first().map_or(1.0, |level0| downsample_between(pixels(level0.size), pixels(size)));
        levels.push(Composition { size, downsample, lattices });
    }
    Ok((pages, levels))
}

fn positive(node: Node, name: &str) -> Result<f64> {
    let value = number(node, name)?;
    if value >= 1.0 {
        return Ok(value);
    }
    Err(Error::Damaged(format!("{}: {name} is not positive", node.tag_name().name())))
}

fn image(node: Node, collection: (f64, f64)) -> Result<Image> {
    let child = |name| {
        children(node, name).next().ok_or_else(|| Error::Damaged(format!("an image of the collection has no {name}")))
    };
    let view = child("view")?;
    let size = (positive(view, "sizeX")?, positive(view, "sizeY")?);
    let offset = (number(view, "offsetX")?, number(view, "offsetY")?);
    let illumination = ["scanSettings", "illuminationSettings", "illuminationSource"];
    let objective = ["scanSettings", "objectiveSettings", "objective"];
    let (mut dimensions, mut has_others) = (Vec::new(), false);
    for dimension in children(child("pixels")?, "dimension") {
        if ["z", "c"].iter().any(|plane| dimension.attribute(*plane).is_some_and(|n| n.trim() != "0")) {
            has_others = true;
            continue;
        }
        let (width, height) = (whole(dimension, "sizeX")?, whole(dimension, "sizeY")?);
        if width == 0 || height == 0 {
            return Err(Error::Damaged("an image of no pixels".into()));
        }
        let nm = (size.0 / f64::from(width), size.1 / f64::from(height));
        dimensions.push(Dimension { page: whole(dimension, "ifd")? as usize, width, nm });
    }
    if dimensions.is_empty() {
        return Err(Error::Damaged("an image of the collection has no pages".into()));
    }
    dimensions.sort_by_key(|d| std::cmp::Reverse(d.width));
    Ok(Image {
        is_macro: offset == (0.0, 0.0) && size == collection,
        is_brightfield: xml::text(node, &illumination) == Some("brightfield"),
        objective: xml::text(node, &objective).unwrap_or_default().into(),
        offset,
        dimensions,
        has_others,
    })
}

/// What may identify: what the XML says of the slide, a person, a day or a device, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF, or the XML is not sound.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let description = tiff.text(&tiff.pages[0], tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let document = xml::parse(&description, "the description")?;
    let collection = children(document.root_element(), "collection").next();
    let collection = collection.ok_or_else(|| Error::Damaged("the description has no collection".into()))?;
    let mut all = fields(tiff, collection);
    all.extend(super::generic::tag_values(tiff));
    Ok(all)
}

fn fields(tiff: &Tiff, collection: Node) -> Vec<Field> {
    let mut fields = super::generic::identifying_tags(tiff);
    let mut add = |name: &str, value: &str| fields.push(Field::new(format!("leica.{name}"), value));
    let images = || children(collection, "image");
    for node in std::iter::once(collection).chain(images()) {
        for name in ["barcode", "name", "uuid"] {
            node.attribute(name).into_iter().for_each(|value| add(name, value));
        }
    }
    collection.ancestors().skip(1).filter_map(|n| n.attribute("uuid")).for_each(|value| add("uuid", value));
    let elements = children(collection, "barcode").map(|n| ("barcode", n));
    let of_images = images().flat_map(|i| {
        children(i, "creationDate").map(|n| ("creationDate", n)).chain(children(i, "device").map(|n| ("device", n)))
    });
    for (name, node) in elements.chain(of_images) {
        let values: Vec<&str> = node.attributes().map(|a| a.value()).chain(node.text()).collect();
        add(name, values.first().map_or("", |v| v.trim()));
        values.iter().skip(1).for_each(|value| add(name, value.trim()));
    }
    fields
}

fn named(fields: &[Field]) -> Vec<String> {
    let mut names = names(fields);
    names.sort();
    names
}
