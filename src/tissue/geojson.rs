//! Tissue as GeoJSON, as QuPath reads and writes it: polygons in level-0 pixels, y downwards.
//!
//! Reference: RFC 7946 for the structure; its longitudes and latitudes are pixels here, as in QuPath's exports.

use serde_json::{Value, json};

use super::contours;
use super::mask::TissueMask;

/// The tissue's outlines as a FeatureCollection, one Feature a piece, with the area in mm² where `mpp` (µm per level-0 pixel, x and y) is given.
#[must_use]
pub fn to_geojson(mask: &TissueMask, mpp: Option<(f64, f64)>) -> Value {
    let (dx, dy) = mask.downsample();
    let place = |value: u32, downsample: f64| (f64::from(value) * downsample * 100.0).round() / 100.0;
    let ring = |ring: &contours::Ring| -> Value {
        // Closed, as the format wants it.
        let corners = ring.iter().chain(ring.first());
        corners.map(|&[x, y]| json!([place(x, dx), place(y, dy)])).collect()
    };
    let polygons = contours::polygons(mask.data(), mask.width() as usize, mask.height() as usize);
    let features = polygons.iter().map(|polygon| {
        let rings: Vec<Value> = [&polygon.outer].into_iter().chain(&polygon.holes).map(ring).collect();
        let mut properties = json!({
            "objectType": "annotation",
            "classification": { "name": CLASS, "color": [0, 110, 40] },
        });
        if let Some((x, y)) = mpp {
            let rings = [&polygon.outer].into_iter().chain(&polygon.holes);
            let pixels: f64 = rings.map(contours::signed_area_f64).sum();
            let mm2 = pixels * dx * dy * x * y / 1e6;
            properties["measurements"] = json!({ "area_mm2": (mm2 * 1e6).round() / 1e6 });
        }
        json!({ "type": "Feature", "geometry": { "type": "Polygon", "coordinates": rings }, "properties": properties })
    });
    json!({ "type": "FeatureCollection", "features": features.collect::<Vec<_>>() })
}

/// The class of what paraffin outlines.
const CLASS: &str = "Tissue";

/// A polygon: its outer ring and its holes, level-0 pixels.
type Polygon = Vec<Vec<[f64; 2]>>;

/// The mask that a GeoJSON text draws on a slide of `slide_width x slide_height` level-0 pixels, with about `downsample` level-0
/// pixels per mask pixel. A mask pixel is tissue where its centre lies in a polygon and not in that polygon's holes.
///
/// All polygons count, but those of a class that QuPath ignores (a name that ends in `*`).
///
/// # Errors
/// In words: what is wrong with the text.
pub(super) fn from_geojson(
    text: &[u8],
    slide_width: u32,
    slide_height: u32,
    downsample: f64,
) -> Result<TissueMask, String> {
    let value: Value = serde_json::from_slice(text).map_err(|e| format!("no JSON: {e}"))?;
    let mut polygons = Vec::new();
    collect(&value, &mut polygons, 0)?;
    if polygons.is_empty() {
        return Err("it holds no Polygon and no MultiPolygon".into());
    }
    let side = |slide: u32| ((f64::from(slide) / downsample).ceil() as u32).max(1);
    let (width, height) = (side(slide_width), side(slide_height));
    let mut data = vec![0u8; width as usize * height as usize];
    // The outlines of a mask end with its pixels, a little beyond the slide.
    let within = |value: f64, side: u32| {
        let slack = (f64::from(side) * 0.01).max(2.0 * downsample);
        value >= -slack && value <= f64::from(side) + slack
    };
    let inside = |&[x, y]: &[f64; 2]| within(x, slide_width) && within(y, slide_height);
    if let Some([x, y]) = polygons.iter().flatten().flatten().find(|point| !inside(point)) {
        return Err(format!(
            "a corner lies at x {x}, y {y}, outside the slide of {slide_width} x {slide_height}: level-0 pixels are expected, \
             as QuPath writes them"
        ));
    }
    for polygon in &polygons {
        fill(&mut data, width as usize, height as usize, polygon, downsample);
    }
    Ok(TissueMask::new(width, height, downsample, downsample, data))
}

/// Gathers the polygons of a FeatureCollection, a Feature, a geometry, or a list of those.
fn collect(value: &Value, polygons: &mut Vec<Polygon>, depth: u32) -> Result<(), String> {
    if depth > 8 {
        return Err("it is nested too deeply".into());
    }
    if let Value::Array(items) = value {
        return items.iter().try_for_each(|item| collect(item, polygons, depth + 1));
    }
    let list = |name: &str| value[name].as_array().ok_or_else(|| format!("a {} without {name}", value["type"]));
    match value["type"].as_str().unwrap_or_default() {
        "FeatureCollection" => list("features")?.iter().try_for_each(|item| collect(item, polygons, depth + 1)),
        "Feature" => {
            let class = value["properties"]["classification"]["name"].as_str().unwrap_or_default();
            if class.ends_with('*') || value["geometry"].is_null() {
                return Ok(());
            }
            collect(&value["geometry"], polygons, depth + 1)
        }
        "GeometryCollection" => list("geometries")?.iter().try_for_each(|item| collect(item, polygons, depth + 1)),
        "Polygon" => {
            polygons.push(polygon(list("coordinates")?)?);
            Ok(())
        }
        "MultiPolygon" => list("coordinates")?.iter().try_for_each(|rings| {
            polygons.push(polygon(rings.as_array().ok_or("a MultiPolygon without rings")?)?);
            Ok(())
        }),
        "Point" | "MultiPoint" | "LineString" | "MultiLineString" => Ok(()),
        other => Err(format!("'{other}' is no GeoJSON type")),
    }
}

fn polygon(rings: &[Value]) -> Result<Polygon, String> {
    let point = |point: &Value| match (point[0].as_f64(), point[1].as_f64()) {
        (Some(x), Some(y)) => Ok([x, y]),
        _ => Err(format!("'{point}' is no point")),
    };
    let ring = |ring: &Value| ring.as_array().ok_or("a ring is no list".to_string())?.iter().map(point).collect();
    rings.iter().map(ring).collect()
}

/// Sets the pixels whose centres lie inside by the even-odd rule.
fn fill(data: &mut [u8], width: usize, height: usize, polygon: &Polygon, downsample: f64) {
    let mut crossings: Vec<Vec<f64>> = vec![Vec::new(); height];
    for ring in polygon {
        let next = ring.iter().cycle().skip(1);
        for (a, b) in ring.iter().zip(next) {
            let ((x0, y0), (x1, y1)) = ((a[0] / downsample, a[1] / downsample), (b[0] / downsample, b[1] / downsample));
            let (low, high) = (y0.min(y1), y0.max(y1));
            // Lines of pixel centres, y + 0.5, that the side crosses: its lower end counts, its upper does not.
            let first = (low - 0.5).ceil().clamp(0.0, height as f64) as usize;
            let last = (high - 0.5).ceil().clamp(0.0, height as f64) as usize;
            for (y, crossing) in crossings.iter_mut().enumerate().take(last).skip(first) {
                crossing.push(x0 + (y as f64 + 0.5 - y0) / (y1 - y0) * (x1 - x0));
            }
        }
    }
    for (line, crossing) in data.chunks_exact_mut(width).zip(&mut crossings) {
        crossing.sort_by(f64::total_cmp);
        for pair in crossing.chunks_exact(2) {
            let first = (pair[0] - 0.5).ceil().clamp(0.0, width as f64) as usize;
            let last = (pair[1] - 0.5).ceil().clamp(0.0, width as f64) as usize;
            line[first..last.max(first)].fill(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_read_back_give_the_same_mask() {
        for seed in 0..20u32 {
            let (width, height) = (23u32, 19u32);
            let random = |i: u32| i.wrapping_add(seed * 977).wrapping_mul(2_654_435_761) >> 21 & 7;
            let data: Vec<u8> = (0..width * height).map(|i| u8::from(random(i) < 4)).collect();
            let mask = TissueMask::new(width, height, 32.0, 32.0, data);
            let text = to_geojson(&mask, Some((0.25, 0.25))).to_string();
            let back = from_geojson(text.as_bytes(), width * 32 - 5, height * 32 - 9, 32.0).unwrap();
            assert_eq!(back, mask, "seed {seed}");
        }
    }

    #[test]
    fn features_carry_what_qupath_shows() {
        let mask = TissueMask::new(2, 2, 100.0, 100.0, vec![1, 0, 0, 0]);
        let value = to_geojson(&mask, Some((0.5, 0.5)));
        let feature = &value["features"][0];
        assert_eq!(feature["geometry"]["coordinates"][0].as_array().unwrap().len(), 5);
        assert_eq!(feature["properties"]["classification"]["name"], "Tissue");
        assert_eq!(feature["properties"]["measurements"]["area_mm2"], 0.0025);
    }

    #[test]
    fn qupaths_kinds_are_read_and_its_ignored_class_is_not() {
        let square = |x: i32| json!([[[x, 0], [x + 40, 0], [x + 40, 40], [x, 40], [x, 0]]]);
        let feature = |x: i32, class: &str| {
            json!({
                "type": "Feature", "geometry": { "type": "Polygon", "coordinates": square(x) },
                "properties": { "classification": { "name": class } }
            })
        };
        let text = json!([
            feature(0, "Tumor"), feature(40, "Ignore*"),
            { "type": "Feature", "geometry": { "type": "MultiPolygon", "coordinates": [square(80), square(120)] } },
            { "type": "Feature", "geometry": { "type": "Point", "coordinates": [3, 3] }, "properties": {} },
        ]);
        let mask = from_geojson(text.to_string().as_bytes(), 200, 100, 10.0).unwrap();
        assert_eq!(mask.tissue_area_level0(), 3.0 * 1600.0);
        assert!(mask.contains(5.0, 5.0) && !mask.contains(45.0, 5.0) && mask.contains(125.0, 35.0));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let why = |text: &str| from_geojson(text.as_bytes(), 200, 100, 10.0).unwrap_err();
        assert!(why("{").contains("no JSON"));
        assert!(why("{}").contains("no GeoJSON type"));
        assert!(why(r#"{"type":"FeatureCollection","features":[]}"#).contains("no Polygon"));
        assert!(why(r#"{"type":"Polygon","coordinates":[[[0,0],["a",5],[5,5]]]}"#).contains("is no point"));
        assert!(why(r#"{"type":"Polygon","coordinates":[[[0,0],[900,0],[900,90]]]}"#).contains("outside the slide"));
        let deep = format!("{}1{}", "[".repeat(50), "]".repeat(50));
        assert!(why(&deep).contains("nested"));
    }
}
