//! `paraffin heatmap` from outside: known scores come out as known colours and polygons, from every kind of file; and what cannot be
//! right is said where it is.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{files, real_slide, run_to, script, text};
use serde_json::Value;

const ID: &str = "CMU-1-Small-Region";
const GRID: &str = "20x_200px_0px_overlap";
/// Viridis at its ends, as matplotlib has it.
const ENDS: [[u8; 3]; 2] = [[68, 1, 84], [253, 231, 37]];

/// An OUT with one slide, and a table of its tiles: left ones score 0, right ones 1.
struct Site {
    directory: tempfile::TempDir,
    tiles: Vec<[i64; 2]>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (out, slide, encoder) = (directory.path().join("out"), real_slide(), directory.path().join("tiny.onnx"));
        script("make_test_encoder.py", &[text(&encoder)], b"");
        run_to(0, &["embed", text(&slide), "-o", text(&out), "--encoder", text(&encoder), "--tile-px", "200"]);
        let features = out.join(GRID).join(format!("features_tiny/{ID}.h5"));
        let bag = paraffin::features::Bag::open(&features).expect("features");
        Site { tiles: bag.coords().to_vec(), directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.at(name), content).expect("writes");
        self.at(name)
    }

    fn score([x, _]: [i64; 2]) -> f64 {
        f64::from(u8::from(x >= 1000))
    }

    /// CSV with places, the last tile first.
    fn placed(&self) -> String {
        let rows = self.tiles.iter().rev().map(|t| format!("{ID},{},{},{}\n", t[0], t[1], Site::score(*t)));
        "id,x,y,score\n".to_string() + &rows.collect::<String>()
    }

    fn heatmap(&self, code: i32, scores: &Path, to: &str, more: &[&str]) -> String {
        let (out, to) = (self.at("out"), self.at(to));
        run_to(code, &[&["heatmap", text(&out), "--scores", text(scores), "-o", text(&to)], more].concat())
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

#[test]
fn known_scores_are_known_colours_and_polygons() {
    let site = Site::new();
    assert!(site.tiles.iter().any(|t| t[0] < 1000) && site.tiles.iter().any(|t| t[0] >= 1000));
    let csv = site.write("scores.csv", &site.placed());
    let all = ["--format", "png", "--format", "geojson", "--format", "csv"];
    let said = site.heatmap(0, &csv, "a", &all);
    assert!(said.contains(&format!("{ID}: {} tiles, 0 to 1", site.tiles.len())), "{said}");

    // The picture, at each tile's centre: 0.6 of the colour over 0.4 of the overview.
    let picture = image::open(site.at("a").join(format!("{ID}.png"))).expect("a PNG").into_rgb8();
    let overview = site.at("out").join(GRID).join(format!("overviews/{ID}.jpg"));
    let beneath = image::open(&overview).expect("a JPEG").into_rgb8();
    // The slide has 2220 x 2967 pixels.
    let downsample = [2220.0 / f64::from(beneath.width()), 2967.0 / f64::from(beneath.height())];
    assert!(picture.width() > beneath.width() && picture.height() >= beneath.height());
    let mut seen = 0;
    for (tile, end) in site.tiles.iter().map(|t| (t, ENDS[Site::score(*t) as usize])) {
        let [x, y] = [0, 1].map(|axis| ((tile[axis] + 100) as f64 / downsample[axis]) as u32);
        if x >= beneath.width() || y >= beneath.height() {
            continue;
        }
        seen += 1;
        for (channel, ink) in end.into_iter().enumerate() {
            let expected = 0.4 * f64::from(beneath.get_pixel(x, y).0[channel]) + 0.6 * f64::from(ink);
            let got = f64::from(picture.get_pixel(x, y).0[channel]);
            assert!((got - expected).abs() <= 1.0, "{tile:?} channel {channel}: {got}, not {expected}");
        }
    }
    assert!(seen > 30, "{seen}");
    assert_eq!(picture.get_pixel(5, 5), beneath.get_pixel(5, 5), "no tile there");

    // The polygons, in the features' order.
    let map = json(&site.at("a").join(format!("{ID}.geojson")));
    let polygons = map["features"].as_array().expect("a list");
    assert!(map["type"] == "FeatureCollection" && polygons.len() == site.tiles.len());
    for (polygon, tile) in polygons.iter().zip(&site.tiles) {
        let ([x, y], score) = (*tile, Site::score(*tile));
        let ring = serde_json::json!([[[x, y], [x + 200, y], [x + 200, y + 200], [x, y + 200], [x, y]]]);
        assert_eq!((&polygon["type"], &polygon["geometry"]["type"]), (&"Feature".into(), &"Polygon".into()));
        assert_eq!(polygon["geometry"]["coordinates"], ring);
        assert_eq!(polygon["properties"]["measurements"]["score"], score);
        assert_eq!(polygon["properties"]["objectType"], "tile");
        assert_eq!(polygon["properties"]["color"], serde_json::json!(ENDS[score as usize]));
    }
    let table = fs::read_to_string(site.at("a").join(format!("{ID}.csv"))).expect("readable");
    let [x, y] = site.tiles[0];
    let score = Site::score(site.tiles[0]);
    assert!(
        table.starts_with(&format!("id,x,y,side_level0,score,fraction\n{ID},{x},{y},200,{score},{score}\n")),
        "{table}"
    );
    let legend = json(&site.at("a").join(format!("{ID}.json")));
    assert_eq!((&legend["range"], &legend["background"]), (&serde_json::json!([0.0, 1.0]), &"overview".into()));
    assert!(legend["range_from"].as_str().expect("words").contains("percentiles 1 and 99"), "{legend}");

    // The same from a column in order, what the maps wrote themselves, and HDF5; twice the same bytes.
    let ordered: String = site.tiles.iter().map(|t| format!("{}\n", Site::score(*t))).collect();
    let ordered = site.write("ordered.csv", &("score\n".to_string() + &ordered));
    site.heatmap(0, &ordered, "b", &[&["--slide", ID], &all[..]].concat());
    site.heatmap(0, &site.at("a").join(format!("{ID}.csv")), "c", &all);
    let (h5, name) = (site.at("scores.h5"), format!("'{ID}'"));
    let write = format!(
        "import h5py, numpy, sys\nx = numpy.loadtxt(sys.argv[1], skiprows=1)\nh5py.File(sys.argv[2], 'w')[{name}] = x.astype('float32')"
    );
    let python = std::process::Command::new(common::python()).args(["-c", &write, text(&ordered), text(&h5)]).status();
    assert!(python.expect("python starts").success());
    site.heatmap(0, &h5, "d", &all);
    for other in ["b", "c", "d"] {
        assert_eq!(files(&site.at("a")), files(&site.at(other)));
        for file in files(&site.at("a")) {
            let read = |name: &str| fs::read(site.at(name).join(&file)).expect("readable");
            assert!(read("a") == read(other), "{other}: {}", file.display());
        }
    }

    // Another range, and what to write.
    site.heatmap(0, &csv, "e", &["--range", "-1,1", "--format", "geojson"]);
    let names: Vec<_> = files(&site.at("e")).iter().map(|f| f.display().to_string()).collect();
    assert_eq!(names, [format!("{ID}.geojson"), format!("{ID}.json")]);
    let map = json(&site.at("e").join(format!("{ID}.geojson")));
    let zero = site.tiles.iter().position(|t| Site::score(*t) == 0.0).expect("one");
    // matplotlib.colormaps["viridis"](0.5), within the rounding between its 256 colours.
    let got: Vec<i64> = map["features"][zero]["properties"]["color"]
        .as_array()
        .expect("three")
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    assert!(got.iter().zip([33, 145, 140]).all(|(got, want)| (got - want).abs() <= 1), "{got:?}");
    assert_eq!(json(&site.at("e").join(format!("{ID}.json")))["range_from"], "given");

    // No overview: white, and it is said.
    fs::remove_file(overview).expect("removes");
    let said = site.heatmap(0, &csv, "f", &[]);
    assert!(said.contains("on white, it has no overview"), "{said}");
    let picture = image::open(site.at("f").join(format!("{ID}.png"))).expect("a PNG").into_rgb8();
    assert_eq!(picture.get_pixel(5, 5).0, [255; 3]);
    assert_eq!(json(&site.at("f").join(format!("{ID}.json")))["background"], "white");
}

#[test]
fn what_cannot_be_right_is_said() {
    let site = Site::new();
    let whole = site.placed();
    let n = site.tiles.len();
    let first = format!("{ID},{},{},", site.tiles[0][0], site.tiles[0][1]);
    // The whole command fails.
    for (content, more, said) in [
        ("x,y\n".to_string(), &[][..], "--scores: no column 'score'"),
        (whole.replacen(",0\n", ",low\n", 1), &[], "'low' is no number"),
        (whole.clone(), &["--slide", "other"], "--scores holds none of the slide 'other'"),
        (whole.clone(), &["--range", "1,0"], "two numbers, the smaller first"),
        (whole.clone(), &["--format", "jpg"], "invalid value 'jpg'"),
        (whole.clone(), &["--artefact", "features_uni"], "no such features in OUT"),
    ] {
        let told = site.heatmap(2, &site.write("scores.csv", &content), "x", more);
        assert!(told.contains(said), "{told}");
    }
    assert!(site.heatmap(2, &site.at("nowhere.csv"), "x", &[]).contains("--scores cannot be read"));
    let scores = site.write("scores.csv", &whole);
    assert!(site.heatmap(2, &scores, "out/maps", &[]).contains("-o lies in OUT"));
    assert!(!site.at("x").exists() && !site.at("out/maps").exists());
    // One slide fails; others would be drawn.
    for (content, said) in [
        (whole.clone() + "other,0,0,1\n", "other: OUT holds no features_tiny of this slide".to_string()),
        (whole.clone() + &first + "1\n", "two scores for the tile at".into()),
        (whole.replacen(&first, &format!("{ID},7,7,"), 1), format!("x 7, y 7 is of none of the slide's {n} tiles")),
        (format!("id,score\n{ID},1\n"), format!("1 scores for {n} tiles")),
    ] {
        let told = site.heatmap(4, &site.write("scores.csv", &content), "y", &[]);
        assert!(told.contains("not drawn:") && told.contains(&said), "{told}");
    }
    // Tiles without a score stay as they are.
    let told = site.heatmap(0, &site.write("scores.csv", &format!("id,x,y,score\n{first}0.5\n")), "z", &[]);
    assert!(told.contains(&format!("{} of {n} have no score", n - 1)), "{told}");
    // Damaged features are not drawn on.
    let file = site.at("out").join(GRID).join(format!("features_tiny/{ID}.h5"));
    let mut bytes = fs::read(&file).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("writes");
    let told = site.heatmap(4, &scores, "y", &[]);
    assert!(told.contains("the content of its file in features_tiny has changed"), "{told}");
}
