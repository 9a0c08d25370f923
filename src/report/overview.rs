//! The overview picture: a thumbnail with the tissue's outline, the kept and the dropped tiles, how many they are, and a scale
//! bar.
//!
//! Drawn on pixels already in memory; glyphs for the scale bar are built in. The same input gives the same bytes.

mod legend;
pub(super) mod plate;
mod scale_bar;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage, imageops};

use crate::tissue::TissueMask;

/// Longest side of an overview in pixels; larger thumbnails are shrunk.
pub const SIDE_MAX: u32 = 2048;

const OUTLINE: [u8; 3] = [0, 110, 40];
const OUTLINE_PX: i64 = 2;
const TILE: [u8; 3] = [30, 90, 220];
/// Orange against blue: told apart with any colour vision.
const DROPPED: [u8; 3] = [235, 110, 0];
const TILE_FILL: f32 = 0.10;
const DROPPED_FILL: f32 = 0.22;
const TILE_EDGE: f32 = 0.55;
/// Edges of tiles smaller than [`TILE_FINE_PX`], lest a dense grid hides the tissue.
const TILE_EDGE_FINE: f32 = 0.3;
const TILE_FINE_PX: f64 = 16.0;
/// Tiles smaller than this (px) get no edges at all.
const TILE_EDGE_MIN_PX: f64 = 5.0;

/// What an overview shows. Everything but the thumbnail is in level-0 pixels.
#[derive(Clone, Copy, Debug)]
pub struct OverviewInput<'a> {
    /// The whole slide at low power.
    pub thumb: &'a RgbImage,
    /// Level-0 pixels per thumbnail pixel, across.
    pub downsample_x: f64,
    /// Level-0 pixels per thumbnail pixel, down.
    pub downsample_y: f64,
    /// Outlined where given.
    pub mask: Option<&'a TissueMask>,
    /// Top left corners `[x, y]` of the kept tiles.
    pub tiles: &'a [[i64; 2]],
    /// Those of the tiles that touch tissue and were not kept.
    pub dropped: &'a [[i64; 2]],
    /// Side of a tile.
    pub tile_size_level0: u32,
    /// µm per level-0 pixel; without a positive one there is no scale bar.
    pub mpp_level0: f64,
}

/// Draws the overview; its longest side is at most [`SIDE_MAX`].
pub fn draw(input: &OverviewInput) -> RgbImage {
    let (width, height) = input.thumb.dimensions();
    let shrink = (f64::from(width.max(height)) / f64::from(SIDE_MAX)).max(1.0);
    let scaled = |side: u32| ((f64::from(side) / shrink).round() as u32).clamp(1, SIDE_MAX);
    let mut picture = if shrink > 1.0 {
        imageops::resize(input.thumb, scaled(width), scaled(height), imageops::FilterType::Triangle)
    } else {
        input.thumb.clone()
    };
    if picture.width() == 0 || picture.height() == 0 {
        return picture;
    }
    let downsample_x = input.downsample_x * f64::from(width) / f64::from(picture.width());
    let downsample_y = input.downsample_y * f64::from(height) / f64::from(picture.height());
    draw_tiles(&mut picture, input, downsample_x, downsample_y);
    if let Some(mask) = input.mask {
        draw_outline(&mut picture, mask, downsample_x, downsample_y);
    }
    let um_per_px = input.mpp_level0 * downsample_x;
    if um_per_px.is_finite() && um_per_px > 0.0 {
        scale_bar::draw(&mut picture, um_per_px);
    }
    if !(input.tiles.is_empty() && input.dropped.is_empty()) {
        let mut entries = vec![(TILE, format!("{} kept", input.tiles.len()))];
        if !input.dropped.is_empty() {
            entries.push((DROPPED, format!("{} dropped", input.dropped.len())));
        }
        legend::draw(&mut picture, &entries);
    }
    picture
}

/// Encodes as baseline JPEG (quality 1..=100). The file holds pixels only: no EXIF, comment or colour profile.
///
/// # Errors
/// When a side is zero or over 65,535 px.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, image::ImageError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100)).encode_image(image)?;
    Ok(bytes)
}

/// Lays a colour over a pixel; 0 leaves it, 1 covers it.
pub(super) fn blend(pixel: &mut Rgb<u8>, colour: [u8; 3], alpha: f32) {
    for (channel, ink) in pixel.0.iter_mut().zip(colour) {
        *channel = (f32::from(*channel) * (1.0 - alpha) + f32::from(ink) * alpha).round() as u8;
    }
}

/// Tints tiles and draws their edges. Each pixel is inked once, however many tiles overlap there; kept tiles go over dropped
/// ones.
fn draw_tiles(picture: &mut RgbImage, input: &OverviewInput, downsample_x: f64, downsample_y: f64) {
    const FILL: u8 = 1;
    const EDGE: u8 = 2;
    const KEPT: u8 = 4;
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let size = f64::from(input.tile_size_level0);
    let size_px = size / downsample_x.max(downsample_y);
    let edges = size_px >= TILE_EDGE_MIN_PX;
    let edge_alpha = if size_px < TILE_FINE_PX { TILE_EDGE_FINE } else { TILE_EDGE };
    let mut ink = vec![0u8; (width * height) as usize];
    let dropped = input.dropped.iter().map(|tile| (tile, 0));
    for (&[x_level0, y_level0], kept) in dropped.chain(input.tiles.iter().map(|tile| (tile, KEPT))) {
        // Neighbours share the pixel line that both round to.
        let span = |from: f64, downsample: f64, limit: i64| {
            let (low, high) = ((from / downsample).round() as i64, ((from + size) / downsample).round() as i64);
            (low, high, low.clamp(0, limit), high.clamp(0, limit - 1))
        };
        let (left, right, from_x, to_x) = span(x_level0 as f64, downsample_x, width);
        let (top, bottom, from_y, to_y) = span(y_level0 as f64, downsample_y, height);
        for y in from_y..=to_y {
            for x in from_x..=to_x {
                let edge = edges && (x == left || x == right || y == top || y == bottom);
                let place = &mut ink[(y * width + x) as usize];
                if kept > *place & KEPT {
                    *place = 0;
                }
                *place |= kept | if edge { EDGE } else { FILL };
            }
        }
    }
    for (pixel, &ink) in picture.pixels_mut().zip(&ink) {
        let (colour, fill) = if ink & KEPT != 0 { (TILE, TILE_FILL) } else { (DROPPED, DROPPED_FILL) };
        if ink != 0 {
            blend(pixel, colour, if ink & EDGE != 0 { edge_alpha } else { fill });
        }
    }
}

/// A line inside the tissue's border, [`OUTLINE_PX`] wide.
fn draw_outline(picture: &mut RgbImage, mask: &TissueMask, downsample_x: f64, downsample_y: f64) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let mut tissue = vec![false; (width * height) as usize];
    for (i, inside) in (0i64..).zip(&mut tissue) {
        let (x, y) = ((i % width) as f64 + 0.5, (i / width) as f64 + 0.5);
        *inside = mask.contains(x * downsample_x, y * downsample_y);
    }
    let at = |x: i64, y: i64| x >= 0 && y >= 0 && x < width && y < height && tissue[(y * width + x) as usize];
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (x, y) = (i64::from(x), i64::from(y));
        if !at(x, y) {
            continue;
        }
        let border = (1..=OUTLINE_PX).any(|d| !(at(x - d, y) && at(x + d, y) && at(x, y - d) && at(x, y + d)))
            || !(at(x - 1, y - 1) && at(x + 1, y - 1) && at(x - 1, y + 1) && at(x + 1, y + 1));
        if border {
            blend(pixel, OUTLINE, 0.9);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn white(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([255; 3]))
    }

    fn input<'a>(thumb: &'a RgbImage, mask: Option<&'a TissueMask>, tiles: &'a [[i64; 2]]) -> OverviewInput<'a> {
        OverviewInput {
            thumb,
            downsample_x: 10.0,
            downsample_y: 10.0,
            mask,
            tiles,
            dropped: &[],
            tile_size_level0: 200,
            mpp_level0: 0.5,
        }
    }

    #[test]
    fn tiles_are_tinted_and_edged_where_they_lie() {
        let thumb = white(100, 80);
        let picture = draw(&OverviewInput { mpp_level0: 0.0, ..input(&thumb, None, &[[200, 100]]) });
        for (x, y, pixel) in picture.enumerate_pixels() {
            let inside = (20..=40).contains(&x) && (10..=30).contains(&y);
            let edge = inside && (x == 20 || x == 40 || y == 10 || y == 30);
            let red = if edge {
                131
            } else if inside {
                233
            } else {
                255
            };
            assert!(pixel.0[0].abs_diff(red) <= 1, "{x},{y} {pixel:?}");
        }
    }

    #[test]
    fn dropped_tiles_have_their_own_colour_and_both_are_counted() {
        let thumb = white(400, 300);
        let tiles: Vec<_> = (0..3).map(|i| [1000 + 200 * i, 1500]).collect();
        let seen = OverviewInput { dropped: &[[1000, 1700], [1000, 1500]], ..input(&thumb, None, &tiles) };
        let picture = draw(&seen);
        let fill = |ink: [u8; 3], alpha: f32| {
            let mut pixel = Rgb([255; 3]);
            blend(&mut pixel, ink, alpha);
            pixel
        };
        assert_eq!(*picture.get_pixel(110, 160), fill(TILE, TILE_FILL), "a kept tile wins");
        assert_eq!(*picture.get_pixel(110, 180), fill(DROPPED, DROPPED_FILL));
        assert_eq!(*picture.get_pixel(110, 190), fill(DROPPED, TILE_EDGE));
        // The legend: a swatch of 7 x 7 pixels in each colour; without dropped tiles only one.
        let count = |picture: &RgbImage, ink: [u8; 3]| picture.pixels().filter(|p| p.0 == ink).count();
        assert_eq!((count(&picture, TILE), count(&picture, DROPPED)), (49, 49));
        let picture = draw(&OverviewInput { dropped: &[], ..seen });
        assert_eq!((count(&picture, TILE), count(&picture, DROPPED)), (49, 0));
    }

    #[test]
    fn tiles_past_the_edge_are_cut() {
        let thumb = white(50, 50);
        let tiles = [[-100, -100], [450, 450], [9000, 9000], [-9000, -9000], [i64::MAX, i64::MIN]];
        let picture = draw(&OverviewInput { mpp_level0: 0.0, ..input(&thumb, None, &tiles) });
        assert_ne!(picture.get_pixel(0, 0).0, [255; 3]);
        assert_ne!(picture.get_pixel(49, 49).0, [255; 3]);
        assert_eq!(picture.get_pixel(25, 25).0, [255; 3]);
    }

    #[test]
    fn the_outline_is_two_pixels_inside_the_tissue() {
        let thumb = white(100, 100);
        // 10 x 10 mask pixels; tissue in the middle 4 x 4, thumbnail pixels 30..70.
        let data = (0..100).map(|i| u8::from((3..7).contains(&(i % 10)) && (3..7).contains(&(i / 10)))).collect();
        let mask = TissueMask::new(10, 10, 100.0, 100.0, data);
        let picture = draw(&OverviewInput { mpp_level0: 0.0, ..input(&thumb, Some(&mask), &[]) });
        let inked: Vec<u32> = (0..100).filter(|&x| picture.get_pixel(x, 50).0 != [255; 3]).collect();
        assert_eq!(inked, [30, 31, 68, 69]);
    }

    #[test]
    fn large_thumbnails_shrink_and_bad_numbers_do_no_harm() {
        let thumb = white(4096, 1000);
        assert_eq!(draw(&input(&thumb, None, &[])).dimensions(), (2048, 500));
        for mpp_level0 in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(draw(&OverviewInput { mpp_level0, ..input(&white(300, 300), None, &[]) }), white(300, 300));
        }
        assert_eq!(draw(&input(&white(0, 0), None, &[])).dimensions(), (0, 0));
        assert_eq!(draw(&input(&white(3, 3), None, &[])), white(3, 3));
    }

    #[test]
    fn the_scale_bar_has_the_stated_length() {
        // 5 µm/px, 400 px wide: at most 400 µm, so 200 µm = 40 px.
        let picture = draw(&input(&white(400, 300), None, &[]));
        let longest = (0..300).map(|y| (0..400).filter(|&x| picture.get_pixel(x, y).0 == [20; 3]).count()).max();
        assert_eq!(longest, Some(40));
    }

    #[test]
    fn the_jpeg_is_the_same_each_time_and_holds_no_metadata() {
        let picture = draw(&input(&white(200, 100), None, &[[200, 100]]));
        let bytes = encode_jpeg(&picture, 85).unwrap();
        assert_eq!(bytes, encode_jpeg(&picture, 85).unwrap());
        let mut at = 2;
        while bytes[at + 1] != 0xDA {
            // JFIF's APP0 is the only application segment; no comment.
            let marker = bytes[at + 1];
            assert!(marker == 0xE0 || !(0xE0..=0xEF).contains(&marker) && marker != 0xFE, "segment {marker:02X}");
            at += 2 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        }
        assert!(encode_jpeg(&RgbImage::new(0, 0), 85).is_err());
    }
}
