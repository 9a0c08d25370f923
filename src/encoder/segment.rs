//! Segmentation models that find tissue: ONNX graphs that give classes for the pixels of a picture, described by a card of their own.
//!
//! A graph takes one RGB picture of `px` x `px` at `mpp` µm/px (float32, normalised, or uint8) and gives float32
//! [1, classes, h, w]; h and w may be smaller than `px`. It computes on the processor. GrandQC's tissue model (10 µm/px, `jpeg_quality` 80, class 0
//! is tissue) and HEST's (1 µm/px, class 1) are of this kind; neither comes with paraffin.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use ort::session::Session;
use ort::value::TensorRef;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::card::{Dtype, Input, Known, Layout, is_id};
use super::device::Device;
use super::onnx::{self, SessionOptions};
use super::preprocess;
use super::registry::{check_sha256, file_identity, model_and_card};
use crate::error::{Error, Result};
use crate::resample::Filter;

/// How class scores become a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The class with the highest score; softmax does not change which.
    Argmax,
    /// Every class for itself: sigmoid of its score from `threshold` on.
    Sigmoid,
}

/// A segmentation card's `[input]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentInput {
    /// Side of a picture in pixels.
    pub px: u32,
    /// µm per pixel.
    pub mpp: f64,
    /// Pixels at each side of a picture that are there for context; their classes are thrown away.
    pub overlap_px: u32,
    /// Order of the axes.
    pub layout: Layout,
    /// Type of the values.
    pub dtype: Dtype,
    /// Mean of each colour, of 1.
    #[serde(default)]
    pub mean: [f32; 3],
    /// Standard deviation of each colour, of 1.
    #[serde(default = "ones")]
    pub std: [f32; 3],
    /// The picture goes through JPEG of this quality, where the model was trained so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg_quality: Option<u8>,
}

fn ones() -> [f32; 3] {
    [1.0; 3]
}

/// A segmentation card's `[output]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentOutput {
    /// Name of the graph's output.
    pub name: String,
    /// How scores become a decision.
    pub activation: Activation,
    /// From which probability on a class counts, with `sigmoid`.
    #[serde(default = "half")]
    pub threshold: f32,
    /// The classes that are tissue, from 0.
    pub tissue: Vec<usize>,
}

fn half() -> f32 {
    0.5
}

/// A segmentation model's card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentCard {
    /// The name in records and contracts.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// sha256 of the ONNX file; checked where it is not empty.
    #[serde(default)]
    pub sha256: String,
    /// SPDX name or the licence's own.
    #[serde(default)]
    pub license: String,
    /// Whether the licence allows commercial use.
    #[serde(default)]
    pub commercial_use: Known,
    /// What goes in.
    pub input: SegmentInput,
    /// What comes out.
    pub output: SegmentOutput,
}

impl SegmentCard {
    /// Reads a card and checks its values.
    ///
    /// # Errors
    /// [`Error::Tissue`] naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        let card: SegmentCard =
            toml::from_str(text).map_err(|e| Error::Tissue(format!("segmentation card: {}", e.to_string().trim())))?;
        let SegmentInput { px, mpp, overlap_px, std, jpeg_quality, .. } = &card.input;
        let wrong = |what: &str| Err(Error::Tissue(format!("card of the segmentation model '{}': {what}", card.id)));
        if !is_id(&card.id) {
            return wrong("id must be letters, digits, '-', '_' and '.'");
        }
        if !(16..=4096).contains(px) || !(0.1..=100.0).contains(mpp) || *overlap_px * 2 >= *px {
            return wrong("px must be 16 to 4096, mpp 0.1 to 100, and overlap_px less than half of px");
        }
        if std.iter().any(|s| s.is_nan() || *s <= 0.0) || jpeg_quality.is_some_and(|q| !(1..=100).contains(&q)) {
            return wrong("std must be above 0, jpeg_quality 1 to 100");
        }
        if card.output.tissue.is_empty() || !(0.0..=1.0).contains(&card.output.threshold) {
            return wrong("tissue must name a class, and threshold be 0 to 1");
        }
        Ok(card)
    }
}

/// A segmentation model; loaded when it is first needed.
#[derive(Debug)]
pub struct Segmenter {
    /// Its card.
    pub card: SegmentCard,
    path: PathBuf,
    sha256: String,
    input: Input,
    threads: usize,
    session: OnceLock<Mutex<Session>>,
}

impl Segmenter {
    /// Finds a model: an ONNX file with its card beside it (same name, `.toml`), or a directory that holds one. It will compute with
    /// `threads` threads.
    ///
    /// # Errors
    /// [`Error::Tissue`] where file or card are missing or broken, [`Error::Encoder`] where the file's sha256 is not the card's.
    pub fn find(path: &Path, threads: usize) -> Result<Self> {
        let wrong = |what: String| Error::Tissue(format!("segmentation model {}: {what}", path.display()));
        let (file, text) = model_and_card(path, wrong)?;
        let card = SegmentCard::parse(&text)?;
        let (sha256, _) = file_identity(&file)?;
        check_sha256(&card.sha256, &sha256)?;
        let SegmentInput { px, layout, dtype, mean, std, .. } = card.input.clone();
        let input = Input { px, layout, dtype, mean, std, resize: Filter::Bilinear, resize_px: None };
        Ok(Segmenter { card, path: file, sha256, input, threads, session: OnceLock::new() })
    }

    /// What the contract holds of it: sha256, and how the card has it used.
    #[must_use]
    pub fn contract(&self) -> Value {
        json!({ "id": self.card.id, "sha256": self.sha256, "input": self.card.input, "output": self.card.output })
    }

    fn session(&self) -> Result<&Mutex<Session>> {
        if let Some(session) = self.session.get() {
            return Ok(session);
        }
        let options = SessionOptions { device: Device::Cpu, threads: self.threads, batch: 1 };
        let session = onnx::commit_file(onnx::builder(options)?, &self.path).map_err(|e| self.wrong(e.to_string()))?;
        if session.inputs().len() != 1 {
            return Err(self.wrong(format!("the graph has {} inputs, one is expected", session.inputs().len())));
        }
        Ok(self.session.get_or_init(|| Mutex::new(session)))
    }

    fn wrong(&self, what: String) -> Error {
        Error::Tissue(format!("segmentation model {}: {what}", self.card.id))
    }

    /// Finds tissue in one picture of `px * px` interleaved RGB pixels: 1 tissue, 0 none, row by row, and the width and height of
    /// that raster, which covers the picture.
    ///
    /// # Errors
    /// [`Error::Library`] where ONNX Runtime is missing, [`Error::Tissue`] where the graph is not what the card says.
    pub fn tissue(&self, picture: &[u8]) -> Result<(Vec<u8>, usize, usize)> {
        let px = self.input.px as usize;
        let squeezed = self.card.input.jpeg_quality.map(|quality| self.through_jpeg(picture, quality)).transpose()?;
        let picture = squeezed.as_deref().unwrap_or(picture);
        let mut session = self.session()?.lock().map_err(|_| self.wrong("failed before".into()))?;
        let name = session.inputs()[0].name().to_owned();
        let failed = |e: ort::Error| self.wrong(e.to_string());
        let outputs = match self.input.dtype {
            Dtype::Float32 => {
                let mut floats = Vec::new();
                preprocess::normalise(picture, &self.input, &mut floats);
                let shape = match self.input.layout {
                    Layout::Nchw => [1, 3, px, px],
                    Layout::Nhwc => [1, px, px, 3],
                };
                let value = TensorRef::from_array_view((shape, &*floats)).map_err(failed)?;
                session.run(ort::inputs![name => value]).map_err(failed)?
            }
            Dtype::Uint8 => {
                if self.input.layout == Layout::Nchw {
                    return Err(self.wrong("uint8 pixels go in as nhwc".into()));
                }
                let value = TensorRef::from_array_view(([1, px, px, 3], picture)).map_err(failed)?;
                session.run(ort::inputs![name => value]).map_err(failed)?
            }
        };
        let output = &self.card.output;
        let scores =
            outputs.get(&output.name).ok_or_else(|| self.wrong(format!("it has no output '{}'", output.name)))?;
        let (shape, scores) = scores.try_extract_tensor::<f32>().map_err(failed)?;
        let [1, classes, height, width] = shape[..] else {
            return Err(self.wrong(format!("its output is {shape:?}, not [1, classes, height, width]")));
        };
        let (classes, height, width) = (classes as usize, height as usize, width as usize);
        if height == 0 || width == 0 || output.tissue.iter().any(|class| *class >= classes) {
            return Err(self.wrong(format!("its {classes} classes of {width} x {height} are not those of its card")));
        }
        Ok((self.decide(scores, classes, width * height), width, height))
    }

    fn decide(&self, scores: &[f32], classes: usize, pixels: usize) -> Vec<u8> {
        let output = &self.card.output;
        let score = |class: usize, i: usize| scores[class * pixels + i];
        let is_tissue = |i: usize| match output.activation {
            Activation::Argmax => {
                // The first of equal scores, as numpy's argmax.
                let best =
                    (1..classes).fold(0, |best, class| if score(class, i) > score(best, i) { class } else { best });
                output.tissue.contains(&best)
            }
            Activation::Sigmoid => {
                output.tissue.iter().any(|class| 1.0 / (1.0 + (-score(*class, i)).exp()) >= output.threshold)
            }
        };
        (0..pixels).map(|i| u8::from(is_tissue(i))).collect()
    }

    fn through_jpeg(&self, picture: &[u8], quality: u8) -> Result<Vec<u8>> {
        let image = RgbImage::from_raw(self.input.px, self.input.px, picture.to_vec())
            .ok_or_else(|| Error::Internal("a picture of another size".into()))?;
        let mut jpeg = Vec::new();
        let failed = |e: image::ImageError| Error::Internal(format!("JPEG of a picture: {e}"));
        JpegEncoder::new_with_quality(&mut jpeg, quality).encode_image(&image).map_err(failed)?;
        let back = image::load(Cursor::new(jpeg), ImageFormat::Jpeg).map_err(failed)?;
        Ok(back.into_rgb8().into_raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(output: &str) -> Result<SegmentCard> {
        SegmentCard::parse(&format!(
            "id = \"a\"\nname = \"a\"\n[input]\npx = 64\nmpp = 8\noverlap_px = 8\nlayout = \"nchw\"\ndtype = \"float32\"\n[output]\n{output}"
        ))
    }

    fn decide(output: &str, scores: &[f32], classes: usize) -> Vec<u8> {
        let card = card(output).unwrap();
        let input = Input {
            px: 64,
            layout: Layout::Nchw,
            dtype: Dtype::Float32,
            mean: [0.0; 3],
            std: [1.0; 3],
            resize: Filter::Bilinear,
            resize_px: None,
        };
        let (path, sha256, session) = (PathBuf::new(), String::new(), OnceLock::new());
        Segmenter { card, path, sha256, input, threads: 1, session }.decide(scores, classes, scores.len() / classes)
    }

    #[test]
    fn classes_are_decided_as_the_card_says() {
        let scores = [1.0, 0.0, 2.0, 3.0, 0.5, 0.0];
        assert_eq!(decide("name = \"m\"\nactivation = \"argmax\"\ntissue = [1]", &scores, 2), [1, 1, 0]);
        assert_eq!(decide("name = \"m\"\nactivation = \"argmax\"\ntissue = [0, 2]", &[1.0, 0.0, 2.0], 3), [1]);
        assert_eq!(
            decide("name = \"m\"\nactivation = \"sigmoid\"\nthreshold = 0.7\ntissue = [0]", &[0.8, 0.9, -3.0], 1),
            [0, 1, 0]
        );
    }

    #[test]
    fn senseless_cards_are_refused() {
        for output in [
            "name = \"m\"\nactivation = \"argmax\"\ntissue = []",
            "name = \"m\"\nactivation = \"softplus\"\ntissue = [1]",
            "name = \"m\"\nactivation = \"sigmoid\"\ntissue = [1]\nthreshold = 2.0",
            "name = \"m\"\nactivation = \"sigmoid\"\ntissue = [1]\nthresh = 0.2",
        ] {
            assert!(matches!(card(output), Err(Error::Tissue(_))), "{output}");
        }
    }
}
