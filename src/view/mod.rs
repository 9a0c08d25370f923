//! `paraffin view`: slides in the browser of this machine, with the tiles' grid, feature maps and similar tiles over them.
//!
//! The page and OpenSeadragon (BSD-3-Clause, `html/openseadragon/`) are compiled in; nothing is fetched from elsewhere and nothing
//! is written. Slides go by their number; no path or id is part of an address.

pub mod http;
pub mod pyramid;
pub mod similar;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use crate::error::Result;
use crate::job::ids;
use crate::record::Record;
use crate::report::cohort::Cohort;
use crate::report::html::{THEME_SCRIPT, THEME_STYLE};
use crate::report::pca::Projection;
use crate::report::{featuremap, thumbnail};
use http::{Answer, Request};
use pyramid::Pyramid;
use similar::{Hit, Index};

const PAGE: &str = include_str!("html/view.html");
const STYLE: &str = include_str!("html/view.css");
const SCRIPT: &str = include_str!("html/view.js");
const OPENSEADRAGON_LICENCE: &str = include_str!("html/openseadragon/LICENSE.txt");
const OPENSEADRAGON: &str = include_str!("html/openseadragon/openseadragon.min.js");

/// Slides that are open at a time.
const OPEN: usize = 8;
/// Longest side of a feature map in pixels; larger grids share pixels.
const MAP_SIDE: u32 = 2048;
/// Longest side of a thumbnail in the list of slides.
const THUMBNAIL: u32 = 160;
/// Side of a picture of one tile in pixels.
const CROP: u32 = 112;
/// Tiles of the slide, and other slides, that light up.
const SIMILAR: usize = 40;
const SIMILAR_SLIDES: usize = 24;

/// What is looked at.
pub enum Subject {
    /// One slide, by its path.
    Slide(PathBuf),
    /// What OUT holds, and where slides may have moved to.
    Out(Box<Cohort>, Vec<PathBuf>),
}

/// A slide that is open, or why it is not.
type Opened = Arc<OnceLock<Result<Pyramid, String>>>;

/// The viewer's answers.
pub struct Viewer {
    subject: Subject,
    open: Mutex<Vec<(usize, Opened)>>,
    projection: OnceLock<Option<Projection>>,
    index: Option<Index>,
}

impl Viewer {
    /// A viewer; a single slide must open.
    ///
    /// # Errors
    /// Those of opening the slide.
    pub fn new(subject: Subject) -> Result<Self> {
        let mut open = Vec::new();
        let mut index = None;
        match &subject {
            Subject::Slide(path) => {
                let pyramid = Pyramid::open(path)?;
                open.push((0, Arc::new(OnceLock::from(Ok(pyramid)))));
            }
            Subject::Out(cohort, _) if cohort.has_features() => {
                let rows = cohort.slides.iter().map(|r| r.tiles.written).sum();
                let dim = cohort.contract["encoder"]["dim"].as_u64().unwrap_or(0) as usize;
                index = Some(Index::new(cohort.slides.len(), rows, dim));
            }
            Subject::Out(..) => {}
        }
        Ok(Viewer { subject, open: Mutex::new(open), projection: OnceLock::new(), index })
    }

    /// Reads the features of all slides, so that similar tiles are found in all of them. Takes a while: run it beside the
    /// server.
    pub fn fill_index(&self) {
        if let (Subject::Out(cohort, _), Some(index)) = (&self.subject, &self.index) {
            for (n, record) in cohort.slides.iter().enumerate() {
                index.add(n, cohort.bag(record));
            }
        }
    }

    /// Answers a request.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Answer {
        let parts: Vec<&str> = request.path.split('/').collect();
        let number = |text: &str| text.parse::<usize>().ok();
        match parts[..] {
            [""] => Answer::ok("text/html; charset=utf-8", PAGE),
            ["view.css"] => Answer::ok("text/css", format!("{THEME_STYLE}{STYLE}")),
            ["view.js"] => Answer::ok("text/javascript", format!("\"use strict\";\n{THEME_SCRIPT}{SCRIPT}")),
            ["openseadragon.js"] => Answer::ok("text/javascript", OPENSEADRAGON),
            ["openseadragon-licence.txt"] => Answer::ok("text/plain; charset=utf-8", OPENSEADRAGON_LICENCE),
            ["cohort.json"] => Answer::json(&self.cohort()),
            ["progress.json"] => Answer::json(&self.progress()),
            ["slide", n, what] => match (number(n), what) {
                (Some(n), "about.json") => self.about(n),
                (Some(n), "map.png") => self.map(n),
                (Some(n), "overview.jpg") => self.overview(n, None),
                (Some(n), "thumbnail.jpg") => self.overview(n, Some(THUMBNAIL)),
                (Some(n), "similar.json") => request.number("tile").map_or_else(not_found, |row| self.similar(n, row)),
                _ => not_found(),
            },
            ["slide", n, "tile", row] => {
                let row = row.strip_suffix(".jpg").and_then(number);
                number(n).zip(row).map_or_else(not_found, |(n, row)| self.crop(n, row))
            }
            ["slide", n, level, tile] => {
                let place = tile.strip_suffix(".jpg").and_then(|t| t.split_once('_'));
                let place = place.and_then(|(column, row)| Some((column.parse().ok()?, row.parse().ok()?)));
                match (number(n), level.parse().ok(), place) {
                    (Some(n), Some(level), Some((column, row))) => self.tile(n, level, column, row),
                    _ => not_found(),
                }
            }
            _ => not_found(),
        }
    }

    fn record(&self, n: usize) -> Option<(&Cohort, &Record)> {
        match &self.subject {
            Subject::Out(cohort, _) => Some((cohort, cohort.slides.get(n)?)),
            Subject::Slide(_) => None,
        }
    }

    fn cohort(&self) -> Value {
        match &self.subject {
            Subject::Slide(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                json!({ "single": true, "slides": [{ "id": name }] })
            }
            Subject::Out(cohort, _) => {
                let slides = cohort.slides.iter().map(|r| json!({ "id": r.id, "tiles": r.tiles.written }));
                json!({
                    "single": false, "grid": cohort.grid, "artefact": cohort.artefact, "features": cohort.has_features(),
                    "slides": slides.collect::<Vec<_>>(),
                })
            }
        }
    }

    fn progress(&self) -> Value {
        let progress = self.index.as_ref().map(Index::progress);
        progress.map_or(Value::Null, |(seen, of, every)| json!({ "seen": seen, "of": of, "every": every }))
    }

    /// The slide's file, opened when it is first wanted; the one that was opened first makes room.
    fn pyramid(&self, n: usize) -> Option<Opened> {
        let known = match &self.subject {
            Subject::Slide(_) => n == 0,
            Subject::Out(cohort, _) => n < cohort.slides.len(),
        };
        if !known {
            return None;
        }
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match open.iter().find(|(number, _)| *number == n) {
                Some((_, slot)) => slot.clone(),
                None => {
                    if open.len() >= OPEN {
                        open.remove(0);
                    }
                    let slot = Opened::default();
                    open.push((n, slot.clone()));
                    slot
                }
            }
        };
        if let Subject::Out(cohort, others) = &self.subject {
            slot.get_or_init(|| {
                let path = ids::locate(&cohort.root, &cohort.slides[n].id, others);
                path.and_then(|path| Pyramid::open(&path)).map_err(|e| e.to_string())
            });
        }
        Some(slot)
    }

    fn about(&self, n: usize) -> Answer {
        let Some(slot) = self.pyramid(n) else { return not_found() };
        let pyramid = slot.get().and_then(|opened| opened.as_ref().ok());
        let missing = slot.get().and_then(|opened| opened.as_ref().err());
        let mut about = json!({
            "readable": pyramid.is_some(), "why": missing, "tile": pyramid::TILE,
            "levels": pyramid.map(Pyramid::max_level),
        });
        if let Some((cohort, record)) = self.record(n) {
            let grid = cohort.grid(record);
            let coords = match cohort.coords(record) {
                Ok(coords) => coords,
                Err(e) => return Answer::error(500, e.to_string()),
            };
            about["id"] = record.id.clone().into();
            (about["width"], about["height"]) = (grid.width.into(), grid.height.into());
            (about["side"], about["step"]) = (grid.tile.into(), grid.step.into());
            about["mpp"] = ((record.slide.mpp_x + record.slide.mpp_y) / 2.0).into();
            about["coords"] = json!(coords);
            about["features"] = (cohort.has_features() && record.tiles.written > 0).into();
            about["overview"] = cohort.overview(&record.id).is_file().into();
            about["warnings"] = json!(record.warnings);
        } else if let Some(pyramid) = pyramid {
            let (width, height) = pyramid.size();
            (about["width"], about["height"]) = (width.into(), height.into());
            let mpp = pyramid.slide().mpp(crate::slide::mpp::MppOverride::default());
            about["mpp"] = json!(mpp.ok().map(|m| m.mean()));
        }
        Answer::json(&about)
    }

    fn tile(&self, n: usize, level: u32, column: u32, row: u32) -> Answer {
        let Some(slot) = self.pyramid(n) else { return not_found() };
        match slot.get() {
            Some(Ok(pyramid)) => match pyramid.tile(level, column, row) {
                Ok(Some(jpeg)) => Answer::ok("image/jpeg", jpeg),
                Ok(None) => not_found(),
                Err(e) => Answer::error(500, e.to_string()),
            },
            _ => not_found(),
        }
    }

    /// One of the grid's tiles, small.
    fn crop(&self, n: usize, row: usize) -> Answer {
        let (Some((cohort, record)), Some(slot)) = (self.record(n), self.pyramid(n)) else { return not_found() };
        let Some(Ok(pyramid)) = slot.get() else { return not_found() };
        let crop = cohort.coords(record).and_then(|coords| match coords.get(row) {
            Some(corner) => pyramid.crop(*corner, cohort.grid(record).tile, CROP).map(Some),
            None => Ok(None),
        });
        match crop {
            Ok(Some(jpeg)) => Answer::ok("image/jpeg", jpeg),
            Ok(None) => not_found(),
            Err(e) => Answer::error(500, e.to_string()),
        }
    }

    fn map(&self, n: usize) -> Answer {
        let Some((cohort, record)) = self.record(n) else { return not_found() };
        let Some(projection) = self.projection.get_or_init(|| cohort.projection()) else { return not_found() };
        let map = cohort.bag(record).and_then(|bag| featuremap::draw(&bag, &cohort.grid(record), projection, MAP_SIDE));
        match map {
            Ok(Some(map)) => Answer::ok("image/png", map.png),
            Ok(None) => not_found(),
            Err(e) => Answer::error(500, e.to_string()),
        }
    }

    fn overview(&self, n: usize, side: Option<u32>) -> Answer {
        let Some((cohort, record)) = self.record(n) else { return not_found() };
        let Ok(jpeg) = fs::read(cohort.overview(&record.id)) else { return not_found() };
        match side {
            None => Answer::ok("image/jpeg", jpeg),
            Some(side) => match thumbnail::shrink(&jpeg, side, 75) {
                Ok(small) => Answer::ok("image/jpeg", small),
                Err(why) => Answer::error(500, why),
            },
        }
    }

    fn similar(&self, n: usize, row: usize) -> Answer {
        let Some((cohort, record)) = self.record(n).filter(|(cohort, _)| cohort.has_features()) else {
            return not_found();
        };
        let bag = match cohort.bag(record) {
            Ok(bag) if row < bag.rows() => bag,
            Ok(_) => return not_found(),
            Err(e) => return Answer::error(500, e.to_string()),
        };
        let (query, here) = match similar::in_slide(&bag, n, row, SIMILAR) {
            Ok(found) => found,
            Err(e) => return Answer::error(500, e.to_string()),
        };
        let told = |hit: &Hit| json!({ "slide": hit.slide, "tile": hit.row, "cosine": hit.cosine });
        let others = self.index.as_ref().map_or_else(Vec::new, |index| index.search(&query, n, SIMILAR_SLIDES));
        Answer::json(&json!({
            "here": here.iter().map(told).collect::<Vec<_>>(),
            "cohort": others.iter().map(told).collect::<Vec<_>>(),
            "searched": self.progress(),
        }))
    }
}

fn not_found() -> Answer {
    Answer::error(404, "not found")
}
