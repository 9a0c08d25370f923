//! `paraffin heatmap`: scores of tiles over the overview.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use rayon::prelude::*;

use super::args::ProgressKind;
use super::progress::Count;
use super::session::{SOME_FAILED, use_threads};
use super::signals::stop_on_signals;
use crate::error::{Error, Result};
use crate::features::{Finished, refuse_inside};
use crate::job::summary::plural;
use crate::record::publish;
use crate::report::heatmap::{Format, Range, heatmap, scores};

/// `paraffin heatmap`.
#[derive(Args)]
pub struct HeatmapArgs {
    /// Directory that paraffin wrote
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// CSV with the columns id,x,y,score (x and y as in coords) or id,score (a row a tile, in the features' order); or HDF5 with a
    /// dataset (N) a slide, named by its id
    #[arg(long, value_name = "FILE")]
    scores: PathBuf,
    /// Only this slide [default: all that have scores]
    #[arg(long, value_name = "ID")]
    slide: Option<String>,
    /// Directory for the heatmaps, outside OUT; made if it does not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// What to write; may be given several times
    #[arg(long, value_enum, value_name = "FORMAT", default_values = ["png", "geojson"])]
    format: Vec<FormatArg>,
    /// Scores of the first and the last colour [default: 1st and 99th percentile of each slide]
    #[arg(long, value_name = "MIN,MAX", allow_hyphen_values = true)]
    range: Option<Span>,
    /// Which features the scores are of, as features_uni2-h [default: the only ones]
    #[arg(long, value_name = "NAME")]
    artefact: Option<String>,
    /// Which grid, as 20x_224px_0px_overlap [default: the only one]
    #[arg(long, value_name = "DIR")]
    grid: Option<String>,
    /// Progress: bars on a terminal and lines elsewhere (auto), or one of them, or none
    #[arg(long, value_enum, default_value_t = ProgressKind::Auto)]
    progress: ProgressKind,
}

/// What is written for a slide.
#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// A picture: over the overview, with a bar of colours
    Png,
    /// Tiles as polygons with the score as measurement, for QuPath
    Geojson,
    /// A row a tile
    Csv,
}

/// Two numbers with a comma.
#[derive(Clone, Copy)]
struct Span(f64, f64);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match numbers {
            Some((low, high)) if f64::is_finite(low) && f64::is_finite(high) && low < high => Ok(Span(low, high)),
            _ => Err("two numbers, the smaller first, as 0,1".into()),
        }
    }
}

/// Runs the command: exit code 4 if slides could not be drawn.
///
/// # Errors
/// What keeps it from starting, or ends it.
pub fn run(args: &HeatmapArgs) -> Result<ExitCode> {
    refuse_inside(&args.out, &args.output)?;
    let finished = Finished::find(&args.out, args.grid.as_deref(), args.artefact.as_deref())?;
    let scores = scores::read(&args.scores, args.slide.as_deref())?;
    let mut formats: Vec<Format> = Vec::new();
    for format in &args.format {
        let format = match format {
            FormatArg::Png => Format::Png,
            FormatArg::Geojson => Format::GeoJson,
            FormatArg::Csv => Format::Csv,
        };
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    let range = args.range.map_or(Range::Percentiles, |Span(low, high)| Range::Given(low, high));
    let known = finished.ids()?;
    publish::create_dir_all(&args.output).map_err(|e| Error::write("the directory of -o", e))?;
    use_threads(None);
    let stop = stop_on_signals()?;
    let count = Count::start(args.progress, scores.len() as u64);
    let failed = Mutex::new(Vec::new());
    scores.par_iter().for_each(|(id, scores)| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let drawn = match known.binary_search(id) {
            Ok(_) => heatmap(&finished, id, scores, range, &formats, &args.output),
            Err(_) => Err(Error::Usage(format!("OUT holds no {} of this slide", finished.artefact))),
        };
        match drawn {
            Ok(drawn) => {
                let [low, high] = drawn.range;
                let mut line = format!("{id}: {} {}, {low} to {high}", drawn.scored, plural(drawn.scored, "tile"));
                if drawn.scored < drawn.tiles {
                    line += &format!("; {} of {} have no score", drawn.tiles - drawn.scored, drawn.tiles);
                }
                if !drawn.on_overview {
                    line += "; on white, it has no overview";
                }
                count.line(&line);
            }
            Err(e) => {
                count.line(&format!("{id}: failed: {e}"));
                failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((id.clone(), e));
            }
        }
    });
    drop(count);
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let mut failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if args.progress != ProgressKind::None {
        let n = scores.len() - failed.len();
        eprintln!("{n} {} in \"{}\"", plural(n, "heatmap"), args.output.display());
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    eprintln!("not drawn:");
    for (id, why) in failed {
        eprintln!("  {id}: {why}");
    }
    Ok(ExitCode::from(SOME_FAILED))
}
