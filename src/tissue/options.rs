//! Every parameter of tissue finding, and how they go into the contract. Saturations and values are 0..=255, lengths are µm on
//! the slide, shares are 0..=1.

use serde::Serialize;
use serde_json::{Value, json};

use super::TissueMethod;
use super::background::BackgroundOptions;
use super::choice::ChoiceOptions;
use super::dirt::DirtOptions;
use super::entropy::EntropyOptions;
use super::fluorescence::FluorescenceOptions;
use super::focus::FocusOptions;
use super::pen::PenOptions;
use super::qc::QcOptions;

/// How tissue is found and artefacts are measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TissueOptions {
    /// Wanted resolution of the mask, µm/px; the caller reads the slide near it.
    pub mask_mpp: f64,
    /// Width of the median window (µm); it becomes passes of 3x3, none where a pixel is coarser than half of it.
    pub median_um: f64,
    /// What counts as background.
    pub background: BackgroundOptions,
    /// Pens.
    pub pen: PenOptions,
    /// Dust, coverslip edges, bubbles.
    pub dirt: DirtOptions,
    /// `otsu`.
    pub otsu: StainOptions,
    /// `entropy`.
    pub entropy: EntropyOptions,
    /// `fluorescence`.
    pub fluorescence: FluorescenceOptions,
    /// `auto`.
    pub choice: ChoiceOptions,
    /// What is made of the pixels that a method chose.
    pub pieces: PieceOptions,
    /// Where tissue is out of focus.
    pub focus: FocusOptions,
    /// What a tile may hold of artefacts.
    pub qc: QcOptions,
}

impl Default for TissueOptions {
    fn default() -> Self {
        Self {
            mask_mpp: 8.0,
            median_um: 24.0,
            background: BackgroundOptions::default(),
            pen: PenOptions::default(),
            dirt: DirtOptions::default(),
            otsu: StainOptions::default(),
            entropy: EntropyOptions::default(),
            fluorescence: FluorescenceOptions::default(),
            choice: ChoiceOptions::default(),
            pieces: PieceOptions::default(),
            focus: FocusOptions::default(),
            qc: QcOptions::default(),
        }
    }
}

/// Parameters of [`TissueMethod::Otsu`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StainOptions {
    /// Lower clamp of the threshold: keeps an empty slide empty. Also the threshold of a slide without background.
    pub threshold_min: u8,
    /// Upper clamp of the threshold: keeps pale tissue beside strongly stained tissue.
    pub threshold_max: u8,
    /// Pixels darker than this (value) are tissue only from `neutral_saturation_min` on: dust, coverslip edges.
    pub neutral_value_max: u8,
    /// See `neutral_value_max`.
    pub neutral_saturation_min: u8,
}

impl Default for StainOptions {
    fn default() -> Self {
        Self { threshold_min: 8, threshold_max: 20, neutral_value_max: 170, neutral_saturation_min: 24 }
    }
}

/// Pieces of tissue and holes in them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PieceOptions {
    /// Radius of the closing disc (µm).
    pub closing_um: f64,
    /// Radius of the opening disc (µm).
    pub opening_um: f64,
    /// Holes smaller than this are filled (µm²); a tile of 256 px at 0.5 µm/px has 16,384.
    pub min_hole_um2: f64,
    /// Pieces smaller than this are dropped (µm²).
    pub min_area_um2: f64,
}

impl Default for PieceOptions {
    fn default() -> Self {
        Self { closing_um: 16.0, opening_um: 8.0, min_hole_um2: 16_000.0, min_area_um2: 25_000.0 }
    }
}

/// The version of the rules behind the methods' names: it changes when the same parameters give another mask.
const RULES: u32 = 2;

impl TissueOptions {
    /// What the contract holds of a method: its name, the version of its rules, and every parameter that bears on its mask or
    /// on which tiles are kept. `given` is what only the caller knows: the sha256 of a mask or a model, a model's card.
    #[must_use]
    pub fn contract(&self, method: &TissueMethod, given: Value) -> Value {
        let all = json!(self);
        let shared: &[&str] = &["mask_mpp", "background", "median_um", "pen", "focus"];
        let own: &[&str] = match method {
            TissueMethod::None | TissueMethod::Mask(_) => &[],
            TissueMethod::Model(_) => &["pieces"],
            TissueMethod::Otsu => &["dirt", "otsu", "pieces"],
            TissueMethod::Entropy => &["dirt", "entropy", "otsu", "pieces"],
            TissueMethod::Fluorescence => &["fluorescence", "pieces"],
            TissueMethod::Auto => &["choice", "dirt", "entropy", "fluorescence", "otsu", "pieces"],
        };
        let parameters = shared.iter().chain(own).map(|name| ((*name).to_owned(), all[*name].clone()));
        let mut contract = json!({
            "method": method.name(),
            "rules": RULES,
            "parameters": parameters.collect::<serde_json::Map<_, _>>(),
            "qc": self.qc.limits(method),
        });
        contract["qc"]["white_value_min"] = json!(self.qc.white_value_min);
        contract["qc"]["black_value_max"] = json!(self.qc.black_value_max);
        if !given.is_null() {
            contract["given"] = given;
        }
        contract
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_holds_what_bears_on_its_method_and_no_more() {
        let options = TissueOptions::default();
        let of = |word: &str| options.contract(&word.parse().unwrap(), Value::Null);
        assert_eq!(of("otsu")["parameters"]["otsu"]["threshold_max"], 20);
        assert_eq!(of("otsu")["parameters"]["pen"]["blue_hue"][1], 238.0);
        assert_eq!(of("otsu")["parameters"]["mask_mpp"], 8.0);
        assert!(of("otsu")["parameters"].get("entropy").is_none());
        for name in ["choice", "dirt", "entropy", "fluorescence", "otsu", "pieces", "focus", "background"] {
            assert!(of("auto")["parameters"].get(name).is_some(), "{name}");
        }
        assert_eq!(of("none")["qc"]["pen"], Value::Null);
        assert_eq!(of("auto")["qc"]["pen"], 0.5);
        let mask = options.contract(&TissueMethod::Mask("a.png".into()), json!({ "sha256": "ab" }));
        assert_eq!((&mask["method"], &mask["given"]["sha256"]), (&json!("mask"), &json!("ab")));
        assert!(!mask.to_string().contains("a.png"));
    }
}
