//! The picture: colours over the overview, and a bar that says what they mean.

use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ImageReader, Rgb, RgbImage, imageops};

use super::{Scored, colour, fraction};
use crate::error::{Error, Result};
use crate::report::overview::{blend, plate};

/// Longest side where there is no overview, in pixels.
const SIDE: f64 = 1024.0;
/// How much the colours cover what is beneath.
const COVER: f32 = 0.6;

/// The overview at `path`; `None` where there is none.
///
/// # Errors
/// [`Error::Output`] where it cannot be read.
pub(super) fn overview(path: &Path) -> Result<Option<RgbImage>> {
    if !path.exists() {
        return Ok(None);
    }
    let unreadable = |e: String| Error::Output(format!("its file in overviews cannot be read: {e}"));
    let picture = ImageReader::open(path).map_err(|e| unreadable(e.to_string()))?.decode();
    Ok(Some(picture.map_err(|e| unreadable(e.to_string()))?.into_rgb8()))
}

/// Draws tiles of `side` level-0 pixels over the overview of a slide of `level0` pixels, or over white. Where tiles overlap, a pixel
/// has the colour of their scores' mean. To the right stands the bar, and below it `note`.
pub(super) fn draw(
    overview: Option<&RgbImage>,
    level0: [i64; 2],
    side: i64,
    tiles: &[Scored],
    range: [f64; 2],
    note: &str,
) -> RgbImage {
    let level0 = level0.map(|v| v.max(1) as f64);
    let mut picture = overview.cloned().unwrap_or_else(|| {
        let shrink = (level0[0].max(level0[1]) / SIDE).max(1.0);
        let [width, height] = level0.map(|v| ((v / shrink).round() as u32).max(1));
        RgbImage::from_pixel(width, height, Rgb([255; 3]))
    });
    let (width, height) = picture.dimensions();
    let downsample = [level0[0] / f64::from(width), level0[1] / f64::from(height)];
    let mut means = vec![(0.0f64, 0u32); width as usize * height as usize];
    for tile in tiles {
        // Neighbours share no pixel, and the smallest tile has one.
        let span = |axis: usize, limit: u32| {
            let edge = |at: i64| (at as f64 / downsample[axis]).round() as i64;
            let from = edge(tile.at[axis]);
            let to = edge(tile.at[axis].saturating_add(side)).max(from + 1);
            from.clamp(0, i64::from(limit)) as usize..to.clamp(0, i64::from(limit)) as usize
        };
        for y in span(1, height) {
            for x in span(0, width) {
                let (sum, n) = &mut means[y * width as usize + x];
                (*sum, *n) = (*sum + tile.score, *n + 1);
            }
        }
    }
    for (pixel, (sum, n)) in picture.pixels_mut().zip(means) {
        if n > 0 {
            blend(pixel, colour(fraction(sum / f64::from(n), range)), COVER);
        }
    }
    with_bar(&picture, range, note)
}

/// Puts the bar of colours to the right of the picture, highest score on top.
fn with_bar(picture: &RgbImage, range: [f64; 2], note: &str) -> RgbImage {
    let (width, height) = picture.dimensions();
    let zoom = (width.max(height) / 500).clamp(1, 4);
    let labels = [range[1], f64::midpoint(range[0], range[1]), range[0]].map(|value| label(value, range));
    let longest = labels.iter().map(String::len).chain([note.len()]).max().unwrap_or(0) as u32;
    let (pad, thick, line) = (8 * zoom, 16 * zoom, 7 * zoom);
    let bar = (height * 2 / 3).max(60 * zoom);
    let panel = pad + thick + pad / 2 + longest * 6 * zoom + pad;
    let mut whole = RgbImage::from_pixel(width + panel, height.max(bar + 3 * pad + 2 * line), Rgb([255; 3]));
    imageops::replace(&mut whole, picture, 0, 0);
    let (left, top) = (width + pad, pad + line / 2);
    for row in 0..bar {
        let colour = Rgb(colour(1.0 - f64::from(row) / f64::from(bar - 1)));
        for x in left..left + thick {
            whole.put_pixel(x, top + row, colour);
        }
    }
    let mut ink = |x: u32, y: u32, text: &str| plate::text(&mut whole, i64::from(x), i64::from(y), zoom.into(), text);
    for (i, label) in (0u32..).zip(&labels) {
        ink(left + thick + pad / 2, top + (bar - 1) * i / 2 - line / 2, label);
    }
    ink(left, top + bar + pad, note);
    whole
}

/// A score as text, in steps of about a hundredth of the range.
fn label(value: f64, [low, high]: [f64; 2]) -> String {
    let scale = if high > low { high - low } else { value.abs().max(1e-300) };
    let digits = 2 - scale.log10().floor() as i32;
    if digits > 6 || value.abs() >= 1e6 {
        return format!("{value:.2e}");
    }
    // No -0.00.
    let text = format!("{value:.*}", digits.max(0) as usize);
    if text.trim_start_matches(['-', '0', '.']).is_empty() { text.trim_start_matches('-').to_owned() } else { text }
}

/// PNG, of pixels only: no text, no time.
///
/// # Errors
/// [`Error::Internal`].
pub(super) fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    picture.write_with_encoder(PngEncoder::new(&mut bytes)).map_err(|e| Error::Internal(format!("a heatmap: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(colour: [u8; 3], beneath: u8) -> [u8; 3] {
        colour.map(|c| (f32::from(beneath) * 0.4 + f32::from(c) * 0.6).round() as u8)
    }

    fn tile(x: i64, y: i64, score: f64) -> Scored {
        Scored { at: [x, y], score }
    }

    #[test]
    fn scores_become_their_colours_where_the_tiles_are() {
        let grey = RgbImage::from_pixel(100, 50, Rgb([100; 3]));
        // 10 level-0 pixels a pixel. The second and third tile share x 40..50.
        let tiles = [tile(0, 0, 0.0), tile(300, 100, 0.0), tile(400, 100, 1.0), tile(900, 400, 7.0)];
        let picture = draw(Some(&grey), [1000, 500], 200, &tiles, [0.0, 1.0], "");
        let (low, high) = ([68, 1, 84], [253, 231, 37]);
        for (x, y, expected) in [
            (0, 0, over(low, 100)),
            (19, 19, over(low, 100)),
            (20, 19, [100; 3]),
            (30, 10, over(low, 100)),
            (45, 15, over(colour(0.5), 100)),
            (50, 10, over(high, 100)),
            (59, 29, over(high, 100)),
            (60, 29, [100; 3]),
            // Past the slide's edge it is cut; beyond the range it has the last colour.
            (99, 49, over(high, 100)),
        ] {
            assert_eq!(picture.get_pixel(x, y).0, expected, "{x},{y}");
        }
        // The bar: highest on top.
        assert!(picture.width() > 108 && picture.height() >= 50);
        assert_eq!((picture.get_pixel(108, 11).0, picture.get_pixel(108, 11 + 59).0), (high, low));
    }

    #[test]
    fn without_an_overview_it_is_white_and_of_the_slides_shape() {
        let picture = draw(None, [20_480, 10_240], 20, &[tile(0, 0, 1.0), tile(20, 0, 1.0)], [0.0, 1.0], "1-99%");
        assert!(picture.width() > 1024 && picture.height() == 512);
        assert_eq!(picture.get_pixel(0, 0).0, over([253, 231, 37], 255));
        assert_eq!(picture.get_pixel(1, 0).0, over([253, 231, 37], 255), "a tile of a pixel");
        assert_eq!(picture.get_pixel(2, 0).0, [255; 3]);
        assert_eq!(draw(None, [0, 0], 1, &[], [0.0, 0.0], "").get_pixel(0, 0).0, [255; 3]);
    }

    #[test]
    fn labels_show_what_differs() {
        for (value, range, expected) in [
            (0.5, [0.0, 1.0], "0.50"),
            (0.0123, [0.0100, 0.0145], "0.01230"),
            (-3.0, [-3.0, 250.0], "-3"),
            (-0.001, [-1.0, 1.0], "0.00"),
            (1.2e-9, [0.0, 2e-9], "1.20e-9"),
            (2.5e7, [0.0, 3e7], "2.50e7"),
            (4.0, [4.0, 4.0], "4.00"),
        ] {
            assert_eq!(label(value, range), expected);
        }
    }
}
