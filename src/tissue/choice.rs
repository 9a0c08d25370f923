//! How `auto` chooses: by what the slide measures, so that the same slide gets the same method everywhere, and with the reason.

use serde::Serialize;
use serde_json::{Value, json};

/// Parameters of [`TissueMethod::Auto`](super::TissueMethod::Auto).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChoiceOptions {
    /// `entropy` is taken where at least this share of the textured area is no tissue to `otsu` ...
    pub missed_min: f64,
    /// ... and that is at least this area (µm²).
    pub missed_min_um2: f64,
}

impl Default for ChoiceOptions {
    fn default() -> Self {
        Self { missed_min: 0.15, missed_min_um2: 100_000.0 }
    }
}

/// The method that was taken, and why.
pub(super) struct Choice {
    pub(super) entropy: bool,
    pub(super) why: String,
    /// Numbers behind it, for the record.
    pub(super) measured: Value,
}

/// Chooses between the two masks of a brightfield slide, both cleaned, at `mpp` µm/px.
pub(super) fn choose(stained: &[u8], textured: &[u8], mpp: f64, options: &ChoiceOptions) -> Choice {
    let count = |pixels: usize| pixels as f64 * mpp * mpp;
    let texture = count(textured.iter().filter(|&&set| set != 0).count());
    let missed = count(stained.iter().zip(textured).filter(|&(&stained, &textured)| textured > stained).count());
    let share = missed / texture.max(1.0);
    let entropy = share >= options.missed_min && missed >= options.missed_min_um2;
    let percent = 100.0 * share;
    let why = if texture == 0.0 {
        "otsu: nothing on the slide has texture".to_owned()
    } else if entropy {
        format!("entropy: {percent:.0} % of the textured area ({:.1} mm²) is too pale for otsu", missed / 1e6)
    } else {
        format!("otsu: its stain covers all but {percent:.0} % of the textured area")
    };
    let round = |um2: f64| (um2 / 1e6 * 1e4).round() / 1e4;
    let measured = json!({ "textured_mm2": round(texture), "textured_unstained_mm2": round(missed) });
    Choice { entropy, why, measured }
}
