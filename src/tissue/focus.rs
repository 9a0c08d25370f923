//! Where tissue is out of focus: the energy of the Laplacian against the contrast.
//!
//! A cell's sharpness is the mean square of the 4-neighbour Laplacian of brightness over the variance of brightness: blur takes the
//! fine detail and leaves the coarse contrast, so pale and strong stains are judged alike. White noise gives 20; H&E in focus at
//! 4 µm/px gives 1 to 15, and under 0.4 once it is blurred by a Gaussian of 4 µm. Blur of less than about 3 µm does
//! not show at this resolution.

use image::RgbImage;
use rayon::prelude::*;
use serde::Serialize;

use super::TissueMask;

/// Parameters of [`blurred`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FocusOptions {
    /// Resolution of the picture in which focus is judged, µm/px.
    pub mpp: f64,
    /// A picture that is coarser than `mpp` by more than this factor is not judged: everything looks sharp in it.
    pub coarser_max: f64,
    /// Side of the cells that are judged (µm).
    pub cell_um: f64,
    /// Least share of a cell that must be tissue: edges of tissue are contrast without detail.
    pub tissue_min: f64,
    /// Cells with a smaller variance of brightness have nothing to be sharp.
    pub variance_min: f64,
    /// Cells with less sharpness are out of focus.
    pub sharpness_min: f64,
}

impl Default for FocusOptions {
    fn default() -> Self {
        Self { mpp: 4.0, coarser_max: 1.5, cell_um: 64.0, tissue_min: 0.9, variance_min: 12.0, sharpness_min: 0.4 }
    }
}

/// Where tissue is out of focus, in cells; `None` where the picture is too coarse to tell.
///
/// `image` is the slide at `mpp` µm/px and `downsample` level-0 pixels per pixel.
pub fn blurred(
    image: &RgbImage,
    mpp: f64,
    downsample: f64,
    tissue: &TissueMask,
    options: &FocusOptions,
) -> Option<TissueMask> {
    if mpp > options.mpp * options.coarser_max || image.width() < 3 || image.height() < 3 {
        return None;
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let side = ((options.cell_um / mpp).round() as usize).max(4);
    let (columns, rows) = (width.div_ceil(side), height.div_ceil(side));
    let side_level0 = side as f64 * downsample;
    let luma: Vec<u8> = image.as_raw().chunks_exact(3).map(luma).collect();
    let mut cells = vec![None; columns * rows];
    cells.par_iter_mut().enumerate().for_each(|(i, cell)| {
        let (left, top) = (i % columns * side, i / columns * side);
        let covered = tissue.fraction(left as f64 * downsample, top as f64 * downsample, side_level0, side_level0);
        if covered >= options.tissue_min {
            let (right, bottom) = ((left + side).min(width), (top + side).min(height));
            let sharp = sharpness(&luma, width, height, (left, right), (top, bottom), options.variance_min);
            *cell = sharp.map(|sharp| sharp < options.sharpness_min);
        }
    });
    let cells = by_majority(&cells, columns, rows);
    Some(TissueMask::new(columns as u32, rows as u32, side_level0, side_level0, cells))
}

/// Each cell that is tissue by what most of it and its neighbours are; a single cell with an odd structure does not count.
fn by_majority(cells: &[Option<bool>], columns: usize, rows: usize) -> Vec<u8> {
    let majority = |i: usize| {
        let (column, row) = (i % columns, i / columns);
        let (mut blurred, mut judged) = (0, 0);
        for y in row.saturating_sub(1)..(row + 2).min(rows) {
            for x in column.saturating_sub(1)..(column + 2).min(columns) {
                judged += u32::from(cells[y * columns + x].is_some());
                blurred += u32::from(cells[y * columns + x] == Some(true));
            }
        }
        u8::from(cells[i].is_some() && 2 * blurred > judged)
    };
    (0..cells.len()).map(majority).collect()
}

/// Brightness by ITU-R BT.601, as Pillow's `L`.
pub(super) fn luma(pixel: &[u8]) -> u8 {
    ((u32::from(pixel[0]) * 19595 + u32::from(pixel[1]) * 38470 + u32::from(pixel[2]) * 7471 + (1 << 15)) >> 16) as u8
}

fn sharpness(
    luma: &[u8],
    width: usize,
    height: usize,
    (left, right): (usize, usize),
    (top, bottom): (usize, usize),
    variance_min: f64,
) -> Option<f64> {
    let (mut sum, mut squares, mut energy) = (0i64, 0i64, 0i64);
    // The picture's border has no Laplacian.
    let (left, top, right, bottom) = (left.max(1), top.max(1), right.min(width - 1), bottom.min(height - 1));
    for y in top..bottom {
        for i in y * width + left..y * width + right {
            let at = |i: usize| i32::from(luma[i]);
            let here = at(i);
            let laplacian = 4 * here - at(i - 1) - at(i + 1) - at(i - width) - at(i + width);
            sum += i64::from(here);
            squares += i64::from(here * here);
            energy += i64::from(laplacian * laplacian);
        }
    }
    let n = ((right.saturating_sub(left)) * (bottom.saturating_sub(top))) as f64;
    if n < 16.0 {
        return None;
    }
    let variance = squares as f64 / n - (sum as f64 / n).powi(2);
    (variance >= variance_min).then(|| energy as f64 / n / variance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn brightness_is_pillows() {
        // PIL.Image.new("RGB", (1, 1), rgb).convert("L")
        for (rgb, grey) in [([255, 255, 255], 255), ([200, 80, 150], 124), ([10, 200, 30], 124), ([1, 2, 3], 2)] {
            assert_eq!(luma(&rgb), grey, "{rgb:?}");
        }
    }

    #[test]
    fn a_smooth_half_is_out_of_focus_and_a_noisy_one_is_not() {
        let image = RgbImage::from_fn(256, 128, |x, y| {
            let slow = (f64::from(x) / 12.0).sin() * 30.0 + (f64::from(y) / 9.0).cos() * 20.0;
            let fine = if x < 128 { f64::from((x * 7919 + y * 104_729) % 97) - 48.0 } else { 0.0 };
            Rgb([(150.0 + slow + fine) as u8; 3])
        });
        let options = FocusOptions::default();
        let all = TissueMask::everything(4096, 2048);
        let found = blurred(&image, 4.0, 16.0, &all, &options).unwrap();
        assert_eq!((found.width(), found.height()), (16, 8));
        assert_eq!(found.fraction(0.0, 0.0, 2048.0, 2048.0), 0.0);
        // The cells beside the border between the halves have an edge in them.
        assert!(found.fraction(2304.0, 0.0, 1792.0, 2048.0) > 0.95);
        let none = TissueMask::new(1, 1, 4096.0, 2048.0, vec![0]);
        assert_eq!(blurred(&image, 4.0, 16.0, &none, &options).unwrap().tissue_area_level0(), 0.0);
        assert!(blurred(&image, 8.0, 32.0, &all, &options).is_none());
    }
}
