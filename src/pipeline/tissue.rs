//! A slide's tissue and the quality of its tiles: the low-power picture read once, at the resolution that focus is judged at, the
//! method run on it, and each tile of the grid measured.

use serde_json::{Value, json};

use super::prepare::PrepareOptions;
use super::segment::segment;
use crate::error::{Error, Result};
use crate::slide::Slide;
use crate::slide::lowpower::{self, LowPower};
use crate::slide::mpp::Mpp;
use crate::tiling::{self, ReadPlan};
use crate::tissue::{
    self, Artefacts, QC_COLUMNS, QcMaps, Segmentation, Survey, TileQc, TissueMask, TissueMethod, TissueOptions,
};

/// Longest side that overviews have at least, where the slide has as many pixels.
const OVERVIEW_PX: f64 = 1024.0;

/// What was found out about a slide's tissue.
#[derive(Clone, Debug, PartialEq)]
pub struct TissueFacts {
    /// Tissue area in mm².
    pub area_mm2: f64,
    /// The method's findings, for the record.
    pub details: Value,
    /// Why the result should be looked at: no tissue, or very little; stands in the table at the end, too.
    pub suspicion: Option<String>,
    /// Quality of the planned tiles, in their order.
    pub qc: Vec<TileQc>,
    /// µm/px of the picture that tissue, pen, white and black were measured in, and of the one that focus was.
    pub qc_mpp: [f64; 2],
}

/// A slide's tissue, its tiles, and the picture for its overview.
pub struct Found {
    /// Tissue over the slide.
    pub mask: TissueMask,
    /// Upper left corners in level-0 pixels, in row order.
    pub tiles: Vec<[i64; 2]>,
    /// Tiles with some tissue that were left out: too little of it, or beyond the limits of quality.
    pub dropped: Vec<[i64; 2]>,
    /// What was found.
    pub facts: TissueFacts,
    /// The picture, no finer than tissue was looked for in unless the slide is small.
    pub low_power: LowPower,
}

/// Finds tissue and the tiles worth reading.
///
/// # Errors
/// Whatever makes the slide unreadable at low power, [`Error::Tissue`] where the method does not fit the slide.
pub fn find(
    slide: &Slide,
    mpp: Mpp,
    plan: &ReadPlan,
    options: &PrepareOptions,
    warnings: &mut Vec<String>,
) -> Result<Found> {
    let settings = &options.find;
    let (width, height) = (slide.level0().width, slide.level0().height);
    let mask_downsample = settings.mask_mpp / mpp.mean();
    let finest = f64::from(width.max(height)) / OVERVIEW_PX;
    let wanted = (settings.focus.mpp / mpp.mean()).min(finest).max(1.0);
    let fine = lowpower::read(slide, wanted, options.allow_failed_tiles)?;
    if fine.failed_blocks > 0 {
        warnings.push(format!(
            "{} blocks could not be decoded while tissue was looked for and count as background",
            fine.failed_blocks
        ));
    }
    let reduced = fine.reduced(mask_downsample);
    let picture = reduced.as_ref().unwrap_or(&fine);
    let picture_mpp = mpp.mean() * picture.downsample;
    let survey = tissue::survey(&picture.image, picture_mpp, settings);
    let Masked { mask, mut details } = mask(slide, mpp, &survey, picture, options)?;
    let tissue_um2 = mask.tissue_area_level0() * mpp.x * mpp.y;
    let on_picture = on_raster(&mask, picture);
    let artefacts = survey.artefacts(&on_picture);
    let mut suspicion = None;
    if options.tissue != TissueMethod::None {
        suspicion = artefacts.suspicion(tissue_um2);
        warnings.extend(artefacts.warnings(tissue_um2));
    }
    if survey.is_dark() {
        let advice =
            "the slide is bright on black, as fluorescence is: encoders trained on stained slides say little about it";
        warnings.push(advice.into());
    }
    // Focus is judged in a picture of the resolution that its limits are for; small slides are read finer for people.
    let coarser = fine.reduced(settings.focus.mpp / mpp.mean());
    let focus_picture = coarser.as_ref().unwrap_or(&fine);
    let focus_mpp = mpp.mean() * focus_picture.downsample;
    let blur = tissue::blurred(&focus_picture.image, focus_mpp, focus_picture.downsample, &mask, &settings.focus);
    let blurred_um2 = blur.as_ref().map(|blur| blur.tissue_area_level0() * mpp.x * mpp.y);
    if let Some(um2) = blurred_um2.filter(|um2| *um2 > BLUR_SHARE * tissue_um2 && tissue_um2 > 0.0) {
        warnings.push(format!("{:.0} % of the tissue is out of focus", (100.0 * um2 / tissue_um2).min(100.0)));
    }
    let background = survey.background();
    let maps = QcMaps::new(&mask, blur, survey.into_pen(), &picture.image, picture.downsample, &settings.qc);
    let Chosen { tiles, qc, dropped, dropped_by } = choose_tiles((width, height), plan, options, &maps);
    drop(maps);
    details["mask_downsample"] = json!(mask.downsample().0);
    details["background"] = json!(background);
    details["artefacts_mm2"] = areas(&artefacts, blurred_um2);
    details["tiles_dropped"] = by_column(&dropped_by);
    let all: u64 = dropped_by.iter().sum();
    if all > 0 {
        let each = QC_COLUMNS.iter().zip(dropped_by).filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} for {name}"));
        let each = each.collect::<Vec<_>>().join(", ");
        warnings.push(format!("{all} of {} tiles left out by --qc ({each})", all + tiles.len() as u64));
    }
    details["qc_mean"] = qc_mean(&qc);
    if tiles.is_empty() && suspicion.is_none() {
        suspicion = Some("no tile has enough tissue: the feature file is empty".into());
    }
    details["suspicion"] = json!(suspicion);
    warnings.splice(0..0, suspicion.clone());
    let facts = TissueFacts { area_mm2: tissue_um2 / 1e6, details, suspicion, qc, qc_mpp: [picture_mpp, focus_mpp] };
    let enough = |low: &LowPower| f64::from(low.image.width().max(low.image.height())) >= OVERVIEW_PX;
    let low_power = match reduced {
        Some(reduced) if enough(&reduced) => reduced,
        _ => fine,
    };
    Ok(Found { mask, tiles, dropped, facts, low_power })
}

/// More tissue out of focus than this share is told.
const BLUR_SHARE: f64 = 0.2;

struct Masked {
    mask: TissueMask,
    details: Value,
}

fn mask(slide: &Slide, mpp: Mpp, survey: &Survey, picture: &LowPower, options: &PrepareOptions) -> Result<Masked> {
    let (width, height) = (slide.level0().width, slide.level0().height);
    let mut details = json!({ "method": options.tissue.name() });
    let mask = match &options.tissue {
        TissueMethod::None => TissueMask::everything(width, height),
        TissueMethod::Mask(path) => {
            tissue::mask_from_file(path, width, height, picture.downsample).map_err(|e| Error::Tissue(e.to_string()))?
        }
        TissueMethod::Model(_) => {
            let model = options.model.as_deref().ok_or_else(|| Error::Internal("no model is open".into()))?;
            details["model"] = json!(model.card.id);
            let mask = segment(slide, mpp, model, options.find.mask_mpp, options.allow_failed_tiles)?;
            clean(mask, mpp, &options.find)
        }
        method => {
            let found = survey.segment(method, &options.find).map_err(|e| Error::Tissue(e.to_string()))?;
            tell(&mut details, &found);
            found.into_mask(picture.downsample, picture.downsample)
        }
    };
    Ok(Masked { mask, details })
}

/// A model's mask without small holes and pieces.
fn clean(mask: TissueMask, mpp: Mpp, options: &TissueOptions) -> TissueMask {
    let (dx, dy) = mask.downsample();
    mask.cleaned(&options.pieces, (dx * mpp.x * dy * mpp.y).sqrt())
}

fn tell(details: &mut Value, found: &Segmentation) {
    details["found"] = found.found.clone();
    if let Some(why) = &found.why {
        details["chosen"] = json!(found.method);
        details["why"] = json!(why);
    }
}

/// The mask on the raster of a picture, by the centres of its pixels.
fn on_raster(mask: &TissueMask, picture: &LowPower) -> Vec<u8> {
    let (width, height) = picture.image.dimensions();
    if (mask.width(), mask.height()) == (width, height) {
        return mask.data().to_vec();
    }
    let place = |i: u32| (f64::from(i) + 0.5) * picture.downsample;
    let line = |y: u32| (0..width).map(move |x| u8::from(mask.contains(place(x), place(y))));
    (0..height).flat_map(line).collect()
}

/// What is read of a grid.
struct Chosen {
    tiles: Vec<[i64; 2]>,
    /// Their quality.
    qc: Vec<TileQc>,
    /// Tiles with some tissue that are not read.
    dropped: Vec<[i64; 2]>,
    /// How many each limit of quality left out.
    dropped_by: [u64; QC_COLUMNS.len()],
}

/// The grid's tiles with enough tissue and within the limits of quality.
fn choose_tiles(size: (u32, u32), plan: &ReadPlan, options: &PrepareOptions, maps: &QcMaps) -> Chosen {
    let side = f64::from(plan.tile_size_level0);
    let least = options.tiling.min_tissue_fraction;
    let all = options.tissue == TissueMethod::None;
    let limits = options.find.qc.limits(&options.tissue);
    let (mut qc, mut dropped, mut dropped_by) = (Vec::new(), Vec::new(), [0; QC_COLUMNS.len()]);
    let tiles = tiling::grid(size, plan, |left, top| {
        let (x, y) = (left as f64, top as f64);
        let fraction = if all { 1.0 } else { maps.tissue.fraction(x, y, side, side) };
        // Without a least share any tissue counts, none does not.
        if fraction <= 0.0 {
            return false;
        }
        if fraction < least {
            dropped.push([left, top]);
            return false;
        }
        let tile = maps.tile(x, y, side);
        if let Some(column) = limits.exceeded(&tile) {
            dropped_by[column] += 1;
            dropped.push([left, top]);
            return false;
        }
        qc.push(tile);
        true
    });
    Chosen { tiles, qc, dropped, dropped_by }
}

/// Areas in mm², for the record.
fn areas(artefacts: &Artefacts, blurred_um2: Option<f64>) -> Value {
    let mm2 = |um2: f64| (um2 / 1e6 * 1e4).round() / 1e4;
    json!({
        "pen": mm2(artefacts.pen),
        "pen_over_tissue": mm2(artefacts.pen_over_tissue),
        "dust": mm2(artefacts.dust),
        "coverslip_edge": mm2(artefacts.coverslip_edge),
        "bubble": mm2(artefacts.bubble),
        "unscanned": mm2(artefacts.unscanned),
        "tissue_out_of_focus": blurred_um2.map(mm2),
    })
}

fn by_column(dropped: &[u64; QC_COLUMNS.len()]) -> Value {
    let named = QC_COLUMNS.iter().zip(dropped).filter(|(_, n)| **n > 0);
    named.map(|(name, n)| ((*name).to_owned(), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

/// The mean of each column over a slide's tiles, for the record; null where no tile could be judged.
fn qc_mean(qc: &[TileQc]) -> Value {
    let mean = |column: usize| {
        let values = qc.iter().map(|tile| f64::from(tile[column])).filter(|v| v.is_finite());
        let (sum, n) = values.fold((0.0, 0u32), |(sum, n), v| (sum + v, n + 1));
        (n > 0).then(|| (sum / f64::from(n) * 1e4).round() / 1e4)
    };
    let named = QC_COLUMNS.iter().enumerate().map(|(column, name)| ((*name).to_owned(), json!(mean(column))));
    named.collect::<serde_json::Map<_, _>>().into()
}

/// What `info` tells of a slide's tissue by a method: the method chosen, why, and areas in mm².
///
/// # Errors
/// As [`find`].
pub fn describe(slide: &Slide, mpp: Mpp, options: &TissueOptions) -> Result<Value> {
    let low = lowpower::read(slide, (options.mask_mpp / mpp.mean()).max(1.0), 0)?;
    let survey = tissue::survey(&low.image, mpp.mean() * low.downsample, options);
    let found = survey.segment(&TissueMethod::Auto, options).map_err(|e| Error::Tissue(e.to_string()))?;
    let artefacts = survey.artefacts(&found.mask);
    let mut details = json!({ "method": "auto" });
    tell(&mut details, &found);
    let tissue_um2 = found.into_mask(low.downsample, low.downsample).tissue_area_level0() * mpp.x * mpp.y;
    details["area_mm2"] = json!((tissue_um2 / 1e6 * 1e4).round() / 1e4);
    details["artefacts_mm2"] = areas(&artefacts, None);
    let warnings: Vec<String> =
        artefacts.suspicion(tissue_um2).into_iter().chain(artefacts.warnings(tissue_um2)).collect();
    details["warnings"] = json!(warnings);
    Ok(details)
}
