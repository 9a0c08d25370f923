//! Otsu's method on drawn slides: empty, full, tinted, inked, dusty.

use image::{Rgb, RgbImage};

use super::{Artefacts, PieceOptions, Segmentation, TissueMethod, TissueOptions, survey};

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
    find(image, &TissueMethod::Otsu)
}

fn find(image: &RgbImage, method: &TissueMethod) -> Segmentation {
    let options = TissueOptions::default();
    survey(image, 8.0, &options).segment(method, &options).unwrap()
}

fn artefacts(image: &RgbImage) -> Artefacts {
    let options = TissueOptions::default();
    let survey = survey(image, 8.0, &options);
    survey.artefacts(&survey.segment(&TissueMethod::Otsu, &options).unwrap().mask)
}

/// What the user is told.
fn warnings(image: &RgbImage) -> Vec<String> {
    let tissue = run(image).mask.iter().map(|&set| f64::from(set)).sum::<f64>() * 64.0;
    let artefacts = artefacts(image);
    artefacts.suspicion(tissue).into_iter().chain(artefacts.warnings(tissue)).collect()
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
            let picture = slide(|x, y| if disc(x, y) { tissue } else { glass });
            let found = run(&picture);
            assert!(iou(&found, disc) > 0.97, "{glass:?} {tissue:?}: {}", iou(&found, disc));
            assert_eq!((artefacts(&picture).pen, warnings(&picture).len()), (0.0, 0), "{glass:?} {tissue:?}");
        }
    }
}

#[test]
fn an_empty_slide_stays_empty_and_says_so() {
    for glass in [GLASS, [225, 218, 190]] {
        let picture = slide(|_, _| glass);
        for method in [TissueMethod::Otsu, TissueMethod::Entropy, TissueMethod::Auto] {
            assert_eq!(find(&picture, &method).mask.iter().max(), Some(&0), "{method}");
        }
        assert!(warnings(&picture)[0].contains("no tissue"), "{:?}", warnings(&picture));
    }
    for pure in [[255; 3], [0; 3]] {
        let picture = slide(|_, _| pure);
        assert_eq!((run(&picture).mask.iter().max(), artefacts(&picture).unscanned), (Some(&0), 200.0 * 150.0 * 64.0));
        assert!(warnings(&picture)[0].contains("nothing was scanned"), "{:?}", warnings(&picture));
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
        let picture = slide(|x, y| {
            if stroke(x) {
                pen
            } else if disc(x, y) {
                EOSIN
            } else {
                GLASS
            }
        });
        let found = run(&picture);
        for (i, &set) in (0u32..).zip(&found.mask) {
            assert!(set == 0 || !stroke(i % 200), "{pen:?} kept at {i}");
        }
        let pixels = artefacts(&picture).pen / 64.0;
        assert!((15.0 * 150.0..=21.0 * 150.0).contains(&pixels), "{pen:?} {pixels}");
        // The stroke runs 20 to 35 px off the centre of the disc, where that is 92 to 71 px high.
        let over = artefacts(&picture).pen_over_tissue / 64.0 / (pixels / 150.0);
        assert!((70.0..=95.0).contains(&over), "{pen:?} {over}");
        assert!(iou(&found, |x, y| disc(x, y) && !stroke(x)) > 0.9);
    }
}

#[test]
fn dust_lines_and_unscanned_areas_are_no_tissue() {
    let disc = |x, y| in_disc(x, y, (60.0, 70.0), 40.0);
    let picture = slide(|x, y| match (x, y) {
        _ if disc(x, y) => EOSIN,
        (150.., 100..) => [255; 3],
        (150.., ..20) => [0; 3],
        (130..=133, _) => [150, 150, 155],
        (160..=170, 50..=60) => [60, 60, 64],
        _ => GLASS,
    });
    for method in [TissueMethod::Otsu, TissueMethod::Auto] {
        assert!(iou(&find(&picture, &method), disc) > 0.97, "{method}");
    }
    let found = artefacts(&picture);
    // The median rounds corners off.
    assert!((found.unscanned / 64.0 - f64::from(50 * 50 + 50 * 20)).abs() <= 4.0);
    assert!(found.dust > 0.0 && found.bubble == 0.0, "{found:?}");
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
    let pieces = PieceOptions { min_hole_um2: 0.0, min_area_um2: 0.0, ..PieceOptions::default() };
    let all = TissueOptions { pieces, ..TissueOptions::default() };
    let found = survey(&picture, 8.0, &all).segment(&TissueMethod::Otsu, &all).unwrap();
    assert_eq!((found.mask[70 * 200 + 120], found.mask[130 * 200 + 185]), (0, 1));
}

#[test]
fn fluorescence_is_recognised_handled_and_refused_to_brightfield_methods() {
    let disc = |x, y| in_disc(x, y, (90.0, 70.0), 40.0);
    for ground in [[12, 8, 8], [1, 1, 1], [0, 0, 0]] {
        for tissue in [[40, 10, 8], [8, 12, 46]] {
            let picture = slide(|x, y| match (x, y) {
                _ if in_disc(x, y, (90.0, 70.0), 5.0) => [250, 90, 200],
                _ if disc(x, y) => tissue,
                _ => ground,
            });
            let found = find(&picture, &TissueMethod::Auto);
            assert_eq!((found.method, iou(&found, disc) > 0.9), ("fluorescence", true), "{ground:?} {tissue:?}");
            assert!(found.why.unwrap().contains("dark"));
            let options = TissueOptions::default();
            let refused = survey(&picture, 8.0, &options).segment(&TissueMethod::Otsu, &options).unwrap_err();
            assert!(refused.to_string().contains("--tissue auto"), "{refused}");
        }
    }
}

#[test]
fn much_pen_is_warned_of() {
    let pen = warnings(&slide(|x, _| {
        if x < 80 {
            BLUE_PEN
        } else if x < 120 {
            EOSIN
        } else {
            GLASS
        }
    }));
    assert!(pen.iter().any(|w| w.contains("pen covers")), "{pen:?}");
}

#[test]
fn auto_takes_texture_where_stain_is_missing_and_stain_where_it_is_not() {
    let disc = |x, y| in_disc(x, y, (90.0, 70.0), 45.0);
    let grain = |x: u32, y: u32| ((x * 7919 + y * 104_729) % 97) as u8 / 4;
    let grey = slide(|x, y| if disc(x, y) { [225 - grain(x, y); 3] } else { GLASS });
    let found = find(&grey, &TissueMethod::Auto);
    assert_eq!(found.method, "entropy", "{:?}", found.why);
    assert!(iou(&found, disc) > 0.9, "{}", iou(&found, disc));
    assert!(iou(&find(&grey, &TissueMethod::Otsu), disc) < 0.1);
    let pink = slide(|x, y| if disc(x, y) { [205, 95 + grain(x, y), 155] } else { GLASS });
    let found = find(&pink, &TissueMethod::Auto);
    assert_eq!((found.method, found.clone().mask), ("otsu", run(&pink).mask), "{:?}", found.why);
}

#[test]
fn little_tissue_is_suspicious() {
    let warned = |radius| warnings(&slide(|x, y| if in_disc(x, y, (90.0, 70.0), radius) { EOSIN } else { GLASS }));
    assert!(warned(15.0)[0].contains("suspiciously little tissue"), "{:?}", warned(15.0));
    assert!(warned(50.0).is_empty(), "{:?}", warned(50.0));
}

#[test]
fn empty_and_tiny_pictures_do_no_harm() {
    assert!(run(&RgbImage::new(0, 0)).mask.is_empty());
    for (width, height) in [(1, 1), (1, 7), (7, 1), (2, 2)] {
        assert_eq!(run(&RgbImage::from_pixel(width, height, Rgb(EOSIN))).mask.len() as u32, width * height);
    }
}

#[test]
fn a_uniform_picture_is_no_tissue() {
    for value in [255, 245, 128] {
        let image = RgbImage::from_pixel(120, 90, Rgb([value; 3]));
        let found = run(&image);
        assert_eq!(found.mask.iter().filter(|m| **m != 0).count(), 0, "grey {value}: {found:?}");
    }
}
