//! `paraffin report`: one HTML file that holds everything it shows and fetches nothing.
//!
//! Data stands in the page as JSON, in script elements that nothing executes, and becomes text nodes by the page's own
//! script; ids and messages never pass through an HTML parser. A content security policy allows that one script and style, by
//! their hashes, and pictures that are part of the page.
//!
//! Slides are drawn in pieces of `PIECE` and written as they come, so memory does not grow with the cohort.

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use data_encoding::BASE64;
use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::encoder::registry;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::record::publish::TempFile;
use crate::record::runs::RunNote;
use crate::report::cohort::Cohort;
use crate::report::pca::Projection;
use crate::report::{featuremap, thumbnail};

const PAGE: &str = include_str!("html/report.html");
/// Colours and the light/dark switch, the viewer's too.
pub const THEME_STYLE: &str = include_str!("html/theme.css");
/// The switch's script.
pub const THEME_SCRIPT: &str = include_str!("html/theme.js");
const STYLE: &str = include_str!("html/report.css");
const SCRIPT: &str = include_str!("html/report.js");

/// Slides in work at a time.
const PIECE: usize = 64;
/// What all thumbnails together may take, about.
const THUMBNAILS_BYTES: f64 = 30e6;
/// Bytes per pixel of a thumbnail at [`QUALITY`], measured on stained tissue that fills the picture; most take less.
const BYTES_PER_PX: f64 = 0.25;
const QUALITY: u8 = 72;
/// Runs that are drawn, at most.
const RUNS: usize = 20;
/// Longest side of a feature map in pixels.
const MAP_SIDE: u32 = 160;

/// What a report shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportOptions {
    /// Numbers in place of ids, no overviews, no messages of failures.
    pub shareable: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Slides that are done.
    pub slides: usize,
    /// Slides that failed.
    pub failed: usize,
    /// Pictures or maps that could not be drawn, each with its reason.
    pub missing: Vec<String>,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes the report of a cohort to `path`, whole or not at all.
///
/// # Errors
/// [`Error::Write`].
pub fn write(cohort: &Cohort, options: ReportOptions, path: &Path) -> Result<Written> {
    let failed = |e: std::io::Error| Error::write("the report", e);
    let temp = TempFile::for_path(path).map_err(failed)?;
    let file = OpenOptions::new().write(true).open(temp.path()).map_err(failed)?;
    let mut file = BufWriter::new(file);
    let style = format!("{THEME_STYLE}{STYLE}");
    let script = format!("\"use strict\";\n{THEME_SCRIPT}{SCRIPT}");
    let policy = format!(
        "default-src 'none'; img-src data:; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(&style),
        hash(&script)
    );
    let mut slides: Vec<&Record> = cohort.slides.iter().collect();
    if options.shareable {
        // Not in the order of their names.
        slides.sort_by(|a, b| sort_key(a).cmp(sort_key(b)));
    }
    let projection = cohort.projection();
    let side = thumbnail_side(slides.len());
    let mut missing = Vec::new();
    for (i, part) in PAGE.split("{{").enumerate() {
        let (name, rest) = if i == 0 { ("", part) } else { part.split_once("}}").unwrap_or(("", part)) };
        match name {
            "" => {}
            "policy" => file.write_all(policy.as_bytes()).map_err(failed)?,
            "style" => file.write_all(style.as_bytes()).map_err(failed)?,
            "script" => file.write_all(script.as_bytes()).map_err(failed)?,
            "data" => {
                let data = data(cohort, &slides, projection.as_ref(), options);
                file.write_all(in_page(&data).as_bytes()).map_err(failed)?;
            }
            "pictures" => {
                for (piece, records) in slides.chunks(PIECE).enumerate() {
                    let drawn: Vec<(Value, Vec<String>)> = records
                        .par_iter()
                        .map(|record| pictures(cohort, record, projection.as_ref(), side, options))
                        .collect();
                    for (n, (value, problems)) in drawn.into_iter().enumerate() {
                        let n = piece * PIECE + n;
                        let text = in_page(&value);
                        writeln!(file, "<script type=\"application/json\" id=\"p{n}\">{text}</script>")
                            .map_err(failed)?;
                        missing.extend(problems);
                    }
                }
            }
            other => return Err(Error::Internal(format!("the report's page has no part '{other}'"))),
        }
        file.write_all(rest.as_bytes()).map_err(failed)?;
    }
    file.into_inner().map_err(|e| failed(e.into_error()))?;
    let bytes = fs::metadata(temp.path()).map_err(failed)?.len();
    temp.commit().map_err(failed)?;
    Ok(Written { slides: slides.len(), failed: cohort.failures.len(), missing, bytes })
}

fn sort_key(record: &Record) -> &str {
    record.files.first().map_or("", |file| &file.sha256)
}

/// A source of the content security policy.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text.as_bytes())))
}

/// JSON that ends no script element and begins no comment, whatever it holds.
fn in_page(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// Longest side of a thumbnail, so that all of them stay within [`THUMBNAILS_BYTES`].
fn thumbnail_side(slides: usize) -> u32 {
    ((THUMBNAILS_BYTES / BYTES_PER_PX / slides.max(1) as f64).sqrt() as u32).clamp(96, 800)
}

/// The pictures of a slide, and what could not be drawn.
fn pictures(
    cohort: &Cohort,
    record: &Record,
    projection: Option<&Projection>,
    side: u32,
    options: ReportOptions,
) -> (Value, Vec<String>) {
    let mut value = json!({});
    let mut problems = Vec::new();
    if !options.shareable {
        match fs::read(cohort.overview(&record.id)) {
            Ok(jpeg) => match thumbnail::shrink(&jpeg, side, QUALITY) {
                Ok(small) => value["overview"] = BASE64.encode(&small).into(),
                Err(why) => problems.push(format!("the overview of {}: {why}", record.id)),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => problems.push(format!("the overview of {}: {e}", record.id)),
        }
    }
    if let Some(projection) = projection.filter(|_| record.tiles.written > 0) {
        let map = cohort.bag(record).and_then(|bag| featuremap::draw(&bag, &cohort.grid(record), projection, MAP_SIDE));
        match map {
            Ok(Some(map)) => {
                value["map"] = BASE64.encode(&map.png).into();
                value["place"] = json!(map.place);
            }
            Ok(None) => {}
            Err(e) => problems.push(format!("the feature map of {}: {e}", record.id)),
        }
    }
    (value, problems)
}

/// The runs that ended last, without their workers' names.
fn shown_runs(cohort: &Cohort) -> Vec<Value> {
    let runs = RunNote::all(&cohort.root, &cohort.grid, &cohort.artefact);
    let shown = &runs[runs.len().saturating_sub(RUNS)..];
    let of = |run: &RunNote| json!({ "slides": run.slides_done, "failed": run.slides_failed, "samples": run.samples });
    shown.iter().rev().map(of).collect()
}

fn data(cohort: &Cohort, slides: &[&Record], projection: Option<&Projection>, options: ReportOptions) -> Value {
    let name = |n: usize, id: &str| if options.shareable { format!("slide {}", n + 1) } else { id.to_owned() };
    let rows = slides.iter().enumerate().map(|(n, record)| {
        json!({
            "id": name(n, &record.id),
            "format": record.slide.format,
            "width": record.slide.width,
            "height": record.slide.height,
            "mpp": (record.slide.mpp_x + record.slide.mpp_y) / 2.0,
            "mpp_source": record.slide.mpp_source,
            "effective_mpp": record.read.effective_mpp,
            "resampled": record.read.resampled,
            "tiles": record.tiles.written,
            "unreadable": record.tiles.failed,
            "area": record.tissue["area_mm2"].as_f64(),
            "method": record.tissue["found"]["method"].as_str(),
            "chosen": record.tissue["found"]["chosen"].as_str(),
            "why": record.tissue["found"]["why"].as_str(),
            "suspicion": record.tissue["found"]["suspicion"].as_str(),
            "qc": record.tissue["found"]["qc_mean"],
            "pen_mm2": record.tissue["found"]["artefacts_mm2"]["pen"].as_f64(),
            "dropped": record.tissue["found"]["tiles_dropped"],
            "warnings": record.warnings,
        })
    });
    let failures: Vec<Value> = if options.shareable {
        Vec::new()
    } else {
        let noted = cohort.failures.iter();
        let noted = noted.map(|f| json!({ "id": f.id, "kind": f.kind, "message": f.message, "path": f.path }));
        let unusable = cohort.unusable.iter();
        noted.chain(unusable.map(|(id, why)| json!({ "id": id, "kind": "record", "message": why }))).collect()
    };
    let mut kinds = std::collections::BTreeMap::<&str, u64>::new();
    for failure in &cohort.failures {
        *kinds.entry(&failure.kind).or_default() += 1;
    }
    if !cohort.unusable.is_empty() {
        kinds.insert("record", cohort.unusable.len() as u64);
    }
    let card = cohort.encoder().and_then(|id| registry::known(id).ok().flatten());
    let card = card.map(|c| {
        json!({
            "name": c.name, "note": c.note, "license": c.license, "pathology": c.pathology, "citation": c.citation,
        })
    });
    let mut runtimes: Vec<_> = slides.iter().map(|record| &record.runtime).collect();
    runtimes.sort();
    runtimes.dedup();
    json!({
        "shareable": options.shareable,
        "version": env!("CARGO_PKG_VERSION"),
        "grid": cohort.grid,
        "artefact": cohort.artefact,
        "contract": cohort.contract,
        "contract_sha256": cohort.contract_sha256,
        "card": card,
        "explained": projection.map(Projection::explained),
        "runtimes": runtimes,
        "slides": rows.collect::<Vec<_>>(),
        "failures": failures,
        "failure_kinds": kinds,
        "runs": if options.shareable { Vec::new() } else { shown_runs(cohort) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_ends_its_element() {
        let hostile = "</script><img src=x onerror=alert(1)><!--";
        let text = in_page(&json!({ "id": hostile }));
        assert!(!text.contains('<'), "{text}");
        let back: Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(back["id"], hostile);
    }

    #[test]
    fn the_page_has_every_part_once_and_fetches_nothing() {
        for part in ["policy", "style", "pictures", "data", "script"] {
            assert_eq!(PAGE.matches(&format!("{{{{{part}}}}}")).count(), 1, "{part}");
        }
        for text in [PAGE, THEME_STYLE, THEME_SCRIPT, STYLE, SCRIPT] {
            for word in ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "@import", "url("] {
                assert!(!text.contains(word), "{word}");
            }
            let links = text.matches("http").count() - text.matches("http-equiv").count();
            assert_eq!(links - text.matches("http://www.w3.org/2000/svg").count(), 0, "links");
        }
    }

    #[test]
    fn thumbnails_shrink_as_cohorts_grow() {
        let all = |n: usize| f64::from(thumbnail_side(n)).powi(2) * BYTES_PER_PX * n as f64;
        assert_eq!(thumbnail_side(1), 800);
        assert!(thumbnail_side(200) > 700 && thumbnail_side(1000) > 300);
        assert!([500, 1000, 5000].iter().all(|n| all(*n) <= THUMBNAILS_BYTES));
        assert_eq!(thumbnail_side(usize::MAX), 96);
    }

    #[test]
    fn hashes_are_those_of_the_policy() {
        // echo -n "alert(1)" | openssl dgst -sha256 -binary | base64
        assert_eq!(hash("alert(1)"), "sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=");
    }
}
