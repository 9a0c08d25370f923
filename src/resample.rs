//! Resampling of RGB pixels, equal to Pillow's `Image.resize(size, filter, box)` bit for bit.
//!
//! Encoders are validated behind torchvision's `Resize`, which on pictures is Pillow's, and an off-by-one in a fifth of the
//! bytes (what `fast_image_resize` gives) already moves embeddings: cosine 0.9998 at worst where this gives 1. So Pillow's
//! arithmetic is kept: a horizontal pass, rounded to 8 bits, then a vertical one, both with 22-bit fixed-point weights.
//!
//! Reference: Pillow's documented filters ("Filters", handbook/concepts) and its 8-bit resampling; scripts/make_golden.py
//! obtains the tests' values from Pillow.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The filter's name, as Pillow and torchvision call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle filter, widened by the reduction.
    #[default]
    Bilinear,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Filter {
    /// All filters.
    pub const ALL: [Filter; 3] = [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos];

    /// The name in contracts and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
            Filter::Lanczos => "lanczos",
        }
    }

    /// Half the width of the filter, in source pixels when magnifying.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            // Keys' cubic convolution with a = -0.5.
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((x - 5.0) * x + 8.0) * x * -0.5 + 2.0,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Filter::ALL.into_iter().find(|f| f.name() == text);
        found.ok_or_else(|| format!("unknown filter '{text}'; one of bilinear, bicubic, lanczos"))
    }
}

/// The part of the source that is resampled, in source pixels; may start and end between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// Fraction bits of a weight: 8 bits of pixel and 2 of headroom for negative lobes remain of 32.
const BITS: u32 = 22;

/// The weights of one direction.
#[derive(Default)]
struct Weights {
    /// What they were made for.
    key: Option<(Filter, u32, u64, u64, u32)>,
    /// First source pixel of each output pixel.
    first: Vec<usize>,
    /// `taps` weights of each output pixel; zero past its last source pixel.
    values: Vec<i32>,
    taps: usize,
}

impl Weights {
    /// Weights for `out` pixels from `length` source pixels starting at `start`, of a line of `size` pixels.
    fn prepare(&mut self, filter: Filter, size: u32, start: f64, length: f64, out: u32) {
        let key = Some((filter, size, start.to_bits(), length.to_bits(), out));
        if self.key == key {
            return;
        }
        self.key = key;
        let scale = length / f64::from(out);
        // Reducing widens the filter: that is the antialiasing.
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        self.taps = (support.ceil() as usize * 2 + 1).min(size as usize);
        self.first.clear();
        self.values.clear();
        for i in 0..out {
            let centre = start + (f64::from(i) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).clamp(0, i64::from(size)) as usize;
            let weight = |x: usize| filter.weight((x as f64 - centre + 0.5) / widening);
            let exact: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = exact.iter().sum();
            // All taps must lie within the line: where it ends sooner, zeros go in front.
            let shift = (first + self.taps).saturating_sub(size as usize);
            self.first.push(first - shift);
            self.values.extend(std::iter::repeat_n(0, shift));
            self.values.extend(exact.iter().map(|w| {
                let fixed = w / sum * f64::from(1u32 << BITS);
                (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
            }));
            self.values.resize((i as usize + 1) * self.taps, 0);
        }
    }

    /// First source pixel and weights of an output pixel.
    fn of(&self, i: usize) -> (usize, &[i32]) {
        (self.first[i], &self.values[i * self.taps..(i + 1) * self.taps])
    }
}

/// One thread's resampler: keeps weights and the picture between the passes.
#[derive(Default)]
pub struct Resampler {
    across: Weights,
    down: Weights,
    between: Vec<u8>,
    line: Vec<u8>,
}

impl Resampler {
    /// Resamples `crop` of an RGB picture (`width` x `height`, 3 bytes a pixel) to `out` (`out_px` x `out_px`).
    ///
    /// # Errors
    /// Words, where sizes and buffers do not fit; a caller's fault.
    pub fn square(
        &mut self,
        filter: Filter,
        source: &[u8],
        (width, height): (u32, u32),
        crop: Crop,
        out: &mut [u8],
        out_px: u32,
    ) -> Result<(), String> {
        let fits = |start: f64, length: f64, size: u32| {
            start >= 0.0 && length > 0.0 && start + length <= f64::from(size) + 1e-6
        };
        if !fits(crop.left, crop.width, width) || !fits(crop.top, crop.height, height) {
            return Err(format!("{crop:?} of {width} x {height} px"));
        }
        let bytes = |w: u32, h: u32| w as usize * h as usize * 3;
        if source.len() != bytes(width, height) || out.len() != bytes(out_px, out_px) || out_px == 0 {
            return Err(format!("{} bytes of {width} x {height} px to {} of {out_px} px", source.len(), out.len()));
        }
        self.across.prepare(filter, width, crop.left, crop.width, out_px);
        self.down.prepare(filter, height, crop.top, crop.height, out_px);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            #[allow(unsafe_code, reason = "the same code, compiled for wider registers")]
            unsafe {
                self.passes_avx2(source, width as usize, out, out_px as usize);
            }
            return Ok(());
        }
        self.passes(source, width as usize, out, out_px as usize);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn passes_avx2(&mut self, source: &[u8], width: usize, out: &mut [u8], out_px: usize) {
        self.passes(source, width, out, out_px);
    }

    #[inline(always)]
    fn passes(&mut self, source: &[u8], width: usize, out: &mut [u8], out_px: usize) {
        let top = self.down.first.iter().copied().min().unwrap_or(0);
        let bottom = self.down.first.iter().copied().max().unwrap_or(0) + self.down.taps;
        self.between.resize((bottom - top) * out_px * 3, 0);
        // A byte more than the line, so that a pixel can be taken as four bytes.
        self.line.resize(width * 3 + 1, 0);
        let lines = source.chunks_exact(width * 3).skip(top);
        for (line, out) in lines.zip(self.between.chunks_exact_mut(out_px * 3)) {
            self.line[..width * 3].copy_from_slice(line);
            across(&self.across, &self.line, out);
        }
        for (y, out) in out.chunks_exact_mut(out_px * 3).enumerate() {
            let (first, weights) = self.down.of(y);
            down(weights, &self.between[(first - top) * out_px * 3..], out);
        }
    }
}

/// Rounds a weighted sum to a pixel.
#[inline(always)]
fn pixel(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

/// One line of RGB pixels.
#[inline(always)]
fn across(weights: &Weights, line: &[u8], out: &mut [u8]) {
    for (i, out) in out.chunks_exact_mut(3).enumerate() {
        let (first, weights) = weights.of(i);
        let mut sums = [HALF; 4];
        let pixels = &line[first * 3..first * 3 + weights.len() * 3 + 1];
        for (k, weight) in weights.iter().enumerate() {
            let four = &pixels[k * 3..k * 3 + 4];
            for c in 0..4 {
                sums[c] += i32::from(four[c]) * weight;
            }
        }
        for c in 0..3 {
            out[c] = pixel(sums[c]);
        }
    }
}

/// One line of bytes from the lines `lines` begins with.
#[inline(always)]
fn down(weights: &[i32], lines: &[u8], out: &mut [u8]) {
    const LANES: usize = 16;
    let pitch = out.len();
    let whole = pitch - pitch % LANES;
    for at in (0..whole).step_by(LANES) {
        let mut sums = [HALF; LANES];
        for (k, weight) in weights.iter().enumerate() {
            let bytes = &lines[k * pitch + at..k * pitch + at + LANES];
            for (sum, byte) in sums.iter_mut().zip(bytes) {
                *sum += i32::from(*byte) * weight;
            }
        }
        for (out, sum) in out[at..at + LANES].iter_mut().zip(sums) {
            *out = pixel(sum);
        }
    }
    for at in whole..pitch {
        let sum = weights.iter().enumerate().fold(HALF, |s, (k, w)| s + i32::from(lines[k * pitch + at]) * w);
        out[at] = pixel(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_a_checkerboard_of_two_by_two_blocks_is_exact_in_the_middle() {
        let mut resampler = Resampler::default();
        let source: Vec<u8> = (0..16 * 16).flat_map(|i| [if i % 16 < 8 { 0 } else { 200 }; 3]).collect();
        let mut out = vec![0; 8 * 8 * 3];
        let whole = Crop { left: 0.0, top: 0.0, width: 16.0, height: 16.0 };
        resampler.square(Filter::Bilinear, &source, (16, 16), whole, &mut out, 8).expect("fits");
        assert_eq!((out[0], out[7 * 3]), (0, 200));
        let crop = Crop { left: 8.0, top: 0.0, width: 8.0, height: 8.0 };
        resampler.square(Filter::Lanczos, &source, (16, 16), crop, &mut out, 8).expect("fits");
        assert!(out.iter().all(|v| *v == 200), "a crop does not see beyond its edge");
    }

    #[test]
    fn equal_to_pillow() {
        // 48 x 40 noise and its crops, by scripts/make_golden.py.
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../testdata/golden/resample.json")).expect("golden values");
        let (width, height) = (48u32, 40u32);
        let mut state = 1u32;
        let source: Vec<u8> = (0..width * height * 3)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let mut resampler = Resampler::default();
        let cases = golden.as_array().expect("cases");
        assert!(cases.len() >= 12);
        for case in cases {
            let filter: Filter = case["filter"].as_str().expect("filter").parse().expect("known");
            let number = |i: usize| case["box"][i].as_f64().expect("number");
            let crop =
                Crop { left: number(0), top: number(1), width: number(2) - number(0), height: number(3) - number(1) };
            let px = case["px"].as_u64().expect("px") as u32;
            let mut out = vec![0; (px * px * 3) as usize];
            resampler.square(filter, &source, (width, height), crop, &mut out, px).expect("fits");
            assert_eq!(crate::digest::sha256(&out), case["sha256"], "{filter} {crop:?} to {px}");
            let mut plain = vec![0; out.len()];
            resampler.passes(&source, width as usize, &mut plain, px as usize);
            assert_eq!(plain, out, "the same without wide registers");
        }
    }

    #[test]
    fn names_are_read_back() {
        for filter in Filter::ALL {
            assert_eq!(filter.name().parse(), Ok(filter));
        }
        assert!("box".parse::<Filter>().is_err());
    }
}
