//! A slide's feature map: one pixel per tile of its grid, coloured by the cohort's principal components.

use crate::error::{Error, Result};
use crate::features::Bag;
use crate::record::Record;
use crate::report::pca::Projection;

/// Steps of each colour channel in the palette.
const STEPS: usize = 6;

/// The grid of a slide's tiles in level-0 pixels; anchored at (0, 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance of neighbouring tiles.
    pub step: u32,
    /// Side of a tile.
    pub tile: u32,
    /// Width of level 0.
    pub width: u32,
    /// Height of level 0.
    pub height: u32,
}

impl Grid {
    /// The grid of a record's slide whose contract has tiles of `tile_px` and `overlap_px`, by the rule of
    /// [`ReadPlan`](crate::tiling::ReadPlan).
    #[must_use]
    pub fn of(record: &Record, tile_px: u32, overlap_px: u32) -> Self {
        let per_px = record.read.reduction * record.read.level_downsample;
        let step = (f64::from(tile_px.saturating_sub(overlap_px)) * per_px).round().max(1.0);
        Grid {
            step: step as u32,
            tile: record.read.tile_size_level0.max(1),
            width: record.slide.width.max(1),
            height: record.slide.height.max(1),
        }
    }

    /// Column and row of the tile at a level-0 point; `None` where there is none.
    #[must_use]
    pub fn cell(&self, [x, y]: [i64; 2]) -> Option<(u32, u32)> {
        let inside = (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y);
        inside.then(|| (x as u32 / self.step, y as u32 / self.step))
    }
}

/// A drawn map.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMap {
    /// PNG with a palette; transparent where there is no tile.
    pub png: Vec<u8>,
    /// Left, top, width and height as shares of level 0; what reaches over the right or lower edge is above 1.
    pub place: [f64; 4],
}

/// Draws the map of a bag's tiles, with sides of at most `side_max` pixels: several tiles share a pixel where there are more.
/// `None` where the bag has no tiles.
///
/// # Errors
/// [`Error::Output`] where the features cannot be read or have another dimension than the projection.
pub fn draw(bag: &Bag, grid: &Grid, projection: &Projection, side_max: u32) -> Result<Option<FeatureMap>> {
    if bag.dim() != projection.dim() {
        return Err(Error::Output(format!("features of {} values, {} expected", bag.dim(), projection.dim())));
    }
    let mut colours = Vec::with_capacity(bag.rows());
    bag.read(|rows| {
        colours.extend(rows.chunks_exact(bag.dim()).map(|row| projection.colour(row)));
        Ok(())
    })?;
    paint(bag.coords(), &colours, grid, side_max)
}

fn paint(coords: &[[i64; 2]], colours: &[[f32; 3]], grid: &Grid, side_max: u32) -> Result<Option<FeatureMap>> {
    let cells: Vec<_> = coords.iter().map(|at| grid.cell(*at)).collect();
    let Some((mut left, mut top)) = cells.iter().flatten().next().copied() else { return Ok(None) };
    let (mut right, mut bottom) = (left, top);
    for (column, row) in cells.iter().flatten() {
        (left, right) = (left.min(*column), right.max(*column));
        (top, bottom) = (top.min(*row), bottom.max(*row));
    }
    let (columns, rows) = (right - left + 1, bottom - top + 1);
    let factor = columns.max(rows).div_ceil(side_max.max(1));
    let (width, height) = (columns.div_ceil(factor), rows.div_ceil(factor));
    let mut sums = vec![([0.0f32; 3], 0u32); width as usize * height as usize];
    for (cell, colour) in cells.iter().zip(colours) {
        let Some((column, row)) = cell else { continue };
        let (sum, n) = &mut sums[((row - top) / factor * width + (column - left) / factor) as usize];
        sum.iter_mut().zip(colour).for_each(|(sum, channel)| *sum += channel);
        *n += 1;
    }
    let indices = sums.iter().map(|(sum, n)| match n {
        0 => 0,
        n => 1 + sum.iter().fold(0, |index, channel| index * STEPS as u8 + level(channel / *n as f32)),
    });
    let png = encode(width, height, &indices.collect::<Vec<u8>>())?;
    let step = f64::from(grid.step);
    let share = |cells: u32, side: u32| f64::from(cells) * step / f64::from(side);
    let (across, down) = (width * factor, height * factor);
    let place = [share(left, grid.width), share(top, grid.height), share(across, grid.width), share(down, grid.height)];
    Ok(Some(FeatureMap { png, place }))
}

fn level(channel: f32) -> u8 {
    (channel.clamp(0.0, 1.0) * (STEPS - 1) as f32).round() as u8
}

fn encode(width: u32, height: u32, indices: &[u8]) -> Result<Vec<u8>> {
    let mut palette = vec![0; 3];
    for index in 0..STEPS.pow(3) {
        let channels = [index / (STEPS * STEPS), index / STEPS % STEPS, index % STEPS];
        palette.extend(channels.map(|channel| (channel * 255 / (STEPS - 1)) as u8));
    }
    let mut png = Vec::new();
    let failed = |e: png::EncodingError| Error::Internal(format!("a feature map as PNG: {e}"));
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    encoder.set_trns(vec![0]);
    // Neighbouring indices are no neighbouring numbers: prediction only adds to their entropy.
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(indices).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { step: 100, tile: 100, width: 1000, height: 500 };

    fn pixels(map: &FeatureMap) -> image::RgbaImage {
        image::load_from_memory(&map.png).expect("a PNG").to_rgba8()
    }

    #[test]
    fn tiles_lie_where_they_are() {
        let coords = [[200, 100], [400, 300], [900, 400]];
        let colours = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.4, 1.0]];
        let map = paint(&coords, &colours, &GRID, 100).expect("drawn").expect("tiles");
        assert_eq!(map.place, [0.2, 0.2, 0.8, 0.8]);
        let picture = pixels(&map);
        assert_eq!(picture.dimensions(), (8, 4));
        assert_eq!(picture.get_pixel(0, 0).0, [255, 0, 0, 255]);
        assert_eq!(picture.get_pixel(2, 2).0, [0, 255, 0, 255]);
        assert_eq!(picture.get_pixel(7, 3).0, [51, 102, 255, 255]);
        assert_eq!(picture.pixels().filter(|p| p.0[3] == 0).count(), 8 * 4 - 3);
    }

    #[test]
    fn large_grids_are_averaged() {
        let coords = [[0, 0], [100, 0], [900, 0]];
        let colours = [[1.0, 1.0, 1.0], [0.2, 0.2, 0.2], [0.0, 0.0, 0.0]];
        let map = paint(&coords, &colours, &GRID, 5).expect("drawn").expect("tiles");
        let picture = pixels(&map);
        assert_eq!(picture.dimensions(), (5, 1));
        assert_eq!(map.place, [0.0, 0.0, 1.0, 0.4]);
        assert_eq!(picture.get_pixel(0, 0).0, [153, 153, 153, 255]);
        assert_eq!(picture.get_pixel(4, 0).0, [0, 0, 0, 255]);
    }

    #[test]
    fn tiles_outside_the_slide_are_left_out() {
        assert_eq!(paint(&[], &[], &GRID, 5).expect("drawn"), None);
        assert_eq!(paint(&[[-100, 0], [1000, 0], [0, i64::MAX]], &[[0.0; 3]; 3], &GRID, 5).expect("drawn"), None);
    }
}
