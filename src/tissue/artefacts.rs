//! Pen strokes: marker colours told apart from stains, followed to their pale rim and cut out with a margin.
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
    /// Green and yellow-green markers: hue range in degrees.
    pub green_hue: [f32; 2],
    /// Least saturation of a green marker's core.
    pub green_saturation_min: u8,
    /// Red markers: hue range in degrees, running through 360.
    pub red_hue: [f32; 2],
    /// Least saturation of a red marker's core: above blood and eosin.
    pub red_saturation_min: u8,
    /// Black markers: greatest value (0..=255).
    pub black_value_max: u8,
    /// Black markers: greatest difference between channels.
    pub black_chroma_max: u8,
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
            green_hue: [70.0, 185.0],
            green_saturation_min: 60,
            red_hue: [354.0, 372.0],
            red_saturation_min: 200,
            black_value_max: 70,
            black_chroma_max: 28,
            min_area_um2: 10_000.0,
            grow_um: 40.0,
            rim_hue_slack: 10.0,
            rim_saturation_min: 30,
            margin_um: 16.0,
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
        among(self.blue_hue, self.blue_saturation_min)
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
            [0, 40, 110],    // navy
            [0, 150, 190],   // turquoise
            [20, 140, 70],   // green
            [113, 173, 139], // green, thin
            [130, 190, 40],  // lime
            [210, 25, 40],   // red
            [180, 20, 20],   // red
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
}
