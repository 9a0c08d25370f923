//! What stands beside the features: under which contract they were made (`contract`), what each slide went through (this
//! file), which are done (`done`), and how files appear whole or not at all (`publish`).

pub mod contract;
pub mod done;
pub mod publish;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What one slide went through to give one artefact. Written last: its presence makes the artefact count as done.
///
/// Holds no path, no date and no name but the id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "told by their names and types' docs")]
pub struct Record {
    pub schema: String,
    pub id: String,
    /// `patches` or `features_<encoder>`.
    pub artefact: String,
    pub contract_sha256: String,
    pub files: Vec<FileEntry>,
    pub tiles: TileCounts,
    pub slide: SlideFacts,
    pub read: ReadFacts,
    /// Area and the method's findings.
    pub tissue: Value,
    pub warnings: Vec<String>,
    pub runtime: Runtime,
}

/// A file of the artefact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the grid's directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its sha256, 64 hexadecimal digits.
    pub sha256: String,
}

/// Tiles by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileCounts {
    /// Tiles of the plan.
    pub planned: u64,
    /// Rows in the file.
    pub written: u64,
    /// Tiles that could not be read.
    pub failed: u64,
}

/// The slide as it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlideFacts {
    /// Format.
    pub format: String,
    /// The reader at work.
    pub reader: String,
    /// Level-0 width, pixels.
    pub width: u32,
    /// Level-0 height, pixels.
    pub height: u32,
    /// µm per level-0 pixel, horizontally.
    pub mpp_x: f64,
    /// µm per level-0 pixel, vertically.
    pub mpp_y: f64,
    /// Where the resolution comes from.
    pub mpp_source: String,
    /// Objective power, where stated.
    pub objective_power: Option<f64>,
}

/// How its tiles were read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadFacts {
    /// Level.
    pub level: usize,
    /// Level-0 pixels per pixel of the level.
    pub level_downsample: f64,
    /// Pixels of the level per tile pixel.
    pub reduction: f64,
    /// What the block decoder reduced by.
    pub block_scale: u32,
    /// Whether pixels were resampled.
    pub resampled: bool,
    /// Side of a tile in level-0 pixels.
    pub tile_size_level0: u32,
    /// µm per tile pixel that came out.
    pub effective_mpp: f64,
}

/// What ran; features made by other versions or devices may still be comparable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// paraffin's version.
    pub paraffin: String,
    /// ONNX Runtime's version, where one ran.
    pub onnxruntime: Option<String>,
    /// Where the encoder computed.
    pub device: String,
}

impl Record {
    /// The version of this form.
    pub const SCHEMA: &str = "paraffin-record/1";

    /// The record as it lies on disk.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a record holds finite numbers, strings and lists only");
        text + "\n"
    }
}
