//! Every slide of testdata/manifest.toml: what the native reader finds against what other tools decoded.

mod common;

use paraffin::codec::Scratch;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::region::{Region, read_region};
use paraffin::slide::{Scale, Slide};

#[test]
fn every_fixture_is_what_the_manifest_says() {
    let text = std::fs::read_to_string(common::root().join("testdata/manifest.toml")).expect("manifest");
    let manifest: toml::Value = toml::from_str(&text).expect("TOML");
    let entries = manifest["file"].as_array().expect("entries");
    assert!(entries.len() > 15);
    let mut compared = 0;
    for entry in entries {
        let name = entry["file"].as_str().expect("file");
        let path = common::root().join("testdata").join(name);
        assert_eq!(paraffin::digest::file_sha256(&path).expect("there"), entry["sha256"].as_str().expect("sha256"));
        let slide = Slide::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let info = slide.info();
        assert_eq!(info.reader, "native", "{name}");
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
            assert_eq!(level.block_width, integer("block_px"), "{name} level {number}");
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
            compared += 1;
        }
    }
    println!("{compared} levels compared");
}
