//! Binary morphology on byte rasters (0/1, row by row): discs, holes, small components, the 3x3 median.
//!
//! Discs are exact Euclidean ones, `dx² + dy² <= r²`. Outside the raster lies nothing for a dilation and
//! everything for an erosion, so tissue that runs off the slide's edge is not eaten from there.
//! Time is linear in the pixels; a disc costs `2r + 1` vectorised passes, so radii are meant to be small (<= 100 px).

use rayon::prelude::*;

/// Pixels within `radius_px` of a set pixel.
pub(super) fn dilate(mask: &[u8], width: usize, height: usize, radius_px: f64) -> Vec<u8> {
    let radius = radius_px.clamp(0.0, 127.0);
    let reach = radius.floor() as usize;
    if reach == 0 || mask.is_empty() {
        return mask.to_vec();
    }
    let distances = row_distances(mask, width);
    // For a row dy away the disc is half_width(dy) pixels wide to either side.
    let half_width: Vec<u8> =
        (0..=reach).map(|dy| (radius * radius - (dy * dy) as f64).max(0.0).sqrt() as u8).collect();
    let mut out = vec![0u8; mask.len()];
    out.par_chunks_exact_mut(width).enumerate().for_each(|(y, row)| {
        for source_y in y.saturating_sub(reach)..(y + reach + 1).min(height) {
            let limit = half_width[y.abs_diff(source_y)];
            let source = &distances[source_y * width..(source_y + 1) * width];
            for (pixel, &distance) in row.iter_mut().zip(source) {
                *pixel |= u8::from(distance <= limit);
            }
        }
    });
    out
}

/// Distance along the row to the nearest set pixel, at most 255 (= none near).
fn row_distances(mask: &[u8], width: usize) -> Vec<u8> {
    let mut distances = vec![255u8; mask.len()];
    for (row, source) in distances.chunks_exact_mut(width).zip(mask.chunks_exact(width)) {
        let mut near = 255u8;
        for (distance, &set) in row.iter_mut().zip(source) {
            near = if set != 0 { 0 } else { near.saturating_add(1) };
            *distance = near;
        }
        near = 255;
        for distance in row.iter_mut().rev() {
            near = near.saturating_add(1).min(*distance);
            *distance = near;
        }
    }
    distances
}

/// Pixels farther than `radius_px` from every clear pixel.
pub(super) fn erode(mask: &[u8], width: usize, height: usize, radius_px: f64) -> Vec<u8> {
    let inverse: Vec<u8> = mask.iter().map(|&set| u8::from(set == 0)).collect();
    let mut out = dilate(&inverse, width, height, radius_px);
    out.iter_mut().for_each(|pixel| *pixel ^= 1);
    out
}

/// Bridges gaps narrower than twice the radius.
pub(super) fn close(mask: &[u8], width: usize, height: usize, radius_px: f64) -> Vec<u8> {
    erode(&dilate(mask, width, height, radius_px), width, height, radius_px)
}

/// Removes specks and threads narrower than twice the radius.
pub(super) fn open(mask: &[u8], width: usize, height: usize, radius_px: f64) -> Vec<u8> {
    dilate(&erode(mask, width, height, radius_px), width, height, radius_px)
}

/// Clears set components (8-connected) of fewer than `min_px` pixels.
pub(super) fn drop_small(mask: &mut [u8], width: usize, min_px: u64) {
    repaint(mask, width, 1, true, |area, _| area < min_px);
}

/// Sets clear components (4-connected) of fewer than `min_px` pixels that don't touch the raster's border.
pub(super) fn fill_holes(mask: &mut [u8], width: usize, min_px: u64) {
    repaint(mask, width, 0, false, |area, at_border| !at_border && area < min_px);
}

/// Set pixels that hang together (8-connected).
pub(super) struct Piece {
    runs: Vec<Run>,
    /// Number of pixels.
    pub(super) area: u64,
    /// Bounding box, `left..right` and `top..bottom`.
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) top: usize,
    pub(super) bottom: usize,
}

/// The pieces of a raster, in raster order of their first pixels.
pub(super) fn pieces(mask: &[u8], width: usize) -> Vec<Piece> {
    let (runs, mut parent) = connected_runs(mask, width, 1, 1);
    let mut place = vec![usize::MAX; runs.len()];
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, run) in runs.into_iter().enumerate() {
        let root = find(&mut parent, index);
        if place[root] == usize::MAX {
            place[root] = pieces.len();
            let (left, right, top, bottom) = (run.start, run.end, run.row, run.row + 1);
            pieces.push(Piece { runs: Vec::new(), area: 0, left, right, top, bottom });
        }
        let piece = &mut pieces[place[root]];
        piece.area += (run.end - run.start) as u64;
        (piece.left, piece.right) = (piece.left.min(run.start), piece.right.max(run.end));
        (piece.top, piece.bottom) = (piece.top.min(run.row), piece.bottom.max(run.row + 1));
        piece.runs.push(run);
    }
    pieces
}

impl Piece {
    /// The places of its pixels in the raster.
    pub(super) fn pixels(&self, width: usize) -> impl Iterator<Item = usize> + '_ {
        self.runs.iter().flat_map(move |run| run.row * width + run.start..run.row * width + run.end)
    }

    /// Pixels of the piece and of what it encloses.
    pub(super) fn filled_area(&self, width: usize) -> u64 {
        let (w, h) = (self.right - self.left, self.bottom - self.top);
        let mut part = vec![0u8; w * h];
        for i in self.pixels(width) {
            part[(i / width - self.top) * w + i % width - self.left] = 1;
        }
        fill_holes(&mut part, w, u64::MAX);
        part.iter().map(|&set| u64::from(set)).sum()
    }
}

/// A horizontal run of equal pixels, `start..end` of its row.
struct Run {
    row: usize,
    start: usize,
    end: usize,
}

/// Inverts each component of `value` for which `chosen(area, touches the border)`.
fn repaint(mask: &mut [u8], width: usize, value: u8, diagonal: bool, chosen: impl Fn(u64, bool) -> bool) {
    if mask.is_empty() {
        return;
    }
    let height = mask.len() / width;
    let (runs, mut parent) = connected_runs(mask, width, value, usize::from(diagonal));
    let mut area = vec![0u64; runs.len()];
    let mut at_border = vec![false; runs.len()];
    for (index, run) in runs.iter().enumerate() {
        let root = find(&mut parent, index);
        area[root] += (run.end - run.start) as u64;
        at_border[root] |= run.row == 0 || run.row + 1 == height || run.start == 0 || run.end == width;
    }
    for (index, run) in runs.iter().enumerate() {
        let root = find(&mut parent, index);
        if chosen(area[root], at_border[root]) {
            mask[run.row * width + run.start..run.row * width + run.end].fill(value ^ 1);
        }
    }
}

/// The runs of `value` in raster order and their union-find forest; runs of neighbouring rows are joined when
/// they overlap after widening by `slack` (1 = diagonal neighbours count).
fn connected_runs(mask: &[u8], width: usize, value: u8, slack: usize) -> (Vec<Run>, Vec<usize>) {
    let mut runs: Vec<Run> = Vec::new();
    let mut parent: Vec<usize> = Vec::new();
    let mut previous = 0..0;
    for (row, pixels) in mask.chunks_exact(width).enumerate() {
        let first = runs.len();
        let mut x = 0;
        while let Some(skip) = pixels[x..].iter().position(|&pixel| pixel == value) {
            let start = x + skip;
            let end = pixels[start..].iter().position(|&pixel| pixel != value).map_or(width, |length| start + length);
            parent.push(runs.len());
            runs.push(Run { row, start, end });
            x = end;
        }
        let mut above = previous.start;
        for current in first..runs.len() {
            while above < previous.end && runs[above].end + slack <= runs[current].start {
                above += 1;
            }
            let mut other = above;
            while other < previous.end && runs[other].start < runs[current].end + slack {
                let (a, b) = (find(&mut parent, other), find(&mut parent, current));
                parent[a.max(b)] = a.min(b);
                other += 1;
            }
        }
        previous = first..runs.len();
    }
    (runs, parent)
}

fn find(parent: &mut [usize], mut index: usize) -> usize {
    while parent[index] != index {
        parent[index] = parent[parent[index]];
        index = parent[index];
    }
    index
}

/// Median of each channel over 3x3 pixels of interleaved RGB; the border repeats its edge pixels.
pub(super) fn median3_rgb(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    let stride = width * 3;
    let mut out = vec![0u8; pixels.len()];
    // Each padded row has one edge pixel repeated at either end.
    let padded = |y: usize, row: &mut Vec<u8>| {
        let source = &pixels[y * stride..(y + 1) * stride];
        row.clear();
        row.extend_from_slice(&source[..3]);
        row.extend_from_slice(source);
        row.extend_from_slice(&source[stride - 3..]);
    };
    out.par_chunks_exact_mut(stride).enumerate().for_each_init(
        || [(); 6].map(|()| vec![0; stride + 6]),
        |[above, here, below, low, middle, high], (y, row)| {
            padded(y.saturating_sub(1), above);
            padded(y, here);
            padded((y + 1).min(height - 1), below);
            // Sort the columns, then: median of (largest low, median middle, smallest high).
            for (i, ((&a, &b), &c)) in above.iter().zip(&*here).zip(&*below).enumerate() {
                low[i] = a.min(b).min(c);
                middle[i] = median3(a, b, c);
                high[i] = a.max(b).max(c);
            }
            let columns = |sorted: &[u8], i: usize| (sorted[i], sorted[i + 3], sorted[i + 6]);
            for (i, pixel) in row.iter_mut().enumerate() {
                let (l0, l1, l2) = columns(low, i);
                let (m0, m1, m2) = columns(middle, i);
                let (h0, h1, h2) = columns(high, i);
                *pixel = median3(l0.max(l1).max(l2), median3(m0, m1, m2), h0.min(h1).min(h2));
            }
        },
    );
    out
}

fn median3(a: u8, b: u8, c: u8) -> u8 {
    a.min(b).max(a.max(b).min(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A raster from rows of '#' and anything else.
    fn raster(rows: &[&str]) -> (Vec<u8>, usize, usize) {
        (rows.iter().flat_map(|row| row.bytes().map(|c| u8::from(c == b'#'))).collect(), rows[0].len(), rows.len())
    }

    #[test]
    fn dilation_is_the_euclidean_disc() {
        let size = 25usize;
        let mut mask = vec![0u8; size * size];
        mask[12 * size + 12] = 1;
        for radius in [0.0, 0.9, 1.0, 1.5, 2.0, 3.7, 5.0] {
            let out = dilate(&mask, size, size, radius);
            for (i, &set) in out.iter().enumerate() {
                let (dx, dy) = ((i % size).abs_diff(12) as f64, (i / size).abs_diff(12) as f64);
                assert_eq!(set == 1, dx * dx + dy * dy <= radius * radius, "radius {radius} at {i}");
            }
        }
    }

    #[test]
    fn erosion_keeps_what_runs_off_the_edge() {
        assert_eq!(erode(&[1; 36], 6, 6, 2.0), vec![1; 36]);
        assert_eq!(open(&[1; 36], 6, 6, 2.0), vec![1; 36]);
    }

    #[test]
    fn closing_bridges_and_opening_drops() {
        let (gap, w, h) = raster(&["##.##", "##.##", "##.##"]);
        assert_eq!(close(&gap, w, h, 1.0), vec![1; 15]);
        let (speck, w, h) = raster(&[".....", "..#..", "....."]);
        assert_eq!(open(&speck, w, h, 1.0), vec![0; 15]);
    }

    #[test]
    fn components_join_diagonally_and_holes_do_not() {
        let (mut diagonal, w, _) = raster(&["#....", ".#...", "..#.#"]);
        drop_small(&mut diagonal, w, 3);
        assert_eq!(diagonal, raster(&["#....", ".#...", "..#.."]).0);
        let (mut holes, w, _) = raster(&["######", "#.##.#", "##.#.#", "######", "#.####"]);
        fill_holes(&mut holes, w, 2);
        assert_eq!(holes, raster(&["######", "####.#", "####.#", "######", "#.####"]).0);
    }

    #[test]
    fn a_u_shape_is_one_component() {
        let (mut shape, w, _) = raster(&["#...#", "#...#", "#####"]);
        let whole = shape.clone();
        drop_small(&mut shape, w, 9);
        assert_eq!(shape, whole);
        drop_small(&mut shape, w, 10);
        assert_eq!(shape, vec![0; 15]);
    }

    #[test]
    fn median_equals_sorting() {
        let (width, height) = (7usize, 5usize);
        let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let out = median3_rgb(&pixels, width, height);
        for (i, &got) in out.iter().enumerate() {
            let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
            let mut window = Vec::new();
            for dy in 0..3 {
                for dx in 0..3 {
                    let sx = (x + dx).saturating_sub(1).min(width - 1);
                    let sy = (y + dy).saturating_sub(1).min(height - 1);
                    window.push(pixels[(sy * width + sx) * 3 + c]);
                }
            }
            window.sort_unstable();
            assert_eq!(got, window[4]);
        }
    }
}
