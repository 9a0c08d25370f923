//! The outlines of a raster as polygons: along the sides of its pixels, so that a mask read back from them is the same.

/// A closed ring of corners (the first is not repeated).
pub(super) type Ring = Vec<[u32; 2]>;

/// A piece of tissue: its outer ring, counter-clockwise where y grows upwards, and its holes.
#[derive(Debug, PartialEq)]
pub(super) struct Polygon {
    pub(super) outer: Ring,
    pub(super) holes: Vec<Ring>,
}

/// The polygons of a raster's set pixels in corners of pixels, (0, 0) the upper left one; pixels that touch at a corner only are
/// apart. In raster order of their upper left corners.
pub(super) fn polygons(mask: &[u8], width: usize, height: usize) -> Vec<Polygon> {
    let mut polygons: Vec<Polygon> = Vec::new();
    let mut holes: Vec<Ring> = Vec::new();
    for ring in rings(mask, width, height) {
        if signed_area(&ring) > 0 {
            polygons.push(Polygon { outer: ring, holes: Vec::new() })
        } else {
            holes.push(ring)
        }
    }
    if holes.is_empty() {
        return polygons;
    }
    // Which piece each pixel belongs to tells which piece a hole is in: the pixel left of the hole's first side.
    let owner = owners(mask, width, &polygons);
    for hole in holes {
        let (x, y) = hole_neighbour(&hole);
        if let Some(owner) = owner[y * width + x].checked_sub(1) {
            polygons[owner as usize].holes.push(hole);
        }
    }
    polygons
}

/// Twice the area within, positive for outer rings.
fn signed_area(ring: &Ring) -> i64 {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).map(|(a, b)| i64::from(a[0]) * i64::from(b[1]) - i64::from(b[0]) * i64::from(a[1])).sum()
}

/// Area within in pixels, negative for holes.
pub(super) fn signed_area_f64(ring: &Ring) -> f64 {
    signed_area(ring) as f64 / 2.0
}

/// Directions clockwise on the screen: right, down, left, up. Tissue lies to the right of a side as it is walked.
const STEPS: [(i64, i64); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];

/// Every closed walk along the borders of set pixels, tissue to the right, corners only.
fn rings(mask: &[u8], width: usize, height: usize) -> Vec<Ring> {
    let at = |x: i64, y: i64| {
        x >= 0 && y >= 0 && x < width as i64 && y < height as i64 && mask[y as usize * width + x as usize] != 0
    };
    // The pixels right and left of the side that leaves corner (x, y) in a direction.
    let right = |x: i64, y: i64, direction: usize| match direction {
        0 => at(x, y),
        1 => at(x - 1, y),
        2 => at(x - 1, y - 1),
        _ => at(x, y - 1),
    };
    let left = |x: i64, y: i64, direction: usize| match direction {
        0 => at(x, y - 1),
        1 => at(x, y),
        2 => at(x - 1, y),
        _ => at(x - 1, y - 1),
    };
    // Every ring has sides that run to the right: walks start there, and each is walked once.
    let mut walked = vec![false; (width + 1) * (height + 1)];
    let mut rings = Vec::new();
    for start_y in 0..=height as i64 {
        for start_x in 0..width as i64 {
            let fresh = !walked[start_y as usize * (width + 1) + start_x as usize];
            if !(fresh && right(start_x, start_y, 0) && !left(start_x, start_y, 0)) {
                continue;
            }
            let (mut x, mut y, mut direction) = (start_x, start_y, 0usize);
            let mut ring: Ring = Vec::new();
            loop {
                if direction == 0 {
                    walked[y as usize * (width + 1) + x as usize] = true;
                }
                (x, y) = (x + STEPS[direction].0, y + STEPS[direction].1);
                // Sharpest turn to the tissue's side first: pixels that touch at a corner stay apart.
                let turns = [(direction + 1) % 4, direction, (direction + 3) % 4];
                let next = turns.into_iter().find(|&d| right(x, y, d) && !left(x, y, d)).unwrap_or(turns[2]);
                if next != direction {
                    ring.push([x as u32, y as u32]);
                }
                direction = next;
                if (x, y, direction) == (start_x, start_y, 0) {
                    break;
                }
            }
            rings.push(ring);
        }
    }
    rings
}

/// For each pixel 1 + the number of its polygon, 0 outside all: pieces are 4-connected, as rings are.
fn owners(mask: &[u8], width: usize, polygons: &[Polygon]) -> Vec<u32> {
    let mut owner = vec![0u32; mask.len()];
    let mut stack = Vec::new();
    for (number, polygon) in (1u32..).zip(polygons) {
        // The uppermost, then leftmost corner is the upper left one of a pixel of the piece.
        let Some(&[x, y]) = polygon.outer.iter().min_by_key(|corner| (corner[1], corner[0])) else { continue };
        stack.push(y as usize * width + x as usize);
        while let Some(i) = stack.pop() {
            if mask[i] == 0 || owner[i] != 0 {
                continue;
            }
            owner[i] = number;
            let x = i % width;
            if x > 0 {
                stack.push(i - 1);
            }
            if x + 1 < width {
                stack.push(i + 1);
            }
            if i >= width {
                stack.push(i - width);
            }
            if i + width < mask.len() {
                stack.push(i + width);
            }
        }
    }
    owner
}

/// The set pixel above the uppermost, then leftmost corner of a hole.
fn hole_neighbour(hole: &Ring) -> (usize, usize) {
    let corner = hole.iter().min_by_key(|corner| (corner[1], corner[0])).copied().unwrap_or_default();
    (corner[0] as usize, corner[1] as usize - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(rows: &[&str]) -> (Vec<u8>, usize, usize) {
        (rows.iter().flat_map(|row| row.bytes().map(|c| u8::from(c == b'#'))).collect(), rows[0].len(), rows.len())
    }

    #[test]
    fn a_square_with_a_hole_and_an_island() {
        let (mask, w, h) = raster(&["#####..", "#...#..", "#.#.#..", "#...#..", "#####.#"]);
        let found = polygons(&mask, w, h);
        assert_eq!(found.len(), 3);
        assert_eq!(signed_area(&found[0].outer), 50);
        assert_eq!(found[0].holes.len(), 1);
        assert_eq!(signed_area(&found[0].holes[0]), -18);
        assert_eq!((signed_area(&found[1].outer), signed_area(&found[2].outer)), (2, 2));
        assert!(found[1].holes.is_empty());
    }

    #[test]
    fn areas_add_up_on_any_raster() {
        for seed in 0..40u32 {
            let (width, height) = (17usize, 13usize);
            let random = |i: u32| i.wrapping_add(seed * 977).wrapping_mul(2_654_435_761) >> 21 & 7;
            let mask: Vec<u8> = (0..(width * height) as u32).map(|i| u8::from(random(i) < 4)).collect();
            let found = polygons(&mask, width, height);
            let rings = found.iter().flat_map(|p| p.holes.iter().chain([&p.outer]));
            let area: i64 = rings.clone().map(signed_area).sum();
            assert_eq!(area, 2 * mask.iter().map(|&set| i64::from(set)).sum::<i64>(), "seed {seed}");
            for ring in rings {
                // Right angles only: each corner changes one coordinate, in turn.
                let next = ring.iter().cycle().skip(1);
                assert!(ring.iter().zip(next).all(|(a, b)| (a[0] == b[0]) != (a[1] == b[1])), "seed {seed}");
            }
        }
    }
}
