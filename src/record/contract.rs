//! The contract: all that must be equal for two feature files to be used together.
//!
//! Its sha256 is taken over the canonical JSON of RFC 8785 (members sorted by UTF-16, numbers as ECMAScript prints them, no
//! white space), so that any language gets the same from the same values. What only says how a result came about (versions,
//! device, decoder) is in [`Runtime`](super::Runtime) and not here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::publish;
use crate::digest;
use crate::error::{Error, Result};

/// All that makes features comparable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// [`Contract::SCHEMA`].
    pub schema: String,
    /// How slides become tiles.
    pub grid: GridContract,
    /// How tiles become features; `None` for patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderContract>,
    /// How features are stored; `None` for patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageContract>,
    /// How a slide's features become one vector; `None` for patches and features of tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slide: Option<SlideContract>,
}

/// How slides become tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridContract {
    /// µm per pixel of a tile.
    pub target_mpp: f64,
    /// Relative tolerance within which a level counts as being at the target.
    pub mpp_tolerance: f64,
    /// Side of a tile in its own pixels.
    pub tile_px: u32,
    /// Overlap of neighbouring tiles, in tile pixels.
    pub overlap_px: u32,
    /// How the level to read is chosen.
    pub level_rule: String,
    /// How blocks are decoded: `scaled` or `exact`.
    pub decode: String,
    /// Filter of the resampling.
    pub resample: String,
    /// What lies outside the slide.
    pub fill: String,
    /// Whether coarser slides are magnified.
    pub allow_upsample: bool,
    /// Least share of a tile that is tissue, 0 to 1.
    pub min_tissue_fraction: f64,
    /// The tissue method and every parameter of it.
    pub tissue: Value,
    /// Treatment of embedded colour profiles.
    pub icc: String,
    /// What a row of `coords` means.
    pub coords: String,
}

/// How tiles become features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderContract {
    /// Id in the registry.
    pub id: String,
    /// sha256 of the model with its external data.
    pub sha256: String,
    /// Side of the model's input in pixels.
    pub input_px: u32,
    /// Order of the input's axes: `nchw` or `nhwc`.
    pub layout: String,
    /// Type of the input's elements.
    pub dtype: String,
    /// Subtracted from each channel.
    #[serde(serialize_with = "shortest")]
    pub mean: [f32; 3],
    /// Each channel's divisor.
    #[serde(serialize_with = "shortest")]
    pub std: [f32; 3],
    /// How a tile is brought to `input_px`.
    pub resize: String,
    /// Side that it is resized to before its centre of `input_px` is cut out; absent where that is `input_px`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize_px: Option<u32>,
    /// Name of the model's output.
    pub output: String,
    /// How the output becomes one vector.
    pub pooling: String,
    /// Values of that vector.
    pub dim: usize,
    /// In what precision the model computes, where its card says it: `fp32`, `fp16`, `bf16` or `int8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
}

/// How features are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageContract {
    /// `f32-m10`, `f32` or `f16`.
    pub precision: String,
}

/// How the features of a slide's tiles become one vector, which is stored as float32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlideContract {
    /// `mean-<encoder>`, or the slide encoder's id.
    pub id: String,
    /// How the vector is made: by which pooling, or by which of a graph's inputs and output.
    pub rule: String,
    /// sha256 of the slide encoder's model with its external data; absent for a pooling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Values of the vector.
    pub dim: usize,
}

impl Contract {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-contract/1";

    /// A contract of the current form, for patches or features of tiles.
    #[must_use]
    pub fn new(grid: GridContract, encoder: Option<EncoderContract>, storage: Option<StorageContract>) -> Self {
        Contract { schema: Self::SCHEMA.into(), grid, encoder, storage, slide: None }
    }

    /// The contract in canonical JSON, RFC 8785.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        canonical(&self.value())
    }

    /// sha256 of the canonical JSON, 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        digest::sha256(self.canonical_json().as_bytes())
    }

    /// Each field that differs, such as `grid.tile_px: 256 there, 224 here`; `self` is here and `other` there.
    #[must_use]
    pub fn differences(&self, other: &Contract) -> Vec<String> {
        differences(&self.value(), &other.value())
    }

    fn value(&self) -> Value {
        serde_json::to_value(self).expect("plain fields and text keys always make a JSON value")
    }
}

/// Writes what a person wrote: 0.485 and not the 0.48500001430511475 that a float32 of it is.
fn shortest<S: serde::Serializer>(values: &[f32; 3], serializer: S) -> Result<S::Ok, S::Error> {
    // A float32 prints as the shortest decimal that reads back as itself, which float64 then takes at its word.
    values.map(|v| v.to_string().parse::<f64>().unwrap_or(f64::NAN)).serialize(serializer)
}

/// A JSON value in the canonical form of RFC 8785.
#[must_use]
pub fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value).expect("a JSON value holds finite numbers and text keys only")
}

/// Each field that differs between two contracts, of whatever kind, in alphabetical order.
#[must_use]
pub fn differences(here: &Value, there: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", Some(here), Some(there), &mut lines);
    lines
}

fn compare(path: &str, here: Option<&Value>, there: Option<&Value>, lines: &mut Vec<String>) {
    if here == there {
        return;
    }
    if let (Some(Value::Object(here)), Some(Value::Object(there))) = (here, there) {
        let mut keys: Vec<&String> = here.keys().chain(there.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, here.get(key), there.get(key), lines);
        }
        return;
    }
    let show = |value: Option<&Value>| match value {
        None => "absent".to_owned(),
        Some(Value::Object(_)) => "present".to_owned(),
        Some(Value::String(text)) => text.clone(),
        // 1 and 1.0 are one number in canonical JSON.
        Some(value) => canonical(value),
    };
    let (here, there) = (show(here), show(there));
    if here != there {
        lines.push(format!("{path}: {there} there, {here} here"));
    }
}

/// Where the contract of an artefact lies.
#[must_use]
pub fn contract_path(grid_dir: &Path, artefact: &str) -> PathBuf {
    grid_dir.join("contracts").join(format!("{artefact}.json"))
}

/// The contract that an artefact of a grid directory was begun with, as JSON; `None` where it was not begun.
///
/// # Errors
/// [`Error::Output`] where it is there and cannot be read.
pub fn read_contract(grid_dir: &Path, artefact: &str) -> Result<Option<Value>> {
    let what = format!("contracts/{artefact}.json");
    match std::fs::read(contract_path(grid_dir, artefact)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Output(format!("{what} cannot be read: {e}"))),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::Output(format!("{what} is damaged ({e}): put it back, or begin with another OUT"))),
    }
}

/// Binds an artefact of a grid directory to `contract`: the first to come writes it down, everybody after must have the
/// same. Returns its sha256.
///
/// # Errors
/// [`Error::Incompatible`] names every field in which the artefact's contract is another; [`Error::Output`] where that cannot
/// be read; [`Error::Write`].
pub fn claim_contract(grid_dir: &Path, artefact: &str, contract: &Contract) -> Result<String> {
    let here = contract.value();
    let sha256 = contract.sha256();
    let mut text = serde_json::to_vec_pretty(&here).map_err(|e| Error::Internal(format!("contract: {e}")))?;
    text.push(b'\n');
    let created = publish::create_dir_all(&grid_dir.join("contracts"))
        .and_then(|()| publish::create_once(&contract_path(grid_dir, artefact), &text))
        .map_err(|e| Error::write(format!("contracts/{artefact}.json"), e))?;
    if created {
        return Ok(sha256);
    }
    let mut there = read_contract(grid_dir, artefact);
    for _ in 0..10 {
        if there.is_ok() {
            break;
        }
        // Without hard links the first one's file is there a moment before its content.
        std::thread::sleep(Duration::from_millis(100));
        there = read_contract(grid_dir, artefact);
    }
    refuse_another(artefact, &here, &there?.unwrap_or(Value::Null))?;
    Ok(sha256)
}

/// Refuses an artefact that is bound to another contract, and binds nothing: for a run that may still fail to start.
///
/// # Errors
/// As [`claim_contract`].
pub fn check_contract(grid_dir: &Path, artefact: &str, contract: &Contract) -> Result<()> {
    match read_contract(grid_dir, artefact)? {
        Some(there) => refuse_another(artefact, &contract.value(), &there),
        None => Ok(()),
    }
}

fn refuse_another(artefact: &str, here: &Value, there: &Value) -> Result<()> {
    if canonical(there) == canonical(here) {
        return Ok(());
    }
    let lines = differences(here, there);
    Err(Error::Incompatible(format!(
        "this OUT holds {artefact} made with other settings:\n  {}\nuse another OUT, or the old settings",
        lines.join("\n  ")
    )))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn patches() -> Contract {
        Contract::new(
            GridContract {
                target_mpp: 0.5,
                mpp_tolerance: 0.05,
                tile_px: 256,
                overlap_px: 0,
                level_rule: "coarsest level at least as fine as the target".into(),
                decode: "scaled".into(),
                resample: "bilinear".into(),
                fill: "white".into(),
                allow_upsample: false,
                min_tissue_fraction: 0.1,
                tissue: json!({"method": "otsu", "closing_um": 40.0}),
                icc: "off".into(),
                coords: "level-0 px, top left, x y".into(),
            },
            None,
            None,
        )
    }

    pub(crate) fn features(dim: usize) -> Contract {
        let encoder = EncoderContract {
            id: "test".into(),
            sha256: "cd".repeat(32),
            input_px: 224,
            layout: "nhwc".into(),
            dtype: "uint8".into(),
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            resize_px: None,
            resize: "bilinear".into(),
            output: "embedding".into(),
            pooling: "mean".into(),
            dim,
            compute: None,
        };
        Contract { encoder: Some(encoder), storage: Some(StorageContract { precision: "f32-m10".into() }), ..patches() }
    }

    /// RFC 8785 sections 3.2.2 and 3.2.3, and numbers of its appendix B.
    #[test]
    fn canonical_form_is_rfc_8785() {
        let sample = r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
        let expected = concat!(
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
            r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        assert_eq!(canonical(&serde_json::from_str(sample).unwrap()), expected);
        let order = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        let sorted = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(canonical(&serde_json::from_str(order).unwrap()), sorted);
        for (bits, text) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
        ] {
            assert_eq!(canonical(&json!(f64::from_bits(bits))), text);
        }
    }

    #[test]
    fn the_hash_is_of_values_not_of_text() {
        let contract = features(1280);
        let text = serde_json::to_string_pretty(&contract).unwrap();
        let back: Contract = serde_json::from_str(&text).unwrap();
        assert_eq!(back, contract);
        assert_eq!(back.sha256(), contract.sha256());
        assert_eq!(canonical(&serde_json::from_str(&text).unwrap()), contract.canonical_json());
        assert!(contract.canonical_json().contains(r#""mean":[0.485,0.456,0.406]"#));
        let rewritten: Value = serde_json::from_str(&text.replace("\"overlap_px\": 0", "\"overlap_px\": 0.0")).unwrap();
        assert_eq!(canonical(&rewritten), contract.canonical_json());
    }

    #[test]
    fn differences_are_named() {
        let mut here = features(1280);
        let there = here.clone();
        assert!(here.differences(&there).is_empty());
        here.grid.tile_px = 224;
        here.grid.tissue = json!({"method": "none"});
        here.storage = None;
        assert_eq!(
            here.differences(&there),
            [
                "grid.tile_px: 256 there, 224 here",
                "grid.tissue.closing_um: 40 there, absent here",
                "grid.tissue.method: otsu there, none here",
                "storage: present there, absent here",
            ]
        );
    }

    #[test]
    fn the_first_contract_binds() {
        let dir = tempfile::tempdir().unwrap();
        let contract = features(1280);
        let sha = claim_contract(dir.path(), "features_test", &contract).unwrap();
        assert_eq!(sha, contract.sha256());
        assert_eq!(claim_contract(dir.path(), "features_test", &contract).unwrap(), sha);
        let mut other = contract.clone();
        other.grid.target_mpp = 1.0;
        let error = claim_contract(dir.path(), "features_test", &other).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("grid.target_mpp: 0.5 there, 1 here"), "{error}");
        // Another artefact of the same grid is free.
        claim_contract(dir.path(), "patches", &patches()).unwrap();
        // A contract of a later kind is refused, and what it adds is named.
        let later = std::fs::read_to_string(contract_path(dir.path(), "patches")).unwrap();
        let later = later.replace("paraffin-contract/1\"", "paraffin-contract/2\", \"stain\": \"off\"");
        std::fs::write(contract_path(dir.path(), "patches"), later).unwrap();
        let error = claim_contract(dir.path(), "patches", &patches()).unwrap_err().to_string();
        assert!(error.contains("stain: off there, absent here"), "{error}");
        std::fs::write(contract_path(dir.path(), "patches"), "{").unwrap();
        assert!(matches!(claim_contract(dir.path(), "patches", &patches()), Err(Error::Output(_))));
    }
}
