//! Fluorescence: bright on black. Tissue is what is brighter than the dark around it.

use serde::Serialize;

use super::colour::Colour;
use super::otsu::otsu;

/// Parameters of [`TissueMethod::Fluorescence`](super::TissueMethod::Fluorescence), and how such slides are recognised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FluorescenceOptions {
    /// Pixels with a lower value (0..=255) are dim ...
    pub dim_value: u8,
    /// ... and those up to this one black.
    pub black_value: u8,
    /// A slide is dark where at least this share of its pixels that are not black is dim ...
    pub dim_share: f64,
    /// ... or, without any bright background, this share, where at least `black_share` of all is black.
    pub dim_share_beside_black: f64,
    /// See `dim_share_beside_black`.
    pub black_share: f64,
    /// Radius of the mean (µm) that brings single bright cells together.
    pub smooth_um: f64,
    /// Otsu's threshold on the smoothed value is at least this ...
    pub threshold_min: u8,
    /// ... and at most this.
    pub threshold_max: u8,
}

impl Default for FluorescenceOptions {
    fn default() -> Self {
        Self {
            dim_value: 60,
            black_value: 5,
            dim_share: 0.5,
            dim_share_beside_black: 0.1,
            black_share: 0.2,
            smooth_um: 16.0,
            threshold_min: 6,
            threshold_max: 40,
        }
    }
}

/// Whether a slide is bright on black: the share of its lit pixels that are dim, where that makes it one.
pub(super) fn is_dark(pixels: &[u8], has_background: bool, options: &FluorescenceOptions) -> Option<f64> {
    let (mut black, mut dim) = (0u64, 0u64);
    for pixel in pixels.chunks_exact(3) {
        let value = pixel[0].max(pixel[1]).max(pixel[2]);
        black += u64::from(value <= options.black_value);
        dim += u64::from(value > options.black_value && value < options.dim_value);
    }
    let all = (pixels.len() / 3) as f64;
    let lit = (all - black as f64).max(1.0);
    let share = dim as f64 / lit;
    // A slide of which nothing was scanned is empty, not dark.
    let some = dim as f64 >= 0.001 * all;
    let dark = share >= options.dim_share
        || (!has_background && share >= options.dim_share_beside_black && black as f64 >= options.black_share * all);
    (dark && some).then_some(share)
}

/// Pixels that glow, and the value from which they do.
pub(super) fn glowing(colours: &[Colour], width: usize, mpp: f64, options: &FluorescenceOptions) -> (Vec<u8>, u8) {
    let reach = (options.smooth_um / mpp).round() as usize;
    let values: Vec<u8> = colours.iter().map(|colour| colour.value).collect();
    let smooth = mean(&values, width, reach);
    // In logarithms, as stains glow over orders of magnitude: a few very bright cells must not hide the rest.
    let mut histogram = [0u64; 256];
    let log = |value: u8| ((f64::from(value) + 1.0).log2() * 31.8).round() as u8;
    smooth.iter().for_each(|&value| histogram[usize::from(log(value))] += 1);
    let at = otsu(&histogram);
    let threshold = (0..=255u8).find(|&value| log(value) >= at).unwrap_or(255);
    let threshold = threshold.clamp(options.threshold_min, options.threshold_max);
    (smooth.iter().map(|&value| u8::from(value >= threshold)).collect(), threshold)
}

/// Mean over squares of `2 reach + 1` pixels a side, cut at the border.
fn mean(values: &[u8], width: usize, reach: usize) -> Vec<u8> {
    let height = values.len() / width;
    let mut columns = vec![0u32; width];
    let mut out = vec![0u8; values.len()];
    let row = |y: usize| &values[y * width..(y + 1) * width];
    for y in 0..reach.min(height) {
        columns.iter_mut().zip(row(y)).for_each(|(sum, &value)| *sum += u32::from(value));
    }
    for y in 0..height {
        if y + reach < height {
            columns.iter_mut().zip(row(y + reach)).for_each(|(sum, &value)| *sum += u32::from(value));
        }
        if y > reach {
            columns.iter_mut().zip(row(y - reach - 1)).for_each(|(sum, &value)| *sum -= u32::from(value));
        }
        let rows = (y + reach + 1).min(height) - y.saturating_sub(reach);
        let mut sum: u32 = columns[..reach.min(width)].iter().sum();
        for x in 0..width {
            if x + reach < width {
                sum += columns[x + reach];
            }
            if x > reach {
                sum -= columns[x - reach - 1];
            }
            let number = (rows * ((x + reach + 1).min(width) - x.saturating_sub(reach))) as u32;
            out[y * width + x] = ((sum + number / 2) / number) as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_the_window() {
        let (width, height, reach) = (7usize, 5usize, 2usize);
        let values: Vec<u8> = (0..width * height).map(|i| (i * 37 % 251) as u8).collect();
        for (i, &got) in mean(&values, width, reach).iter().enumerate() {
            let (x, y) = (i % width, i / width);
            let (mut sum, mut number) = (0u32, 0u32);
            for row in y.saturating_sub(reach)..(y + reach + 1).min(height) {
                for column in x.saturating_sub(reach)..(x + reach + 1).min(width) {
                    sum += u32::from(values[row * width + column]);
                    number += 1;
                }
            }
            assert_eq!(u32::from(got), (sum + number / 2) / number);
        }
    }

    #[test]
    fn brightfield_is_not_dark_and_black_beside_it_does_not_make_it_so() {
        let dark = |parts: &[([u8; 3], usize)], background: bool| {
            let pixels: Vec<u8> = parts.iter().flat_map(|&(colour, n)| colour.repeat(n)).collect();
            is_dark(&pixels, background, &FluorescenceOptions::default()).is_some()
        };
        let (glass, pink, black) = ([243; 3], [200, 90, 150], [0; 3]);
        assert!(!dark(&[(glass, 500), (pink, 400)], true));
        assert!(!dark(&[(black, 900), (glass, 60), (pink, 40)], true));
        assert!(!dark(&[(black, 900), (pink, 100)], false));
        assert!(!dark(&[(black, 1000)], false));
        assert!(dark(&[([2; 3], 500), ([20, 2, 3], 500)], false));
        assert!(dark(&[([1; 3], 500), ([10, 10, 40], 80), ([30, 20, 200], 420)], false));
    }
}
