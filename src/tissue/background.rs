//! The glass beside the tissue: its colour, and which parts of the slide were scanned at all.

use rayon::prelude::*;
use serde::Serialize;

use super::colour::Colour;
use super::field::Field;

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
    /// Side of the cells (µm) in which the background is looked at for itself, where lamps and glass are uneven.
    pub cell_um: f64,
    /// Least share of a cell that must be background for the cell to have a say.
    pub cell_share_min: f64,
    /// Greatest deviation of a cell from the slide's background, of 1; a cell beyond it has none.
    pub uneven_max: f64,
}

impl Default for BackgroundOptions {
    fn default() -> Self {
        Self {
            value_min: 190,
            saturation_max: 20,
            yellow_saturation_max: 64,
            step_max: 2,
            share_min: 0.05,
            cell_um: 1000.0,
            cell_share_min: 0.05,
            uneven_max: 0.12,
        }
    }
}

/// What [`find`] saw.
pub(super) struct Background {
    /// Median of the background's pixels; `None` where there is none.
    pub(super) colour: Option<[u8; 3]>,
    /// 1 where the slide was scanned, row by row.
    pub(super) scanned: Vec<u8>,
    /// The background's colour over the slide; `None` where it has none, or is white by the scanner.
    pub(super) field: Option<Field>,
}

/// Finds the background in interleaved RGB at `mpp` µm/px.
///
/// Pure black is never scanned. So is pure white beside a background of another colour; where it is the only
/// background the scanner has clipped it, and it counts as scanned.
pub(super) fn find(pixels: &[u8], width: usize, mpp: f64, options: &BackgroundOptions) -> Background {
    let stride = width * 3;
    let mut histograms = [[0u64; 256]; 3];
    let (mut members, mut white) = (0u64, 0u64);
    let mut scanned = vec![1u8; pixels.len() / 3];
    let mut cells = Cells::new(width, scanned.len() / width, options.cell_um / mpp);
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
                    cells.add(x, y, pixel);
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
        let colour = [0, 1, 2].map(|c| quantile(&histograms[c], 0.5));
        let field = cells.field(colour, options);
        return Background { colour: Some(colour), scanned, field };
    }
    // A picture of nothing but white shows no scan.
    if total > 0 && enough(white, total + white) {
        for (pixel, flag) in pixels.chunks_exact(3).zip(&mut scanned) {
            *flag |= u8::from(is_pure_white(rgb(pixel)));
        }
        return Background { colour: Some([255; 3]), scanned, field: None };
    }
    Background { colour: None, scanned, field: None }
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

/// The least value that `share` of the numbers are at or below.
fn quantile(histogram: &[u64; 256], share: f64) -> u8 {
    let wanted = (histogram.iter().sum::<u64>() as f64 * share).ceil() as u64;
    let mut below = 0;
    for (value, &number) in (0..=255u8).zip(histogram) {
        below += number;
        if below >= wanted {
            return value;
        }
    }
    255
}

/// The background's pixels, cell by cell.
struct Cells {
    side: f64,
    columns: usize,
    rows: usize,
    width: usize,
    height: usize,
    histograms: Vec<[[u32; 256]; 3]>,
}

impl Cells {
    fn new(width: usize, height: usize, side: f64) -> Self {
        // At most 64 cells a side: the histograms of a slide of 64 mm.
        let side = side.max(width.max(height) as f64 / 64.0).max(1.0);
        let (columns, rows) = ((width as f64 / side).ceil() as usize, (height as f64 / side).ceil() as usize);
        Cells { side, columns, rows, width, height, histograms: vec![[[0; 256]; 3]; columns * rows] }
    }

    fn add(&mut self, x: usize, y: usize, pixel: [u8; 3]) {
        let cell = (y as f64 / self.side) as usize * self.columns + (x as f64 / self.side) as usize;
        self.histograms[cell]
            .iter_mut()
            .zip(pixel)
            .for_each(|(histogram, channel)| histogram[usize::from(channel)] += 1);
    }

    /// The upper quarter of each cell, as pale tissue may be among its pixels; `None` where no cell differs from the slide.
    fn field(&self, slide: [u8; 3], options: &BackgroundOptions) -> Option<Field> {
        let least = (self.side * self.side * options.cell_share_min).max(1.0);
        let colour = |histograms: &[[u32; 256]; 3]| {
            let number: u32 = histograms[0].iter().sum();
            let colour = histograms.each_ref().map(|h| quantile(&h.map(u64::from), 0.75));
            let even = colour
                .iter()
                .zip(slide)
                .all(|(&here, whole)| (f64::from(here) / f64::from(whole.max(1)) - 1.0).abs() <= options.uneven_max);
            (f64::from(number) >= least && even).then(|| colour.map(f32::from))
        };
        let cells: Vec<_> = self.histograms.iter().map(colour).collect();
        Field::new(cells, self.columns, self.rows, (self.width, self.height), self.side)
    }
}

/// Each pixel's colour once the background has been scaled to a grey of its brightest channel; and the background there.
pub(super) fn neutral_colours(pixels: &[u8], width: usize, background: &Background) -> Vec<Colour> {
    let whole = background.colour.unwrap_or([255; 3]);
    let Some(field) = &background.field else {
        let tables = tables(whole);
        return pixels.par_chunks_exact(3).map(|pixel| Colour::new(scaled(pixel, &tables))).collect();
    };
    let brightest = f32::from(whole.into_iter().fold(1, u8::max));
    let mut colours = vec![Colour::new([0; 3]); pixels.len() / 3];
    colours.par_chunks_exact_mut(width).zip(pixels.par_chunks_exact(width * 3)).enumerate().for_each_init(
        || vec![[0f32; 3]; width],
        |line, (y, (colours, row))| {
            field.line(y, line);
            for ((colour, pixel), here) in colours.iter_mut().zip(row.chunks_exact(3)).zip(line) {
                let scaled = |c: usize| (f32::from(pixel[c]) * brightest / here[c]).round().min(255.0) as u8;
                *colour = Colour::new([0, 1, 2].map(scaled));
            }
        },
    );
    colours
}

fn tables(background: [u8; 3]) -> [[u8; 256]; 3] {
    let brightest = u32::from(background.into_iter().fold(1, u8::max));
    background.map(|channel| {
        let channel = u32::from(channel.max(1));
        let mut table = [0u8; 256];
        for (entry, value) in table.iter_mut().zip(0u32..) {
            *entry = ((value * brightest + channel / 2) / channel).min(255) as u8;
        }
        table
    })
}

fn scaled(pixel: &[u8], tables: &[[u8; 256]; 3]) -> [u8; 3] {
    [0, 1, 2].map(|c| tables[c][usize::from(pixel[c])])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(parts: &[([u8; 3], usize)]) -> Vec<u8> {
        parts.iter().flat_map(|&(colour, number)| colour.repeat(number)).collect()
    }

    fn background(parts: &[([u8; 3], usize)]) -> (Option<[u8; 3]>, u64) {
        let found = find(&pixels(parts), 10, 8.0, &BackgroundOptions::default());
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
        let background = Background { colour: Some(tinted), scanned: Vec::new(), field: None };
        let colours = neutral_colours(&pixels(&[(tinted, 1), ([200, 80, 150], 1)]), 2, &background);
        assert_eq!(colours[0].rgb, [223; 3]);
        assert_eq!(colours[1].rgb, [200, 83, 180]);
    }

    #[test]
    fn uneven_glass_is_neutral_everywhere() {
        // 4 x 3 mm at 8 µm/px: the glass goes from grey to yellowish from left to right.
        let (width, height) = (500usize, 375usize);
        let glass = |x: usize| [245, 244 - (x / 50) as u8, 243 - (x / 25) as u8];
        let pixels: Vec<u8> = (0..width * height).flat_map(|i| glass(i % width)).collect();
        let found = find(&pixels, width, 8.0, &BackgroundOptions::default());
        assert!(found.field.is_some());
        let most = |colours: &[Colour]| colours.iter().map(|c| c.saturation).max();
        assert!(most(&neutral_colours(&pixels, width, &found)) <= Some(4));
        let even = Background { field: None, ..found };
        assert!(most(&neutral_colours(&pixels, width, &even)) > Some(9));
    }
}
