//! What testdata/codings/ is for beyond the manifest: reduced sizes, strips in blocks, flat images, damage.

mod common;

use std::path::PathBuf;

use paraffin::codec::Scratch;
use paraffin::error::Error;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::region::{Region, read_region};
use paraffin::slide::{BlockAt, Coding, Scale, Slide};

fn file(name: &str) -> PathBuf {
    common::root().join("testdata/codings").join(name)
}

fn block(slide: &Slide, scale: Scale) -> Vec<u8> {
    let level = slide.level0();
    let (width, height) = (level.block_width / scale.divisor(), level.block_height / scale.divisor());
    let mut out = vec![0; (width * height * 3) as usize];
    let at = BlockAt { level: 0, row: 0, col: 0 };
    slide.reader.decode_block(at, scale, &mut Scratch::default(), &mut out, width as usize * 3).expect("decodes");
    out
}

#[test]
fn jpeg2000_is_decoded_at_reduced_sizes() {
    let text = std::fs::read_to_string(file("reduced.toml")).expect("there");
    let table: toml::Value = toml::from_str(&text).expect("TOML");
    for entry in table["block"].as_array().expect("blocks") {
        let name = entry["file"].as_str().expect("a name");
        let divisor = entry["divisor"].as_integer().expect("a number") as u32;
        let slide = Slide::open(&file(name)).expect("opens");
        assert_eq!(slide.level0().coding, Coding::Jpeg2000);
        let width = (slide.level0().block_width / divisor) as usize;
        let got = block(&slide, Scale::from_divisor(divisor).expect("a scale"));
        for pixel in entry["pixels"].as_array().expect("pixels") {
            let v: Vec<usize> =
                pixel.as_array().expect("numbers").iter().map(|v| v.as_integer().expect("a number") as usize).collect();
            let at = (v[1] * width + v[0]) * 3;
            let near = got[at..at + 3].iter().zip(&v[2..]).all(|(a, b)| usize::from(*a).abs_diff(*b) <= 2);
            assert!(near, "{name} 1/{divisor}: {:?} where {v:?} is expected", &got[at..at + 3]);
        }
    }
}

/// The codestream has a half and no more: the rest is averaged.
#[test]
fn too_few_resolution_levels_are_made_up_for() {
    let slide = Slide::open(&file("generic_34712.tif")).expect("opens");
    let half = block(&slide, Scale::Half);
    let side = slide.level0().block_width as usize / 2;
    for d in [2, 4] {
        let got = block(&slide, Scale::from_divisor(2 * d as u32).expect("a scale"));
        assert_eq!(got.len(), half.len() / d / d);
        for (i, value) in got.iter().enumerate() {
            let (c, x, y) = (i % 3, i / 3 % (side / d), i / 3 / (side / d));
            let square = (0..d * d).map(|k| usize::from(half[((y * d + k / d) * side + x * d + k % d) * 3 + c]));
            assert_eq!(usize::from(*value), (square.sum::<usize>() + d * d / 2) / (d * d));
        }
    }
}

#[test]
fn strips_are_read_in_blocks_of_many_rows() {
    let slide = Slide::open(&file("strips_1_deflate.tif")).expect("opens");
    assert_eq!(slide.level0().block_grid(), (1, 1), "strips of one row");
    assert_eq!(slide.info().levels.len(), 2);
    let slide = Slide::open(&file("strips_rgba16_be.tif")).expect("opens");
    assert_eq!(slide.info().levels.len(), 2, "the SubIFD");
    // The same region across pieces as the whole.
    let level = slide.level0().clone();
    let all = Region { level: 0, scale: Scale::Full, x: 0, y: 0, width: level.width, height: level.height };
    let whole = read_region(slide.reader.as_ref(), &all, &mut Scratch::default()).expect("reads");
    let part = Region { y: 5, height: 11, ..all };
    let rows = read_region(slide.reader.as_ref(), &part, &mut Scratch::default()).expect("reads");
    let row = level.width as usize * 3;
    assert_eq!(rows, whole[5 * row..16 * row]);
}

#[test]
fn flat_images_need_an_mpp() {
    for name in ["flat.jpg", "flat_rgba.png"] {
        let slide = Slide::open(&file(name)).expect("opens");
        let words = slide.mpp(MppOverride::default()).expect_err("states none").to_string();
        assert!(words.contains("--mpp"), "{words}");
    }
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in [
        "aperio_33005.svs",
        "aperio_33003_422.svs",
        "generic_webp.tif",
        "generic_webp_lossless.tif",
        "strips_1_deflate.tif",
        "flat.jpg",
        "flat_rgba.png",
    ] {
        let bytes = std::fs::read(file(name)).expect("there");
        let mut seed = 7u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for round in 0..60 {
            let mut bad = bytes.clone();
            for _ in 0..1 + round % 5 {
                let at = random(bad.len());
                bad[at] = random(256) as u8;
            }
            if round % 6 == 0 {
                bad.truncate(random(bytes.len()).max(1));
            }
            let path = folder.path().join(name);
            std::fs::write(&path, &bad).expect("writes");
            let Ok(slide) = Slide::open(&path) else { continue };
            if slide.info().reader != "native" {
                continue;
            }
            let (columns, rows) = slide.level0().block_grid();
            let level = slide.level0().clone();
            let size = u64::from(level.block_width) * u64::from(level.block_height) * 3;
            if size > 1 << 26 || columns * rows > 64 {
                continue;
            }
            let mut out = vec![0; size as usize];
            for i in 0..columns * rows {
                let at = BlockAt { level: 0, row: i / columns, col: i % columns };
                let pitch = level.block_width as usize * 3;
                match slide.reader.decode_block(at, Scale::Full, &mut Scratch::default(), &mut out, pitch) {
                    Ok(_) | Err(Error::Block { .. }) => {}
                    Err(e) => panic!("{name} round {round}: {e}"),
                }
            }
        }
    }
}
