//! Tissue and artefacts on pictures with known truth (scripts/make_tissue_testdata.py).

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::GrayImage;
use paraffin::encoder::segment::Segmenter;
use paraffin::icc::IccMode;
use paraffin::pipeline::prepare::{PlannedSlide, PrepareOptions, SlideSpec, prepare};
use paraffin::slide::mpp::{MppOverride, MppSource};
use paraffin::tiling::TilingOptions;
use paraffin::tissue::{QC_COLUMNS, TissueMethod, TissueOptions};

use common::{run_to, script, text};

/// µm/px of the pictures.
const MPP: f64 = 4.0;
const GLASS: u8 = 0;
const TISSUE: u8 = 1;
const PEN: u8 = 2;
const UNSCANNED: u8 = 3;
const PEN_OVER_TISSUE: u8 = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tissue")
}

fn options(tissue: TissueMethod) -> PrepareOptions {
    let tiling = TilingOptions { target_mpp: MPP, tile_px: 32, ..TilingOptions::default() };
    let find = TissueOptions::default();
    PrepareOptions { tiling, tissue, model: None, find, icc: IccMode::Off, allow_failed_tiles: 0 }
}

fn try_look(name: &str, options: &PrepareOptions) -> paraffin::Result<PlannedSlide> {
    let mpp = MppOverride { given: Some((MPP, MppSource::User)), allow_objective: false };
    prepare(&SlideSpec { path: folder().join(format!("{name}.jpg")), id: name.into(), mpp }, options)
}

fn look(name: &str) -> PlannedSlide {
    try_look(name, &options(TissueMethod::Auto)).expect("a slide")
}

fn truth(name: &str) -> GrayImage {
    image::open(folder().join(format!("{name}_truth.png"))).expect("truth").into_luma8()
}

/// Intersection over union of the mask with the truth's tissue, and the share of the truth's `unwanted` classes that the mask keeps.
fn compare(slide: &PlannedSlide, truth: &GrayImage, unwanted: &[u8]) -> (f64, f64) {
    let (mut both, mut either, mut kept, mut all) = (0u32, 0u32, 0u32, 0u32);
    for (x, y, class) in truth.enumerate_pixels() {
        let found = slide.mask.contains(f64::from(x) + 0.5, f64::from(y) + 0.5);
        let expected = class.0[0] == TISSUE;
        both += u32::from(found && expected);
        either += u32::from(found || expected);
        let unwanted = unwanted.contains(&class.0[0]);
        kept += u32::from(found && unwanted);
        all += u32::from(unwanted);
    }
    (f64::from(both) / f64::from(either.max(1)), f64::from(kept) / f64::from(all.max(1)))
}

fn mm2(slide: &PlannedSlide, artefact: &str) -> f64 {
    slide.tissue.details["artefacts_mm2"][artefact].as_f64().expect("an area")
}

fn area(truth: &GrayImage, class: u8) -> f64 {
    truth.pixels().filter(|p| p.0[0] == class).count() as f64 * MPP * MPP / 1e6
}

#[test]
fn pens_of_any_colour_are_cut_out() {
    for colour in ["blue", "green", "red", "black", "yellow", "orange", "purple"] {
        let name = format!("pen_{colour}");
        let (slide, truth) = (look(&name), truth(&name));
        let (iou, kept) = compare(&slide, &truth, &[PEN, PEN_OVER_TISSUE]);
        assert!(iou >= 0.94 && kept <= 0.01, "{colour}: IoU {iou:.3}, pen kept {kept:.4}");
        let pen = area(&truth, PEN) + area(&truth, PEN_OVER_TISSUE);
        // A margin is cut out around strokes that are 104 µm wide.
        assert!((1.0..1.6).contains(&(mm2(&slide, "pen") / pen)), "{colour}: {} of {pen}", mm2(&slide, "pen"));
        // What lies under pen is an estimate, with the pen's margin.
        let under = (mm2(&slide, "pen_over_tissue"), area(&truth, PEN_OVER_TISSUE));
        assert!(under.0 >= under.1 && under.0 <= 1.5 * under.1 + 0.001, "{colour}: {under:?}");
        let column = QC_COLUMNS.iter().position(|c| *c == "pen").expect("a column");
        assert!(slide.tissue.qc.iter().all(|tile| tile[column] <= 0.5));
        assert!(slide.tissue.qc.iter().any(|tile| tile[column] > 0.0) || colour == "purple");
    }
}

#[test]
fn backgrounds_do_not_fool() {
    for name in ["tinted", "uneven", "unscanned"] {
        let (slide, truth) = (look(name), truth(name));
        let (iou, kept) = compare(&slide, &truth, &[UNSCANNED]);
        assert!(iou >= 0.95 && kept <= 0.01, "{name}: IoU {iou:.3}, unscanned kept {kept:.4}");
        assert_eq!(slide.tissue.details["chosen"], "otsu", "{name}: {}", slide.tissue.details["why"]);
        let unscanned = area(&truth, UNSCANNED);
        assert!((mm2(&slide, "unscanned") - unscanned).abs() <= 0.02 * unscanned, "{name}");
    }
}

#[test]
fn pale_fatty_and_immunostained_tissue_is_found() {
    for (name, chosen) in [("pale", "entropy"), ("fat", "entropy"), ("ihc", "otsu")] {
        let slide = look(name);
        let (iou, _) = compare(&slide, &truth(name), &[GLASS]);
        assert!(iou >= 0.9, "{name}: IoU {iou:.3}");
        assert_eq!(slide.tissue.details["chosen"], chosen, "{name}: {}", slide.tissue.details["why"]);
    }
}

#[test]
fn dust_edges_and_bubbles_are_told_and_are_no_tissue() {
    let (slide, truth_) = (look("dust_and_edges"), truth("dust_and_edges"));
    let (iou, kept) = compare(&slide, &truth_, &[5]);
    assert!(iou >= 0.95 && kept <= 0.02, "IoU {iou:.3}, dirt kept {kept:.4}");
    let dirt = mm2(&slide, "dust") + mm2(&slide, "coverslip_edge");
    // Lines of 20 µm are two to four pixels of 8 µm wide.
    assert!((0.6..1.8).contains(&(dirt / area(&truth_, 5))), "{dirt} of {}", area(&truth_, 5));
    assert!(mm2(&slide, "dust") > 0.03 && mm2(&slide, "coverslip_edge") > 0.05 && mm2(&slide, "bubble") == 0.0);
    let slide = look("bubbles");
    assert!(compare(&slide, &truth("bubbles"), &[GLASS]).0 >= 0.95);
    // Three on glass, of 60, 35 and 50 px; the one on tissue is not seen.
    let bubbles = [60.0f64, 35.0, 50.0].map(|r| std::f64::consts::PI * (r * MPP).powi(2) / 1e6).iter().sum::<f64>();
    assert!((mm2(&slide, "bubble") / bubbles - 1.0).abs() < 0.1, "{} of {bubbles}", mm2(&slide, "bubble"));
}

#[test]
fn out_of_focus_is_told_tile_by_tile_and_left_out_where_asked() {
    let slide = look("blurred");
    let blur = |slide: &PlannedSlide, right: bool| -> Vec<f32> {
        let tiles = slide.tiles.iter().zip(&slide.tissue.qc);
        // Whole tissue, and clear of the border between the halves.
        let inside = tiles.filter(|(tile, qc)| qc[0] == 1.0 && if right { tile[0] >= 384 } else { tile[0] < 320 });
        inside.map(|(_, qc)| qc[1]).collect()
    };
    let (left, right) = (blur(&slide, false), blur(&slide, true));
    assert!(left.len() > 20 && right.len() > 10);
    assert!(left.iter().all(|b| *b == 0.0), "{left:?}");
    assert!(right.iter().filter(|b| **b > 0.5).count() * 10 >= right.len() * 9, "{right:?}");
    assert!(slide.warnings.iter().any(|w| w.contains("out of focus")), "{:?}", slide.warnings);
    let mut options = options(TissueMethod::Auto);
    options.find.qc.given = "blur=0.5".parse().expect("limits");
    let limited = try_look("blurred", &options).expect("a slide");
    assert!(blur(&limited, true).iter().all(|b| *b <= 0.5) && blur(&limited, false).len() == left.len());
    assert!(limited.warnings.iter().any(|w| w.contains("left out by --qc")), "{:?}", limited.warnings);
    assert_eq!(
        limited.tissue.details["tiles_dropped"]["blur"].as_u64().map(|n| n as usize + limited.tiles.len()),
        Some(slide.tiles.len())
    );
}

#[test]
fn fluorescence_is_handled_by_auto_and_refused_by_brightfield_methods() {
    let slide = look("fluorescence");
    assert_eq!(slide.tissue.details["chosen"], "fluorescence");
    assert!(compare(&slide, &truth("fluorescence"), &[GLASS]).0 >= 0.9);
    assert!(slide.warnings.iter().any(|w| w.contains("bright on black")), "{:?}", slide.warnings);
    for method in [TissueMethod::Otsu, TissueMethod::Entropy] {
        let refused = try_look("fluorescence", &options(method)).err().expect("refused");
        assert!(refused.kind() == "tissue" && refused.to_string().contains("--tissue auto"), "{refused}");
    }
}

#[test]
fn an_empty_slide_is_warned_of_in_the_table_and_the_record() {
    let out = tempfile::tempdir().expect("a directory");
    let slide = folder().join("empty.jpg");
    let words = ["tiles", text(&slide), "-o", text(out.path()), "--mpp", "4", "--target-mpp", "4", "--tile-px", "32"];
    let said = run_to(0, &words);
    assert!(said.contains("no tissue found"), "{said}");
    // Also after the line of the slide: in the table at the end.
    let table = said.split("slide done").nth(1).expect("a table");
    assert!(table.contains("empty") && table.contains("no tissue found"), "{said}");
    let record = out.path().join("2.5x_32px_0px_overlap/records/patches/empty.json");
    assert!(std::fs::read_to_string(record).expect("a record").contains("no tissue found"));
}

#[test]
fn contours_given_back_as_a_mask_give_the_same_tiles() {
    let out = tempfile::tempdir().expect("a directory");
    let slide = folder().join("tinted.jpg");
    let (first, second) = (out.path().join("a"), out.path().join("b"));
    let sizes = ["--mpp", "4", "--target-mpp", "4", "--tile-px", "32", "--no-overviews"];
    let mut words = vec!["tiles", text(&slide), "-o", text(&first), "--contours"];
    words.extend(sizes);
    run_to(0, &words);
    let grid = "2.5x_32px_0px_overlap";
    let outlines = first.join(grid).join("contours/tinted.geojson");
    let mut words = vec!["tiles", text(&slide), "-o", text(&second), "--tissue", text(&outlines)];
    words.extend(sizes);
    run_to(0, &words);
    let coords = |out: &Path| {
        paraffin::features::inspect(&out.join(grid).join("patches/tinted_patches.h5")).expect("patches").coords_sha256
    };
    assert_eq!(coords(&first), coords(&second));
}

/// The model's mask on the whole slide equals onnxruntime-python's on pictures cut in another way (scripts/make_tissue_testdata.py).
#[test]
fn a_segmentation_model_gives_what_onnxruntime_gives() {
    let path = folder().join("model.onnx");
    let mut options = options(TissueMethod::Model(path.clone()));
    (options.find.pieces.min_area_um2, options.find.pieces.min_hole_um2) = (0.0, 0.0);
    options.model = Some(Arc::new(Segmenter::find(&path, 1).expect("a model")));
    let slide = try_look("tinted", &options).expect("a slide");
    let expected = image::open(folder().join("model_expected.png")).expect("expected").into_luma8();
    assert_eq!((slide.mask.width(), slide.mask.height()), expected.dimensions());
    // The two decode JPEG by libraries of their own: what lies on the threshold may fall to either side.
    let differ = slide.mask.data().iter().zip(expected.pixels()).filter(|(found, p)| (**found != 0) != (p.0[0] != 0));
    assert!(differ.count() * 1000 <= slide.mask.data().len());
    assert!(compare(&slide, &truth("tinted"), &[GLASS]).0 > 0.8);
    assert_eq!(slide.tissue.details["model"], "test-tissue");
    let missing = Segmenter::find(&folder().join("none.onnx"), 1).expect_err("missing").to_string();
    assert!(missing.contains("no such file"), "{missing}");
}

/// Masks as other tools write them: tifffile's TIFFs (1, 8 and 16 bits, tiles, a pyramid), a PNG, polygons.
#[test]
fn masks_of_other_tools_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = script("tissue_masks.py", &[text(dir.path())], &[]);
    let names = String::from_utf8(made).expect("names");
    let mut seen = 0;
    for name in names.lines() {
        let mask = paraffin::tissue::mask_from_file(&dir.path().join(name), 3000, 2000, 10.0).expect(name);
        // A rectangle of 900 x 700 level-0 pixels at (500, 400).
        assert_eq!(mask.bounding_box(), Some([500.0, 400.0, 900.0, 700.0]), "{name}");
        assert_eq!(mask.tissue_area_level0(), 630_000.0, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

/// The quality columns are h5py's to read, and TRIDENT's, CLAM's and torchmil's ways of reading pass them over.
#[test]
fn quality_stands_beside_the_coordinates() {
    let out = tempfile::tempdir().expect("a directory");
    let slide = folder().join("pen_blue.jpg");
    let words = ["tiles", text(&slide), "-o", text(out.path()), "--mpp", "4", "--target-mpp", "4", "--tile-px", "32"];
    run_to(0, &words);
    let file = out.path().join("2.5x_32px_0px_overlap/patches/pen_blue_patches.h5");
    let said = String::from_utf8(script("read_patches.py", &[text(&file)], &[])).expect("text");
    assert!(said.starts_with("columns tissue blur pen white black; float32; mpp 8 and 4\n"), "{said}");
    let planned = look("pen_blue");
    let rows: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(rows.len(), planned.tiles.len());
    for (row, qc) in rows.iter().zip(&planned.tissue.qc) {
        let values: Vec<f32> = row.split(' ').map(|v| v.parse().expect("a number")).collect();
        assert_eq!(values, qc);
    }
}

#[test]
fn info_tells_which_method_auto_takes_and_why() {
    let slide = folder().join("pale.jpg");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_paraffin"))
        .args(["info", text(&slide), "--mpp", "4", "--tissue"])
        .output()
        .expect("runs");
    let said = String::from_utf8(run.stdout).expect("text");
    assert!(
        run.status.success() && said.contains("tissue method      entropy: ") && said.contains("too pale for otsu"),
        "{said}"
    );
}
