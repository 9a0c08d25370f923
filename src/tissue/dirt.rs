//! Neutral (colourless) matter on the glass: dust, coverslip edges, air bubbles. Found by colour, told apart by shape.
//!
//! Dust and edges are grey, straight or small; a bubble is a dark, round rim around glass. Pieces of another shape are left to the
//! tissue method: pale tissue is nearly grey, too.

use serde::Serialize;

use super::colour::Colour;
use super::morphology::{self, Piece};

/// What counts as neutral matter, and which shapes it has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirtOptions {
    /// By how much (value) it is darker than the background, at least.
    pub darker_min: u8,
    /// Greatest saturation.
    pub saturation_max: u8,
    /// A coverslip edge: least length (µm) ...
    pub edge_length_min_um: f64,
    /// ... and greatest width (µm) of the straight lines, up to four, that it follows.
    pub edge_width_max_um: f64,
    /// A bubble: least diameter (µm) ...
    pub bubble_diameter_min_um: f64,
    /// ... least share of the disc in its bounding box that rim and inside fill ...
    pub bubble_roundness_min: f64,
    /// ... and greatest share of that area that is rim.
    pub bubble_rim_max: f64,
    /// Dust: greatest length (µm) ...
    pub dust_length_max_um: f64,
    /// ... and least mean difference to the background (value).
    pub dust_darker_min: u8,
}

impl Default for DirtOptions {
    fn default() -> Self {
        Self {
            darker_min: 12,
            saturation_max: 16,
            edge_length_min_um: 1200.0,
            edge_width_max_um: 120.0,
            bubble_diameter_min_um: 200.0,
            bubble_roundness_min: 0.8,
            bubble_rim_max: 0.6,
            dust_length_max_um: 400.0,
            dust_darker_min: 30,
        }
    }
}

/// What [`find`] saw.
pub(super) struct Dirt {
    /// 1 where matter lies that is no tissue: dust, edges and the rims of bubbles.
    pub(super) mask: Vec<u8>,
    /// Pixels of dust.
    pub(super) dust_pixels: u64,
    /// Pixels of coverslip edges.
    pub(super) edge_pixels: u64,
    /// Pixels of bubbles, with what they enclose.
    pub(super) bubble_pixels: u64,
}

/// Finds dirt in a raster of `colours` (the background grey) at `mpp` µm/px, among the `usable` pixels.
pub(super) fn find(
    colours: &[Colour],
    usable: impl Fn(usize) -> bool,
    width: usize,
    mpp: f64,
    background_value: u8,
    options: &DirtOptions,
) -> Dirt {
    let darker = |colour: &Colour| background_value.saturating_sub(colour.value);
    let neutral: Vec<u8> = colours
        .iter()
        .enumerate()
        .map(|(i, colour)| {
            u8::from(darker(colour) >= options.darker_min && colour.saturation <= options.saturation_max && usable(i))
        })
        .collect();
    let mut dirt = Dirt { mask: vec![0; colours.len()], dust_pixels: 0, edge_pixels: 0, bubble_pixels: 0 };
    for piece in morphology::pieces(&neutral, width) {
        let darkness = || {
            let sum: u64 = piece.pixels(width).map(|i| u64::from(darker(&colours[i]))).sum();
            sum as f64 / piece.area as f64
        };
        let count = match shape(&piece, width, mpp, darkness, options) {
            None => continue,
            Some(Shape::Edge) => &mut dirt.edge_pixels,
            Some(Shape::Dust) => &mut dirt.dust_pixels,
            Some(Shape::Bubble(pixels)) => {
                dirt.bubble_pixels += pixels - piece.area;
                &mut dirt.bubble_pixels
            }
        };
        *count += piece.area;
        piece.pixels(width).for_each(|i| dirt.mask[i] = 1);
    }
    dirt
}

enum Shape {
    Dust,
    Edge,
    /// Pixels of rim and inside.
    Bubble(u64),
}

fn shape(piece: &Piece, width: usize, mpp: f64, darkness: impl Fn() -> f64, options: &DirtOptions) -> Option<Shape> {
    let (box_w, box_h) = (piece.right - piece.left, piece.bottom - piece.top);
    let longest_um = box_w.max(box_h) as f64 * mpp;
    if longest_um >= options.edge_length_min_um {
        let thin = piece.area as f64 * mpp <= options.edge_width_max_um * longest_um / mpp;
        let points: Vec<[f64; 2]> = piece.pixels(width).map(|i| [(i % width) as f64, (i / width) as f64]).collect();
        if thin && follows_lines(&points, options.edge_width_max_um / 2.0 / mpp, 2) {
            return Some(Shape::Edge);
        }
    }
    if box_w.min(box_h) as f64 * mpp >= options.bubble_diameter_min_um {
        let filled = piece.filled_area(width);
        let disc = std::f64::consts::FRAC_PI_4 * (box_w * box_h) as f64;
        let round = filled as f64 / disc;
        let rim = piece.area as f64 / filled as f64;
        if round >= options.bubble_roundness_min && round <= 1.15 && rim <= options.bubble_rim_max {
            return Some(Shape::Bubble(filled));
        }
    }
    (longest_um <= options.dust_length_max_um && darkness() >= f64::from(options.dust_darker_min))
        .then_some(Shape::Dust)
}

/// Whether all points lie within `tolerance` of one straight line, or, split where they stray farthest from it, of `2^splits` lines
/// (Douglas and Peucker 1973).
fn follows_lines(points: &[[f64; 2]], tolerance: f64, splits: u32) -> bool {
    let distance = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let farthest = |from: [f64; 2]| {
        points.iter().copied().max_by(|a, b| distance(*a, from).total_cmp(&distance(*b, from))).unwrap_or(from)
    };
    let Some(&first) = points.first() else { return true };
    // The ends: the farthest point from any, and the farthest from that.
    let start = farthest(first);
    let end = farthest(start);
    let length = distance(start, end).max(1e-9);
    let off = |p: &[f64; 2]| {
        ((end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])).abs() / length
    };
    let Some(corner) = points.iter().copied().max_by(|a, b| off(a).total_cmp(&off(b))) else { return true };
    if off(&corner) <= tolerance {
        return true;
    }
    if splits == 0 {
        return false;
    }
    let to_segment = |p: [f64; 2], a: [f64; 2], b: [f64; 2]| {
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let along = (((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy).max(1e-9)).clamp(0.0, 1.0);
        distance(p, [a[0] + along * dx, a[1] + along * dy])
    };
    let (one, other): (Vec<_>, Vec<_>) =
        points.iter().partition(|p| to_segment(**p, start, corner) <= to_segment(**p, corner, end));
    // A split that takes nothing away would go on for nothing.
    one.len() < points.len()
        && other.len() < points.len()
        && follows_lines(&one, tolerance, splits - 1)
        && follows_lines(&other, tolerance, splits - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLASS: [u8; 3] = [243; 3];

    fn look(colour: impl Fn(f64, f64) -> [u8; 3]) -> Dirt {
        let (width, height) = (400usize, 300usize);
        let colours: Vec<Colour> =
            (0..width * height).map(|i| Colour::new(colour((i % width) as f64, (i / width) as f64))).collect();
        find(&colours, |_| true, width, 8.0, 243, &DirtOptions::default())
    }

    #[test]
    fn each_kind_is_told_by_its_shape() {
        let edge = look(|x, y| if (y - 100.0 - x * 0.1).abs() < 2.0 { [215; 3] } else { GLASS });
        assert!(edge.edge_pixels > 1000 && edge.dust_pixels + edge.bubble_pixels == 0, "{}", edge.edge_pixels);
        let corner = look(|x, y| {
            if ((y - 40.0).abs() < 2.0 && x < 330.0) || ((x - 330.0).abs() < 2.0 && y > 40.0) {
                [215; 3]
            } else {
                GLASS
            }
        });
        assert!(corner.edge_pixels > 1500 && corner.dust_pixels + corner.bubble_pixels == 0);
        let net = look(|x, y| if x % 40.0 < 3.0 || y % 40.0 < 3.0 { [215; 3] } else { GLASS });
        assert_eq!(net.edge_pixels, 0, "a net is no edge");
        let dust = look(|x, y| if (x - 50.0).hypot(y - 50.0) < 6.0 { [90; 3] } else { GLASS });
        assert!(dust.dust_pixels > 80 && dust.edge_pixels + dust.bubble_pixels == 0);
        let bubble = look(|x, y| if ((x - 200.0).hypot(y - 150.0) - 60.0).abs() < 4.0 { [120; 3] } else { GLASS });
        assert!(bubble.bubble_pixels.abs_diff((64.0f64 * 64.0 * std::f64::consts::PI) as u64) < 400);
        assert!(bubble.mask[150 * 400 + 200] == 0 && bubble.mask[150 * 400 + 140] == 1);
    }

    #[test]
    fn pale_grey_tissue_is_left_alone() {
        let tissue = look(|x, y| if (x - 200.0).hypot(y - 150.0) < 60.0 { [222, 216, 224] } else { GLASS });
        assert_eq!(tissue.mask.iter().max(), Some(&0));
    }
}
