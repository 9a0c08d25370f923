//! What happens to a slide before its tiles are read: opened, its resolution judged, tissue found, tiles planned.

use std::path::PathBuf;

use serde_json::json;

use super::blocks::BlockStore;
use crate::error::{Error, Result};
use crate::icc::{IccMode, ToSrgb};
use crate::slide::lowpower::{self, LowPower};
use crate::slide::mpp::{Mpp, MppOverride};
use crate::slide::{Level, Slide};
use crate::tiling::{self, LevelGeometry, ReadPlan, TilingOptions};
use crate::tissue::{self, OtsuOptions, TissueMask, TissueMethod};

/// Longest side that overviews have at least, where the slide has as many pixels.
const OVERVIEW_PX: f64 = 1024.0;

/// A slide to work on.
#[derive(Clone, Debug)]
pub struct SlideSpec {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name in OUT.
    pub id: String,
    /// What the user says about its resolution.
    pub mpp: MppOverride,
}

/// What is done to every slide of a run.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The tiles.
    pub tiling: TilingOptions,
    /// How tissue is found.
    pub tissue: TissueMethod,
    /// The method's parameters.
    pub otsu: OtsuOptions,
    /// Whether tiles keep the scanner's colours or are brought to sRGB. Tissue is found in the scanner's.
    pub icc: IccMode,
    /// Tiles of a slide that may be unreadable before it counts as failed.
    pub allow_failed_tiles: u64,
}

/// What was found out about a slide's tissue.
#[derive(Clone, Debug, PartialEq)]
pub struct TissueFacts {
    /// Tissue area in mm².
    pub area_mm2: f64,
    /// The method's findings, for the record.
    pub details: serde_json::Value,
}

/// A slide that is ready to be read.
pub struct PlannedSlide {
    /// What was asked for.
    pub spec: SlideSpec,
    /// The open slide.
    pub slide: Slide,
    /// Its resolution.
    pub mpp: Mpp,
    /// How its tiles are read.
    pub plan: ReadPlan,
    /// Upper left corners in level-0 pixels, in row order.
    pub tiles: Vec<[i64; 2]>,
    /// Those of the grid's tiles that touch tissue and hold too little of it, for the overview.
    pub dropped: Vec<[i64; 2]>,
    /// Tissue, for the overview.
    pub mask: TissueMask,
    /// The picture that tissue was found in.
    pub low_power: LowPower,
    /// What was found.
    pub tissue: TissueFacts,
    /// What the user should know about this slide.
    pub warnings: Vec<String>,
    /// Its decoded blocks.
    pub blocks: BlockStore,
}

impl PlannedSlide {
    /// The level that tiles are read from.
    #[must_use]
    pub fn level(&self) -> &Level {
        &self.slide.info().levels[self.plan.level]
    }

    /// Leaves out the first `tiles` of the plan: an earlier run has read them. Call it before any tile is read.
    pub fn skip(&mut self, tiles: usize) {
        let level = &self.slide.info().levels[self.plan.level];
        self.blocks.skip(level, &self.plan, &self.tiles[..tiles]);
    }

    /// Asks for the bytes of the tiles after the one at `row` of the plan.
    pub fn read_ahead(&self, row: usize) {
        self.blocks.read_ahead(self.slide.reader.as_ref(), self.level(), &self.plan, &self.tiles, row);
    }
}

/// The levels as the plan sees them.
#[must_use]
pub fn geometry(slide: &Slide) -> Vec<LevelGeometry> {
    let levels = slide.info().levels.iter();
    levels
        .map(|l| LevelGeometry {
            downsample: l.downsample,
            scales: l.coding.scales(),
            block: (l.block_width, l.block_height),
        })
        .collect()
}

/// Opens a slide and plans its tiles.
///
/// # Errors
/// Whatever makes this slide unusable; never names it.
pub fn prepare(spec: &SlideSpec, options: &PrepareOptions) -> Result<PlannedSlide> {
    plan(spec, Slide::open(&spec.path)?, options)
}

/// Plans the tiles of an open slide.
///
/// # Errors
/// As [`prepare`].
pub fn plan(spec: &SlideSpec, slide: Slide, options: &PrepareOptions) -> Result<PlannedSlide> {
    let mpp = slide.mpp(spec.mpp)?;
    let plan = ReadPlan::new(&geometry(&slide), mpp.mean(), &options.tiling)?;
    let mut warnings = slide.info().notes.clone();
    let (width, height) = (slide.level0().width, slide.level0().height);
    // Small slides get a finer picture, for people; tissue is always looked for at the same resolution.
    let mask_downsample = options.otsu.mask_mpp / mpp.mean();
    let finest = f64::from(width.max(height)) / OVERVIEW_PX;
    let low_power = lowpower::read(&slide, mask_downsample.min(finest).max(1.0), options.allow_failed_tiles)?;
    if low_power.failed_blocks > 0 {
        warnings.push(format!(
            "{} blocks could not be decoded while tissue was looked for and count as background",
            low_power.failed_blocks
        ));
    }
    let reduced = low_power.reduced(mask_downsample);
    let picture = reduced.as_ref().unwrap_or(&low_power);
    let (mask, details) = find_tissue(&slide, picture, mpp, options, &mut warnings)?;
    let side = f64::from(plan.tile_size_level0);
    let least = options.tiling.min_tissue_fraction;
    let all = options.tissue == TissueMethod::None;
    let mut dropped = Vec::new();
    let tiles = tiling::grid((width, height), &plan, |x, y| {
        let fraction = if all { 1.0 } else { mask.fraction(x as f64, y as f64, side, side) };
        // Without a least share any tissue counts, none does not.
        let kept = fraction > 0.0 && fraction >= least;
        if fraction > 0.0 && !kept {
            dropped.push([x, y]);
        }
        kept
    });
    let area_mm2 = mask.tissue_area_level0() * mpp.x * mpp.y / 1e6;
    if tiles.is_empty() && !warnings.iter().any(|w| w.starts_with("no tissue")) {
        warnings.push("no tissue found: the feature file is empty".into());
    }
    let colours = colours(&slide, options.icc, &mut warnings)?;
    let blocks = BlockStore::new(&slide.info().levels[plan.level], &plan, &tiles, colours);
    Ok(PlannedSlide {
        spec: spec.clone(),
        tissue: TissueFacts { area_mm2, details },
        slide,
        mpp,
        plan,
        tiles,
        dropped,
        mask,
        low_power,
        warnings,
        blocks,
    })
}

/// What brings a slide's pixels to sRGB; `None` where they stay as they are.
fn colours(slide: &Slide, mode: IccMode, warnings: &mut Vec<String>) -> Result<Option<ToSrgb>> {
    if mode == IccMode::Off {
        return Ok(None);
    }
    let Some(profile) = slide.reader.icc_profile()? else {
        warnings.push("no ICC profile: the colours are left as they are".into());
        return Ok(None);
    };
    let unusable = |why| Error::Damaged(format!("its ICC profile cannot be used: {why} (--icc off does without)"));
    ToSrgb::new(&profile).map(Some).map_err(unusable)
}

fn find_tissue(
    slide: &Slide,
    low_power: &LowPower,
    mpp: Mpp,
    options: &PrepareOptions,
    warnings: &mut Vec<String>,
) -> Result<(TissueMask, serde_json::Value)> {
    let (width, height) = (slide.level0().width, slide.level0().height);
    let method = options.tissue.name();
    Ok(match &options.tissue {
        TissueMethod::None => (TissueMask::everything(width, height), json!({ "method": method })),
        TissueMethod::MaskFile(path) => {
            let mask = tissue::mask_from_file(path, width, height).map_err(|e| Error::Tissue(e.to_string()))?;
            (mask, json!({ "method": method }))
        }
        TissueMethod::Otsu => {
            let found = tissue::segment_otsu(&low_power.image, mpp.mean() * low_power.downsample, &options.otsu);
            let details = json!({
                "method": method,
                "mask_downsample": low_power.downsample,
                "threshold": found.threshold,
                "background": found.background,
                "pen_pixels": found.pen_pixels,
                "unscanned_pixels": found.unscanned_pixels,
            });
            warnings.extend(found.warnings.iter().cloned());
            (found.into_mask(low_power.downsample, low_power.downsample), details)
        }
    })
}
