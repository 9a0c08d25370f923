//! What happens to a slide before its tiles are read: opened, its resolution judged, tissue found, tiles planned.

use std::path::PathBuf;
use std::sync::Arc;

use super::blocks::BlockStore;
use super::tissue::{self, Found, TissueFacts};
use crate::encoder::segment::Segmenter;
use crate::error::{Error, Result};
use crate::icc::{IccMode, ToSrgb};
use crate::slide::lowpower::LowPower;
use crate::slide::mpp::{Mpp, MppOverride};
use crate::slide::{Level, Slide};
use crate::tiling::{LevelGeometry, ReadPlan, TilingOptions};
use crate::tissue::{TissueMask, TissueMethod, TissueOptions};

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
    /// The model that finds it, with [`TissueMethod::Model`].
    pub model: Option<Arc<Segmenter>>,
    /// The parameters of that, and what a tile may hold of artefacts.
    pub find: TissueOptions,
    /// Whether tiles keep the scanner's colours or are brought to sRGB. Tissue is found in the scanner's.
    pub icc: IccMode,
    /// Tiles of a slide that may be unreadable before it counts as failed.
    pub allow_failed_tiles: u64,
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
    let Found { mask, tiles, dropped, facts, low_power } = tissue::find(&slide, mpp, &plan, options, &mut warnings)?;
    let colours = colours(&slide, options.icc, &mut warnings)?;
    let blocks = BlockStore::new(&slide.info().levels[plan.level], &plan, &tiles, colours);
    Ok(PlannedSlide {
        spec: spec.clone(),
        tissue: facts,
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
