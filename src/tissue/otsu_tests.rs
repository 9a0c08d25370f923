//! Otsu's method on drawn slides: empty, full, tinted, inked, dusty.

use image::{Rgb, RgbImage};

use super::{OtsuOptions, Segmentation, segment_otsu};

const GLASS: [u8; 3] = [243, 243, 245];
const EOSIN: [u8; 3] = [205, 95, 155];
const BLUE_PEN: [u8; 3] = [30, 60, 170];

/// A little noise without a random generator: -2..=2.
fn noise(x: u32, y: u32) -> i16 {
    (x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663)).wrapping_mul(2_654_435_761).wrapping_shr(24) as i16 % 5
        - 2
}

/// 200 x 150 pixels (1.6 x 1.2 mm at 8 µm/px) of `colour(x, y)` with noise (grey on tissue, one value a pixel).
fn slide(colour: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
    RgbImage::from_fn(200, 150, |x, y| {
        let base = colour(x, y);
        let pure = base == [255; 3] || base == [0; 3];
        Rgb(base.map(|c| if pure { c } else { (i16::from(c) + noise(x, y)).clamp(0, 253) as u8 }))
    })
}

fn run(image: &RgbImage) -> Segmentation {
    segment_otsu(image, 8.0, &OtsuOptions::default())
}

fn in_disc(x: u32, y: u32, centre: (f64, f64), radius: f64) -> bool {
    (f64::from(x) - centre.0).hypot(f64::from(y) - centre.1) <= radius
}

/// Intersection over union of the mask with `truth(x, y)`.
fn iou(found: &Segmentation, truth: impl Fn(u32, u32) -> bool) -> f64 {
    let (mut both, mut either) = (0, 0);
    for (i, &set) in (0u32..).zip(&found.mask) {
        let expected = truth(i % found.width, i / found.width);
        both += u32::from(set == 1 && expected);
        either += u32::from(set == 1 || expected);
    }
    f64::from(both) / f64::from(either)
}

#[test]
fn a_disc_of_tissue_is_found_on_any_glass() {
    let disc = |x, y| in_disc(x, y, (90.0, 70.0), 45.0);
    for glass in [GLASS, [225, 218, 190], [230, 235, 240], [255, 255, 255]] {
        for tissue in [EOSIN, [225, 180, 205], [120, 80, 50], [100, 85, 155]] {
            let found = run(&slide(|x, y| if disc(x, y) { tissue } else { glass }));
            assert!(iou(&found, disc) > 0.97, "{glass:?} {tissue:?}: {}", iou(&found, disc));
            assert_eq!((found.pen_pixels, found.warnings.len()), (0, 0), "{glass:?} {tissue:?}");
        }
    }
}

#[test]
fn an_empty_slide_stays_empty_and_says_so() {
    for glass in [GLASS, [225, 218, 190]] {
        let found = run(&slide(|_, _| glass));
        assert_eq!(found.mask.iter().max(), Some(&0));
        assert!(found.warnings[0].contains("no tissue"), "{:?}", found.warnings);
    }
    for pure in [[255; 3], [0; 3]] {
        let found = run(&slide(|_, _| pure));
        assert_eq!((found.mask.iter().max(), found.unscanned_pixels), (Some(&0), 200 * 150));
        assert!(found.warnings[0].contains("nothing was scanned"), "{:?}", found.warnings);
    }
}

#[test]
fn a_slide_full_of_tissue_stays_whole() {
    let two_stains = slide(|x, y| if (x / 20 + y / 20) % 2 == 0 { EOSIN } else { [225, 185, 208] });
    assert_eq!(run(&two_stains).mask.iter().min(), Some(&1));
}

#[test]
fn pen_is_cut_out_also_over_tissue() {
    let disc = |x, y| in_disc(x, y, (90.0, 70.0), 50.0);
    for pen in [BLUE_PEN, [20, 140, 70], [28, 30, 33], [210, 20, 35]] {
        let stroke = |x: u32| (110..125).contains(&x);
        let found = run(&slide(|x, y| {
            if stroke(x) {
                pen
            } else if disc(x, y) {
                EOSIN
            } else {
                GLASS
            }
        }));
        for (i, &set) in (0u32..).zip(&found.mask) {
            assert!(set == 0 || !stroke(i % 200), "{pen:?} kept at {i}");
        }
        assert!(found.pen_pixels >= 15 * 150 && found.pen_pixels <= 21 * 150, "{pen:?} {}", found.pen_pixels);
        assert!(iou(&found, |x, y| disc(x, y) && !stroke(x)) > 0.9);
    }
}

#[test]
fn dust_lines_and_unscanned_areas_are_no_tissue() {
    let disc = |x, y| in_disc(x, y, (60.0, 70.0), 40.0);
    let found = run(&slide(|x, y| match (x, y) {
        _ if disc(x, y) => EOSIN,
        (150.., 100..) => [255; 3],
        (150.., ..20) => [0; 3],
        (130..=133, _) => [150, 150, 155],
        (160..=170, 50..=60) => [60, 60, 64],
        _ => GLASS,
    }));
    assert!(iou(&found, disc) > 0.97);
    // The median rounds corners off.
    assert!(found.unscanned_pixels.abs_diff(50 * 50 + 50 * 20) <= 4);
}

#[test]
fn small_holes_fill_and_large_ones_and_crumbs_follow_the_options() {
    let truth = |x, y| in_disc(x, y, (90.0, 70.0), 60.0) && !in_disc(x, y, (70.0, 70.0), 15.0);
    let picture = slide(|x, y| {
        let crumb = in_disc(x, y, (185.0, 130.0), 5.0);
        let small_hole = in_disc(x, y, (120.0, 70.0), 6.0);
        if (truth(x, y) && !small_hole) || crumb { EOSIN } else { GLASS }
    });
    assert!(iou(&run(&picture), truth) > 0.97);
    let all = OtsuOptions { min_hole_um2: 0.0, min_area_um2: 0.0, ..OtsuOptions::default() };
    let found = segment_otsu(&picture, 8.0, &all);
    assert_eq!((found.mask[70 * 200 + 120], found.mask[130 * 200 + 185]), (0, 1));
}

#[test]
fn fluorescence_and_much_pen_are_warned_of() {
    let dark = run(&slide(|x, y| if in_disc(x, y, (90.0, 70.0), 20.0) { [180, 40, 30] } else { [12, 8, 8] }));
    assert!(dark.warnings.iter().any(|w| w.contains("fluorescence")), "{:?}", dark.warnings);
    let pen = run(&slide(|x, _| {
        if x < 80 {
            BLUE_PEN
        } else if x < 120 {
            EOSIN
        } else {
            GLASS
        }
    }));
    assert!(pen.warnings.iter().any(|w| w.contains("pen colours cover")), "{:?}", pen.warnings);
}

#[test]
fn empty_and_tiny_pictures_do_no_harm() {
    assert!(run(&RgbImage::new(0, 0)).mask.is_empty());
    for (width, height) in [(1, 1), (1, 7), (7, 1), (2, 2)] {
        assert_eq!(run(&RgbImage::from_pixel(width, height, Rgb(EOSIN))).mask.len() as u32, width * height);
    }
}

#[test]
fn options_are_written_with_their_names() {
    let json = serde_json::to_value(OtsuOptions::default()).unwrap();
    assert_eq!(json["pen"]["blue_hue"][1], 238.0);
    assert_eq!(json["background"]["share_min"], 0.05);
    assert_eq!(json["mask_mpp"], 8.0);
}

#[test]
fn a_uniform_picture_is_no_tissue() {
    for value in [255, 245, 128] {
        let image = RgbImage::from_pixel(120, 90, Rgb([value; 3]));
        let found = segment_otsu(&image, 8.0, &OtsuOptions::default());
        assert_eq!(found.mask.iter().filter(|m| **m != 0).count(), 0, "grey {value}: {found:?}");
    }
}
