//! Where on a slide is tissue: the method asked for, its parameters, and the mask they give.
//!
//! Pure functions on pictures that are in memory already; reading the low-power level is the caller's work.
//! A method gives a raster over the whole slide ([`TissueMask`]) that answers in level-0 pixels.

mod background;
mod choice;
mod colour;
mod contours;
mod dirt;
mod entropy;
mod field;
mod fluorescence;
mod focus;
mod geojson;
mod mask;
mod mask_file;
mod morphology;
mod options;
mod otsu;
mod pen;
mod qc;
mod survey;
#[cfg(test)]
mod tests_on_slides;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use background::BackgroundOptions;
pub use choice::ChoiceOptions;
pub use dirt::DirtOptions;
pub use entropy::EntropyOptions;
pub use fluorescence::FluorescenceOptions;
pub use focus::{FocusOptions, blurred};
pub use geojson::to_geojson;
pub use mask::TissueMask;
pub use mask_file::{MASK_PIXELS_MAX, MaskFileError, mask_from_file};
pub use options::{PieceOptions, StainOptions, TissueOptions};
pub use pen::PenOptions;
pub use qc::{QC_COLUMNS, QcLimits, QcMaps, QcOptions, TileQc};
pub use survey::{Artefacts, DarkSlide, Segmentation, Survey, survey};

/// Which method finds tissue. Parsed from the command line as a word or the path of a mask or a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TissueMethod {
    /// `otsu`, `entropy` or `fluorescence`, by what the slide measures.
    #[default]
    Auto,
    /// Saturation over Otsu's threshold: stained tissue on glass.
    Otsu,
    /// Texture: tissue that is hardly stained.
    Entropy,
    /// Brighter than the dark around it.
    Fluorescence,
    /// A segmentation model: an ONNX file with its card beside it, or a folder with both.
    Model(PathBuf),
    /// A mask that is given: a picture or polygons, see [`mask_from_file`].
    Mask(PathBuf),
    /// The whole slide counts as tissue.
    None,
}

/// The methods that are words.
const WORDS: [TissueMethod; 5] =
    [TissueMethod::Auto, TissueMethod::Otsu, TissueMethod::Entropy, TissueMethod::Fluorescence, TissueMethod::None];

impl TissueMethod {
    /// The method's word without a path (which may name a patient).
    ///
    /// Use this, not `Display`, in whatever leaves the site.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Otsu => "otsu",
            Self::Entropy => "entropy",
            Self::Fluorescence => "fluorescence",
            Self::Model(_) => "model",
            Self::Mask(_) => "mask",
            Self::None => "none",
        }
    }
}

/// A word that is neither a tissue method nor the path of a mask or a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "unknown tissue method; give auto, otsu, entropy, fluorescence, none, a mask (.png, .tif, .geojson) or a model (.onnx, or the \
     folder with one): \"{0}\""
)]
pub struct UnknownTissueMethod(pub String);

impl FromStr for TissueMethod {
    type Err = UnknownTissueMethod;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if let Some(method) = WORDS.into_iter().find(|method| method.name() == word) {
            return Ok(method);
        }
        let path = PathBuf::from(word);
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("png" | "tif" | "tiff" | "geojson" | "json") => Ok(Self::Mask(path)),
            Some("onnx") => Ok(Self::Model(path)),
            _ if path.is_dir() => Ok(Self::Model(path)),
            _ => Err(UnknownTissueMethod(word.to_owned())),
        }
    }
}

impl fmt::Display for TissueMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask(path) | Self::Model(path) => write!(f, "{}", path.display()),
            word => f.write_str(word.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_round_trip_through_their_words() {
        for word in ["auto", "otsu", "entropy", "fluorescence", "none", "masks/a.png", "B.PNG", "c.geojson", "m/x.onnx"]
        {
            assert_eq!(word.parse::<TissueMethod>().unwrap().to_string(), word);
        }
        assert_eq!("x/doe^john.tif".parse::<TissueMethod>().unwrap().name(), "mask");
        assert_eq!("x/grandqc.onnx".parse::<TissueMethod>().unwrap().name(), "model");
        assert_eq!(env!("CARGO_MANIFEST_DIR").parse::<TissueMethod>().unwrap().name(), "model");
    }

    #[test]
    fn a_misspelt_method_is_refused_with_the_choices() {
        for word in ["otus", "", ".png", "Otsu", "mask.jpg"] {
            let message = word.parse::<TissueMethod>().unwrap_err().to_string();
            assert!(message.contains("auto, otsu"), "{message}");
        }
    }
}
