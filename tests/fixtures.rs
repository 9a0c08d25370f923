//! Every slide of testdata/manifest.toml: what the readers find against what other tools decoded.

mod common;

use paraffin::codec::Scratch;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::region::{Region, read_region};
use paraffin::slide::{Scale, Slide, openslide};

#[test]
fn every_fixture_is_what_the_manifest_says() {
    let entries = common::fixtures();
    assert!(entries.len() > 15);
    let mut compared = 0;
    openslide::set_worker_program(env!("CARGO_BIN_EXE_paraffin"));
    let openslide = openslide::version();
    for (folder, entry) in entries {
        let name = entry["file"].as_str().expect("file");
        let path = folder.join(name);
        assert_eq!(paraffin::digest::file_sha256(&path).expect("there"), entry["sha256"].as_str().expect("sha256"));
        let reader = entry.get("reader").and_then(toml::Value::as_str).unwrap_or("native");
        if reader == "openslide"
            && let Err(e) = &openslide
        {
            eprintln!("skipped: {name}: {e}");
            continue;
        }
        let slide = Slide::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let info = slide.info();
        assert!(info.reader.starts_with(reader), "{name}: {}", info.reader);
        assert_eq!(Some(info.format.as_str()), entry["format"].as_str(), "{name}");
        match entry.get("mpp").and_then(toml::Value::as_float) {
            Some(mpp) => {
                let got = slide.mpp(MppOverride::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!((got.x / mpp - 1.0).abs() < 1e-3 && (got.y / mpp - 1.0).abs() < 1e-3, "{name}: {got:?}");
            }
            None => assert!(slide.mpp(MppOverride::default()).is_err(), "{name}"),
        }
        let levels = entry["level"].as_array().expect("levels");
        assert_eq!(info.levels.len(), levels.len(), "{name}: {:?}", info.levels);
        for (number, (level, expected)) in info.levels.iter().zip(levels).enumerate() {
            let integer = |key: &str| expected[key].as_integer().expect("a number") as u32;
            assert_eq!((level.width, level.height), (integer("width"), integer("height")), "{name} level {number}");
            if expected.get("block_px").is_some() {
                assert_eq!(level.block_width, integer("block_px"), "{name} level {number}");
            }
            let region =
                Region { level: number, scale: Scale::Full, x: 0, y: 0, width: level.width, height: level.height };
            let pixels = read_region(slide.reader.as_ref(), &region, &mut Scratch::default()).expect("reads");
            if let Some(sha256) = expected.get("rgb_sha256").and_then(toml::Value::as_str) {
                assert_eq!(paraffin::digest::sha256(&pixels), sha256, "{name} level {number}");
            }
            for c in 0..3 {
                let sum: u64 = pixels[c..].iter().step_by(3).map(|v| u64::from(*v)).sum();
                let mean = sum as f64 / (pixels.len() / 3) as f64;
                let wanted = expected["mean_rgb"][c].as_float().expect("mean");
                assert!((mean - wanted).abs() < 0.5, "{name} level {number} colour {c}: {mean}, {wanted} expected");
            }
            // Single pixels, where a shifted or swapped block would keep the mean: [x, y, r, g, b].
            for pixel in expected.get("pixels").and_then(toml::Value::as_array).into_iter().flatten() {
                let [x, y, rgb @ ..] = &pixel.as_array().expect("numbers")[..] else { panic!("{name}: {pixel}") };
                let place = |v: &toml::Value| v.as_integer().expect("a number") as usize;
                let at = (place(y) * level.width as usize + place(x)) * 3;
                let near = pixels[at..at + 3].iter().zip(rgb).all(|(a, b)| place(b).abs_diff(usize::from(*a)) <= 3);
                assert!(near, "{name} level {number}: {:?} where {pixel} is expected", &pixels[at..at + 3]);
            }
            compared += 1;
        }
    }
    println!("{compared} levels compared");
}
