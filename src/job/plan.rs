//! A plan: which slides there are and what each will cost, written once, so that workers divide it without opening anything.
//!
//! `plan.jsonl` holds a line about the plan ([`PlanHead`]) and then one for each slide ([`PlannedLine`]): ids and numbers, no
//! paths. Those lie beside the ids in `site-private/plans/<sha256 of the plan>.jsonl`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::discover::Found;
use super::ids::PRIVATE;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::pipeline::guarded;
use crate::pipeline::prepare::{PrepareOptions, geometry};
use crate::record::{Record, publish, record_paths};
use crate::slide::Slide;
use crate::slide::companions::Companions;
use crate::slide::mpp::{MppOverride, MppSource};
use crate::tiling::{self, ReadPlan};
use crate::tissue::TissueMethod;

/// Share of a slide's grid that is taken for tissue where OUT holds no finished slides to go by.
const TISSUE_SHARE: f64 = 0.25;
/// What opening a slide, finding tissue and publishing cost, in tiles of a small encoder.
const SLIDE_COST: u64 = 16;
/// Finished slides that the share is taken from, at most.
const SAMPLED: usize = 1000;

/// The first line of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanHead {
    /// [`PlanHead::SCHEMA`].
    pub schema: String,
    /// The grid directory's name.
    pub grid: String,
    /// Slides of the plan.
    pub slides: u64,
    /// Of these, how many will fail as they are.
    pub failing: u64,
    /// Share of the grid that is taken for tissue.
    pub tissue_share: f64,
    /// Tiles of all slides, estimated.
    pub tiles: u64,
    /// Cost of all slides.
    pub cost: u64,
}

/// A slide of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedLine {
    /// The slide's id.
    pub id: String,
    /// Size of its files.
    pub bytes: u64,
    /// Tiles, estimated.
    pub tiles: u64,
    /// What it will cost, in tiles: opening and publishing included.
    pub cost: u64,
    /// [`Error::kind`] of the reason why it will fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<String>,
}

/// Where a slide of a plan lies: a line of the private table, in the plan's order.
#[derive(Serialize, Deserialize)]
struct PlaceLine {
    id: String,
    path: PathBuf,
    place: PathBuf,
    listed_id: Option<String>,
    line: Option<u64>,
    mpp: Option<f64>,
    mpp_listed: bool,
    allow_objective_mpp: bool,
}

impl PlanHead {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-plan/1";
}

/// A plan as it lies on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// About the plan.
    pub head: PlanHead,
    /// Its slides.
    pub slides: Vec<PlannedLine>,
}

/// What opening a slide's headers told.
pub struct Estimated {
    /// The plan's line.
    pub line: PlannedLine,
    /// Why the slide will fail.
    pub fails: Option<Error>,
}

/// Opens the headers of all slides, with rayon's threads, and estimates what each will cost.
#[must_use]
pub fn estimate(slides: &[Found], ids: &[String], options: &PrepareOptions, tissue_share: f64) -> Vec<Estimated> {
    let companions = Companions::of_slides(slides.iter().map(|s| s.path.as_path()));
    let one = |(found, id): (&Found, &String)| {
        let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        let bytes =
            size(&found.path) + companions.of(&found.path).unwrap_or_default().iter().map(|p| size(p)).sum::<u64>();
        let tiles = guarded(|| {
            let slide = Slide::open(&found.path)?;
            let mpp = slide.mpp(found.mpp)?;
            let plan = ReadPlan::new(&geometry(&slide), mpp.mean(), &options.tiling)?;
            Ok(plan.positions((slide.level0().width, slide.level0().height)))
        });
        let (tiles, fails) = match tiles {
            Ok(positions) => ((positions as f64 * tissue_share).ceil() as u64, None),
            Err(e) => (0, Some(e)),
        };
        let kind = fails.as_ref().map(|e| e.kind().to_string());
        let line = PlannedLine { id: id.clone(), bytes, tiles, cost: SLIDE_COST + tiles, fails: kind };
        Estimated { line, fails }
    };
    slides.par_iter().zip(ids).map(one).collect()
}

/// The share of the grid that is tissue: that of the slides that OUT holds of this grid, a quarter where it holds none.
#[must_use]
pub fn tissue_share(grid_dir: &Path, options: &PrepareOptions) -> f64 {
    if options.tissue == TissueMethod::None {
        return 1.0;
    }
    let paths = record_paths(grid_dir, "patches").unwrap_or_default();
    let (mut tissue, mut all) = (0, 0);
    for record in paths.iter().take(SAMPLED).filter_map(|p| Record::read(p).ok()) {
        let tiling = &options.tiling;
        let step = f64::from(record.read.tile_size_level0) * f64::from(tiling.tile_px - tiling.overlap_px)
            / f64::from(tiling.tile_px);
        tissue += record.tiles.planned;
        all += tiling::positions((record.slide.width, record.slide.height), step.round().max(1.0) as u32);
    }
    if all == 0 { TISSUE_SHARE } else { tissue as f64 / all as f64 }
}

impl Plan {
    /// A plan of these slides.
    #[must_use]
    pub fn new(grid: String, tissue_share: f64, slides: Vec<PlannedLine>) -> Self {
        let head = PlanHead {
            schema: PlanHead::SCHEMA.into(),
            grid,
            slides: slides.len() as u64,
            failing: slides.iter().filter(|s| s.fails.is_some()).count() as u64,
            tissue_share,
            tiles: slides.iter().map(|s| s.tiles).sum(),
            cost: slides.iter().map(|s| s.cost).sum(),
        };
        Plan { head, slides }
    }

    /// Writes the plan and, into `out`, the table of paths. True where it is new, false where the same plan is there already.
    ///
    /// # Errors
    /// [`Error::Usage`] where another plan is there, [`Error::Write`].
    pub fn write(&self, file: &Path, out: &Path, slides: &[Found]) -> Result<bool> {
        let mut lines = vec![serde_json::to_string(&self.head)];
        lines.extend(self.slides.iter().map(serde_json::to_string));
        let text = joined(lines)?;
        let places = self.slides.iter().zip(slides).map(|(line, found)| {
            serde_json::to_string(&PlaceLine {
                id: line.id.clone(),
                path: std::path::absolute(&found.path).unwrap_or_else(|_| found.path.clone()),
                place: found.place.clone(),
                listed_id: found.listed_id.clone(),
                line: found.line,
                mpp: found.mpp.given.map(|(mpp, _)| mpp),
                mpp_listed: found.mpp.given.is_some_and(|(_, source)| source == MppSource::SlideList),
                allow_objective_mpp: found.mpp.allow_objective,
            })
        });
        let places = joined(places.collect())?;
        let table = table(out, &text);
        let failed = |what: &'static str| move |e| Error::write(what, e);
        publish::create_dir_all(table.parent().unwrap_or(out)).map_err(failed(PRIVATE))?;
        // The table first: a plan is never seen without it.
        publish::write_atomic(&table, places.as_bytes()).map_err(failed(PRIVATE))?;
        if publish::create_once(file, text.as_bytes()).map_err(failed("the plan"))? {
            return Ok(true);
        }
        if fs::read(file).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(false);
        }
        Err(Error::Usage(format!(
            "another plan is there, and workers may be dividing it: remove it, or write this one to another --file: \"{}\"",
            file.display()
        )))
    }

    /// Reads a plan, and where its slides lie, from the `out` that it was made for.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is no plan, or not for this OUT.
    pub fn read(file: &Path, out: &Path) -> Result<(Self, Vec<Found>)> {
        let wrong = |why: String| Error::Usage(format!("{why}: \"{}\"", file.display()));
        let text = fs::read_to_string(file).map_err(|e| wrong(format!("the plan cannot be read: {e}")))?;
        let plan = Plan::parse(&text).map_err(wrong)?;
        let places = fs::read_to_string(table(out, &text)).map_err(|_| {
            wrong(format!(
                "OUT has no table of paths for this plan in {PRIVATE}/plans: give the OUT that 'paraffin plan' was given"
            ))
        })?;
        let damaged = |e| wrong(format!("the plan's table of paths in {PRIVATE}/plans is damaged: {e}"));
        let places =
            places.lines().map(serde_json::from_str).collect::<Result<Vec<PlaceLine>, _>>().map_err(damaged)?;
        let mut by_id: HashMap<String, PlaceLine> = places.into_iter().map(|p| (p.id.clone(), p)).collect();
        let found = plan.slides.iter().map(|line| {
            let place = by_id.remove(&line.id).ok_or_else(|| wrong("the plan and its table of paths differ".into()))?;
            let source = if place.mpp_listed { MppSource::SlideList } else { MppSource::User };
            let mpp =
                MppOverride { given: place.mpp.map(|mpp| (mpp, source)), allow_objective: place.allow_objective_mpp };
            Ok(Found { path: place.path, place: place.place, listed_id: place.listed_id, line: place.line, mpp })
        });
        let found = found.collect::<Result<_>>()?;
        Ok((plan, found))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let head: PlanHead = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|e| format!("not a plan of 'paraffin plan': line 1: {e}"))?;
        if head.schema != PlanHead::SCHEMA {
            return Err(format!("the plan is of the kind '{}', not '{}'", head.schema, PlanHead::SCHEMA));
        }
        let slide =
            |(i, line)| serde_json::from_str(line).map_err(|e| format!("the plan's line {} is damaged: {e}", i + 2));
        let slides: Vec<PlannedLine> = lines.enumerate().map(slide).collect::<Result<_, _>>()?;
        if slides.len() as u64 != head.slides {
            return Err(format!("the plan has {} of its {} slides: it is cut off", slides.len(), head.slides));
        }
        Ok(Plan { head, slides })
    }
}

fn joined(lines: Vec<serde_json::Result<String>>) -> Result<String> {
    let lines = lines.into_iter().collect::<serde_json::Result<Vec<_>>>();
    Ok(lines.map_err(|e| Error::Internal(format!("plan: {e}")))?.join("\n") + "\n")
}

fn table(out: &Path, plan: &str) -> PathBuf {
    out.join(PRIVATE).join("plans").join(format!("{}.jsonl", sha256(plan.as_bytes())))
}
