//! Cards: what an encoder is, where it comes from, what it wants and gives, as data (`models/<id>.toml`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::canary::Thresholds;
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

/// What is known of a legal question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// Its terms say yes.
    Yes,
    /// Its terms say no.
    No,
    /// Its terms are not clear, or sources disagree; the note says how.
    #[default]
    Unclear,
}

/// How the weights become an ONNX file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// `scripts/export_onnx.py` builds the graph from `[architecture.vit]` and the weights, without torch.
    Direct,
    /// `scripts/export_onnx.py` has torch trace the model.
    Torch,
    /// It cannot; a graph made elsewhere runs all the same.
    #[default]
    None,
}

/// The feed-forward part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    /// `fc2(gelu(fc1(x)))`.
    Gelu,
    /// `fc2(silu(a) * b)` with `a` and `b` the halves of `fc1(x)`.
    Swiglu,
}

/// How a weights file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Names {
    /// timm's `VisionTransformer`.
    Timm,
    /// Meta's DINOv2 repository: `w12`/`w3`, blocks in chunks.
    Dinov2,
    /// transformers' `ViTModel`.
    HfVit,
    /// transformers' `Dinov2Model`, with or without registers.
    HfDinov2,
}

/// A card's `[weights]`: what is fetched, by the user, from where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Address of the repository.
    #[serde(default)]
    pub source: String,
    /// Which version of it; empty where no source pins one.
    #[serde(default)]
    pub revision: String,
    /// The file's name there.
    #[serde(default)]
    pub file: String,
    /// Its sha256, 64 hexadecimal digits; empty where it is not known.
    #[serde(default)]
    pub sha256: String,
}

/// A card's `[architecture.vit]`: a vision transformer in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vit {
    /// Side of a patch in pixels.
    pub patch: u32,
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Kind of the feed-forward part.
    pub mlp: Mlp,
    /// Values between its two matrices: `fc2`'s input.
    pub hidden: usize,
    /// Register tokens.
    #[serde(default)]
    pub registers: usize,
    /// How many of the prefix tokens (class, then registers) have a row in the position embedding.
    pub prefix_positions: usize,
    /// Side in pixels of the picture that the stored position embedding is for; brought to the input's side on export.
    pub positions_px: u32,
    /// Whether blocks scale what they add (`ls1`, `ls2`).
    pub layer_scale: bool,
    /// Epsilon of the layer norms.
    pub norm_eps: f64,
    /// How the weights file names its tensors.
    pub names: Names,
    /// What stands before every name.
    #[serde(default)]
    pub prefix: String,
}

/// A card's `[architecture]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// In words: the name under which its toolkit builds it, and with what.
    #[serde(default)]
    pub name: String,
    /// Parameters, millions; 0 where not known.
    #[serde(default)]
    pub params_m: f64,
    /// Multiply-adds of one tile, times 2, in 10^9; 0 where not known.
    #[serde(default)]
    pub gflops: f64,
    /// How the weights become an ONNX file.
    #[serde(default)]
    pub route: Route,
    /// What comes after the transformer, where something does: `scripts/export_onnx.py` knows it by this name.
    #[serde(default)]
    pub head: String,
    /// The transformer, of those that are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vit: Option<Vit>,
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
    /// Filter where a tile of another size is resized.
    pub resize: Filter,
    /// Side that a tile is resized to before its centre of `px` is cut out; `px` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize_px: Option<u32>,
}

impl Input {
    /// Side that a tile is resized to before its centre of [`Input::px`] is cut out.
    #[must_use]
    pub fn resized_px(&self) -> u32 {
        self.resize_px.unwrap_or(self.px)
    }
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

/// Names of one or more outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OutputNames {
    /// One.
    One(String),
    /// Several, put one after the other.
    Several(Vec<String>),
}

impl OutputNames {
    /// The names in their order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            OutputNames::One(name) => std::slice::from_ref(name),
            OutputNames::Several(names) => names,
        }
    }
}

impl std::fmt::Display for OutputNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.as_slice().join("+"))
    }
}

/// A card's `[output]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the graph's output; a list of names where the embedding is several outputs, one after the other.
    pub name: OutputNames,
    /// Length of an embedding.
    pub dim: usize,
    /// What the embedding is made of, in words. Of an output of tokens [batch, tokens, width] paraffin makes it itself, and
    /// must be told `cls` (the first token), `mean` (of the tokens after the prefix) or `cls+mean` (one after the other).
    pub pooling: String,
    /// Tokens of such an output before those of the picture: the class token and registers.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub prefix_tokens: usize,
}

fn is_default(thresholds: &Thresholds) -> bool {
    *thresholds == Thresholds::default()
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(n: &usize) -> bool {
    *n == 1
}

/// In what precision a model's large products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// float32.
    Fp32,
    /// float16.
    Fp16,
    /// bfloat16.
    Bf16,
    /// 8-bit whole numbers, whose scale is taken from the values of a batch.
    Int8,
}

impl Compute {
    /// Every kind.
    pub const ALL: [Compute; 4] = [Compute::Fp32, Compute::Fp16, Compute::Bf16, Compute::Int8];

    /// The name on the command line, in cards and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compute::Fp32 => "fp32",
            Compute::Fp16 => "fp16",
            Compute::Bf16 => "bf16",
            Compute::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Compute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Compute::ALL.map(Compute::name).join(", ");
        Compute::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| format!("'{text}' is none of {}", known()))
    }
}

/// An encoder's card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The name on the command line, in directory names and contracts.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// Other names for the same encoder with the same settings, such as TRIDENT's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The ONNX file beside the card; empty where there is none yet.
    #[serde(default)]
    pub file: String,
    /// Its sha256, hexadecimal; checked before use where it is not empty.
    #[serde(default)]
    pub sha256: String,
    /// Whether it was trained on pathology images.
    pub pathology: bool,
    /// What every user must know.
    #[serde(default)]
    pub note: String,
    /// SPDX name or the licence's own.
    #[serde(default)]
    pub license: String,
    /// Whether the licence allows commercial use.
    #[serde(default)]
    pub commercial_use: Known,
    /// Whether the weights are handed out on request only.
    #[serde(default)]
    pub gated: Known,
    /// How to cite it: authors and title, or a DOI.
    #[serde(default)]
    pub citation: String,
    /// In what precision its authors or the toolkits run it: `fp32`, `fp16` or `bf16`.
    #[serde(default)]
    pub precision: String,
    /// In what precision the ONNX file computes, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    /// How the ONNX file was checked against its source, with figures.
    #[serde(default)]
    pub verified: String,
    /// Where the weights come from.
    #[serde(default)]
    pub weights: Weights,
    /// What the graph is.
    #[serde(default)]
    pub architecture: Architecture,
    /// What goes in.
    pub input: Input,
    /// What a tile should be.
    pub tile: Tile,
    /// What comes out.
    pub output: Output,
    /// How far canaries of two sites may be apart for their features to be used together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub canary: Thresholds,
}

impl Card {
    /// Reads a card and checks its values.
    ///
    /// # Errors
    /// [`Error::Encoder`] naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        let card: Card = toml::from_str(text).map_err(|e| Error::Encoder(format!("card: {}", e.to_string().trim())))?;
        match card.fault() {
            Some(what) => Err(Error::Encoder(format!("card of '{}': {what}", card.id))),
            None => Ok(card),
        }
    }

    /// The first thing that cannot be, in words.
    fn fault(&self) -> Option<String> {
        if !is_id(&self.id) {
            return Some("id must be letters, digits, '-', '_' and '.': it names a directory".into());
        }
        if let Some(alias) = self.aliases.iter().find(|a| !is_id(a)) {
            return Some(format!("alias '{alias}' is no id"));
        }
        let Input { px, mean, std, .. } = self.input;
        let resized = self.input.resized_px();
        if !(8..=4096).contains(&px) || !(px..=8192).contains(&resized) || !(8..=8192).contains(&self.tile.px) {
            return Some(format!("input of {px} px out of {resized}, tile of {} px", self.tile.px));
        }
        let colours = mean.iter().all(|m| (0.0..=1.0).contains(m)) && std.iter().all(|s| *s > 0.0 && *s <= 1.0);
        if !colours || !(0.05..=100.0).contains(&self.tile.mpp) {
            return Some(format!("mpp {}, mean {mean:?}, std {std:?}", self.tile.mpp));
        }
        let names = self.output.name.as_slice();
        let repeated = names.iter().enumerate().any(|(i, name)| name.is_empty() || names[..i].contains(name));
        if self.output.dim == 0 || names.is_empty() || repeated {
            return Some(format!("output '{}' of {} values", self.output.name, self.output.dim));
        }
        for hash in [&self.sha256, &self.weights.sha256] {
            if !hash.is_empty() && (hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))) {
                return Some(format!("'{hash}' is no sha256"));
            }
        }
        let Thresholds { refuse, warn } = self.canary;
        if !(0.0..=1.0).contains(&refuse) || !(refuse..=1.0).contains(&warn) {
            return Some(format!("canary: refuse {refuse}, warn {warn}; cosines, the first at most the second"));
        }
        if !["", "fp32", "fp16", "bf16"].contains(&&*self.precision) {
            return Some(format!("precision '{}'; one of fp32, fp16, bf16", self.precision));
        }
        match &self.architecture.vit {
            Some(vit) => self.vit_fault(vit),
            None if self.architecture.route == Route::Direct => Some("route 'direct' needs [architecture.vit]".into()),
            None => None,
        }
    }

    fn vit_fault(&self, vit: &Vit) -> Option<String> {
        let px = self.input.px;
        if vit.patch == 0 || !px.is_multiple_of(vit.patch) || !vit.positions_px.is_multiple_of(vit.patch) {
            return Some(format!("patches of {} px in {px} px (positions for {} px)", vit.patch, vit.positions_px));
        }
        if vit.heads == 0 || vit.width == 0 || !vit.width.is_multiple_of(vit.heads) || vit.depth == 0 || vit.hidden == 0
        {
            return Some(format!(
                "{} blocks of {} heads, width {}, hidden {}",
                vit.depth, vit.heads, vit.width, vit.hidden
            ));
        }
        if !(vit.norm_eps > 0.0 && vit.norm_eps < 1e-3) || vit.prefix_positions > 1 + vit.registers {
            return Some(format!("norm_eps {}, prefix_positions {}", vit.norm_eps, vit.prefix_positions));
        }
        let dim = match (&*self.architecture.head, &*self.output.pooling) {
            ("", "cls" | "mean") => vit.width,
            ("", "cls+mean") => 2 * vit.width,
            _ => return None,
        };
        (dim != self.output.dim).then(|| {
            format!("{} of a width of {} has {dim} values, not {}", self.output.pooling, vit.width, self.output.dim)
        })
    }
}

/// Whether this can name a directory everywhere, and an encoder.
pub(super) fn is_id(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && !id.starts_with('.') && id.chars().all(plain)
}
