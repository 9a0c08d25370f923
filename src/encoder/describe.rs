//! A card for a model that comes without one.

use std::path::Path;

use ort::value::TensorElementType;

use super::card::{Architecture, Card, Dtype, Input, Known, Layout, Output, OutputNames, Tile, Weights};
use super::device::Device;
use super::onnx::{SessionOptions, builder, commit_file};
use crate::error::{Error, Result};
use crate::record::canary::Thresholds;
use crate::resample::Filter;

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Encoder(e.to_string())
}

/// A card for an ONNX file that has none, from its graph: a uint8 NHWC or float32 NCHW input and the first output of two
/// axes. Floats are normalised with ImageNet's mean and standard deviation.
///
/// # Errors
/// [`Error::Encoder`] where the graph leaves a choice open; a card must then be given.
pub fn describe(path: &Path) -> Result<Card> {
    let options = SessionOptions { device: Device::Cpu, threads: 1, batch: 1 };
    let session = commit_file(builder(options)?, path).map_err(failed)?;
    let needs_card = |what: &str| Error::Encoder(format!("{what}: describe it in a card beside it (same name, .toml)"));
    let [input] = session.inputs() else { return Err(needs_card("the graph has not exactly one input")) };
    let shape = input.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
    let (layout, dtype, px) = match (input.dtype().tensor_type(), &shape[..]) {
        (Some(TensorElementType::Uint8), [_, h, w, 3]) if h == w && *h > 0 => (Layout::Nhwc, Dtype::Uint8, *h),
        (Some(TensorElementType::Float32), [_, 3, h, w]) if h == w && *h > 0 => (Layout::Nchw, Dtype::Float32, *h),
        _ => return Err(needs_card(&format!("the graph's input is {}", input.dtype()))),
    };
    let outputs = session.outputs().iter();
    let (name, dim) = outputs
        .filter_map(|o| match o.dtype().tensor_shape().map(|s| s.to_vec()).as_deref() {
            Some([_, d]) if *d > 0 => Some((o.name().to_string(), *d as usize)),
            _ => None,
        })
        .next()
        .ok_or_else(|| needs_card("no output has the shape [batch, dim]"))?;
    let id: String = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    Ok(Card {
        canary: Thresholds::default(),
        name: id.clone(),
        id,
        aliases: Vec::new(),
        file: String::new(),
        sha256: String::new(),
        pathology: false,
        note: "no card: described by its graph, ImageNet normalisation assumed for float input".into(),
        license: String::new(),
        commercial_use: Known::default(),
        gated: Known::default(),
        citation: String::new(),
        precision: String::new(),
        compute: None,
        verified: String::new(),
        weights: Weights::default(),
        architecture: Architecture::default(),
        input: Input {
            px: px as u32,
            layout,
            dtype,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            resize: Filter::Bilinear,
            resize_px: None,
        },
        tile: Tile { px: px as u32, mpp: 0.5 },
        output: Output { name: OutputNames::One(name), dim, pooling: "as the graph gives it".into(), prefix_tokens: 1 },
    })
}
