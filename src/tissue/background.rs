//! The glass beside the tissue: its colour, and which parts of the slide were scanned at all.

use serde::Serialize;

use super::colour::Colour;

/// What counts as background. Saturations and values are 0..=255.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackgroundOptions {
    /// Least value of its brightest channel.
    pub value_min: u8,
    /// Greatest saturation ...
    pub saturation_max: u8,
    /// ... and where blue is its least channel: lamps, old glass and mounting media are yellow, stains hardly so.
    pub yellow_saturation_max: u8,
    /// Greatest step to the next pixel in any channel: glass is smooth, pale tissue is not.
    pub step_max: u8,
    /// Least share of the scanned area; a slide with less counts as having no background.
    pub share_min: f64,
}

impl Default for BackgroundOptions {
    fn default() -> Self {
        Self { value_min: 190, saturation_max: 20, yellow_saturation_max: 64, step_max: 2, share_min: 0.05 }
    }
}

/// What [`find`] saw.
pub(super) struct Background {
    /// Median of the background's pixels; `None` where there is none.
    pub(super) colour: Option<[u8; 3]>,
    /// 1 where the slide was scanned, row by row.
    pub(super) scanned: Vec<u8>,
}

/// Finds the background in interleaved RGB.
///
/// Pure black is never scanned. So is pure white beside a background of another colour; where it is the only
/// background the scanner has clipped it, and it counts as scanned.
pub(super) fn find(pixels: &[u8], width: usize, options: &BackgroundOptions) -> Background {
    let stride = width * 3;
    let mut histograms = [[0u64; 256]; 3];
    let (mut members, mut white) = (0u64, 0u64);
    let mut scanned = vec![1u8; pixels.len() / 3];
    for (y, flags) in scanned.chunks_exact_mut(width).enumerate() {
        let row = &pixels[y * stride..(y + 1) * stride];
        let below = pixels.get((y + 1) * stride..(y + 2) * stride).unwrap_or(row);
        for (x, flag) in flags.iter_mut().enumerate() {
            let pixel = rgb(&row[x * 3..]);
            if is_pure_white(pixel) {
                white += 1;
                *flag = 0;
            } else if is_pure_black(pixel) {
                *flag = 0;
            } else if is_background_colour(pixel, options) {
                let right = rgb(&row[(x + 1).min(width - 1) * 3..]);
                let step = |other: [u8; 3]| (0..3).map(|c| pixel[c].abs_diff(other[c])).fold(0, u8::max);
                if step(right).max(step(rgb(&below[x * 3..]))) <= options.step_max {
                    members += 1;
                    histograms
                        .iter_mut()
                        .zip(pixel)
                        .for_each(|(histogram, channel)| histogram[usize::from(channel)] += 1);
                }
            }
        }
    }
    let enough = |part: u64, whole: u64| part > 0 && part as f64 >= options.share_min * whole as f64;
    let total = scanned.iter().map(|&flag| u64::from(flag)).sum::<u64>();
    if enough(members, total) {
        return Background { colour: Some([0, 1, 2].map(|c| median(&histograms[c]))), scanned };
    }
    // A picture of nothing but white shows no scan.
    if total > 0 && enough(white, total + white) {
        for (pixel, flag) in pixels.chunks_exact(3).zip(&mut scanned) {
            *flag |= u8::from(is_pure_white(rgb(pixel)));
        }
        return Background { colour: Some([255; 3]), scanned };
    }
    Background { colour: None, scanned }
}

/// Pure white, give or take JPEG's rounding.
fn is_pure_white([r, g, b]: [u8; 3]) -> bool {
    r.min(g).min(b) >= 254
}

/// Pure black, give or take JPEG's rounding.
fn is_pure_black([r, g, b]: [u8; 3]) -> bool {
    r.max(g).max(b) <= 5
}

fn is_background_colour(pixel: [u8; 3], options: &BackgroundOptions) -> bool {
    let colour = Colour::new(pixel);
    let [r, g, b] = pixel;
    let most = if b < r.min(g) { options.yellow_saturation_max } else { options.saturation_max };
    colour.value >= options.value_min && colour.saturation <= most
}

fn rgb(pixel: &[u8]) -> [u8; 3] {
    [pixel[0], pixel[1], pixel[2]]
}

fn median(histogram: &[u64; 256]) -> u8 {
    let half = histogram.iter().sum::<u64>().div_ceil(2);
    let mut below = 0;
    for (value, &number) in (0..=255u8).zip(histogram) {
        below += number;
        if below >= half {
            return value;
        }
    }
    255
}

/// Each pixel's colour once the background has been scaled to a grey of its brightest channel.
pub(super) fn neutral_colours(pixels: &[u8], background: Option<[u8; 3]>) -> Vec<Colour> {
    let background = background.unwrap_or([255; 3]);
    let brightest = u32::from(background.into_iter().fold(1, u8::max));
    let tables = background.map(|channel| {
        let channel = u32::from(channel.max(1));
        let mut table = [0u8; 256];
        for (entry, value) in table.iter_mut().zip(0u32..) {
            *entry = ((value * brightest + channel / 2) / channel).min(255) as u8;
        }
        table
    });
    let scale = |pixel: &[u8]| [0, 1, 2].map(|c| tables[c][usize::from(pixel[c])]);
    pixels.chunks_exact(3).map(|pixel| Colour::new(scale(pixel))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(parts: &[([u8; 3], usize)]) -> Vec<u8> {
        parts.iter().flat_map(|&(colour, number)| colour.repeat(number)).collect()
    }

    fn background(parts: &[([u8; 3], usize)]) -> (Option<[u8; 3]>, u64) {
        let found = find(&pixels(parts), 10, &BackgroundOptions::default());
        (found.colour, found.scanned.iter().map(|&flag| u64::from(flag)).sum())
    }

    #[test]
    fn white_is_unscanned_beside_grey_and_background_alone() {
        let (grey, white, pink, black) = ([243, 243, 245], [255; 3], [200, 80, 150], [0; 3]);
        assert_eq!(background(&[(grey, 100), (white, 100), (pink, 100)]), (Some(grey), 200));
        assert_eq!(background(&[(white, 100), (pink, 100)]), (Some(white), 200));
        assert_eq!(background(&[(black, 100), (grey, 100)]), (Some(grey), 100));
        assert_eq!(background(&[(pink, 100)]), (None, 100));
        assert_eq!(background(&[(white, 100)]), (None, 0));
        assert_eq!(background(&[(black, 100)]), (None, 0));
    }

    #[test]
    fn yellow_glass_is_background_and_pale_eosin_is_not() {
        assert_eq!(background(&[([223, 216, 186], 100)]).0, Some([223, 216, 186]));
        assert_eq!(background(&[([225, 190, 210], 100)]).0, None);
    }

    #[test]
    fn neutral_background_has_no_saturation() {
        let tinted = [223, 216, 186];
        let colours = neutral_colours(&pixels(&[(tinted, 1), ([200, 80, 150], 1)]), Some(tinted));
        assert_eq!(colours[0].rgb, [223; 3]);
        assert_eq!(colours[1].rgb, [200, 83, 180]);
    }
}
