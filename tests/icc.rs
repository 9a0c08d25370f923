//! Colour profiles: tiles in sRGB against openslide-python, Pillow's ImageCms and Pillow's resize (scripts/reference.py icc).

mod common;

use std::path::{Path, PathBuf};

use common::text;
use paraffin::icc::IccMode;
use paraffin::pipeline::prepare::{PlannedSlide, PrepareOptions, SlideSpec, prepare};
use paraffin::pipeline::read::TileReader;
use paraffin::resample::Filter;
use paraffin::slide::mpp::MppOverride;
use paraffin::tiling::TilingOptions;
use paraffin::tissue::{TissueMethod, TissueOptions};

fn slide(name: &str) -> PathBuf {
    common::root().join("testdata/icc").join(name)
}

fn plan(path: &Path, icc: IccMode, target_mpp: f64, tile_px: u32) -> paraffin::Result<PlannedSlide> {
    let tiling = TilingOptions { target_mpp, tile_px, ..TilingOptions::default() };
    let spec = SlideSpec { path: path.into(), id: "slide".into(), mpp: MppOverride::default() };
    let options = PrepareOptions {
        tiling,
        tissue: TissueMethod::None,
        model: None,
        find: TissueOptions::default(),
        icc,
        allow_failed_tiles: 0,
    };
    prepare(&spec, &options)
}

fn tiles(slide: &PlannedSlide) -> Vec<u8> {
    let mut reader = TileReader::default();
    let mut all = Vec::new();
    for tile in &slide.tiles {
        let mut out = vec![0; (slide.plan.tile_px * slide.plan.tile_px * 3) as usize];
        reader.read(slide, *tile, Filter::Bilinear, &mut out).expect("reads");
        all.extend(out);
    }
    all
}

#[test]
fn tiles_equal_those_of_openslide_and_imagecms() {
    for name in ["matrix.svs", "table.tif"] {
        // Level 0 is at 0.5: blocks as they are; tiles that lie across blocks; tiles that are resampled. All reach past the
        // slide's edge, where its white becomes sRGB too.
        for (mpp, tile_px, level_px) in [(0.5, 256, 256), (0.5, 200, 200), (0.8, 100, 160)] {
            let planned = plan(&slide(name), IccMode::Srgb, mpp, tile_px).expect("opens");
            assert!(planned.blocks.in_srgb() && planned.warnings.is_empty(), "{:?}", planned.warnings);
            let got = tiles(&planned);
            let request: String = planned.tiles.iter().map(|[x, y]| format!("{x} {y}\n")).collect();
            let path = slide(name);
            let words = ["icc", text(&path), &level_px.to_string(), &tile_px.to_string()];
            let expected = common::script("reference.py", &words, request.as_bytes());
            assert_eq!(got.len(), expected.len());
            let largest = got.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
            let off = tiles(&plan(&slide(name), IccMode::Off, mpp, tile_px).expect("opens"));
            let moved = got.iter().zip(&off).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / got.len() as f64;
            println!(
                "{name} at {mpp}: largest difference {largest}; the profile moves pixels by {moved:.2} in the mean"
            );
            assert_eq!(largest, 0, "{name} at {mpp}");
            assert!(moved > 2.0, "{name}: {moved}");
        }
    }
}

#[test]
fn a_slide_without_a_profile_is_read_with_a_warning_and_one_with_a_broken_profile_fails() {
    let without = common::root().join("testdata/generated/aperio_comma.svs");
    let planned = plan(&without, IccMode::Srgb, 0.5, 64).expect("opens");
    assert!(!planned.blocks.in_srgb());
    assert_eq!(planned.warnings, ["no ICC profile: the colours are left as they are"]);
    assert!(plan(&slide("broken.tif"), IccMode::Off, 0.5, 64).is_ok());
    let error = plan(&slide("broken.tif"), IccMode::Srgb, 0.5, 64).err().expect("fails");
    assert!(error.kind() == "damaged" && error.to_string().contains("ICC profile"), "{error}");
}

#[test]
fn the_contract_keeps_colours_apart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (out, matrix) = (directory.path().join("out"), slide("matrix.svs"));
    let tiles = |icc: &str, code| {
        let words = ["tiles", text(&matrix), "-o", text(&out), "--tissue", "none", "--icc", icc, "--progress", "lines"];
        common::run_to(code, &words)
    };
    tiles("srgb", 0);
    let grid = out.join("20x_224px_0px_overlap");
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(grid.join(name)).expect("readable")).expect("JSON")
    };
    assert_eq!(json("contracts/patches.json")["grid"]["icc"].as_str().map(|t| &t[..4]), Some("srgb"));
    assert_eq!(json("records/patches/matrix.json")["read"]["icc_applied"], true);
    let said = tiles("off", 3);
    assert!(said.contains("grid.icc: srgb") && said.contains("off here"), "{said}");
}
