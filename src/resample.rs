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
use std::ops::Range;
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

/// Pixels that one 16-byte load holds; weights stand in groups of as many.
const GROUP: usize = 5;
/// Bytes that may be read past a line, and written past an output line, by taking pixels in whole registers.
const SLACK: usize = 3 * GROUP + 16;

/// The weights of one direction.
#[derive(Default)]
struct Weights {
    /// What they were made for.
    key: Option<(Filter, u32, u64, u64, u32, Range<u32>)>,
    /// First source pixel of each output pixel, and how many it needs.
    spans: Vec<(usize, usize)>,
    /// `stride` weights of each output pixel; zero past its last source pixel.
    values: Vec<i32>,
    stride: usize,
    /// Most source pixels that an output pixel needs.
    taps: usize,
    /// Output pixels, one after another, that take (1, 3, 3, 1) / 8 of four source pixels, each two further than the one
    /// before: bilinear halving away from the edges, the commonest case by far.
    halved: Range<usize>,
}

impl Weights {
    /// Weights for the pixels `kept` of `out` pixels from `length` source pixels starting at `start`, of a line of `size`
    /// pixels.
    fn prepare(&mut self, filter: Filter, size: u32, start: f64, length: f64, out: u32, kept: Range<u32>) {
        let key = Some((filter, size, start.to_bits(), length.to_bits(), out, kept.clone()));
        if self.key == key {
            return;
        }
        self.key = key;
        let scale = length / f64::from(out);
        // Reducing widens the filter: that is the antialiasing.
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let span = |i: u32| {
            let centre = start + (f64::from(i) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).clamp(0, i64::from(size)) as usize;
            (centre, first, end)
        };
        let most = kept.clone().map(|i| span(i).2 - span(i).1).max().unwrap_or(0);
        self.taps = most;
        self.stride = most.next_multiple_of(GROUP);
        self.spans.clear();
        self.values.clear();
        for i in kept {
            let (centre, first, end) = span(i);
            let weight = |x: usize| filter.weight((x as f64 - centre + 0.5) / widening);
            let exact: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = exact.iter().sum();
            self.spans.push((first, end - first));
            self.values.extend(exact.iter().map(|w| {
                let fixed = w / sum * f64::from(1u32 << BITS);
                (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
            }));
            self.values.resize(self.spans.len() * self.stride, 0);
        }
        const EIGHTH: i32 = 1 << (BITS - 3);
        let halves = |i: usize| self.of(i).1 == [EIGHTH, 3 * EIGHTH, 3 * EIGHTH, EIGHTH];
        let begin = (0..self.spans.len()).find(|i| halves(*i)).unwrap_or(0);
        let follows = |i: usize| halves(i) && self.spans[i].0 == self.spans[begin].0 + 2 * (i - begin);
        self.halved = begin..(begin..self.spans.len()).find(|i| !follows(*i)).unwrap_or(self.spans.len());
    }

    /// First source pixel of an output pixel and its weights, without the zeros after them.
    #[inline(always)]
    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[i];
        (first, &self.values[i * self.stride..i * self.stride + count])
    }

    /// The source pixels that any output pixel needs.
    fn range(&self) -> Range<usize> {
        let first = self.spans.iter().map(|s| s.0).min().unwrap_or(0);
        first..self.spans.iter().map(|s| s.0 + s.1).max().unwrap_or(0)
    }
}

/// One thread's resampler: keeps weights and the picture between the passes.
#[derive(Default)]
pub struct Resampler {
    across: Weights,
    down: Weights,
    between: Vec<u8>,
    lines: [Vec<u8>; 2],
    size: (usize, usize),
    out_px: usize,
    /// Pairs of lines that the horizontal pass has behind it.
    pairs_done: usize,
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
        size: (u32, u32),
        crop: Crop,
        out: &mut [u8],
        out_px: u32,
    ) -> Result<(), String> {
        self.begin(filter, size, crop, out_px)?;
        self.finish(source, out)
    }

    /// Resamples a whole square picture of `source_px` to `resized_px` and keeps the square of `kept` pixels in each direction:
    /// the bytes of resampling all of it and cutting them out, without computing the rest.
    ///
    /// # Errors
    /// As [`Resampler::square`].
    pub fn cut(
        &mut self,
        filter: Filter,
        source: &[u8],
        source_px: u32,
        resized_px: u32,
        kept: Range<u32>,
        out: &mut [u8],
    ) -> Result<(), String> {
        let side = f64::from(source_px);
        let whole = Crop { left: 0.0, top: 0.0, width: side, height: side };
        self.begin_cut(filter, (source_px, source_px), whole, resized_px, kept)?;
        self.finish(source, out)
    }

    /// Begins a picture that is handed over from top to bottom: [`Resampler::feed`] takes the lines that are there while
    /// they lie in the processor's cache, [`Resampler::finish`] the rest.
    ///
    /// # Errors
    /// As [`Resampler::square`].
    pub fn begin(&mut self, filter: Filter, size: (u32, u32), crop: Crop, out_px: u32) -> Result<(), String> {
        self.begin_cut(filter, size, crop, out_px, 0..out_px)
    }

    /// [`Resampler::begin`] for the output's pixels `kept` in each direction.
    fn begin_cut(
        &mut self,
        filter: Filter,
        (width, height): (u32, u32),
        crop: Crop,
        out_px: u32,
        kept: Range<u32>,
    ) -> Result<(), String> {
        let fits = |start: f64, length: f64, size: u32| {
            start >= 0.0 && length > 0.0 && start + length <= f64::from(size) + 1e-6
        };
        if !fits(crop.left, crop.width, width)
            || !fits(crop.top, crop.height, height)
            || kept.is_empty()
            || kept.end > out_px
        {
            return Err(format!("{crop:?} of {width} x {height} px to {kept:?} of {out_px} px"));
        }
        self.size = (width as usize, height as usize);
        self.out_px = kept.len();
        self.across.prepare(filter, width, crop.left, crop.width, out_px, kept.clone());
        self.down.prepare(filter, height, crop.top, crop.height, out_px, kept);
        self.pairs_done = 0;
        let lines = self.down.range().len().next_multiple_of(2);
        self.between.resize(lines * self.pitch(), 0);
        Ok(())
    }

    /// Takes the picture's lines above `ready`; `source` is the whole picture's buffer, whatever lies in it below.
    ///
    /// # Errors
    /// As [`Resampler::square`].
    pub fn feed(&mut self, source: &[u8], ready: usize) -> Result<(), String> {
        let (width, height) = self.size;
        if source.len() != width * height * 3 {
            return Err(format!("{} bytes of {width} x {height} px", source.len()));
        }
        let rows = self.down.range();
        let pairs = rows.len().div_ceil(2);
        let ready = if ready >= rows.end { pairs } else { ready.saturating_sub(rows.start) / 2 };
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            #[allow(unsafe_code, reason = "wider registers: 3 times as fast as the portable pass")]
            unsafe {
                self.pass_across_avx2(source, ready);
            }
            return Ok(());
        }
        self.pass_across(source, ready, across_two);
        Ok(())
    }

    /// Takes what [`Resampler::feed`] has not taken, and gives the result.
    ///
    /// # Errors
    /// As [`Resampler::square`].
    pub fn finish(&mut self, source: &[u8], out: &mut [u8]) -> Result<(), String> {
        if out.len() != self.out_px * self.out_px * 3 {
            return Err(format!("{} bytes for {} px", out.len(), self.out_px));
        }
        self.feed(source, usize::MAX)?;
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            #[allow(unsafe_code, reason = "the same code, compiled for wider registers")]
            unsafe {
                self.pass_down_avx2(out);
            }
            return Ok(());
        }
        self.pass_down(out);
        Ok(())
    }

    /// Bytes from one line between the passes to the next.
    fn pitch(&self) -> usize {
        self.out_px * 3 + SLACK
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pass_across_avx2(&mut self, source: &[u8], pairs: usize) {
        self.pass_across(source, pairs, |weights, lines, out| across_two_avx2(weights, lines, out));
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pass_down_avx2(&mut self, out: &mut [u8]) {
        self.pass_down(out);
    }

    /// The horizontal pass over the pairs of lines from where it stopped to `pairs`.
    #[inline(always)]
    fn pass_across(&mut self, source: &[u8], pairs: usize, across_two: impl Fn(&Weights, [&[u8]; 2], [&mut [u8]; 2])) {
        let rows = self.down.range();
        let pitch = self.pitch();
        let width = self.size.0;
        let spare = self.across.stride * 3 + SLACK;
        // A line may be read past its end, into the next; only where the picture ends it is copied, with room behind it.
        let line = |row: usize, copy: &mut Vec<u8>| -> bool {
            let inside = (row + 1) * width * 3 + spare <= source.len();
            if !inside {
                copy.clear();
                copy.extend_from_slice(&source[row * width * 3..(row + 1) * width * 3]);
                copy.resize(width * 3 + spare, 0);
            }
            inside
        };
        let [copy_a, copy_b] = &mut self.lines;
        let between = self.between.chunks_exact_mut(2 * pitch).enumerate();
        for (pair, out) in between.take(pairs).skip(self.pairs_done) {
            // The last pair of an odd number of lines does one twice.
            let (a, b) = (rows.start + 2 * pair, (rows.start + 2 * pair + 1).min(rows.end - 1));
            let a = if line(a, copy_a) { &source[a * width * 3..] } else { &copy_a[..] };
            let b = if line(b, copy_b) { &source[b * width * 3..] } else { &copy_b[..] };
            let (first, second) = out.split_at_mut(pitch);
            across_two(&self.across, [a, b], [first, second]);
        }
        self.pairs_done = self.pairs_done.max(pairs);
    }

    /// The vertical pass.
    #[inline(always)]
    fn pass_down(&self, out: &mut [u8]) {
        let (start, pitch) = (self.down.range().start, self.pitch());
        for (y, out) in out.chunks_exact_mut(self.out_px * 3).enumerate() {
            let (first, weights) = self.down.of(y);
            down(weights, &self.between[(first - start) * pitch..], pitch, out);
        }
    }
}

/// Rounds a weighted sum to a pixel.
#[inline(always)]
fn pixel(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

/// Two lines of RGB pixels to two lines of the output's width.
fn across_two(weights: &Weights, lines: [&[u8]; 2], out: [&mut [u8]; 2]) {
    for (line, out) in lines.into_iter().zip(out) {
        for (i, out) in out.chunks_exact_mut(3).take(weights.spans.len()).enumerate() {
            let (first, weights) = weights.of(i);
            let mut sums = [HALF; 3];
            for (pixel, weight) in line[first * 3..].chunks_exact(3).zip(weights) {
                for c in 0..3 {
                    sums[c] += i32::from(pixel[c]) * weight;
                }
            }
            for c in 0..3 {
                out[c] = pixel(sums[c]);
            }
        }
    }
}

/// [`across_two`] with both lines in one register: the first in its lower, the second in its upper half.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code, reason = "loads and stores of whole registers; measured, see benches/RESULTS.md")]
fn across_two_avx2(weights: &Weights, lines: [&[u8]; 2], out: [&mut [u8]; 2]) {
    use std::arch::x86_64::*;

    let groups = weights.stride / GROUP;
    let [first_out, second_out] = out;
    // Per tap: the bytes 3k, 3k + 1, 3k + 2 of each half, widened to 32 bits; -1 gives zero.
    let picks: [__m256i; GROUP] = std::array::from_fn(|k| {
        let lane = |b: usize| i32::from_le_bytes([(3 * k + b) as u8, 0xff, 0xff, 0xff]);
        _mm256_broadcastsi128_si256(_mm_setr_epi32(lane(0), lane(1), lane(2), -1))
    });
    // Neighbouring pixels' bytes beside each other, channel by channel: of the first two pixels, then of the next two.
    let pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1));
    let last = weights.taps - (groups - 1) * GROUP;
    let count = weights.spans.len();
    // Once for the line, instead of at every pixel: all reads and writes below lie within these bounds.
    let farthest = weights.spans.iter().map(|s| s.0).max().unwrap_or(0);
    let reach = (farthest + (groups - 1) * GROUP) * 3 + 16;
    assert!(lines.iter().all(|line| line.len() >= reach) && weights.values.len() == count * weights.stride);
    assert!(first_out.len() > count * 3 + 1 && second_out.len() > count * 3 + 1);
    let (a, b) = (lines[0].as_ptr(), lines[1].as_ptr());
    let (to_a, to_b) = (first_out.as_mut_ptr(), second_out.as_mut_ptr());
    let mut next = 0;
    while next < count {
        let i = next;
        let first = weights.spans[i].0;
        if weights.halved.contains(&i) && i + 1 < weights.halved.end {
            // Two pixels at once in 16 bits: (p0 + 3 p1 + 3 p2 + p3 + 4) / 8 is what the weights of 22 bits give, exactly.
            // SAFETY: both loads end within `reach`, as the next pixel's own would.
            let (near, far) = unsafe {
                let load =
                    |at: usize| _mm256_set_m128i(_mm_loadu_si128(b.add(at).cast()), _mm_loadu_si128(a.add(at).cast()));
                (load(first * 3), load((first + 2) * 3))
            };
            let sums = _mm256_add_epi16(
                _mm256_maddubs_epi16(_mm256_shuffle_epi8(near, pairs), _mm256_set1_epi16(0x0301)),
                _mm256_maddubs_epi16(_mm256_shuffle_epi8(far, pairs), _mm256_set1_epi16(0x0103)),
            );
            let words = _mm256_srli_epi16::<3>(_mm256_add_epi16(sums, _mm256_set1_epi16(4)));
            let bytes = _mm256_packus_epi16(words, _mm256_setzero_si256());
            // Six bytes each; the pixel after them, or the slack at the line's end, takes the other two.
            // SAFETY: `i * 3 + 8 <= count * 3 + 2`, which both outputs have.
            unsafe {
                to_a.add(i * 3).cast::<i64>().write_unaligned(_mm256_extract_epi64::<0>(bytes));
                to_b.add(i * 3).cast::<i64>().write_unaligned(_mm256_extract_epi64::<2>(bytes));
            }
            next += 2;
            continue;
        }
        next += 1;
        let mut sums = _mm256_set1_epi32(HALF);
        for group in 0..groups {
            let at = (first + group * GROUP) * 3;
            // SAFETY: `at + 16 <= reach`, which both lines have.
            let pixels =
                unsafe { _mm256_set_m128i(_mm_loadu_si128(b.add(at).cast()), _mm_loadu_si128(a.add(at).cast())) };
            let start = i * weights.stride + group * GROUP;
            // SAFETY: `start + GROUP <= (i + 1) * stride`, and there are `count * stride` weights.
            let values: &[i32; GROUP] = unsafe { &*weights.values.as_ptr().add(start).cast() };
            // Halving takes four taps, the commonest case: a fixed count is unrolled, zero weights are not multiplied.
            sums = match if group + 1 == groups { last } else { GROUP } {
                4 => add_taps::<4>(sums, pixels, values, &picks),
                _ => add_taps::<GROUP>(sums, pixels, values, &picks),
            };
        }
        // Saturating packs clamp to 0..=255.
        let words = _mm256_packs_epi32(_mm256_srai_epi32::<{ BITS as i32 }>(sums), _mm256_setzero_si256());
        let bytes = _mm256_packus_epi16(words, _mm256_setzero_si256());
        let (pixel_a, pixel_b) = (_mm256_extract_epi32::<0>(bytes), _mm256_extract_epi32::<4>(bytes));
        // Four bytes each; the next pixel, or the slack at the line's end, takes the fourth.
        // SAFETY: `i * 3 + 4 <= count * 3 + 1`, which both outputs have.
        unsafe {
            to_a.add(i * 3).cast::<i32>().write_unaligned(pixel_a);
            to_b.add(i * 3).cast::<i32>().write_unaligned(pixel_b);
        }
    }
}

/// Adds `N` weighted pixels of both lines.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn add_taps<const N: usize>(
    mut sums: std::arch::x86_64::__m256i,
    pixels: std::arch::x86_64::__m256i,
    weights: &[i32; GROUP],
    picks: &[std::arch::x86_64::__m256i; GROUP],
) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::*;
    for k in 0..N {
        let values = _mm256_shuffle_epi8(pixels, picks[k]);
        sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(values, _mm256_set1_epi32(weights[k])));
    }
    sums
}

/// One line of bytes from the lines, `pitch` bytes apart, that `lines` begins with.
#[inline(always)]
fn down(weights: &[i32], lines: &[u8], pitch: usize, out: &mut [u8]) {
    const LANES: usize = 16;
    let whole = out.len() - out.len() % LANES;
    // Bilinear reductions by 2, 4 and 8 have weights of eight bits, away from the edges: the same sums, in 16 bits.
    const SPARE: u32 = BITS - 8;
    if weights.iter().all(|w| *w >= 0 && w % (1 << SPARE) == 0) && weights.iter().sum::<i32>() == 1 << BITS {
        for at in (0..whole).step_by(LANES) {
            let mut sums = [128u16; LANES];
            for (k, weight) in weights.iter().enumerate() {
                let (bytes, weight) = (&lines[k * pitch + at..k * pitch + at + LANES], (weight >> SPARE) as u16);
                for (sum, byte) in sums.iter_mut().zip(bytes) {
                    *sum += u16::from(*byte) * weight;
                }
            }
            for (out, sum) in out[at..at + LANES].iter_mut().zip(sums) {
                *out = (sum >> 8) as u8;
            }
        }
        down_rest(weights, lines, pitch, out, whole);
        return;
    }
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
    down_rest(weights, lines, pitch, out, whole);
}

/// The bytes from `whole` on, which fill no register.
#[inline(always)]
fn down_rest(weights: &[i32], lines: &[u8], pitch: usize, out: &mut [u8], whole: usize) {
    for at in whole..out.len() {
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
            resampler.begin(filter, (width, height), crop, px).expect("fits");
            resampler.pass_across(&source, usize::MAX, across_two);
            resampler.pass_down(&mut plain);
            assert_eq!(plain, out, "the same without wide registers");
            resampler.begin(filter, (width, height), crop, px).expect("fits");
            let mut growing = vec![9; source.len()];
            for ready in [0, 1, 7, 20, 33, 40] {
                let bytes = ready * width as usize * 3;
                growing[..bytes].copy_from_slice(&source[..bytes]);
                resampler.feed(&growing, ready).expect("fits");
            }
            resampler.finish(&growing, &mut plain).expect("fits");
            assert_eq!(plain, out, "the same line by line");
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
