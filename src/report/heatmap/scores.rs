//! The scores of tiles, as other programs write them.
//!
//! A CSV file with a header: `id,x,y,score`, where x and y are a tile's `coords`, in any order; or `id,score`, one row for each of the
//! slide's tiles in the order of its feature file. The column `id` may be missing where one slide is named. Other columns do not
//! matter. Or an HDF5 file with a dataset (N) of numbers for each slide, named by its id, in the order of its feature file.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use rust_hdf5::H5File;

use crate::error::{Error, Result};

/// The scores of one slide.
#[derive(Clone, Debug, PartialEq)]
pub enum SlideScores {
    /// One for each tile, in the order of the feature file.
    InOrder(Vec<f64>),
    /// Upper left corners in level-0 pixels, and their scores.
    Placed(Vec<([i64; 2], f64)>),
}

impl SlideScores {
    /// A score, or none, for each of a slide's tiles.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are as many scores as tiles nowhere near, a score is of no tile, or two are of one.
    pub fn of_tiles(&self, coords: &[[i64; 2]]) -> Result<Vec<Option<f64>>> {
        match self {
            SlideScores::InOrder(scores) if scores.len() == coords.len() => {
                Ok(scores.iter().copied().map(Some).collect())
            }
            SlideScores::InOrder(scores) => Err(Error::Usage(format!(
                "{} scores for {} tiles: give one for each row of the slide's features, or x and y with each",
                scores.len(),
                coords.len()
            ))),
            SlideScores::Placed(scores) => {
                let rows: HashMap<[i64; 2], usize> = coords.iter().enumerate().map(|(row, at)| (*at, row)).collect();
                let mut found = vec![None; coords.len()];
                for ([x, y], score) in scores {
                    let row = rows.get(&[*x, *y]).ok_or_else(|| {
                        Error::Usage(format!(
                            "the score at x {x}, y {y} is of none of the slide's {} tiles",
                            coords.len()
                        ))
                    })?;
                    if found[*row].replace(*score).is_some() {
                        return Err(Error::Usage(format!("two scores for the tile at x {x}, y {y}")));
                    }
                }
                Ok(found)
            }
        }
    }
}

/// Reads a file of scores, by the slides' ids. With `only`, those of that slide alone.
///
/// # Errors
/// [`Error::Usage`] saying where the file is not as described, or that it has no scores of the slide.
pub fn read(path: &Path, only: Option<&str>) -> Result<BTreeMap<String, SlideScores>> {
    let unreadable = |e: std::io::Error| Error::Usage(format!("--scores cannot be read: {e}"));
    let mut start = Vec::new();
    std::fs::File::open(path).and_then(|f| f.take(8).read_to_end(&mut start)).map_err(unreadable)?;
    let scores = if start == b"\x89HDF\r\n\x1a\n" { read_hdf5(path, only)? } else { read_csv(path, only)? };
    match only {
        _ if scores.is_empty() && only.is_none() => Err(Error::Usage("--scores holds no scores".into())),
        Some(id) if !scores.contains_key(id) => Err(Error::Usage(format!("--scores holds none of the slide '{id}'"))),
        _ => Ok(scores),
    }
}

fn read_csv(path: &Path, only: Option<&str>) -> Result<BTreeMap<String, SlideScores>> {
    let wrong = |why: String| Error::Usage(format!("--scores: {why}"));
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(|e| wrong(e.to_string()))?;
    let header = reader.headers().map_err(|e| wrong(e.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
    let Some(score) = column("score") else {
        return Err(wrong("no column 'score' in its header; it needs id,score or id,x,y,score".into()));
    };
    let id = column("id");
    if id.is_none() && only.is_none() {
        return Err(wrong("no column 'id' in its header: add it, or name the slide with --slide".into()));
    }
    let place = match (column("x"), column("y")) {
        (Some(x), Some(y)) => Some((x, y)),
        (None, None) => None,
        _ => return Err(wrong("x without y, or y without x, in its header".into())),
    };
    let mut found = BTreeMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| wrong(e.to_string()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let of = id.map_or(only.unwrap_or_default(), cell);
        if only.is_some_and(|only| only != of) {
            continue;
        }
        let number = |at: usize| {
            let value: f64 =
                cell(at).parse().map_err(|_| wrong(format!("line {line}: '{}' is no number", cell(at))))?;
            if value.is_finite() { Ok(value) } else { Err(wrong(format!("line {line}: {value} is not finite"))) }
        };
        let value = number(score)?;
        let empty = || if place.is_some() { SlideScores::Placed(Vec::new()) } else { SlideScores::InOrder(Vec::new()) };
        match (found.entry(of.to_owned()).or_insert_with(empty), place) {
            (SlideScores::Placed(scores), Some((x, y))) => {
                // Some programs write whole numbers as 224.0.
                let whole = |at: usize| match number(at)? {
                    v if v.fract() == 0.0 && v.abs() < 9e15 => Ok(v as i64),
                    v => Err(wrong(format!("line {line}: {v} is no pixel"))),
                };
                scores.push(([whole(x)?, whole(y)?], value));
            }
            (SlideScores::InOrder(scores), _) => scores.push(value),
            (SlideScores::Placed(_), None) => return Err(Error::Internal("scores of two kinds".into())),
        }
    }
    Ok(found)
}

fn read_hdf5(path: &Path, only: Option<&str>) -> Result<BTreeMap<String, SlideScores>> {
    let wrong = |why: String| Error::Usage(format!("--scores: {why}"));
    let damaged = |e: rust_hdf5::Hdf5Error| wrong(e.to_string());
    let file = H5File::options().no_locking().open(path).map_err(damaged)?;
    let mut found = BTreeMap::new();
    for id in file.dataset_names().into_iter().filter(|id| only.is_none_or(|only| only == id)) {
        let dataset = file.dataset(&id).map_err(damaged)?;
        let (at, size) = match dataset.shape()[..] {
            [n] => (vec![0], vec![n]),
            [n, 1] => (vec![0, 0], vec![n, 1]),
            ref other => return Err(wrong(format!("the dataset '{id}' has the shape {other:?}, not (N)"))),
        };
        let values: Vec<f64> = match size[0] {
            0 => Vec::new(),
            _ => dataset.read_numeric_slice_as(&at, &size).map_err(|e| wrong(format!("the dataset '{id}': {e}")))?,
        };
        if let Some(row) = values.iter().position(|v| !v.is_finite()) {
            return Err(wrong(format!("row {row} of the dataset '{id}' is not finite")));
        }
        found.insert(id, SlideScores::InOrder(values));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(text: &str, only: Option<&str>) -> Result<BTreeMap<String, SlideScores>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), only)
    }

    #[test]
    fn rows_in_order_and_rows_with_places() {
        let two = csv("id,score\na,1\nb,3\na,2e-1\n", None).unwrap();
        assert_eq!(two["a"], SlideScores::InOrder(vec![1.0, 0.2]));
        assert_eq!(two["b"], SlideScores::InOrder(vec![3.0]));
        let placed = csv("score, y ,note,x,id\n0.5,224,-,448.0,a\n", None).unwrap();
        assert_eq!(placed["a"], SlideScores::Placed(vec![([448, 224], 0.5)]));
        assert_eq!(csv("\u{feff}score\n1\n2\n", Some("a")).unwrap()["a"], SlideScores::InOrder(vec![1.0, 2.0]));
        assert_eq!(csv("id,score\na,1\nb,x\n", Some("a")).unwrap().len(), 1, "others are not read");
        let tiles = [[0, 0], [448, 224]];
        assert_eq!(placed["a"].of_tiles(&tiles).unwrap(), [None, Some(0.5)]);
        assert_eq!(two["a"].of_tiles(&tiles).unwrap(), [Some(1.0), Some(0.2)]);
    }

    #[test]
    fn what_is_wrong_is_said_where() {
        for (text, only, said) in [
            ("id,value\na,1\n", None, "no column 'score'"),
            ("score\n1\n", None, "no column 'id'"),
            ("id,x,score\na,0,1\n", None, "x without y"),
            ("id,score\na,1\na,high\n", None, "line 3: 'high' is no number"),
            ("id,score\na,nan\n", None, "line 2: NaN is not finite"),
            ("id,x,y,score\na,0.5,0,1\n", None, "line 2: 0.5 is no pixel"),
            ("id,score\na,1,2\n", None, "2 fields"),
            ("id,score\n", None, "no scores"),
            ("id,score\na,1\n", Some("b"), "none of the slide 'b'"),
        ] {
            let why = csv(text, only).unwrap_err().to_string();
            assert!(why.contains(said), "{text:?}: {why}");
        }
        let tiles = [[0, 0], [448, 224]];
        for (scores, said) in [
            (SlideScores::InOrder(vec![1.0]), "1 scores for 2 tiles"),
            (SlideScores::Placed(vec![([1, 0], 1.0)]), "x 1, y 0 is of none of the slide's 2 tiles"),
            (SlideScores::Placed(vec![([0, 0], 1.0), ([0, 0], 2.0)]), "two scores for the tile at x 0, y 0"),
        ] {
            let why = scores.of_tiles(&tiles).unwrap_err().to_string();
            assert!(why.contains(said), "{why}");
        }
        assert!(read(Path::new("/nowhere"), None).unwrap_err().to_string().contains("--scores cannot be read"));
    }
}
