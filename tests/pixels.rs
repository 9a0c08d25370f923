//! The native reader's pixels against OpenSlide's (through scripts/reference.py): whole levels and unaligned regions.

mod common;

use std::path::{Path, PathBuf};

use paraffin::codec::Scratch;
use paraffin::slide::region::{Region, read_region};
use paraffin::slide::{Coding, Scale, Slide};

/// Levels up to this many pixels are compared whole, larger ones by regions; all whole with PARAFFIN_WHOLE_LEVELS=1.
const WHOLE_PX: u64 = 60_000_000;

fn regions_of(slide: &Slide) -> Vec<Region> {
    let everything = std::env::var_os("PARAFFIN_WHOLE_LEVELS").is_some();
    let mut regions = Vec::new();
    for (number, level) in slide.info().levels.iter().enumerate() {
        let region = |x: u32, y: u32, width: u32, height: u32| Region {
            level: number,
            scale: Scale::Full,
            x: i64::from(x),
            y: i64::from(y),
            width: width.min(level.width - x),
            height: height.min(level.height - y),
        };
        if everything || u64::from(level.width) * u64::from(level.height) <= WHOLE_PX {
            // In bands, to bound memory; at lower levels whole, where OpenSlide's rounded positions would interpolate.
            let band = if number == 0 { 1024 } else { level.height };
            regions.extend((0..level.height).step_by(band as usize).map(|y| region(0, y, level.width, band)));
        }
        if number == 0 {
            let mut seed = 12345u64;
            let mut random = |below: u32| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as u32 % below.max(1)
            };
            for _ in 0..12 {
                regions.push(region(random(level.width), random(level.height), 1 + random(700), 1 + random(700)));
            }
        }
    }
    regions
}

/// Mean absolute and largest difference over all regions, and the mean that the codings allow.
fn difference(path: &Path) -> (f64, u8, f64) {
    let slide = Slide::open(path).expect("opens");
    assert_eq!(slide.info().reader, "native", "{}", path.display());
    let regions = regions_of(&slide);
    let request: String =
        regions.iter().map(|r| format!("{} {} {} {} {}\n", r.level, r.x, r.y, r.width, r.height)).collect();
    let expected = common::script("reference.py", &["regions", common::text(path)], request.as_bytes());
    let (mut at, mut sum, mut largest, mut scratch) = (0, 0u64, 0, Scratch::default());
    for region in &regions {
        let got = read_region(slide.reader.as_ref(), region, &mut scratch).expect("reads");
        for (a, b) in got.iter().zip(&expected[at..at + got.len()]) {
            let d = a.abs_diff(*b);
            sum += u64::from(d);
            largest = largest.max(d);
        }
        at += got.len();
    }
    assert_eq!(at, expected.len());
    // JPEG decoders may round and upsample in their own ways, JPEG2000's differ by rounding; the rest is exact.
    let limits = slide.info().levels.iter().map(|l| match l.coding {
        Coding::Jpeg => 1.0,
        Coding::Jpeg2000 => 0.01,
        _ => 0.0,
    });
    (sum as f64 / at as f64, largest, limits.fold(0.0, f64::max))
}

fn compare(paths: &[PathBuf]) {
    for path in paths {
        let (mean, largest, limit) = difference(path);
        println!("{}: mean {mean:.4}, largest {largest}, mean allowed {limit}", path.display());
        assert!(mean <= limit, "{}: mean difference {mean}, largest {largest}", path.display());
    }
}

/// The slides of every manifest that the native readers and OpenSlide both open.
fn shipped() -> Vec<PathBuf> {
    let mut slides = Vec::new();
    for (folder, entry) in common::fixtures() {
        let through_openslide = entry.get("reader").and_then(toml::Value::as_str) == Some("openslide");
        let golden = entry.get("golden_from").and_then(toml::Value::as_array).into_iter().flatten();
        let opens = entry.get("openslide").and_then(toml::Value::as_bool) == Some(true)
            || golden.into_iter().any(|tool| tool.as_str() == Some("openslide"));
        if opens && !through_openslide {
            slides.push(folder.join(entry["file"].as_str().expect("file")));
        }
    }
    slides
}

#[test]
fn the_shipped_slides_equal_openslide() {
    let slides = shipped();
    assert!(slides.len() > 35, "{}", slides.len());
    // OpenSlide interpolates between pixels where blocks lie there, paraffin rounds their places.
    let (between, whole): (Vec<_>, Vec<_>) = slides.into_iter().partition(|p| p.ends_with("bif_fractional.bif"));
    compare(&whole);
    for path in between {
        let (mean, largest, _) = difference(&path);
        println!("{}: mean {mean:.4}, largest {largest}, mean allowed 4", path.display());
        assert!(mean < 4.0, "mean difference {mean}");
    }
}

#[test]
fn more_slides_equal_openslide() {
    let Some(data) = common::shared_data() else { return };
    let names = [
        "real/aperio/small.svs",
        "real/generic-tiff/boxes.tiff",
        "real/generic-tiff/panimg_valid_tiff.tif",
        "real/generic-tiff/CMU-1-Small-Region.jpeg.tiff",
        "real/generic-tiff/yb10kx5k.zstd.tiff",
        "real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm",
        "real/dicom/openslide-boxes/boxes_0.dcm",
        "composed/small_ycc420.svs",
        "composed/small_1level.svs",
        "composed/generic_jpeg.tif",
        "composed/crop_lzw.svs",
        "composed/small_j2k33005.svs",
        "composed/medium_ycc420.svs",
        "composed/philips.tiff",
        "real/ndpi/test3-TRITC-2-560.ndpi",
    ];
    compare(&names.map(|n| data.join(n)));
}
