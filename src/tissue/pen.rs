//! Pen strokes: marker colours told apart from stains, followed to their pale rim and cut out with a margin. Colours that stains have
//! too (purple, pink, brown) are pen where they lie on the glass as a stroke: flat, long, of even width.
//!
//! Saturation and value are 0..=255, hue is in degrees. The ranges leave out what stains give: H&E lies at hues
//! 245..350 (blue-violet haematoxylin to eosin pink, blood up to 353), DAB brown at 15..40, and a pale haematoxylin
//! counterstain at 210..250 with a saturation under 90. They were chosen by eye on real slides, not taken from a paper.

use serde::Serialize;

use super::colour::Colour;
use super::morphology;

/// Marker colours and how a stroke is cut out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PenOptions {
    /// Look for pen at all; off for stains that are blue or green themselves (trichrome, Alcian blue).
    pub enabled: bool,
    /// Blue and turquoise markers: hue range in degrees.
    pub blue_hue: [f32; 2],
    /// Least saturation (0..=255) of a blue marker's core.
    pub blue_saturation_min: u8,
    /// Deep blue markers, next to haematoxylin: hue range in degrees ...
    pub deep_blue_hue: [f32; 2],
    /// ... least saturation ...
    pub deep_blue_saturation_min: u8,
    /// ... and least value.
    pub deep_blue_value_min: u8,
    /// Green and yellow-green markers: hue range in degrees.
    pub green_hue: [f32; 2],
    /// Least saturation of a green marker's core.
    pub green_saturation_min: u8,
    /// Red markers: hue range in degrees, running through 360.
    pub red_hue: [f32; 2],
    /// Least saturation of a red marker's core: above blood and eosin.
    pub red_saturation_min: u8,
    /// Yellow markers: hue range in degrees.
    pub yellow_hue: [f32; 2],
    /// Least saturation of a yellow marker's core.
    pub yellow_saturation_min: u8,
    /// Markers of any hue: least saturation, above all stains ...
    pub any_saturation_min: u8,
    /// ... and least value, of any hue and of yellow: dense DAB is dark.
    pub any_value_min: u8,
    /// Black markers: greatest value (0..=255).
    pub black_value_max: u8,
    /// Black markers: greatest difference between channels.
    pub black_chroma_max: u8,
    /// Strokes in colours of stains.
    pub stroke: StrokeOptions,
    /// Core pixels that hang together over less than this (µm²) are no stroke.
    pub min_area_um2: f64,
    /// How far a stroke's pale rim is followed from its core (µm).
    pub grow_um: f64,
    /// By how much (degrees) the hue ranges widen for the rim.
    pub rim_hue_slack: f32,
    /// Least saturation of the rim.
    pub rim_saturation_min: u8,
    /// Cut out around core and rim (µm).
    pub margin_um: f64,
}

impl Default for PenOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            blue_hue: [185.0, 238.0],
            blue_saturation_min: 90,
            deep_blue_hue: [238.0, 243.0],
            deep_blue_saturation_min: 110,
            deep_blue_value_min: 130,
            green_hue: [70.0, 185.0],
            green_saturation_min: 60,
            red_hue: [354.0, 372.0],
            red_saturation_min: 200,
            yellow_hue: [46.0, 70.0],
            yellow_saturation_min: 120,
            any_saturation_min: 205,
            any_value_min: 170,
            black_value_max: 70,
            black_chroma_max: 28,
            stroke: StrokeOptions::default(),
            min_area_um2: 10_000.0,
            grow_um: 40.0,
            rim_hue_slack: 10.0,
            rim_saturation_min: 30,
            margin_um: 16.0,
        }
    }
}

/// A stroke, whatever its colour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StrokeOptions {
    /// Least saturation of its pixels.
    pub saturation_min: u8,
    /// Greatest step to the next pixel in any channel: ink is flat, tissue is not.
    pub step_max: u8,
    /// Least area (µm²).
    pub min_area_um2: f64,
    /// Least mean width (µm).
    pub min_width_um: f64,
    /// Least length in mean widths (area by the square of the mean width: 3.1 for a disc).
    pub min_length: f64,
    /// Width of its border (µm), mixed with what lies beside it.
    pub rim_um: f64,
    /// Least share of its border that lies on glass.
    pub on_glass_min: f64,
    /// Glass: greatest saturation ...
    pub glass_saturation_max: u8,
    /// ... and least value.
    pub glass_value_min: u8,
}

impl Default for StrokeOptions {
    fn default() -> Self {
        Self {
            saturation_min: 70,
            step_max: 10,
            min_area_um2: 60_000.0,
            min_width_um: 48.0,
            min_length: 7.0,
            rim_um: 24.0,
            on_glass_min: 0.6,
            glass_saturation_max: 20,
            glass_value_min: 200,
        }
    }
}

impl PenOptions {
    fn is_core(&self, colour: Colour) -> bool {
        if colour.value <= self.black_value_max && colour.chroma <= self.black_chroma_max {
            return true;
        }
        let least = self.blue_saturation_min.min(self.green_saturation_min).min(self.red_saturation_min);
        if colour.saturation < least {
            return false;
        }
        let hue = colour.hue();
        let among = |range: [f32; 2], least: u8| colour.saturation >= least && within(hue, range, 0.0);
        let light = colour.value >= self.any_value_min;
        let vivid = colour.saturation >= self.any_saturation_min || among(self.yellow_hue, self.yellow_saturation_min);
        (light && vivid)
            || (colour.value >= self.deep_blue_value_min && among(self.deep_blue_hue, self.deep_blue_saturation_min))
            || among(self.blue_hue, self.blue_saturation_min)
            || among(self.green_hue, self.green_saturation_min)
            || among(self.red_hue, self.red_saturation_min)
    }

    fn is_rim(&self, colour: Colour) -> bool {
        let hue = colour.hue();
        let slack = self.rim_hue_slack;
        let cool = within(hue, self.blue_hue, slack) || within(hue, self.green_hue, slack);
        let red = within(hue, self.red_hue, slack) && colour.saturation >= self.red_saturation_min / 2;
        let dark = colour.value <= self.black_value_max.saturating_add(40) && colour.chroma <= self.black_chroma_max;
        dark || red || (cool && colour.saturation >= self.rim_saturation_min)
    }
}

fn within(hue: f32, [low, high]: [f32; 2], slack: f32) -> bool {
    let inside = |hue: f32| hue >= low - slack && hue <= high + slack;
    inside(hue) || inside(hue + 360.0)
}

/// Pen strokes in a raster of `colours`, row by row at `mpp` µm/px: 1 where a stroke with its margin lies.
/// `scanned` says for each pixel whether it may be pen at all.
pub(super) fn pen_mask(colours: &[Colour], scanned: &[u8], width: usize, mpp: f64, options: &PenOptions) -> Vec<u8> {
    if !options.enabled || colours.is_empty() {
        return vec![0; colours.len()];
    }
    let height = colours.len() / width;
    let mut core: Vec<u8> = colours
        .iter()
        .zip(scanned)
        .map(|(&colour, &scanned)| u8::from(scanned != 0 && options.is_core(colour)))
        .collect();
    morphology::drop_small(&mut core, width, (options.min_area_um2 / (mpp * mpp)).ceil() as u64);
    for i in strokes(colours, scanned, width, mpp, &options.stroke) {
        core[i] = 1;
    }
    if core.iter().all(|&set| set == 0) {
        return core;
    }
    let near = morphology::dilate(&core, width, height, options.grow_um / mpp);
    for ((set, &near), &colour) in core.iter_mut().zip(&near).zip(colours) {
        *set |= u8::from(near != 0 && options.is_rim(colour));
    }
    // At least one pixel: a stroke's edge pixels are mixed with what lies beside it.
    morphology::dilate(&core, width, height, (options.margin_um / mpp).max(1.0))
}

/// Pixels of strokes in any colour, with the border that is mixed with the glass.
fn strokes(colours: &[Colour], scanned: &[u8], width: usize, mpp: f64, options: &StrokeOptions) -> Vec<usize> {
    let height = colours.len() / width;
    let step = |a: Colour, b: Colour| (0..3).map(|c| a.rgb[c].abs_diff(b.rgb[c])).fold(0, u8::max);
    let flat: Vec<u8> = (0..colours.len())
        .map(|i| {
            let here = colours[i];
            let right = if (i + 1) % width == 0 { here } else { colours[i + 1] };
            let below = colours.get(i + width).copied().unwrap_or(here);
            let ink = scanned[i] != 0 && here.saturation >= options.saturation_min;
            u8::from(ink && step(here, right).max(step(here, below)) <= options.step_max)
        })
        .collect();
    let flat = morphology::open(&flat, width, height, (options.min_width_um / 4.0 / mpp).max(1.0));
    let mut found = Vec::new();
    for piece in morphology::pieces(&flat, width) {
        if (piece.area as f64) * mpp * mpp < options.min_area_um2 {
            continue;
        }
        // The piece alone, with room around it for its border.
        const ROOM: usize = 6;
        let (left, top) = (piece.left.saturating_sub(ROOM), piece.top.saturating_sub(ROOM));
        let (right, bottom) = ((piece.right + ROOM).min(width), (piece.bottom + ROOM).min(height));
        let (w, h) = (right - left, bottom - top);
        let mut part = vec![0u8; w * h];
        piece.pixels(width).for_each(|i| part[(i / width - top) * w + i % width - left] = 1);
        let inner = morphology::erode(&part, w, h, 1.0);
        let border = part.iter().zip(&inner).filter(|&(&set, &inner)| set > inner).count() as f64;
        let mean_width = 2.0 * piece.area as f64 / border.max(1.0);
        let length = piece.area as f64 / (mean_width * mean_width);
        if mean_width * mpp < options.min_width_um || length < options.min_length {
            continue;
        }
        // What is mixed with the glass lies between the flat ink and the ring that is looked at.
        let rim = morphology::dilate(&part, w, h, (options.rim_um / mpp).clamp(2.0, 4.0));
        let around = morphology::dilate(&rim, w, h, 1.0);
        let place = |i: usize| (i / w + top) * width + i % w + left;
        let (mut glass, mut ring) = (0u32, 0u32);
        for i in (0..part.len()).filter(|&i| around[i] > rim[i]) {
            let colour = colours[place(i)];
            ring += 1;
            glass += u32::from(
                scanned[place(i)] == 0
                    || (colour.saturation <= options.glass_saturation_max && colour.value >= options.glass_value_min),
            );
        }
        if ring > 0 && f64::from(glass) >= options.on_glass_min * f64::from(ring) {
            found.extend((0..part.len()).filter(|&i| rim[i] != 0).map(place));
        }
    }
    found
}

/// Pen pixels whose nearest pixel without pen is tissue, found by steps to the side.
pub(super) fn over_tissue(pen: &[u8], tissue: &[u8], width: usize) -> u64 {
    const UNSEEN: u8 = 2;
    let mut nearest: Vec<u8> =
        pen.iter().zip(tissue).map(|(&pen, &tissue)| if pen != 0 { UNSEEN } else { tissue }).collect();
    let near = |i: usize| {
        let (x, total) = (i % width, pen.len());
        [
            (x > 0).then(|| i - 1),
            (x + 1 < width).then_some(i + 1),
            i.checked_sub(width),
            Some(i + width).filter(|&j| j < total),
        ]
    };
    // Each step takes the pixels beside those that the last one took.
    let mut wave: Vec<usize> = (0..pen.len())
        .filter(|&i| nearest[i] != UNSEEN && near(i).into_iter().flatten().any(|j| nearest[j] == UNSEEN))
        .collect();
    let mut over = 0;
    while !wave.is_empty() {
        let mut next = Vec::new();
        for i in wave {
            for j in near(i).into_iter().flatten() {
                if nearest[j] == UNSEEN {
                    nearest[j] = nearest[i];
                    over += u64::from(nearest[i]);
                    next.push(j);
                }
            }
        }
        wave = next;
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_core(rgb: [u8; 3]) -> bool {
        PenOptions::default().is_core(Colour::new(rgb))
    }

    #[test]
    fn markers_are_pen() {
        for rgb in [
            [30, 60, 170],   // blue
            [68, 73, 160],   // blue, thin
            [72, 75, 172],   // deep blue
            [0, 40, 110],    // navy
            [0, 150, 190],   // turquoise
            [20, 140, 70],   // green
            [113, 173, 139], // green, thin
            [130, 190, 40],  // lime
            [210, 25, 40],   // red
            [180, 20, 20],   // red
            [250, 215, 30],  // yellow
            [240, 120, 20],  // orange
            [230, 20, 140],  // magenta
            [28, 30, 33],    // black
            [60, 58, 62],    // black, thin
        ] {
            assert!(is_core(rgb), "{rgb:?}");
        }
    }

    #[test]
    fn stains_are_not() {
        for rgb in [
            [200, 80, 150],  // eosin
            [225, 175, 205], // pale eosin
            [99, 84, 156],   // haematoxylin
            [101, 96, 157],  // haematoxylin, bluish scanner
            [60, 30, 90],    // dense nuclei
            [190, 50, 80],   // blood
            [170, 45, 65],   // dense blood
            [120, 70, 40],   // DAB
            [60, 35, 20],    // dense DAB
            [115, 50, 10],   // denser DAB
            [230, 180, 100], // saffron
            [190, 200, 225], // pale counterstain
            [150, 160, 205], // counterstain
            [243, 243, 245], // background
            [150, 150, 152], // dust
        ] {
            assert!(!is_core(rgb), "{rgb:?}");
        }
    }

    #[test]
    fn a_stroke_goes_with_its_rim_and_a_speck_stays() {
        // 8 µm/px, 60 x 40: a stroke 10 px wide with a pale column beside it, and a blue speck of 2 x 2.
        let (width, height) = (60usize, 40usize);
        let mut colours = vec![Colour::new([243, 243, 245]); width * height];
        for y in 0..height {
            for x in 20..30 {
                colours[y * width + x] = Colour::new([30, 60, 170]);
            }
            colours[y * width + 30] = Colour::new([160, 170, 215]);
        }
        for i in [5 * width + 50, 5 * width + 51, 6 * width + 50, 6 * width + 51] {
            colours[i] = Colour::new([30, 60, 170]);
        }
        let scanned = vec![1; colours.len()];
        let pen = pen_mask(&colours, &scanned, width, 8.0, &PenOptions::default());
        for (i, &set) in pen.iter().enumerate() {
            assert_eq!(set == 1, (18..=32).contains(&(i % width)), "pixel {i}");
        }
        let off = PenOptions { enabled: false, ..PenOptions::default() };
        assert_eq!(pen_mask(&colours, &scanned, width, 8.0, &off), vec![0; colours.len()]);
    }

    #[test]
    fn a_purple_stroke_on_glass_is_pen_and_tissue_of_that_colour_is_not() {
        let (width, height) = (200usize, 150usize);
        let purple = |x: usize, y: usize, noise: usize| {
            let grain = ((x * 7919 + y * 104_729) % 97 * noise / 97) as u8;
            Colour::new([110 + grain, 60 + grain, 150 + grain])
        };
        let picture = |inside: &dyn Fn(usize, usize) -> bool, noise: usize| -> Vec<Colour> {
            let at = |i: usize| (i % width, i / width);
            let colour = |(x, y)| if inside(x, y) { purple(x, y, noise) } else { Colour::new([243, 243, 245]) };
            (0..width * height).map(|i| colour(at(i))).collect()
        };
        let stroke = |x: usize, y: usize| y.abs_diff(40 + x / 4) < 9 && (20..180).contains(&x);
        let disc = |x: usize, y: usize| x.abs_diff(100).pow(2) + y.abs_diff(75).pow(2) < 3600;
        let look = |colours: &[Colour]| pen_mask(colours, &vec![1; colours.len()], width, 8.0, &PenOptions::default());
        let found = look(&picture(&stroke, 4));
        assert!((0..width * height).all(|i| found[i] == 1 || !stroke(i % width, i / width)));
        assert_eq!(look(&picture(&stroke, 60)).iter().max(), Some(&0), "textured");
        assert_eq!(look(&picture(&disc, 4)).iter().max(), Some(&0), "a flat disc is no stroke");
    }

    #[test]
    fn pen_over_tissue_is_what_lies_nearest_to_it() {
        // Tissue on the left of column 4, pen in columns 3..=6, glass from 7 on: two columns nearest to tissue.
        let row = |values: [u8; 10]| values.repeat(5);
        let (pen, tissue) = (row([0, 0, 0, 1, 1, 1, 1, 0, 0, 0]), row([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(over_tissue(&pen, &tissue, 10), 2 * 5);
        assert_eq!(over_tissue(&[1; 50], &tissue, 10), 0);
    }
}
