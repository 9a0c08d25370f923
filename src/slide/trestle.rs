//! Trestle (MedScan). Extension `.tif`, with further files beside it.
//!
//! Recognised by: Software starts with `MedScan`, page 0 has an ImageDescription, all pages are tiled.
//! mpp: XResolution and YResolution, which hold µm per pixel here whatever the unit tag says; power: `Objective Power=`.
//! Layout: each page is a level, the finest first. On level n neighbouring blocks overlap by the n-th pair of `OverlapsXY=`;
//!   lower and further right blocks are on top. The pages' sizes count overlapping pixels twice. The macro image is the file
//!   of the same name that ends in `.Full`.
//! Codings: those of `tiled`.
//! Reference: openslide.org/formats/trestle; OpenSlide 4.0.1's behaviour.
//! Fixtures: testdata/placed/trestle.tif: emulated fixture only, no real file was at hand.
//! Known differences to OpenSlide: downsamples are whole where the sizes allow it.

use super::mpp::{MppSource, parse_number};
use super::placed::{Composition, Lattice, PlacedTiff};
use super::tiff::tag;
use super::tiled::TiledPage;
use super::{Probe, SlideInfo, SlideReader, StatedMpp, downsample_between};
use crate::error::{Error, Result};

/// Whether this TIFF is one of Trestle's.
#[must_use]
pub fn recognise(probe: &Probe) -> bool {
    probe.is_tiff(|tiff| {
        let page = &tiff.pages[0];
        tiff.text(page, tag::SOFTWARE).is_some_and(|t| t.starts_with("MedScan"))
            && page.has(tag::IMAGE_DESCRIPTION)
            && tiff.pages.iter().all(|p| p.has(tag::TILE_WIDTH))
    })
}

/// What may identify: the TIFF's own tags.
pub use super::generic::identifying;

/// Opens a Trestle slide.
///
/// # Errors
/// As [`TiledPage::new`]; [`Error::Damaged`] for overlaps that cannot be.
pub fn open(probe: Probe) -> Result<Box<dyn SlideReader>> {
    // Only whether it is there: its pixels are never read.
    let has_macro = probe.path.with_extension("Full").is_file();
    let tiff = probe.into_tiff()?;
    let first = &tiff.pages[0];
    let description = tiff.text(first, tag::IMAGE_DESCRIPTION).unwrap_or_default();
    let overlaps = overlaps(&description);
    let (mut pages, mut levels, mut level0) = (Vec::new(), Vec::new(), None);
    for (number, page) in tiff.pages.iter().enumerate() {
        let stored = TiledPage::new(&tiff, page)?;
        let (overlap_x, overlap_y) = overlaps.get(number).copied().unwrap_or_default();
        let ((width, height), (block_width, block_height)) = (stored.size(), stored.block_size());
        let (columns, rows) = stored.block_grid();
        let advance = |block: u32, overlap: u32| block.checked_sub(overlap).filter(|n| *n > 0);
        let (Some(x), Some(y)) = (advance(block_width, overlap_x), advance(block_height, overlap_y)) else {
            return Err(Error::Damaged(format!("blocks of level {number} overlap wholly")));
        };
        // A page smaller than its block has nothing to overlap with.
        let side = |side: u32, block: u32, blocks: u32, overlap: u32| match side >= block {
            true => side.saturating_sub((blocks - 1).saturating_mul(overlap)),
            false => side,
        };
        let size = (side(width, block_width, columns, overlap_x), side(height, block_height, rows, overlap_y));
        if size.0 == 0 || size.1 == 0 {
            return Err(Error::Damaged(format!("level {number} is all overlap")));
        }
        let level0 = *level0.get_or_insert(size);
        let downsample = if number == 0 { 1.0 } else { downsample_between(level0, size) };
        let advance = (f64::from(x), f64::from(y));
        let lattice = Lattice { advance, ..Lattice::of_page(pages.len(), &stored, (0.0, 0.0)) };
        pages.push(stored);
        levels.push(Composition { size: (f64::from(size.0), f64::from(size.1)), downsample, lattices: vec![lattice] });
    }
    let mpp = |tag| tiff.rational(first, tag);
    let stated = mpp(tag::X_RESOLUTION).map(|x| {
        let y = mpp(tag::Y_RESOLUTION).unwrap_or(x);
        StatedMpp { x, y, source: MppSource::TiffResolution }
    });
    let info = SlideInfo {
        format: "trestle".into(),
        reader: "native".into(),
        levels: Vec::new(),
        stated_mpp: stated.into_iter().collect(),
        objective_power: value(&description, "Objective Power").and_then(parse_number),
        associated_images: has_macro.then(|| "macro".to_string()).into_iter().collect(),
        identifying_fields: super::identifying::names(&super::generic::identifying_tags(&tiff)),
        icc_profile: first.has(tag::ICC_PROFILE),
        notes: Vec::new(),
    };
    Ok(Box::new(PlacedTiff::new(tiff, info, pages, levels)?))
}

/// The value of a `key=value` of a description, which are parted by semicolons.
fn value<'a>(description: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = description.split(';').filter_map(|pair| pair.split_once('='));
    pairs.find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim())
}

/// Pixels that neighbouring blocks share on each level, horizontally and vertically; none where they are no numbers.
fn overlaps(description: &str) -> Vec<(u32, u32)> {
    let numbers = value(description, "OverlapsXY").unwrap_or_default().split_whitespace();
    let numbers: Vec<u32> = numbers.map(|n| n.parse().unwrap_or(0)).collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read_by_key() {
        let text = "Background Color=E6E6E6;Objective Power=20;OverlapsXY= 64 32 16 8 4;JPEG Quality=80";
        assert_eq!(overlaps(text), [(64, 32), (16, 8)]);
        assert_eq!(value(text, "Objective Power"), Some("20"));
        assert_eq!(overlaps("OverlapsXY=a -1"), [(0, 0)]);
        assert!(overlaps("").is_empty());
    }
}
