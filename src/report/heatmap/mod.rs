//! Heatmaps: a score for each tile, drawn over the overview and written for other viewers.
//!
//! The scores come from whoever has a model (`scores`), the tiles' places from the features in OUT, the picture beneath from
//! `overviews/`. Each slide gets its own range of colours, unless one is given, and says which.

mod draw;
mod files;
pub mod scores;

use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::features::Finished;
use crate::record::publish;
use scores::SlideScores;

/// What is written for a slide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `<id>.png`: over the overview, with a bar of colours.
    Png,
    /// `<id>.geojson`: tiles as polygons in level-0 pixels with the score as a measurement, as QuPath reads them.
    GeoJson,
    /// `<id>.csv`: a row a tile.
    Csv,
}

/// Where a slide's range of colours comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Range {
    /// The 1st and the 99th percentile of the slide's own scores.
    #[default]
    Percentiles,
    /// The user.
    Given(f64, f64),
}

impl Range {
    const LOW: f64 = 0.01;
    const HIGH: f64 = 0.99;

    /// Lowest and highest colour's score.
    fn of(self, scores: &[f64]) -> [f64; 2] {
        match self {
            Range::Given(low, high) => [low, high],
            Range::Percentiles => {
                let mut sorted = scores.to_vec();
                sorted.sort_by(f64::total_cmp);
                [percentile(&sorted, Range::LOW), percentile(&sorted, Range::HIGH)]
            }
        }
    }

    fn words(self) -> String {
        match self {
            Range::Given(..) => "given".into(),
            Range::Percentiles => {
                format!("percentiles {} and {} of the slide's scores", 100.0 * Range::LOW, 100.0 * Range::HIGH)
            }
        }
    }
}

/// The value below which a share of `sorted` lies, between neighbours in proportion, as NumPy's default has it; 0 of nothing.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

/// Where in a range a score lies, 0 to 1; in the middle where the range is a point.
fn fraction(score: f64, [low, high]: [f64; 2]) -> f64 {
    if high > low { ((score - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
}

/// The colour of a fraction: viridis, whose steps look equally large and which survives printing in grey. The table is d3's, which
/// took it from matplotlib (Nathaniel Smith and Stéfan van der Walt, CC0).
fn colour(fraction: f64) -> [u8; 3] {
    let colour = colorous::VIRIDIS.eval_continuous(fraction);
    [colour.r, colour.g, colour.b]
}

/// A tile that has a score.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scored {
    /// Upper left corner in level-0 pixels.
    at: [i64; 2],
    score: f64,
}

/// What was drawn of a slide.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Tiles of the slide.
    pub tiles: usize,
    /// Those that have a score.
    pub scored: usize,
    /// Lowest and highest colour's score.
    pub range: [f64; 2],
    /// Whether there was an overview to draw on.
    pub on_overview: bool,
}

/// Writes a slide's heatmap to `dir`, which exists: a file a format, and `<id>.json` with what the colours mean, last.
///
/// # Errors
/// [`Error::Output`] where the slide has no finished features or they are damaged, [`Error::Usage`] where the scores are not those
/// of its tiles, [`Error::Write`].
pub fn heatmap(
    finished: &Finished,
    id: &str,
    scores: &SlideScores,
    range: Range,
    formats: &[Format],
    dir: &Path,
) -> Result<Drawn> {
    let record = finished.record(id)?;
    let bag = finished.open(&record)?;
    let scores = scores.of_tiles(bag.coords())?;
    let tiles: Vec<Scored> = bag
        .coords()
        .iter()
        .zip(&scores)
        .filter_map(|(at, score)| score.map(|score| Scored { at: *at, score }))
        .collect();
    let values: Vec<f64> = tiles.iter().map(|t| t.score).collect();
    let range_drawn = range.of(&values);
    let attributes = bag.attributes();
    let side = attributes.patch_size_level0;
    let overview = draw::overview(&finished.grid_dir.join("overviews").join(format!("{id}.jpg")))?;
    for format in formats {
        let unwritable = |e| Error::write("a heatmap", e);
        match format {
            Format::Png => {
                let level0 = [attributes.level0_width, attributes.level0_height];
                let from = if range == Range::Percentiles { "1-99%" } else { "" };
                let picture = draw::draw(overview.as_ref(), level0, side, &tiles, range_drawn, from);
                publish::write_atomic(&dir.join(format!("{id}.png")), &draw::encode_png(&picture)?)
            }
            Format::GeoJson => files::geojson(&dir.join(format!("{id}.geojson")), side, &tiles, range_drawn),
            Format::Csv => files::csv(&dir.join(format!("{id}.csv")), id, side, &tiles, range_drawn),
        }
        .map_err(unwritable)?;
    }
    let drawn = Drawn { tiles: bag.rows(), scored: tiles.len(), range: range_drawn, on_overview: overview.is_some() };
    let legend = json!({
        "schema": "paraffin-heatmap/1",
        "id": id,
        "artefact": finished.artefact,
        "contract_sha256": finished.contract_sha256,
        "tiles": drawn.tiles,
        "scored": drawn.scored,
        "range": drawn.range,
        "range_from": range.words(),
        "colours": "viridis",
        "background": if drawn.on_overview { "overview" } else { "white" },
    });
    let mut text = serde_json::to_vec_pretty(&legend).map_err(|e| Error::Internal(format!("a legend: {e}")))?;
    text.push(b'\n');
    publish::write_atomic(&dir.join(format!("{id}.json")), &text).map_err(|e| Error::write("a heatmap", e))?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: `numpy.percentile([1, 2, 4, 8, 16], [1, 99, 25, 90])`.
    #[test]
    fn percentiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (share, expected) in [(0.01, 1.04), (0.99, 15.68), (0.25, 2.0), (0.9, 12.8)] {
            assert!((percentile(&sorted, share) - expected).abs() < 1e-12, "{share}");
        }
        assert_eq!((percentile(&[3.0], 0.99), percentile(&[], 0.5)), (3.0, 0.0));
        assert_eq!(Range::Percentiles.of(&[16.0, 1.0, 4.0, 8.0, 2.0]).map(|v| (v * 100.0).round()), [104.0, 1568.0]);
        assert_eq!(Range::Given(-1.0, 2.0).of(&[0.0]), [-1.0, 2.0]);
    }

    #[test]
    fn fractions_stay_in_range() {
        for (score, expected) in [(-9.0, 0.0), (0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (9.0, 1.0)] {
            assert_eq!(fraction(score, [0.0, 4.0]), expected);
        }
        assert_eq!(fraction(7.0, [7.0, 7.0]), 0.5);
    }

    /// Expected: `matplotlib.colormaps["viridis"].colors` at 0, 128 and 255, times 255. Its lightness rises evenly.
    #[test]
    fn colours_are_viridis() {
        assert_eq!([0.0, 1.0].map(colour), [[68, 1, 84], [253, 231, 37]]);
        assert!(colour(0.5).iter().zip([33, 145, 140]).all(|(got, want): (&u8, u8)| got.abs_diff(want) <= 1));
        // CIE L*, of sRGB under D65.
        let lightness = |fraction: f64| {
            let linear = colour(fraction).map(|v| {
                let v = f64::from(v) / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            });
            116.0 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]).cbrt() - 16.0
        };
        let steps: Vec<f64> =
            (0..16).map(|i| lightness(f64::from(i + 1) / 16.0) - lightness(f64::from(i) / 16.0)).collect();
        assert!(steps.iter().all(|step| (3.5..6.5).contains(step)), "{steps:?}");
    }
}
