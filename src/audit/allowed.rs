//! What an OUT may hold outside `site-private`: the one list that the audit checks files, HDF5 objects and attributes, and JSON
//! fields against. Whoever makes paraffin write something new adds it here.

use std::collections::HashSet;
use std::sync::OnceLock;

use regex::Regex;

use crate::encoder::registry;
use crate::slide::FORMATS;

/// A kind of file.
pub struct Rule {
    /// Its path below OUT. `{grid}` is a grid directory, `{name}` an encoder's or slide encoder's id, `{id}` a slide's.
    pub path: &'static str,
    /// What it may hold.
    pub content: Content,
}

/// What a file may hold.
#[derive(Clone, Copy)]
pub enum Content {
    /// These fields: `a.b` is b in the object a, `a[]` an item of the list a, `*` any name of a field, `#` a number
    /// as a name, `**` anything below,
    /// and `=NAME` at the end stands for another list (see `json_list`).
    Json(&'static [&'static str]),
    /// These objects and attributes: `coords` is a dataset of the root, `coords@name` its attribute, `@schema` the root's.
    Hdf5(&'static [&'static str]),
    /// The same, a value a line.
    JsonLines(&'static [&'static str]),
    /// Text.
    Text,
    /// A baseline JPEG with a JFIF header and nothing else besides the picture.
    Jpeg,
}

/// The list.
pub const FILES: &[Rule] = &[
    Rule { path: "plan.jsonl", content: Content::JsonLines(PLAN) },
    Rule { path: "report.html", content: Content::Text },
    Rule { path: "site-manifest.json.minisig", content: Content::Text },
    Rule { path: "site-manifest.json", content: Content::Json(SITE_MANIFEST) },
    Rule { path: "{grid}/contracts/patches.json", content: Content::Json(CONTRACT) },
    Rule { path: "{grid}/contracts/features_{name}.json", content: Content::Json(CONTRACT) },
    Rule { path: "{grid}/contracts/slide_features_{name}.json", content: Content::Json(CONTRACT) },
    Rule { path: "{grid}/records/patches/{id}.json", content: Content::Json(RECORD) },
    Rule { path: "{grid}/records/features_{name}/{id}.json", content: Content::Json(RECORD) },
    Rule { path: "{grid}/records/slide_features_{name}/{id}.json", content: Content::Json(RECORD) },
    Rule { path: "{grid}/patches/{id}_patches.h5", content: Content::Hdf5(PATCHES) },
    Rule { path: "{grid}/features_{name}/{id}.h5", content: Content::Hdf5(FEATURES) },
    Rule { path: "{grid}/slide_features_{name}/{id}.h5", content: Content::Hdf5(SLIDE_FEATURES) },
    Rule { path: "{grid}/checkpoints/features_{name}/{id}.h5", content: Content::Hdf5(FEATURES) },
    Rule { path: "{grid}/checkpoints/features_{name}/{id}.json", content: Content::Json(CHECKPOINT) },
    Rule { path: "{grid}/overviews/{id}.jpg", content: Content::Jpeg },
    Rule { path: "{grid}/contours/{id}.geojson", content: Content::Json(CONTOURS) },
    Rule { path: "{grid}/canaries/features_{name}/{hash}.json", content: Content::Json(CANARY) },
];

const PLAN: &[&str] = &["schema", "grid", "slides", "failing", "tissue_share", "tiles", "cost", "id", "bytes", "fails"];

const SITE_MANIFEST: &[&str] = &[
    "schema",
    "artefacts[].grid",
    "artefacts[].artefact",
    "artefacts[].contract.=CONTRACT",
    "artefacts[].contract_sha256",
    "artefacts[].slides",
    "artefacts[].tiles",
    "artefacts[].tiles_failed",
    "artefacts[].failures.*",
    "artefacts[].mpp_sources.*",
    "artefacts[].formats.*",
    "artefacts[].mpps.#",
    "artefacts[].objective_powers.#",
    "artefacts[].readers.*",
    "artefacts[].tiles_per_slide.=QUANTILES",
    "artefacts[].statistics.slides",
    "artefacts[].statistics.tiles",
    "artefacts[].statistics.not_finite",
    "artefacts[].statistics.mean.=NUMBERS",
    "artefacts[].statistics.variance.=NUMBERS",
    "artefacts[].statistics.norms.=QUANTILES",
    "artefacts[].no_statistics",
    "artefacts[].canaries[].=CANARY",
    "artefacts[].runtimes[].=RUNTIME",
];

const CANARY: &[&str] = &[
    "schema",
    "contract_sha256",
    "runtime.=RUNTIME",
    "precision",
    "compute",
    "thresholds.refuse",
    "thresholds.warn",
    "tiles[]",
    "slide.sha256",
    "slide.mpp",
    "slide.tissue",
    "slide.planned",
    "slide.coords",
    "vectors.=NUMBERS",
];

const NUMBERS: &[&str] = &["dtype", "shape[]", "base64"];
const QUANTILES: &[&str] = &["q10", "q25", "q50", "q75", "q90"];

const CONTRACT: &[&str] = &[
    "schema",
    "grid.target_mpp",
    "grid.mpp_tolerance",
    "grid.tile_px",
    "grid.overlap_px",
    "grid.level_rule",
    "grid.decode",
    "grid.resample",
    "grid.fill",
    "grid.allow_upsample",
    "grid.min_tissue_fraction",
    "grid.tissue.method",
    "grid.tissue.rules",
    "grid.tissue.parameters.**",
    "grid.tissue.qc.**",
    "grid.tissue.given.**",
    "grid.icc",
    "grid.coords",
    "encoder.id",
    "encoder.sha256",
    "encoder.input_px",
    "encoder.layout",
    "encoder.dtype",
    "encoder.mean[]",
    "encoder.std[]",
    "encoder.resize",
    "encoder.resize_px",
    "encoder.output",
    "encoder.pooling",
    "encoder.dim",
    "encoder.compute",
    "storage.precision",
    "slide.id",
    "slide.rule",
    "slide.sha256",
    "slide.dim",
];

const RECORD: &[&str] = &[
    "schema",
    "id",
    "artefact",
    "contract_sha256",
    "files[].path",
    "files[].bytes",
    "files[].sha256",
    "made_from",
    "tiles.planned",
    "tiles.written",
    "tiles.failed",
    "slide.format",
    "slide.reader",
    "slide.width",
    "slide.height",
    "slide.mpp_x",
    "slide.mpp_y",
    "slide.mpp_source",
    "slide.objective_power",
    "read.level",
    "read.level_downsample",
    "read.reduction",
    "read.block_scale",
    "read.resampled",
    "read.icc_applied",
    "read.tile_size_level0",
    "read.effective_mpp",
    "tissue.area_mm2",
    "tissue.found.**",
    "warnings[]",
    "runtime.=RUNTIME",
    "moments.rows",
    "moments.not_finite",
    "moments.mean.=NUMBERS",
    "moments.std.=NUMBERS",
    "moments.norms.#",
];

const CONTOURS: &[&str] = &[
    "type",
    "features[].type",
    "features[].geometry.type",
    "features[].geometry.coordinates[][][]",
    "features[].properties.objectType",
    "features[].properties.classification.name",
    "features[].properties.classification.color[]",
    "features[].properties.measurements.area_mm2",
];

const CHECKPOINT: &[&str] = &[
    "schema",
    "id",
    "artefact",
    "work.contract_sha256",
    "work.plan_sha256",
    "work.runtime.=RUNTIME",
    "tiles",
    "next",
    "unreadable[]",
    "rows.path",
    "rows.bytes",
    "rows.sha256",
];

const RUNTIME: &[&str] = &["paraffin", "onnxruntime", "device"];

/// A list that others take in.
fn json_list(name: &str) -> &'static [&'static str] {
    match name {
        "CONTRACT" => CONTRACT,
        "RUNTIME" => RUNTIME,
        "CANARY" => CANARY,
        "NUMBERS" => NUMBERS,
        "QUANTILES" => QUANTILES,
        _ => &[],
    }
}

const PATCHES: &[&str] = &[
    "@schema",
    "@contract_sha256",
    "@mpp_level0",
    "@mpp_target",
    "coords",
    "coords@patch_size",
    "coords@patch_size_level0",
    "coords@level0_magnification",
    "coords@target_magnification",
    "coords@overlap",
    "coords@level0_width",
    "coords@level0_height",
    "coords@name",
    "coords@savetodir",
    "qc",
    "qc@columns",
    "qc@mpp",
    "qc@mpp_blur",
];

const FEATURES: &[&str] = &["=PATCHES", "@encoder", "@encoder_sha256", "features"];
const SLIDE_FEATURES: &[&str] = &["=FEATURES", "@slide_encoder", "@slide_encoder_sha256"];

/// Whether an HDF5 object or attribute (`coords@name`) may be there.
#[must_use]
pub fn hdf5_allows(list: &[&str], item: &str) -> bool {
    list.iter().any(|entry| match *entry {
        "=PATCHES" => hdf5_allows(PATCHES, item),
        "=FEATURES" => hdf5_allows(FEATURES, item),
        entry => entry == item,
    })
}

/// Whether a JSON field may be there: `path` is its names from the root, an item of a list being `[]`. An object or list that
/// leads to an allowed field may be there too.
#[must_use]
pub fn json_allows(list: &[&str], path: &[String]) -> bool {
    list.iter().any(|entry| entry_allows(entry, path))
}

fn entry_allows(entry: &str, path: &[String]) -> bool {
    let steps: Vec<&str> =
        entry.split('.').flat_map(|s| [s.trim_end_matches("[]")].into_iter().chain(s.matches("[]"))).collect();
    for (at, step) in steps.iter().enumerate() {
        let Some(name) = path.get(at) else { return true };
        if let Some(other) = step.strip_prefix('=') {
            return json_allows(json_list(other), &path[at..]);
        }
        match *step {
            "**" => return path[at..].iter().all(|name| name == "[]" || is_plain(name)),
            "*" if is_plain(name) || is_own_value(name) => {}
            "#" if name.parse::<f64>().is_ok() => {}
            step if step == name => {}
            _ => return false,
        }
    }
    path.len() == steps.len()
}

/// Whether a name looks like one that a program gave: no person's, no sentence.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    name.len() <= 40 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain)
}

/// A path below OUT, as the list sees it.
pub enum Place {
    /// A file that may be there; the parts of its path that vary, to be searched, and the id among them.
    File(Content, Vec<String>, Option<String>),
    /// A directory on the way to one; the parts of its path that vary.
    Directory(Vec<String>),
    /// Neither.
    Unknown,
}

struct Patterns {
    files: Vec<(Regex, Content)>,
    directories: Vec<Regex>,
}

fn patterns() -> &'static Patterns {
    static PATTERNS: OnceLock<Patterns> = OnceLock::new();
    PATTERNS.get_or_init(|| {
        let regex = |path: &str| {
            let text = regex::escape(path)
                .replace("\\{grid\\}", GRID)
                .replace("\\{name\\}", "(?P<name>[A-Za-z0-9._+-]+)")
                .replace("\\{hash\\}", "[0-9a-f]{16}")
                .replace("\\{id\\}", "(?P<id>[^/]+)");
            Regex::new(&format!("^{text}$")).expect("escaped, and the parts are constants")
        };
        let mut directories: Vec<&str> = Vec::new();
        for rule in FILES {
            let slashes = rule.path.match_indices('/').map(|(at, _)| &rule.path[..at]);
            directories.extend(slashes.filter(|d| !directories.contains(d)).collect::<Vec<_>>());
        }
        Patterns {
            files: FILES.iter().map(|rule| (regex(rule.path), rule.content)).collect(),
            directories: directories.into_iter().map(regex).collect(),
        }
    })
}

const GRID: &str = r"[0-9.]+x_[0-9]+px_[0-9]+px_overlap";

/// What the list says of a path below OUT, given with forward slashes.
#[must_use]
pub fn place(path: &str, is_directory: bool) -> Place {
    let varying = |captures: &regex::Captures| {
        let part = |name| captures.name(name).map(|m| m.as_str().to_string());
        (part("name").into_iter().chain(part("id")).collect::<Vec<_>>(), part("id"))
    };
    if is_directory {
        let found = patterns().directories.iter().find_map(|regex| regex.captures(path));
        return found.map_or(Place::Unknown, |captures| Place::Directory(varying(&captures).0));
    }
    let found = patterns().files.iter().find_map(|(regex, content)| Some((regex.captures(path)?, *content)));
    found.map_or(Place::Unknown, |(captures, content)| {
        let (parts, id) = varying(&captures);
        Place::File(content, parts, id)
    })
}

/// Values that paraffin writes itself, whatever the slide: they are not searched, as a folder may be called after an encoder.
#[must_use]
pub fn is_own_value(value: &str) -> bool {
    static OWN: OnceLock<(HashSet<String>, Regex)> = OnceLock::new();
    let (own, forms) = OWN.get_or_init(|| {
        let cards = registry::cards().unwrap_or_default();
        let mut own: HashSet<String> = cards.iter().map(|card| card.id.clone()).collect();
        for folder in ["features_", "slide_features_mean-"] {
            own.extend(cards.iter().map(|card| format!("{folder}{}", card.id)));
        }
        own.extend(cards.iter().map(|card| format!("mean-{}", card.id)));
        own.extend(FORMATS.iter().map(|format| format.name.to_string()));
        own.extend(OWN_VALUES.iter().map(ToString::to_string));
        own.extend([crate::job::COORDS_RULE.to_string(), crate::tiling::LEVEL_RULE.to_string()]);
        let forms =
            Regex::new(&format!(r"^(?:[0-9a-f]{{64}}|{GRID}|(?:openslide )?\d+\.\d+\.\d+)$")).expect("a constant");
        (own, forms)
    });
    own.contains(value) || forms.is_match(value)
}

const OWN_VALUES: &[&str] = &[
    "paraffin-record/1",
    "paraffin-contract/1",
    "paraffin-site-manifest/1",
    "paraffin-patches/1",
    "paraffin-features/1",
    "paraffin-slide-features/1",
    "paraffin-canary/1",
    "paraffin-plan/1",
    "<f4",
    "<f8",
    "<5",
    "patches",
    "native",
    // OpenSlide's names of formats.
    "argos",
    "hamamatsu",
    "huron",
    "mirax",
    "sakura",
    "synthetic",
    "zeiss",
    // Kinds of failures.
    "block",
    "damaged",
    "encoder",
    "internal",
    "library",
    "mpp",
    "not-a-slide",
    "output",
    "read",
    "tissue",
    "unsupported",
    "write",
    "user",
    "slide-list",
    "vendor",
    "tiff-resolution",
    "ome-dicom",
    "objective-power",
    "exact",
    "scaled",
    "white",
    "bilinear",
    "bicubic",
    "lanczos",
    "off",
    "auto",
    "otsu",
    "entropy",
    "fluorescence",
    "model",
    "mask",
    "none",
    "blur",
    "pen",
    "black",
    "FeatureCollection",
    "Feature",
    "Polygon",
    "annotation",
    "Tissue",
    "f32-m10",
    "f32",
    "f16",
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "uint8",
    "float32",
    "nchw",
    "nhwc",
    "embedding",
    "cpu",
    "mean of the stored features, summed in float64",
];

/// All words that stand in every OUT: what matches in them is not looked for between the bytes of a file.
pub fn own_words() -> impl Iterator<Item = &'static str> {
    let lists = FILES.iter().flat_map(|rule| match rule.content {
        Content::Json(list) | Content::JsonLines(list) | Content::Hdf5(list) => list,
        Content::Jpeg | Content::Text => &[],
    });
    let taken_in = [CONTRACT, RUNTIME, CANARY, NUMBERS, QUANTILES, PATCHES, FEATURES].into_iter().flatten();
    let rules = [crate::job::COORDS_RULE, crate::tiling::LEVEL_RULE];
    lists.chain(taken_in).copied().chain(OWN_VALUES.iter().copied()).chain(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(path: &str) -> bool {
        let path: Vec<String> = path.split('/').map(String::from).collect();
        json_allows(SITE_MANIFEST, &path)
    }

    #[test]
    fn fields_are_allowed_by_their_place() {
        for path in [
            "schema",
            "artefacts",
            "artefacts/[]/contract/grid/tile_px",
            "artefacts/[]/formats/aperio",
            "artefacts/[]/readers/openslide 4.0.1",
        ] {
            assert!(json(path), "{path}");
        }
        assert!(json("artefacts/[]/runtimes/[]/device"));
        assert!(json("artefacts/[]/contract/grid/tissue/parameters/pen/red_hue/[]"));
        for path in [
            "artefacts/schema",
            "name",
            "artefacts/[]/formats/Doe John",
            "artefacts/[]/formats/aperio/x",
            "artefacts/[]/contract/grid/tile_px/x",
            "artefacts/[]/runtimes/[]/host",
        ] {
            assert!(!json(path), "{path}");
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        let grid = "20x_224px_0px_overlap";
        let Place::File(Content::Hdf5(_), parts, id) = place(&format!("{grid}/features_uni/x.h5"), false) else {
            panic!("a feature file")
        };
        assert_eq!((parts, id.as_deref()), (vec!["uni".to_string(), "x".into()], Some("x")));
        assert!(matches!(place(grid, true), Place::Directory(parts) if parts.is_empty()));
        assert!(matches!(place("slides", true), Place::Unknown));
        assert!(matches!(place(&format!("{grid}/features_uni/x.txt"), false), Place::Unknown));
        assert!(is_own_value("uni2-h") && is_own_value(grid) && !is_own_value("Doe"));
    }

    #[test]
    fn hdf5_lists_take_in_others() {
        assert!(hdf5_allows(SLIDE_FEATURES, "coords@name") && hdf5_allows(SLIDE_FEATURES, "@slide_encoder"));
        assert!(!hdf5_allows(PATCHES, "features") && !hdf5_allows(FEATURES, "coords@path"));
    }
}
