//! Tissue by texture: the Shannon entropy of brightness in a window, for tissue that is hardly darker or more coloured than glass
//! (fat, weak stains, immunohistochemistry with a pale counterstain).
//!
//! Brightness is counted in steps that follow the picture's own noise, so that grainy glass has little entropy.

use rayon::prelude::*;
use serde::Serialize;

use super::otsu::otsu;

/// Parameters of [`TissueMethod::Entropy`](super::TissueMethod::Entropy).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntropyOptions {
    /// Side of the window (µm).
    pub window_um: f64,
    /// Width of a step of brightness in standard deviations of the noise ...
    pub step_noise: f64,
    /// ... but at least this (0..=255) ...
    pub step_min: f64,
    /// ... and at most this.
    pub step_max: f64,
    /// Otsu's threshold on entropy (bits) is clamped to this ...
    pub threshold_min: f64,
    /// ... and this.
    pub threshold_max: f64,
    /// A window reaches beyond tissue: this (µm) is taken off its border.
    pub erosion_um: f64,
    /// Radius of the closing disc (µm): across fat cells.
    pub closing_um: f64,
}

impl Default for EntropyOptions {
    fn default() -> Self {
        Self {
            window_um: 72.0,
            step_noise: 2.0,
            step_min: 2.0,
            step_max: 6.0,
            threshold_min: 1.7,
            threshold_max: 2.6,
            erosion_um: 24.0,
            closing_um: 40.0,
        }
    }
}

/// What [`textured`] saw.
pub(super) struct Texture {
    /// 1 where the entropy reaches the threshold, row by row.
    pub(super) mask: Vec<u8>,
    /// Bits.
    pub(super) threshold: f64,
    /// Standard deviation of the noise (0..=255).
    pub(super) noise: f64,
}

/// Finds texture in a raster of brightness at `mpp` µm/px; `counts` says which pixels have a say in the threshold.
pub(super) fn textured(luma: &[u8], counts: &[u8], width: usize, mpp: f64, options: &EntropyOptions) -> Texture {
    let height = luma.len() / width;
    let noise = noise(luma, counts, width);
    let step = (noise * options.step_noise).clamp(options.step_min, options.step_max);
    let bins: Vec<u8> = luma.iter().map(|&value| (f64::from(value) / step) as u8).collect();
    let reach = ((options.window_um / mpp / 2.0).round() as usize).clamp(1, 15);
    let sixteenths = windows(&bins, width, height, reach);
    let mut histogram = [0u64; 256];
    for (&bits, _) in sixteenths.iter().zip(counts).filter(|&(_, &counts)| counts != 0) {
        histogram[usize::from(bits)] += 1;
    }
    let threshold = (f64::from(otsu(&histogram)) / SCALE).clamp(options.threshold_min, options.threshold_max);
    let least = (threshold * SCALE).round() as u8;
    Texture { mask: sixteenths.iter().map(|&bits| u8::from(bits >= least)).collect(), threshold, noise }
}

/// Entropies are kept in 1/32 bit: 255 is just under 8 bits.
const SCALE: f64 = 32.0;

/// The entropy of each pixel's window of `2 reach + 1` pixels a side, in 1/[`SCALE`] bits; windows are cut at the border.
fn windows(bins: &[u8], width: usize, height: usize, reach: usize) -> Vec<u8> {
    // A column enters before the last one leaves.
    let most = (2 * reach + 1) * (2 * reach + 2);
    // n log2 n, so that a step of the window costs two look-ups a pixel.
    let table: Vec<f32> = (0..=most).map(|n| if n == 0 { 0.0 } else { n as f32 * (n as f32).log2() }).collect();
    let mut out = vec![0u8; bins.len()];
    out.par_chunks_exact_mut(width).enumerate().for_each(|(y, line)| {
        let rows = y.saturating_sub(reach)..(y + reach + 1).min(height);
        let mut counts = [0u16; 256];
        let (mut total, mut sum) = (0usize, 0f32);
        let change = |counts: &mut [u16; 256], sum: &mut f32, x: usize, add: bool| {
            for row in rows.clone() {
                let count = &mut counts[usize::from(bins[row * width + x])];
                let before = table[usize::from(*count)];
                *count = if add { *count + 1 } else { *count - 1 };
                *sum += table[usize::from(*count)] - before;
            }
        };
        for x in 0..reach.min(width) {
            change(&mut counts, &mut sum, x, true);
            total += rows.len();
        }
        for (x, bits) in line.iter_mut().enumerate() {
            if x + reach < width {
                change(&mut counts, &mut sum, x + reach, true);
                total += rows.len();
            }
            if x > reach {
                change(&mut counts, &mut sum, x - reach - 1, false);
                total -= rows.len();
            }
            let n = total as f32;
            *bits = ((n.log2() - sum / n).max(0.0) * SCALE as f32).round().min(255.0) as u8;
        }
    });
    out
}

/// The noise of the quietest tenth of the picture, as a standard deviation: differences of neighbours in cells of 8 x 8 pixels.
fn noise(luma: &[u8], counts: &[u8], width: usize) -> f64 {
    const CELL: usize = 8;
    let height = luma.len() / width;
    let mut quiet: Vec<f64> = Vec::new();
    for top in (0..height.saturating_sub(CELL)).step_by(CELL) {
        for left in (0..width.saturating_sub(CELL)).step_by(CELL) {
            let (mut squares, mut number) = (0u32, 0u32);
            for y in top..top + CELL {
                for i in y * width + left..y * width + left + CELL {
                    if counts[i] != 0 && counts[i + 1] != 0 {
                        squares += u32::from(luma[i].abs_diff(luma[i + 1])).pow(2);
                        number += 1;
                    }
                }
            }
            if number as usize == CELL * CELL {
                // The difference of two independent values has twice their variance.
                quiet.push((f64::from(squares) / f64::from(number) / 2.0).sqrt());
            }
        }
    }
    quiet.sort_by(f64::total_cmp);
    quiet.get(quiet.len() / 10).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_shannons() {
        // Two values, alternating columns: 1 bit in a window of an even number of columns, less than that next to it.
        let (width, height, reach) = (12usize, 9usize, 2usize);
        let bins: Vec<u8> = (0..width * height).map(|i| [3, 7, 7, 9][i % width % 4]).collect();
        let found = windows(&bins, width, height, reach);
        for (i, &bits) in found.iter().enumerate() {
            let (x, y) = (i % width, i / width);
            let mut counts = [0f64; 256];
            let rows = y.saturating_sub(reach)..(y + reach + 1).min(height);
            let columns = x.saturating_sub(reach)..(x + reach + 1).min(width);
            for row in rows.clone() {
                columns.clone().for_each(|column| counts[usize::from(bins[row * width + column])] += 1.0);
            }
            let n = (rows.len() * columns.len()) as f64;
            let exact: f64 = counts.iter().filter(|&&c| c > 0.0).map(|c| -c / n * (c / n).log2()).sum();
            assert!((f64::from(bits) / SCALE - exact).abs() <= 0.02, "{x},{y}: {bits} against {exact}");
        }
    }

    #[test]
    fn noise_is_that_of_the_quiet_parts() {
        let (width, height) = (160usize, 160usize);
        let random = |i: usize| {
            let mixed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
        };
        // Even values of 0..=6 (variance 5): a third of the picture; the rest ten times that.
        let luma: Vec<u8> = (0..width * height)
            .map(|i| {
                let value = 2 * (random(i) % 4) as u8;
                if i % width < 60 { 230 + value } else { 100 + 10 * value }
            })
            .collect();
        let found = noise(&luma, &vec![1; luma.len()], width);
        assert!((found - 5f64.sqrt()).abs() < 0.3, "{found}");
    }
}
