//! The tissue mask: a raster over the whole slide that answers in level-0 pixels.

use super::morphology;
use super::options::PieceOptions;

/// Tissue as a raster over the whole slide.
///
/// Pixel `(i, j)` covers the level-0 rectangle `[i * dx, (i + 1) * dx) x [j * dy, (j + 1) * dy)`, with `dx`, `dy`
/// the downsamples (level-0 pixels per mask pixel). Outside the raster there is no tissue.
#[derive(Clone, Debug, PartialEq)]
pub struct TissueMask {
    width: u32,
    height: u32,
    downsample_x: f64,
    downsample_y: f64,
    data: Vec<u8>,
    /// `(width + 1) x (height + 1)`: tissue pixels above and left of each corner.
    integral: Vec<u32>,
}

impl TissueMask {
    /// A mask of `width x height` pixels, row by row; any non-zero byte is tissue.
    ///
    /// # Panics
    /// If `data` has not `width * height` bytes, the raster has 2^32 pixels or more, or a downsample is not
    /// positive and finite: each is a bug of the caller.
    pub fn new(width: u32, height: u32, downsample_x: f64, downsample_y: f64, mut data: Vec<u8>) -> Self {
        assert_eq!(data.len() as u64, u64::from(width) * u64::from(height), "mask bytes against its size");
        assert!(u32::try_from(data.len()).is_ok(), "a mask of {width} x {height} pixels is too large");
        let valid = |downsample: f64| downsample.is_finite() && downsample > 0.0;
        assert!(valid(downsample_x) && valid(downsample_y), "mask downsample {downsample_x}, {downsample_y}");
        data.iter_mut().for_each(|pixel| *pixel = u8::from(*pixel != 0));
        let integral = integrate(&data, width as usize, height as usize);
        Self { width, height, downsample_x, downsample_y, data, integral }
    }

    /// The whole slide is tissue (`--tissue none`): one pixel as large as the slide.
    pub fn everything(slide_width: u32, slide_height: u32) -> Self {
        Self::new(1, 1, f64::from(slide_width.max(1)), f64::from(slide_height.max(1)), vec![1])
    }

    /// Width in mask pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in mask pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Level-0 pixels per mask pixel, `(x, y)`.
    pub fn downsample(&self) -> (f64, f64) {
        (self.downsample_x, self.downsample_y)
    }

    /// The raster, row by row: 1 tissue, 0 none.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The mask without holes and pieces smaller than those of `pieces`; `mpp` is µm per mask pixel.
    #[must_use]
    pub fn cleaned(self, pieces: &PieceOptions, mpp: f64) -> Self {
        let pixels = |um2: f64| (um2 / (mpp * mpp)).ceil() as u64;
        let (width, mut data) = (self.width as usize, self.data);
        morphology::fill_holes(&mut data, width, pixels(pieces.min_hole_um2));
        morphology::drop_small(&mut data, width, pixels(pieces.min_area_um2));
        Self::new(self.width, self.height, self.downsample_x, self.downsample_y, data)
    }

    /// Is the level-0 point on tissue?
    pub fn contains(&self, x_level0: f64, y_level0: f64) -> bool {
        let (x, y) = ((x_level0 / self.downsample_x).floor(), (y_level0 / self.downsample_y).floor());
        let inside = x >= 0.0 && y >= 0.0 && x < f64::from(self.width) && y < f64::from(self.height);
        inside && self.data[y as usize * self.width as usize + x as usize] != 0
    }

    /// Area fraction (0..=1) of tissue in a level-0 rectangle; partly covered mask pixels count by their area,
    /// and what lies outside the mask counts as no tissue. Constant time. Rounded to 9 decimals.
    /// An empty rectangle has fraction 0.
    ///
    /// The integral of a piecewise constant raster is bilinear within each pixel, so interpolating the summed
    /// area table (Crow 1984) at the four corners is exact.
    pub fn fraction(&self, x_level0: f64, y_level0: f64, width_level0: f64, height_level0: f64) -> f64 {
        let area = width_level0 * height_level0 / (self.downsample_x * self.downsample_y);
        let finite = area.is_finite() && x_level0.is_finite() && y_level0.is_finite();
        if !(finite && width_level0 > 0.0 && height_level0 > 0.0) {
            return 0.0;
        }
        let (left, right) = (x_level0 / self.downsample_x, (x_level0 + width_level0) / self.downsample_x);
        let (top, bottom) = (y_level0 / self.downsample_y, (y_level0 + height_level0) / self.downsample_y);
        let tissue = self.sum(right, bottom) - self.sum(left, bottom) - self.sum(right, top) + self.sum(left, top);
        // A rectangle full of tissue gives exactly 1, so that it passes a minimum of 1.
        ((tissue / area * 1e9).round() / 1e9).clamp(0.0, 1.0)
    }

    /// Tissue area in mask pixels above and left of the point `(x, y)`, in mask pixels.
    fn sum(&self, x: f64, y: f64) -> f64 {
        let (x, y) = (x.clamp(0.0, f64::from(self.width)), y.clamp(0.0, f64::from(self.height)));
        let (column, row) = (x as usize, y as usize);
        let (fx, fy) = (x - column as f64, y - row as f64);
        let stride = self.width as usize + 1;
        let (right, below) = ((column + 1).min(self.width as usize), (row + 1).min(self.height as usize));
        let at = |column: usize, row: usize| f64::from(self.integral[row * stride + column]);
        let top = at(column, row) * (1.0 - fx) + at(right, row) * fx;
        let bottom = at(column, below) * (1.0 - fx) + at(right, below) * fx;
        top * (1.0 - fy) + bottom * fy
    }

    /// Tissue area in square level-0 pixels (times mpp² it is µm²).
    pub fn tissue_area_level0(&self) -> f64 {
        let pixels = self.integral.last().copied().unwrap_or(0);
        f64::from(pixels) * self.downsample_x * self.downsample_y
    }

    /// The smallest level-0 rectangle around all tissue, `[x, y, width, height]`; `None` where there is no tissue.
    pub fn bounding_box(&self) -> Option<[f64; 4]> {
        let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, usize::MAX, 0);
        for (y, row) in self.data.chunks_exact((self.width as usize).max(1)).enumerate() {
            let Some(first) = row.iter().position(|&set| set != 0) else {
                continue;
            };
            let last = row.iter().rposition(|&set| set != 0).unwrap_or(first);
            (left, right) = (left.min(first), right.max(last + 1));
            (top, bottom) = (top.min(y), y + 1);
        }
        let x_level0 = |x: usize| x as f64 * self.downsample_x;
        let y_level0 = |y: usize| y as f64 * self.downsample_y;
        (right > 0).then(|| [x_level0(left), y_level0(top), x_level0(right - left), y_level0(bottom - top)])
    }

    /// Tissue pixels with a side on no tissue or on the mask's border, `[x, y]` in mask pixels, row by row.
    pub fn outline(&self) -> Vec<[u32; 2]> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut boundary = Vec::new();
        for (i, _) in self.data.iter().enumerate().filter(|&(_, &set)| set != 0) {
            let (x, y) = (i % width, i / width);
            let at_border = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
            if at_border || [i - 1, i + 1, i - width, i + width].iter().any(|&near| self.data[near] == 0) {
                boundary.push([x as u32, y as u32]);
            }
        }
        boundary
    }
}

fn integrate(data: &[u8], width: usize, height: usize) -> Vec<u32> {
    let stride = width + 1;
    let mut integral = vec![0u32; stride * (height + 1)];
    for y in 0..height {
        let (above, below) = integral.split_at_mut((y + 1) * stride);
        let above = &above[y * stride..];
        let mut row_sum = 0;
        for (x, &set) in data[y * width..(y + 1) * width].iter().enumerate() {
            row_sum += u32::from(set);
            below[x + 1] = above[x + 1] + row_sum;
        }
    }
    integral
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```text
    /// .##.
    /// .#..
    /// ....
    /// ```
    /// at 10 x 20 level-0 pixels a mask pixel.
    fn small() -> TissueMask {
        TissueMask::new(4, 3, 10.0, 20.0, vec![0, 1, 9, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    }

    #[test]
    fn fractions_weigh_partial_pixels() {
        let mask = small();
        for (rectangle, expected) in [
            ([10.0, 0.0, 10.0, 20.0], 1.0),
            ([0.0, 0.0, 40.0, 60.0], 0.25),
            ([15.0, 0.0, 10.0, 20.0], 1.0),
            ([25.0, 0.0, 10.0, 20.0], 0.5),
            ([5.0, 10.0, 10.0, 20.0], 0.5),
            ([20.0, 10.0, 10.0, 20.0], 0.5),
            ([12.0, 3.0, 1.0, 1.0], 1.0),
            ([0.0, 40.0, 40.0, 20.0], 0.0),
            ([10.0, -20.0, 10.0, 40.0], 0.5),
            ([10.0, -20.0, 10.0, 20.0], 0.0),
            ([35.0, 55.0, 1e9, 1e9], 0.0),
            ([10.0, 0.0, 0.0, 5.0], 0.0),
            ([10.0, 0.0, -5.0, -5.0], 0.0),
            ([f64::NAN, 0.0, 5.0, 5.0], 0.0),
        ] {
            let [x, y, width, height] = rectangle;
            let got = mask.fraction(x, y, width, height);
            assert!((got - expected).abs() < 1e-12, "{rectangle:?}: {got} against {expected}");
        }
    }

    #[test]
    fn fractions_equal_summing_the_area_of_every_pixel() {
        let (width, height, dx, dy) = (13u32, 9u32, 3.7, 5.3);
        let data: Vec<u8> =
            (0..width * height).map(|i| u8::from(i.wrapping_mul(2_654_435_761) >> 20 & 7 < 3)).collect();
        let mask = TissueMask::new(width, height, dx, dy, data.clone());
        let overlap = |a: f64, b: f64, c: f64, d: f64| (b.min(d) - a.max(c)).max(0.0);
        for step in 0..60 {
            let (x, y) = (f64::from(step) * 1.13 - 8.0, f64::from(step) * 0.91 - 5.0);
            let (w, h) = (1.0 + f64::from(step % 11) * 2.3, 1.0 + f64::from(step % 5) * 4.1);
            let mut area = 0.0;
            for (i, &set) in data.iter().enumerate() {
                let (left, top) = (f64::from(i as u32 % width) * dx, f64::from(i as u32 / width) * dy);
                area += f64::from(set) * overlap(x, x + w, left, left + dx) * overlap(y, y + h, top, top + dy);
            }
            assert!((mask.fraction(x, y, w, h) - area / (w * h)).abs() < 1e-9);
        }
    }

    #[test]
    fn area_box_and_outline() {
        let mask = small();
        assert_eq!(mask.tissue_area_level0(), 600.0);
        assert_eq!(mask.bounding_box(), Some([10.0, 0.0, 20.0, 40.0]));
        assert_eq!(mask.outline(), vec![[1, 0], [2, 0], [1, 1]]);
        assert_eq!(TissueMask::new(3, 3, 1.0, 1.0, vec![1; 9]).outline().len(), 8);
        assert!(mask.contains(10.0, 0.0) && mask.contains(19.9, 39.9));
        assert!(!mask.contains(9.9, 0.0) && !mask.contains(-1.0, 5.0) && !mask.contains(10.0, 60.0));
    }

    #[test]
    fn everything_and_nothing() {
        let all = TissueMask::everything(1000, 700);
        assert_eq!(all.fraction(900.0, 600.0, 100.0, 100.0), 1.0);
        assert_eq!(all.fraction(900.0, 600.0, 200.0, 200.0), 0.25);
        assert_eq!(all.tissue_area_level0(), 700_000.0);
        let nothing = TissueMask::new(0, 0, 1.0, 1.0, Vec::new());
        assert_eq!((nothing.fraction(0.0, 0.0, 5.0, 5.0), nothing.bounding_box()), (0.0, None));
        assert!(nothing.outline().is_empty() && !nothing.contains(0.0, 0.0));
    }
}
