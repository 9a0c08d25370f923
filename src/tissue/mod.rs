//! Where on a slide is tissue: the method asked for, its parameters, and the mask they give.
//!
//! Pure functions on pictures that are in memory already; reading the low-power level is the caller's work.
//! A method gives a raster over the whole slide ([`TissueMask`]) that answers in level-0 pixels.

mod artefacts;
mod background;
mod colour;
mod mask;
mod mask_file;
mod morphology;
mod otsu;
#[cfg(test)]
mod otsu_tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use artefacts::PenOptions;
pub use background::BackgroundOptions;
pub use mask::TissueMask;
pub use mask_file::{MASK_PIXELS_MAX, MaskFileError, mask_from_file};
pub use otsu::{OtsuOptions, Segmentation, segment_otsu};

/// Which method finds tissue. Parsed from the command line as `none`, `otsu` or the path of a PNG mask.
#[derive(Clone, Debug, PartialEq)]
pub enum TissueMethod {
    /// The whole slide counts as tissue.
    None,
    /// Saturation and Otsu's threshold, see [`segment_otsu`].
    Otsu,
    /// A picture of the mask, see [`mask_from_file`].
    MaskFile(PathBuf),
}

impl TissueMethod {
    /// The method's word without the mask's path (which may name a patient): `none`, `otsu` or `mask`.
    ///
    /// Use this, not `Display`, in whatever leaves the site.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Otsu => "otsu",
            Self::MaskFile(_) => "mask",
        }
    }
}

/// A word that is neither a tissue method nor the path of a PNG.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("unknown tissue method; give none, otsu or the path of a .png mask (non-zero = tissue): \"{0}\"")]
pub struct UnknownTissueMethod(pub String);

impl FromStr for TissueMethod {
    type Err = UnknownTissueMethod;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "none" => Ok(Self::None),
            "otsu" => Ok(Self::Otsu),
            other if other.len() > 4 && other.to_ascii_lowercase().ends_with(".png") => {
                Ok(Self::MaskFile(PathBuf::from(other)))
            }
            other => Err(UnknownTissueMethod(other.to_owned())),
        }
    }
}

impl fmt::Display for TissueMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaskFile(path) => write!(f, "{}", path.display()),
            word => f.write_str(word.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_round_trip_through_their_words() {
        for word in ["none", "otsu", "masks/a.png", "B.PNG"] {
            assert_eq!(word.parse::<TissueMethod>().unwrap().to_string(), word);
        }
        assert_eq!("x/doe^john.png".parse::<TissueMethod>().unwrap().name(), "mask");
    }

    #[test]
    fn a_misspelt_method_is_refused_with_the_choices() {
        for word in ["otus", "", ".png", "Otsu", "mask.tif"] {
            let message = word.parse::<TissueMethod>().unwrap_err().to_string();
            assert!(message.contains("none, otsu"), "{message}");
        }
    }
}
