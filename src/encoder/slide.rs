//! Slide encoders: ONNX graphs that make one vector of all tiles of a slide, described by a card of their own.
//!
//! A graph takes `features` float32 [1, N, D] and, where its card names them, `coords` int64 or float32 [1, N, 2] (level-0
//! pixels of the tiles' upper left corners) and the side of a tile in level-0 pixels (int64, one value); it gives float32
//! [1, K]. It computes on the processor with one thread, so that its result does not depend on the machine's cores.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, Tensor, TensorElementType, TensorRef};
use serde::{Deserialize, Serialize};

use super::card::{Card, Known, Tile, is_id};
use super::device::Device;
use super::onnx::{self, SessionOptions};
use super::registry::{check_sha256, file_identity, model_and_card};
use crate::error::{Error, Result};

/// What goes into a slide encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The tiles' features.
    Features,
}

/// A slide encoder's `[input]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlideInput {
    /// What goes in.
    pub kind: Kind,
    /// Values of a tile's features, D.
    pub dim: usize,
    /// Name of the graph's input for features.
    #[serde(default = "features")]
    pub features: String,
    /// Name of its input for coordinates, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coords: Option<String>,
    /// Name of its input for the side of a tile in level-0 pixels, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<String>,
}

fn features() -> String {
    "features".into()
}

impl SlideInput {
    /// The names of the graph's inputs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.features), self.coords.as_ref(), self.patch_size.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

/// A slide encoder's `[output]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlideOutput {
    /// Name of the graph's output.
    pub name: String,
    /// Values of a slide's vector, K.
    pub dim: usize,
}

/// A slide encoder's card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlideCard {
    /// The name in directory names and contracts.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// Id (or alias) of the tile encoder whose features it takes.
    pub encoder: String,
    /// sha256 of the ONNX file; checked where it is not empty.
    #[serde(default)]
    pub sha256: String,
    /// What every user must know.
    #[serde(default)]
    pub note: String,
    /// SPDX name or the licence's own.
    #[serde(default)]
    pub license: String,
    /// Whether the licence allows commercial use.
    #[serde(default)]
    pub commercial_use: Known,
    /// How to cite it.
    #[serde(default)]
    pub citation: String,
    /// What goes in.
    pub input: SlideInput,
    /// The tiles that it was trained with, where that is known; others bring a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile: Option<Tile>,
    /// What comes out.
    pub output: SlideOutput,
}

impl SlideCard {
    /// Reads a card and checks its values.
    ///
    /// # Errors
    /// [`Error::Encoder`] naming the field.
    pub fn parse(text: &str) -> Result<Self> {
        let card: SlideCard = toml::from_str(text)
            .map_err(|e| Error::Encoder(format!("slide encoder's card: {}", e.to_string().trim())))?;
        let wrong = |what: &str| Err(Error::Encoder(format!("card of the slide encoder '{}': {what}", card.id)));
        if !is_id(&card.id) || !is_id(&card.encoder) {
            return wrong("id and encoder must be letters, digits, '-', '_' and '.'");
        }
        if card.input.dim == 0 || card.output.dim == 0 || card.output.name.is_empty() {
            return wrong("dim must be 1 or more, and the output must have a name");
        }
        let names: Vec<&str> = card.input.names().collect();
        if names.iter().enumerate().any(|(i, name)| name.is_empty() || names[..i].contains(name)) {
            return wrong("two inputs have one name, or one has none");
        }
        Ok(card)
    }

    /// Checks that the features are those that it takes.
    ///
    /// # Errors
    /// [`Error::Usage`] naming both encoders.
    pub fn check(&self, encoder: &Card) -> Result<()> {
        if self.encoder != encoder.id && !encoder.aliases.contains(&self.encoder) {
            return Err(Error::Usage(format!(
                "the slide encoder {} takes features of {}, these are of {}: run it with --encoder {}",
                self.id, self.encoder, encoder.id, self.encoder
            )));
        }
        if self.input.dim != encoder.output.dim {
            return Err(Error::Usage(format!(
                "the slide encoder {} takes {} values a tile, {} gives {}",
                self.id, self.input.dim, encoder.id, encoder.output.dim
            )));
        }
        Ok(())
    }

    /// What a user should know where tiles are not those that it was trained with.
    #[must_use]
    pub fn tile_warning(&self, px: u32, mpp: f64) -> Option<String> {
        let tile = self.tile.as_ref()?;
        let differs = tile.px != px || (tile.mpp - mpp).abs() > 1e-6;
        let Tile { px: wanted, mpp: at } = tile;
        differs.then(|| format!("{} is for tiles of {wanted} px at {at} µm, these are {px} px at {mpp} µm", self.id))
    }
}

/// A slide encoder that can be run.
#[derive(Clone, Debug)]
pub struct SlideEncoder {
    /// Its card.
    pub card: SlideCard,
    /// Its ONNX file.
    pub path: PathBuf,
    /// Identity of its weights, as of a tile encoder's.
    pub sha256: String,
}

/// Finds a slide encoder: an ONNX file with its card beside it (same name, `.toml`), or a directory that holds one.
///
/// # Errors
/// [`Error::Encoder`] where file or card are missing or broken, or the file's sha256 is not the card's.
pub fn find(path: &Path) -> Result<SlideEncoder> {
    let wrong = |what: String| Error::Encoder(format!("slide encoder {}: {what}", path.display()));
    let (file, text) = model_and_card(path, wrong)?;
    let card = SlideCard::parse(&text)?;
    let (sha256, _) = file_identity(&file)?;
    check_sha256(&card.sha256, &sha256)?;
    Ok(SlideEncoder { card, path: file, sha256 })
}

/// A slide encoder that is loaded.
pub struct SlideModel {
    session: Session,
    card: SlideCard,
    /// Whether coordinates go in as float32 rather than int64.
    float_coords: bool,
    /// Shape of the input for a tile's side.
    side_shape: Vec<usize>,
}

impl SlideModel {
    /// Loads it and checks that the graph is what the card says.
    ///
    /// # Errors
    /// [`Error::Library`] where ONNX Runtime is missing, [`Error::Encoder`] where graph and card differ.
    pub fn open(encoder: &SlideEncoder) -> Result<Self> {
        let card = encoder.card.clone();
        let wrong = |what: String| Error::Encoder(format!("slide encoder {}: {what}", card.id));
        let options = SessionOptions { device: Device::Cpu, threads: 1, batch: 1 };
        let session = onnx::commit_file(onnx::builder(options)?, &encoder.path).map_err(|e| wrong(e.to_string()))?;
        let shape = |outlet: &Outlet| outlet.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
        let fits = |outlet: &Outlet, wanted: &[i64]| {
            let have = shape(outlet);
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(h, w)| *h == -1 || *w == -1 || h == w)
        };
        let mut wanted: Vec<&str> = card.input.names().collect();
        let mut there: Vec<&str> = session.inputs().iter().map(|i| i.name()).collect();
        wanted.sort_unstable();
        there.sort_unstable();
        if wanted != there {
            return Err(wrong(format!(
                "the graph's inputs are {}, its card says {}",
                there.join(", "),
                wanted.join(", ")
            )));
        }
        let (mut float_coords, mut side_shape) = (false, Vec::new());
        for input in session.inputs() {
            let kind = input.dtype().tensor_type();
            let fault = if input.name() == card.input.features {
                !fits(input, &[1, -1, card.input.dim as i64]) || kind != Some(TensorElementType::Float32)
            } else if Some(input.name()) == card.input.coords.as_deref() {
                float_coords = kind == Some(TensorElementType::Float32);
                !fits(input, &[1, -1, 2]) || !(float_coords || kind == Some(TensorElementType::Int64))
            } else {
                side_shape = shape(input).iter().map(|_| 1).collect();
                shape(input).iter().any(|n| *n > 1) || kind != Some(TensorElementType::Int64)
            };
            if fault {
                return Err(wrong(format!("the graph's input '{}' is {}", input.name(), input.dtype())));
            }
        }
        let output = session.outputs().iter().find(|o| o.name() == card.output.name);
        let output = output.ok_or_else(|| wrong(format!("the graph has no output '{}'", card.output.name)))?;
        if !fits(output, &[1, card.output.dim as i64])
            || output.dtype().tensor_type() != Some(TensorElementType::Float32)
        {
            return Err(wrong(format!(
                "output '{}' is {}, its card says float32 [1, {}]",
                card.output.name,
                output.dtype(),
                card.output.dim
            )));
        }
        Ok(SlideModel { session, card, float_coords, side_shape })
    }

    /// The vector of a slide with at least one tile: `features` has n·D values, row-major; `coords` has n pairs (x, y) in
    /// level-0 pixels, `patch_size_level0` is a tile's side there.
    ///
    /// # Errors
    /// [`Error::Encoder`] with the runtime's reason, or where a value is not finite.
    pub fn embed(&mut self, features: &[f32], coords: &[[i64; 2]], patch_size_level0: i64) -> Result<Vec<f32>> {
        let SlideModel { session, card, float_coords, side_shape } = self;
        let id = &card.id;
        let failed = |e: ort::Error| Error::Encoder(format!("slide encoder {id}: {e}"));
        let n = coords.len();
        let mut inputs: Vec<(Cow<str>, SessionInputValue)> = Vec::new();
        let shape = [1, n, card.input.dim];
        let value = TensorRef::from_array_view((shape, features)).map_err(failed)?;
        inputs.push((card.input.features.as_str().into(), value.into()));
        if let Some(name) = &card.input.coords {
            let flat = coords.as_flattened();
            let value: SessionInputValue = if *float_coords {
                let floats: Vec<f32> = flat.iter().map(|v| *v as f32).collect();
                Tensor::from_array(([1, n, 2], floats)).map_err(failed)?.into()
            } else {
                TensorRef::from_array_view(([1, n, 2], flat)).map_err(failed)?.into()
            };
            inputs.push((name.as_str().into(), value));
        }
        if let Some(name) = &card.input.patch_size {
            let value = Tensor::from_array((side_shape.clone(), vec![patch_size_level0])).map_err(failed)?;
            inputs.push((name.as_str().into(), value.into()));
        }
        let outputs = session.run(inputs).map_err(failed)?;
        let (_, values) = outputs[card.output.name.as_str()].try_extract_tensor::<f32>().map_err(failed)?;
        let (wanted, got) = (card.output.dim, values.len());
        if got != wanted || values.iter().any(|v| !v.is_finite()) {
            return Err(Error::Encoder(format!(
                "slide encoder {id}: {got} values, not all finite or not {wanted}, of {n} tiles"
            )));
        }
        Ok(values.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = r#"
        id = "abmil"
        name = "ABMIL"
        encoder = "uni2-h"
        [input]
        kind = "features"
        dim = 1536
        coords = "coords"
        [tile]
        px = 224
        mpp = 0.5
        [output]
        name = "embedding"
        dim = 512
    "#;

    #[test]
    fn cards_are_read_and_refused() {
        let card = SlideCard::parse(CARD).expect("a card");
        assert_eq!(card.input.names().collect::<Vec<_>>(), ["features", "coords"]);
        for (old, new, said) in [
            ("dim = 1536", "dim = 0", "dim must be"),
            ("\"coords\"", "\"features\"", "two inputs"),
            ("\"abmil\"", "\"../abmil\"", "letters"),
            ("name = \"ABMIL\"", "nome = \"ABMIL\"", "nome"),
            ("kind = \"features\"", "kind = \"pixels\"", "pixels"),
        ] {
            let error = SlideCard::parse(&CARD.replace(old, new)).expect_err(new).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn other_features_are_refused_and_other_tiles_told() {
        let card = SlideCard::parse(CARD).expect("a card");
        let mut encoder = super::super::registry::known("efficientnet-lite0").expect("parses").expect("known");
        let error = card.check(&encoder).expect_err("another encoder").to_string();
        assert!(error.contains("features of uni2-h, these are of efficientnet-lite0"), "{error}");
        encoder.aliases.push("uni2-h".into());
        let error = card.check(&encoder).expect_err("another length").to_string();
        assert!(error.contains("1536 values a tile"), "{error}");
        encoder.output.dim = 1536;
        card.check(&encoder).expect("fits");
        assert_eq!(card.tile_warning(224, 0.5), None);
        assert!(card.tile_warning(256, 0.5).expect("told").contains("256 px at 0.5"));
    }
}
