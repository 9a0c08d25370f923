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

/// Mean absolute and largest difference over all regions.
fn difference(path: &Path) -> (f64, u8, bool) {
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
    let lossless = slide.info().levels.iter().all(|l| l.coding != Coding::Jpeg);
    (sum as f64 / at as f64, largest, lossless)
}

fn compare(paths: &[PathBuf]) {
    for path in paths {
        let (mean, largest, lossless) = difference(path);
        println!("{}: mean {mean:.4}, largest {largest}, lossless {lossless}", path.display());
        let limit = if lossless { 0.0 } else { 1.0 };
        assert!(mean <= limit, "{}: mean difference {mean}, largest {largest}", path.display());
    }
}

#[test]
fn the_shipped_slides_equal_openslide() {
    let mut paths = vec![common::real_slide()];
    paths.extend(generated_that_openslide_reads());
    paths.extend(["philips_padded.tiff", "ndpi_422.ndpi"].map(|n| common::root().join("testdata/multi").join(n)));
    paths.extend(dicom_that_openslide_reads());
    compare(&paths);
}

fn dicom_that_openslide_reads() -> Vec<PathBuf> {
    let folder = common::root().join("testdata/dicom");
    let manifest = std::fs::read_to_string(folder.join("manifest.toml")).expect("manifest");
    let manifest: toml::Value = toml::from_str(&manifest).expect("manifest");
    let entries = manifest["file"].as_array().expect("entries");
    let readable = entries.iter().filter(|e| e["openslide"].as_bool() == Some(true));
    readable.map(|e| folder.join(e["file"].as_str().expect("file"))).collect()
}

fn generated_that_openslide_reads() -> Vec<PathBuf> {
    let manifest = std::fs::read_to_string(common::root().join("testdata/manifest.toml")).expect("manifest");
    let manifest: toml::Value = toml::from_str(&manifest).expect("manifest");
    let entries = manifest["file"].as_array().expect("entries");
    let readable = entries.iter().filter(|e| e.get("openslide").and_then(toml::Value::as_bool) != Some(false));
    let slides = readable.filter(|e| e["file"].as_str().is_some_and(|f| f.starts_with("generated/")));
    slides.map(|e| common::root().join("testdata").join(e["file"].as_str().expect("file"))).collect()
}

#[test]
fn slides_of_placed_blocks_equal_openslide() {
    let folder = common::root().join("testdata/placed");
    let names = ["scn_one_area.scn", "scn_areas.scn", "bif_overlap.bif", "bif_dp200.bif", "ventana.tif", "trestle.tif"];
    compare(&names.map(|n| folder.join(n)));
    // OpenSlide interpolates between pixels here, paraffin rounds to them.
    let (mean, _, _) = difference(&folder.join("bif_fractional.bif"));
    assert!(mean < 4.0, "mean difference {mean}");
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
        "composed/medium_ycc420.svs",
        "composed/philips.tiff",
        "real/ndpi/test3-TRITC-2-560.ndpi",
    ];
    compare(&names.map(|n| data.join(n)));
}
