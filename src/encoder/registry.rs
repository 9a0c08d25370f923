//! Encoder cards: what an encoder is, where it comes from, what it wants and gives, as data (`models/<id>.toml`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{file_sha256, sha256};
use crate::error::{Error, Result};
use crate::resample::Filter;

/// How the graph wants its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// batch, height, width, colour.
    Nhwc,
    /// batch, colour, height, width.
    Nchw,
}

/// The graph's input type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 0 to 255; the graph normalises.
    Uint8,
    /// `(pixel / 255 - mean) / std`, by paraffin.
    Float32,
}

/// A card's `[input]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the input in pixels.
    pub px: u32,
    /// Order of the axes.
    pub layout: Layout,
    /// Type of the values.
    pub dtype: Dtype,
    /// Mean of each colour, of 1.
    pub mean: [f32; 3],
    /// Standard deviation of each colour, of 1.
    pub std: [f32; 3],
    /// Filter where a tile of another size is brought to `px`.
    pub resize: Filter,
}

/// A card's `[tile]`: what the encoder's authors recommend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Side of a tile in its own pixels.
    pub px: u32,
    /// µm per tile pixel.
    pub mpp: f64,
}

/// A card's `[output]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the graph's output.
    pub name: String,
    /// Length of an embedding.
    pub dim: usize,
    /// What the embedding is made of, in words.
    pub pooling: String,
}

/// An encoder's card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The name on the command line, in directory names and contracts.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// The ONNX file beside the card.
    pub file: String,
    /// Its sha256, hexadecimal; checked before use where it is not empty.
    #[serde(default)]
    pub sha256: String,
    /// Whether it was trained on pathology images.
    pub pathology: bool,
    /// What every user must know.
    #[serde(default)]
    pub note: String,
    /// Where the weights come from.
    #[serde(default)]
    pub source: String,
    /// Which version of them.
    #[serde(default)]
    pub revision: String,
    /// The weights' file name there.
    #[serde(default)]
    pub weights_file: String,
    /// The weights' sha256.
    #[serde(default)]
    pub weights_sha256: String,
    /// SPDX name or the licence's own.
    #[serde(default)]
    pub license: String,
    /// Whether the licence allows commercial use.
    #[serde(default)]
    pub commercial_use: bool,
    /// Whether the weights are handed out on request only.
    #[serde(default)]
    pub gated: bool,
    /// Architecture in words.
    #[serde(default)]
    pub architecture: String,
    /// Parameters, millions.
    #[serde(default)]
    pub params_m: f64,
    /// Multiply-adds of one tile, times 2, in 10^9.
    #[serde(default)]
    pub gflops: f64,
    /// How to cite it.
    #[serde(default)]
    pub citation: String,
    /// How it was checked against its source.
    #[serde(default)]
    pub verified: String,
    /// What goes in.
    pub input: Input,
    /// What a tile should be.
    pub tile: Tile,
    /// What comes out.
    pub output: Output,
}

impl Card {
    /// Reads a card and checks its values.
    ///
    /// # Errors
    /// [`Error::Encoder`] naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        let card: Card = toml::from_str(text).map_err(|e| Error::Encoder(format!("card: {}", e.to_string().trim())))?;
        let wrong = |what: String| Err(Error::Encoder(format!("card of '{}': {what}", card.id)));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if card.id.is_empty() || card.id.starts_with('.') || !card.id.chars().all(plain) {
            return wrong("id must be letters, digits, '-', '_' and '.': it names a directory".into());
        }
        if !(8..=4096).contains(&card.input.px) || !(8..=8192).contains(&card.tile.px) {
            return wrong(format!("input of {} px, tile of {} px", card.input.px, card.tile.px));
        }
        if !(0.05..=100.0).contains(&card.tile.mpp) || card.output.dim == 0 || card.input.std.contains(&0.0) {
            return wrong(format!("mpp {}, dim {}, std {:?}", card.tile.mpp, card.output.dim, card.input.std));
        }
        Ok(card)
    }
}

/// The model's bytes.
#[derive(Clone, Debug)]
pub enum Model {
    /// Compiled into the program.
    Embedded(&'static [u8]),
    /// A file, possibly with external data beside it.
    File(PathBuf),
}

/// An encoder that can be run.
#[derive(Clone, Debug)]
pub struct Available {
    /// Its card.
    pub card: Card,
    /// Its model.
    pub model: Model,
    /// Identity of the weights: sha256 of the ONNX file, or, with external data, of the list of all files' sha256.
    pub sha256: String,
    /// Size of all its files.
    pub bytes: u64,
}

/// The encoder that runs when none is named.
pub const DEFAULT_ID: &str = "efficientnet-lite0";

const DEFAULT_CARD: &str = include_str!("../../models/efficientnet-lite0.toml");
static DEFAULT_MODEL: &[u8] = include_bytes!("../../models/efficientnet-lite0.onnx");

/// Cards of all encoders that are compiled in.
///
/// # Errors
/// A broken card, which is a fault of the build.
pub fn cards() -> Result<Vec<Card>> {
    Ok(vec![Card::parse(DEFAULT_CARD)?])
}

/// Finds an encoder by id, or by the path of an ONNX file, whose card is `card` or the `.toml` file beside it.
///
/// A file without a card gets one from its graph when it is opened (see [`super::onnx::describe`]).
///
/// # Errors
/// [`Error::Encoder`] where it does not exist, its card is broken, or its sha256 is not the card's.
pub fn find(name: &str, card: Option<&Path>) -> Result<Available> {
    if name == DEFAULT_ID {
        if card.is_some() {
            return Err(Error::Usage("--card belongs to --encoder FILE.onnx".into()));
        }
        let card = Card::parse(DEFAULT_CARD)?;
        let (sha256, bytes) = (card.sha256.clone(), DEFAULT_MODEL.len() as u64);
        return Ok(Available { card, model: Model::Embedded(DEFAULT_MODEL), sha256, bytes });
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|e| e != "onnx") {
        return Err(Error::Encoder(format!(
            "'{name}' is not known here; 'paraffin encoders list' shows what is, and --encoder FILE.onnx runs any other"
        )));
    }
    if !path.is_file() {
        return Err(Error::Encoder(format!("no such file: {name}")));
    }
    let (sha256, bytes) = file_identity(path)?;
    let beside = path.with_extension("toml");
    let card_path = card.map(Path::to_path_buf).or_else(|| beside.is_file().then_some(beside));
    let card = match card_path {
        Some(card_path) => {
            let text = std::fs::read_to_string(&card_path)
                .map_err(|e| Error::Encoder(format!("cannot read the card {}: {e}", card_path.display())))?;
            Card::parse(&text)?
        }
        None => super::onnx::describe(path)?,
    };
    if !card.sha256.is_empty() && card.sha256 != sha256 {
        return Err(Error::Encoder(format!(
            "the model's sha256 is {sha256}, its card says {}: another file, or a damaged one",
            card.sha256
        )));
    }
    Ok(Available { card, model: Model::File(path.to_path_buf()), sha256, bytes })
}

/// The sha256 of an ONNX file; where files beside it hold its weights (external data: their names stand in the graph),
/// the sha256 of the lines `<sha256> <name>` of all of them, the graph first, then by name. Also the size of all of them.
fn file_identity(path: &Path) -> Result<(String, u64)> {
    let failed = |e: std::io::Error| Error::Encoder(format!("cannot read {}: {e}", path.display()));
    let graph = std::fs::read(path).map_err(failed)?;
    let own = sha256(&graph);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut external = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let other = entry.path() != path && entry.file_type().is_ok_and(|t| !t.is_dir());
        if other && name.len() > 3 && holds(&graph, name.as_bytes()) {
            external.push(name);
        }
    }
    if external.is_empty() {
        return Ok((own, graph.len() as u64));
    }
    external.sort();
    let mut lines = format!("{own} graph\n");
    let mut bytes = graph.len() as u64;
    for name in external {
        bytes += std::fs::metadata(directory.join(&name)).map_err(failed)?.len();
        let hash = file_sha256(&directory.join(&name)).map_err(failed)?;
        lines.push_str(&format!("{hash} {name}\n"));
    }
    Ok((sha256(lines.as_bytes()), bytes))
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut at = 0;
    while let Some(found) = haystack[at..].iter().position(|b| b == first) {
        at += found + 1;
        if haystack[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_its_card_says() {
        let default = find(DEFAULT_ID, None).expect("compiled in");
        let Model::Embedded(bytes) = default.model else { panic!("compiled in") };
        assert_eq!(sha256(bytes), default.card.sha256);
        assert!(!default.card.pathology && default.card.note.contains("not a pathology model"));
    }

    #[test]
    fn unknown_names_and_broken_cards_are_told() {
        assert!(find("uni9", None).expect_err("unknown").to_string().contains("encoders list"));
        assert!(find("nowhere.onnx", None).expect_err("missing").to_string().contains("no such file"));
        let broken = DEFAULT_CARD.replace("px = 224", "px = 2");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("2 px"));
        let broken = DEFAULT_CARD.replace("pathology", "patology");
        assert!(Card::parse(&broken).expect_err("refused").to_string().contains("patology"));
    }

    #[test]
    fn external_data_counts() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let model = directory.path().join("m.onnx");
        std::fs::write(&model, b"..location..m.onnx.data..").expect("writes");
        let alone = file_identity(&model).expect("reads");
        std::fs::write(directory.path().join("m.onnx.data"), b"1").expect("writes");
        let first = file_identity(&model).expect("reads");
        std::fs::write(directory.path().join("m.onnx.data"), b"2").expect("writes");
        let second = file_identity(&model).expect("reads");
        assert!(alone.0 != first.0 && first.0 != second.0);
        assert_eq!(first.1, alone.1 + 1);
    }
}
