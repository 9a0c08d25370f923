//! The contract: all that makes features comparable, in canonical JSON, and its sha256, which is in every file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256;

/// All that makes features comparable. Two sets of features with equal contracts may be trained on together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// [`Contract::SCHEMA`].
    pub schema: String,
    /// Where tiles lie and how their pixels are made.
    pub grid: GridContract,
    /// What embeds them; `None` for coordinates alone.
    pub encoder: Option<EncoderContract>,
    /// How values are stored; `None` for coordinates alone.
    pub storage: Option<StorageContract>,
}

/// The contract's part about tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields' names are those of the options they repeat")]
pub struct GridContract {
    pub target_mpp: f64,
    pub mpp_tolerance: f64,
    pub tile_px: u32,
    pub overlap_px: u32,
    pub level_rule: String,
    pub decode: String,
    pub resample: String,
    pub fill: String,
    pub allow_upsample: bool,
    pub min_tissue_fraction: f64,
    /// Method and every parameter.
    pub tissue: Value,
    pub icc: String,
    /// The coordinate convention in words.
    pub coords: String,
}

/// The contract's part about the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields' names are those of the card")]
pub struct EncoderContract {
    pub id: String,
    pub sha256: String,
    pub input_px: u32,
    pub layout: String,
    pub dtype: String,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub resize: String,
    pub output: String,
    pub pooling: String,
    pub dim: usize,
}

/// The contract's part about storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageContract {
    /// `f32-m10`, `f32` or `f16`.
    pub precision: String,
}

impl Contract {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-contract/1";

    /// A contract of the current form.
    #[must_use]
    pub fn new(grid: GridContract, encoder: Option<EncoderContract>, storage: Option<StorageContract>) -> Self {
        Contract { schema: Self::SCHEMA.into(), grid, encoder, storage }
    }

    /// The contract as canonical JSON (RFC 8785).
    #[must_use]
    pub fn canonical_json(&self) -> String {
        serde_json_canonicalizer::to_string(self).expect("a contract holds finite numbers, strings and lists only")
    }

    /// The sha256 of [`Contract::canonical_json`], 64 hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        sha256(self.canonical_json().as_bytes())
    }

    /// A line for each field that differs: `grid.tile_px: 256 there, 224 here`; `there` is `other`'s value.
    #[must_use]
    pub fn differences(&self, other: &Contract) -> Vec<String> {
        let value = |c: &Contract| serde_json::from_str::<Value>(&c.canonical_json()).unwrap_or(Value::Null);
        let mut lines = Vec::new();
        compare("", &value(other), &value(self), &mut lines);
        lines
    }
}

fn compare(path: &str, there: &Value, here: &Value, lines: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (there, here) else {
        if there != here {
            lines.push(format!("{path}: {there} there, {here} here"));
        }
        return;
    };
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), lines);
    }
}
