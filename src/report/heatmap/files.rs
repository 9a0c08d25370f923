//! Tiles with their scores for other viewers: GeoJSON and CSV. Coordinates are level-0 pixels.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;

use super::{Scored, colour, fraction};
use crate::record::publish::TempFile;

/// Writes `path` through `content`, whole or not at all.
fn publish(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let temp = TempFile::for_path(path)?;
    let mut file = BufWriter::new(OpenOptions::new().write(true).open(temp.path())?);
    content(&mut file)?;
    file.flush()?;
    drop(file);
    temp.commit()
}

/// GeoJSON (RFC 7946) in QuPath's dialect: each tile a polygon of type `tile` with the measurement `score` and its colour.
pub(super) fn geojson(path: &Path, side: i64, tiles: &[Scored], range: [f64; 2]) -> io::Result<()> {
    publish(path, |file| {
        file.write_all(b"{\"type\": \"FeatureCollection\", \"features\": [")?;
        for (i, Scored { at: [x, y], score }) in tiles.iter().enumerate() {
            let (right, low) = (x + side, y + side);
            let feature = json!({
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x, y], [right, y], [right, low], [x, low], [x, y]]],
                },
                "properties": {
                    "objectType": "tile",
                    "measurements": {"score": score},
                    "color": colour(fraction(*score, range)),
                },
            });
            write!(file, "{}\n{feature}", if i == 0 { "" } else { "," })?;
        }
        file.write_all(b"\n]}\n")
    })
}

/// CSV: `id,x,y,side_level0,score,fraction`, where the fraction is the place in the range of colours.
pub(super) fn csv(path: &Path, id: &str, side: i64, tiles: &[Scored], range: [f64; 2]) -> io::Result<()> {
    publish(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        table.write_record(["id", "x", "y", "side_level0", "score", "fraction"])?;
        for Scored { at: [x, y], score } in tiles {
            let numbers = [x.to_string(), y.to_string(), side.to_string(), score.to_string()];
            let fraction = fraction(*score, range).to_string();
            table.write_record(
                std::iter::once(id).chain(numbers.iter().map(String::as_str)).chain([fraction.as_str()]),
            )?;
        }
        table.flush()
    })
}
