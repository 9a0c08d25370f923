//! Tissue by saturation and Otsu's threshold, cleaned by morphology.
//!
//! Steps: 3x3 median → background colour, made neutral → saturation → Otsu's threshold over the scanned area,
//! clamped → dark neutral matter and pen strokes out → closing, opening → small holes filled, small pieces dropped.
//!
//! Reference: N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62–66.

use image::RgbImage;
use serde::Serialize;

use super::artefacts::{self, PenOptions};
use super::background::{self, Background, BackgroundOptions};
use super::colour::Colour;
use super::mask::TissueMask;
use super::morphology;

/// Every parameter of [`segment_otsu`]. Saturations and values are 0..=255, lengths are µm on the slide.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtsuOptions {
    /// Wanted resolution of the picture, µm/px; the caller reads the slide near it.
    pub mask_mpp: f64,
    /// Width of the median window (µm); it becomes passes of 3x3, none where a pixel is coarser than half of it.
    pub median_um: f64,
    /// What counts as background.
    pub background: BackgroundOptions,
    /// Lower clamp of the threshold: keeps an empty slide empty. Also the threshold of a slide without background.
    pub threshold_min: u8,
    /// Upper clamp of the threshold: keeps pale tissue beside strongly stained tissue.
    pub threshold_max: u8,
    /// Pixels darker than this (value) are tissue only from `neutral_saturation_min` on: dust, coverslip edges.
    pub neutral_value_max: u8,
    /// See `neutral_value_max`.
    pub neutral_saturation_min: u8,
    /// Radius of the closing disc (µm).
    pub closing_um: f64,
    /// Radius of the opening disc (µm).
    pub opening_um: f64,
    /// Holes smaller than this are filled (µm²); a tile of 256 px at 0.5 µm/px has 16,384.
    pub min_hole_um2: f64,
    /// Pieces smaller than this are dropped (µm²).
    pub min_area_um2: f64,
    /// The pen guard.
    pub pen: PenOptions,
}

impl Default for OtsuOptions {
    fn default() -> Self {
        Self {
            mask_mpp: 8.0,
            median_um: 24.0,
            background: BackgroundOptions::default(),
            threshold_min: 8,
            threshold_max: 20,
            neutral_value_max: 170,
            neutral_saturation_min: 24,
            closing_um: 16.0,
            opening_um: 8.0,
            min_hole_um2: 16_000.0,
            min_area_um2: 25_000.0,
            pen: PenOptions::default(),
        }
    }
}

/// What [`segment_otsu`] found, on the raster of the picture it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// Width of the raster in pixels.
    pub width: u32,
    /// Height of the raster in pixels.
    pub height: u32,
    /// 1 tissue, 0 none, row by row.
    pub mask: Vec<u8>,
    /// Pixels cut out as pen strokes, margin included.
    pub pen_pixels: u64,
    /// Pixels never scanned: pure black, and pure white unless that is the slide's only background.
    pub unscanned_pixels: u64,
    /// The saturation (0..=255) from which a pixel counted as stained.
    pub threshold: u8,
    /// The background's colour before it was made neutral; `None` where the slide shows no background.
    pub background: Option<[u8; 3]>,
    /// Sentences for the run's summary, without the slide's name.
    pub warnings: Vec<String>,
}

impl Segmentation {
    /// The mask over the slide; the downsamples are level-0 pixels per pixel of the segmented picture.
    pub fn into_mask(self, downsample_x: f64, downsample_y: f64) -> TissueMask {
        TissueMask::new(self.width, self.height, downsample_x, downsample_y, self.mask)
    }
}

/// Finds tissue in a low-power RGB picture of a whole brightfield slide at `mpp` µm/px (near
/// [`OtsuOptions::mask_mpp`]; radii and areas follow `mpp`). Deterministic; time is linear in the pixels.
///
/// # Panics
/// If `mpp` is not positive and finite: a bug of the caller.
pub fn segment_otsu(image: &RgbImage, mpp: f64, options: &OtsuOptions) -> Segmentation {
    assert!(mpp.is_finite() && mpp > 0.0, "mask resolution of {mpp} µm/px");
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Segmentation {
            width: image.width(),
            height: image.height(),
            mask: Vec::new(),
            pen_pixels: 0,
            unscanned_pixels: 0,
            threshold: options.threshold_min,
            background: None,
            warnings: vec!["the slide's low-power picture is empty".to_owned()],
        };
    }
    let pixels = smooth(image, mpp, options.median_um);
    let Background { colour: background, scanned } = background::find(&pixels, width, &options.background);
    let colours = background::neutral_colours(&pixels, background);
    let threshold = threshold(&colours, &scanned, background.is_some(), options);
    let mut mask: Vec<u8> = colours
        .iter()
        .zip(&scanned)
        .map(|(&colour, &scanned)| u8::from(scanned != 0 && is_stained(colour, threshold, options)))
        .collect();
    let pen = artefacts::pen_mask(&colours, &scanned, width, mpp, &options.pen);
    let stained = mask.iter().zip(&pen).filter(|&(&stained, &pen)| stained > pen).count() as u64;
    clear(&mut mask, &pen);
    mask = morphology::close(&mask, width, height, options.closing_um / mpp);
    mask = morphology::open(&mask, width, height, options.opening_um / mpp);
    morphology::fill_holes(&mut mask, width, (options.min_hole_um2 / (mpp * mpp)).ceil() as u64);
    clear(&mut mask, &pen);
    mask.iter_mut().zip(&scanned).for_each(|(set, &scanned)| *set &= scanned);
    morphology::drop_small(&mut mask, width, (options.min_area_um2 / (mpp * mpp)).ceil() as u64);

    let pen_pixels = count(&pen);
    let scanned_pixels = count(&scanned);
    let dark =
        colours.iter().zip(&scanned).filter(|&(colour, &scanned)| scanned != 0 && colour.value < 60).count() as u64;
    let unscanned_pixels = mask.len() as u64 - scanned_pixels;
    let tissue_um2 = count(&mask) as f64 * mpp * mpp;
    let warnings = warnings(tissue_um2, scanned_pixels, dark, pen_pixels, stained);
    let (width, height) = image.dimensions();
    Segmentation { width, height, mask, pen_pixels, unscanned_pixels, threshold, background, warnings }
}

fn smooth(image: &RgbImage, mpp: f64, median_um: f64) -> Vec<u8> {
    let passes = ((median_um / mpp - 1.0) / 2.0).round().clamp(0.0, 4.0) as usize;
    let mut pixels = image.as_raw().clone();
    for _ in 0..passes {
        pixels = morphology::median3_rgb(&pixels, image.width() as usize, image.height() as usize);
    }
    pixels
}

/// Otsu's threshold on saturation, clamped; a slide without background has no second class to split off.
fn threshold(colours: &[Colour], scanned: &[u8], has_background: bool, options: &OtsuOptions) -> u8 {
    if !has_background {
        return options.threshold_min;
    }
    let mut histogram = [0u64; 256];
    for (colour, _) in colours.iter().zip(scanned).filter(|&(_, &scanned)| scanned != 0) {
        histogram[usize::from(colour.saturation)] += 1;
    }
    otsu(&histogram).clamp(options.threshold_min, options.threshold_max.max(options.threshold_min))
}

/// The lowest value of the upper class that maximises the variance between the classes.
fn otsu(histogram: &[u64; 256]) -> u8 {
    let total = histogram.iter().sum::<u64>() as f64;
    let moment = (0u64..).zip(histogram).map(|(value, &number)| value * number).sum::<u64>() as f64;
    let (mut below, mut moment_below) = (0.0, 0.0);
    let (mut best, mut best_variance) = (0u8, 0.0);
    for (value, &number) in (0..255u8).zip(histogram) {
        below += number as f64;
        moment_below += f64::from(value) * number as f64;
        let above = total - below;
        if below > 0.0 && above > 0.0 {
            let difference = moment_below / below - (moment - moment_below) / above;
            let variance = below * above * difference * difference;
            if variance > best_variance {
                (best, best_variance) = (value + 1, variance);
            }
        }
    }
    best
}

fn is_stained(colour: Colour, threshold: u8, options: &OtsuOptions) -> bool {
    let neutral = colour.value < options.neutral_value_max && colour.saturation < options.neutral_saturation_min;
    let black = colour.value <= options.pen.black_value_max && colour.chroma <= options.pen.black_chroma_max;
    colour.saturation >= threshold && !neutral && !black
}

fn clear(mask: &mut [u8], unwanted: &[u8]) {
    mask.iter_mut().zip(unwanted).for_each(|(set, &unwanted)| *set &= unwanted ^ 1);
}

fn count(mask: &[u8]) -> u64 {
    mask.iter().map(|&set| u64::from(set)).sum()
}

fn warnings(tissue_um2: f64, scanned: u64, dark: u64, pen: u64, stained: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if scanned == 0 {
        warnings.push("the low-power picture is pure white or black throughout: nothing was scanned".to_owned());
    } else if dark * 2 > scanned {
        warnings.push(
            "most of the slide is dark: tissue is found on brightfield slides only; for fluorescence give --tissue none or a mask".to_owned(),
        );
    }
    if tissue_um2 == 0.0 {
        warnings.push("no tissue found; if the slide holds any, give --tissue none or a mask".to_owned());
    } else if tissue_um2 < 250_000.0 {
        warnings.push(format!("only {:.2} mm² of tissue found", tissue_um2 / 1e6));
    }
    if pen > 0 && pen * 4 > stained {
        let percent = 100.0 * pen as f64 / (pen + stained) as f64;
        warnings.push(format!(
            "pen colours cover {percent:.0} % of the stained area and were left out; if the stain itself is blue or green, give --tissue none or a mask"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn otsu_splits_two_peaks_and_survives_one() {
        let mut histogram = [0u64; 256];
        (histogram[3], histogram[100]) = (500, 300);
        assert_eq!(otsu(&histogram), 4);
        histogram = [0; 256];
        histogram[7] = 10;
        assert_eq!(otsu(&histogram), 0);
    }
}
