//! Ventana (Roche) iScan, DP 200. Extensions `.bif`, `.tif`; BigTIFF.
//!
//! Recognised by: page 0's XMP holds an `iScan` element, as its root or within `Metadata`.
//! mpp: iScan's `ScanRes`; power: `Magnification`.
//! Layout: pages whose description says `level=N mag=M` are levels, the others label, thumbnail and the like. The level-0
//!   page's XMP (`EncodeInfo`) lists areas (`ImageInfo`, `AoiOrigin`): a rectangle of stored blocks each, its place on the
//!   slide, and by how much neighbours overlap (`TileJointInfo`). As in OpenSlide the blocks of all areas lie at one
//!   distance, the mean of all joints weighted by their `Confidence`; lower and further right blocks are on top. A lower level's
//!   blocks are made of parts that lie where their level-0 blocks lie. Without EncodeInfo levels are regular grids. Blocks are
//!   stored by column and row (files of the DP 200 as well); only joints count them in serpentines from the bottom.
//! Codings: those of `tiled`.
//! Reference: openslide.org/formats/ventana; OpenSlide 4.0.1's behaviour.
//! Fixtures: testdata/placed/bif_*.bif and ventana.tif: emulated fixtures only, no real file was at hand.
//! Known differences to OpenSlide: places that are no whole pixels are rounded to the nearest, where OpenSlide interpolates; an
//!   area of one block, which has no joints, is read; a block past the stored ones is an error when the slide is opened.

use roxmltree::Node;

use super::identifying::{Field, names};
use super::mpp::{MppSource, parse_number};
use super::placed::{Composition, Lattice, PlacedTiff};
use super::tiff::{Tiff, tag};
use super::tiled::TiledPage;
use super::xml::{self, children, number, whole};
use super::{Probe, SlideInfo, SlideReader, StatedMpp};
use crate::error::{Error, Result};

/// Attributes of iScan that may identify a slide, a person, a day or a device.
const IDENTIFYING: &[&str] = &[
    "BarCode1D",
    "BarCode2D",
    "BaseName",
    "BuildDate",
    "CaseID",
    "JP2FileName",
    "Label",
    "ScanDate",
    "ScanDateTime",
    "ScannerID",
    "SerialNumber",
    "SlideAnnotation",
    "SlideID",
    "UnitNumber",
    "UserName",
];

/// Whether this TIFF is one of Ventana's.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| tiff.text(&tiff.pages[0], tag::XMP).is_some_and(|t| t.contains("<iScan")))
}

/// A rectangle of blocks that were scanned together.
#[derive(Debug, PartialEq)]
struct Area {
    /// First column and row in the page's grid of blocks.
    first: (u32, u32),
    count: (u32, u32),
    /// Where it lies: the left edge, and the distance of its lower edge from a line below all areas.
    left: f64,
    above: f64,
}

/// What EncodeInfo says about level 0.
#[derive(Debug, PartialEq)]
struct Stitching {
    areas: Vec<Area>,
    /// From one block to the next, in level-0 pixels.
    advance: (f64, f64),
}

fn iscan<'a, 'i>(root: Node<'a, 'i>) -> Result<Node<'a, 'i>> {
    let iscan = match root.tag_name().name() {
        "iScan" => Some(root),
        "Metadata" => children(root, "iScan").next(),
        _ => None,
    };
    iscan.ok_or_else(|| Error::Damaged("the metadata have no iScan where it must be".into()))
}

/// What may identify: attributes of iScan, and the TIFF's own tags.
///
/// # Errors
/// Where the probe is no TIFF, or its metadata are not sound.
pub fn identifying(probe: &Probe) -> Result<Vec<Field>> {
    let tiff = probe.tiff()?;
    let packet = tiff.text(&tiff.pages[0], tag::XMP).unwrap_or_default();
    let document = xml::parse(&packet, "the iScan metadata")?;
    let mut all = fields(tiff, iscan(document.root_element())?);
    // The packet is iScan and the joints of all blocks.
    all.extend(super::generic::tag_values(tiff).into_iter().filter(|f| f.name != "tiff.XMP"));
    Ok(all)
}

fn fields(tiff: &Tiff, iscan: Node) -> Vec<Field> {
    let stated = IDENTIFYING.iter().filter_map(|a| Some((a, iscan.attribute(*a).filter(|v| !v.is_empty())?)));
    let stated = stated.map(|(name, value)| Field::new(format!("ventana.{name}"), value));
    stated.chain(super::generic::identifying_tags(tiff)).collect()
}

/// Opens a BIF, or a TIFF that the same scanners export.
///
/// # Errors
/// [`Error::Unsupported`] for joints of a kind that is not known, [`Error::Damaged`] for levels out of order, metadata that
/// contradict the pages, and blocks that are not stored.
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    let tiff = probe.into_tiff()?;
    let packet = tiff.text(&tiff.pages[0], tag::XMP).unwrap_or_default();
    let document = xml::parse(&packet, "the iScan metadata")?;
    let iscan = iscan(document.root_element())?;
    let value = |name: &str| iscan.attribute(name).and_then(parse_number);
    let mut notes = Vec::new();
    if value("Z-layers").is_some_and(|n| n > 1.0) {
        notes.push("focal planes besides the first are left out".into());
    }
    let (pages, levels, associated_images) = levels(&tiff)?;
    let mut identifying_fields = names(&fields(&tiff, iscan));
    identifying_fields.sort();
    let info = SlideInfo {
        format: "ventana".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: value("ScanRes").map(|m| StatedMpp { x: m, y: m, source: MppSource::Vendor }).into_iter().collect(),
        objective_power: value("Magnification"),
        associated_images,
        identifying_fields,
        icc_profile: tiff.pages.iter().any(|p| p.has(tag::ICC_PROFILE)),
        notes,
    };
    Ok(Box::new(PlacedTiff::new(tiff, info, pages, levels)?))
}

/// The levels' pages, what is drawn on each level, and the kinds of the other pages.
fn levels(tiff: &Tiff) -> Result<(Vec<TiledPage>, Vec<Composition>, Vec<String>)> {
    let (mut pages, mut levels, mut others) = (Vec::<TiledPage>::new(), Vec::new(), Vec::new());
    let (mut stitching, mut magnifications) = (None, Vec::<f64>::new());
    for page in &tiff.pages {
        let description = tiff.text(page, tag::IMAGE_DESCRIPTION).unwrap_or_default();
        if !description.contains("level=") {
            others.push(associated_kind(description.trim()).to_string());
            continue;
        }
        let wrong = |what: &str| Error::Damaged(format!("level {}: {what}", levels.len()));
        let (level, magnification) = level_and_magnification(&description).ok_or_else(|| wrong("no level, no mag"))?;
        if level != levels.len() {
            return Err(wrong("the levels are not in order"));
        }
        if magnifications.last().is_some_and(|above| magnification >= *above) {
            return Err(wrong("its magnification is not below that of the level before it"));
        }
        magnifications.push(magnification);
        let downsample = magnifications[0] / magnification;
        let stored = TiledPage::new(tiff, page)?;
        if pages.first().is_some_and(|level0| level0.block_size() != stored.block_size()) {
            return Err(wrong("its blocks have another size than those of level 0"));
        }
        if level == 0 && page.has(tag::XMP) {
            let packet = tiff.text(page, tag::XMP).unwrap_or_default();
            stitching = Some(stitching_of(&packet, stored.block_size())?);
        }
        levels.push(match &stitching {
            Some(stitching) => stitching.composition(pages.len(), stored.block_size(), downsample)?,
            None => {
                let (width, height) = stored.size();
                let size = (f64::from(width), f64::from(height));
                Composition { size, downsample, lattices: vec![Lattice::of_page(pages.len(), &stored, (0.0, 0.0))] }
            }
        });
        pages.push(stored);
    }
    Ok((pages, levels, others))
}

fn associated_kind(description: &str) -> &'static str {
    match description {
        "Label Image" | "Label_Image" => "macro",
        "Thumbnail" => "thumbnail",
        "Probability_Image" => "probability",
        _ => "unnamed",
    }
}

/// `level=N mag=M ...`
fn level_and_magnification(description: &str) -> Option<(usize, f64)> {
    let value = |key| description.split_whitespace().filter_map(|p| p.split_once('=')).find(|(k, _)| *k == key);
    let magnification = parse_number(value("mag")?.1).filter(|m| m.is_finite() && *m > 0.0)?;
    Some((value("level")?.1.parse().ok()?, magnification))
}

impl Stitching {
    /// How the areas lie on a level that is reduced by `downsample` and whose blocks are on `page`.
    fn composition(&self, page: usize, block: (u32, u32), downsample: f64) -> Result<Composition> {
        let parts = downsample.round();
        if (downsample - parts).abs() > 1e-6 * parts || parts > 65536.0 {
            return Err(Error::Unsupported(format!("a level reduced by {downsample}, which is no whole number")));
        }
        let piece = (f64::from(block.0) / parts, f64::from(block.1) / parts);
        let advance = (self.advance.0 / parts, self.advance.1 / parts);
        // The file counts upwards. Whole pixels, as in OpenSlide: the reduction of this number is not rounded again.
        let height = |area: &Area| (f64::from(area.count.1 - 1) * self.advance.1 + f64::from(block.1)).trunc();
        let top = self.areas.iter().map(|a| a.above + height(a)).fold(0.0, f64::max);
        let mut hull = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        let lattice = |area: &Area| {
            let at = (area.left, top - area.above - height(area));
            // Summed in OpenSlide's order, so that sizes that are whole but for the last bit are the same ones.
            let edge = |at: f64, first: u32, index: u32, full: f64, step: f64| {
                f64::from(first + index) * step + (at - f64::from(first) * full) / parts
            };
            let x = |i| edge(at.0, area.first.0, i, self.advance.0, advance.0);
            let y = |i| edge(at.1, area.first.1, i, self.advance.1, advance.1);
            hull[0] = hull[0].min(x(0));
            hull[1] = hull[1].min(y(0));
            hull[2] = hull[2].max(x(area.count.0 - 1) + piece.0);
            hull[3] = hull[3].max(y(area.count.1 - 1) + piece.1);
            let at = (at.0 / parts, at.1 / parts);
            Lattice { page, parts: parts as u32, first: area.first, count: area.count, at, advance, layer: 0 }
        };
        let lattices = self.areas.iter().map(lattice).collect();
        let size = ((hull[0] + (hull[2] - hull[0])).ceil(), (hull[1] + (hull[3] - hull[1])).ceil());
        Ok(Composition { size, downsample: parts, lattices })
    }
}

/// Reads EncodeInfo for level-0 blocks of `block` pixels.
fn stitching_of(packet: &str, block: (u32, u32)) -> Result<Stitching> {
    let document = xml::parse(packet, "the EncodeInfo metadata")?;
    let root = document.root_element();
    let infos: Vec<Node> = children(root, "SlideStitchInfo").flat_map(|s| children(s, "ImageInfo")).collect();
    let origins = children(root, "AoiOrigin").flat_map(|o| o.children().filter(Node::is_element));
    let origins: Vec<Node> = origins.collect();
    if root.tag_name().name() != "EncodeInfo" || infos.is_empty() || infos.len() != origins.len() {
        return Err(Error::Damaged("EncodeInfo lists no areas, or not as many origins".into()));
    }
    let mut areas = Vec::new();
    // Sums of overlaps and of their weights, to the right and upwards.
    let (mut right, mut up) = ((0.0, 0.0), (0.0, 0.0));
    for (info, origin) in infos.into_iter().zip(origins) {
        if whole(info, "AOIScanned")? == 0 {
            continue;
        }
        if (whole(info, "Width")?, whole(info, "Height")?) != block {
            return Err(Error::Damaged("EncodeInfo states another size of blocks than the page".into()));
        }
        let (x, y) = (whole(origin, "OriginX")?, whole(origin, "OriginY")?);
        if x % block.0 != 0 || y % block.1 != 0 {
            return Err(Error::Damaged("an area begins within a block".into()));
        }
        let count = (whole(info, "NumCols")?, whole(info, "NumRows")?);
        if count.0 == 0 || count.1 == 0 {
            return Err(Error::Damaged("an area without blocks".into()));
        }
        for joint in children(info, "TileJointInfo") {
            let (one, two) = (place(whole(joint, "Tile1")?, count)?, place(whole(joint, "Tile2")?, count)?);
            let (sums, overlap, fits) = match joint.attribute("Direction") {
                Some("RIGHT") => (&mut right, "OverlapX", (one.0 + 1, one.1) == two),
                Some("UP") => (&mut up, "OverlapY", (two.0, two.1 + 1) == one),
                _ => return Err(Error::Unsupported("blocks joined in another direction than right or up".into())),
            };
            if !fits {
                return Err(Error::Damaged("a joint of blocks that are no neighbours".into()));
            }
            let weight = f64::from(whole(joint, "Confidence")?);
            sums.0 += weight * number(joint, overlap)?;
            sums.1 += weight;
        }
        let (left, above) = (number(info, "Pos-X")?.trunc(), number(info, "Pos-Y")?.trunc());
        areas.push(Area { first: (x / block.0, y / block.1), count, left, above });
    }
    if areas.is_empty() {
        return Err(Error::Damaged("no area was scanned".into()));
    }
    let advance =
        |block: u32, (sum, weight): (f64, f64)| f64::from(block) - if weight > 0.0 { sum / weight } else { 0.0 };
    Ok(Stitching { advance: (advance(block.0, right), advance(block.1, up)), areas })
}

/// Column and row of a block that joints count: from 1 at the lower left corner, the second row backwards, and so on.
fn place(tile: u32, (columns, rows): (u32, u32)) -> Result<(u32, u32)> {
    let index = tile.checked_sub(1).filter(|i| u64::from(*i) < u64::from(columns) * u64::from(rows));
    let index = index.ok_or_else(|| Error::Damaged("a joint of a block that is not there".into()))?;
    let (column, row) = (index % columns, index / columns);
    Ok((if row % 2 == 1 { columns - 1 - column } else { column }, rows - 1 - row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joints_count_in_serpentines_from_the_bottom() {
        let places: Vec<_> = (1..=6).map(|n| place(n, (3, 2)).expect("there")).collect();
        assert_eq!(places, [(0, 1), (1, 1), (2, 1), (2, 0), (1, 0), (0, 0)]);
        assert!(place(0, (3, 2)).is_err() && place(7, (3, 2)).is_err());
    }

    #[test]
    fn descriptions_are_read_by_key() {
        assert_eq!(level_and_magnification("level=3 mag=2.5 quality=95"), Some((3, 2.5)));
        for bad in ["level=3", "mag=20", "level=x mag=20", "level=1 mag=0", "level=1 mag=nan"] {
            assert_eq!(level_and_magnification(bad), None, "{bad}");
        }
    }

    fn encode_info(joints: &str) -> Result<Stitching> {
        let xml = format!(
            "<EncodeInfo><SlideStitchInfo><ImageInfo AOIScanned='1' NumRows='2' NumCols='2' Width='64' Height='64' \
             Pos-X='10.0' Pos-Y='7'>{joints}</ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 OriginX='128' OriginY='0'/>\
             </AoiOrigin></EncodeInfo>"
        );
        stitching_of(&xml, (64, 64))
    }

    #[test]
    fn blocks_lie_at_the_weighted_mean_of_their_joints() {
        let joint = |direction, one, two, overlap, confidence| {
            format!(
                "<TileJointInfo Direction='{direction}' Tile1='{one}' Tile2='{two}' OverlapX='{overlap}' OverlapY='2' \
                 Confidence='{confidence}'/>"
            )
        };
        let joints = joint("RIGHT", 1, 2, 8, 1) + &joint("RIGHT", 4, 3, 4, 3) + &joint("UP", 1, 4, 0, 9);
        let got = encode_info(&joints).expect("sound");
        assert_eq!(got.advance, (64.0 - 5.0, 62.0));
        let level = got.composition(0, (64, 64), 1.0).expect("sound");
        // The upper edge of the highest area is the slide's.
        assert_eq!((level.size, level.lattices[0].at), ((10.0 + 59.0 + 64.0, 126.0), (10.0, 0.0)));
        assert_eq!(encode_info("").expect("no joints, no overlap").advance, (64.0, 64.0));
        assert!(matches!(got.composition(0, (64, 64), 2.5), Err(Error::Unsupported(_))));
        assert!(matches!(encode_info(&joint("LEFT", 2, 1, 8, 1)), Err(Error::Unsupported(_))));
        assert!(matches!(encode_info(&joint("RIGHT", 1, 3, 8, 1)), Err(Error::Damaged(_))));
        assert!(matches!(encode_info(&joint("RIGHT", 1, 9, 8, 1)), Err(Error::Damaged(_))));
    }
}
