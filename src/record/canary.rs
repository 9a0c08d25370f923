//! The canary: what one run's software made of pixels that are the same everywhere. No patient is in it, so it may leave, and
//! it tells a site with another decoder, resampler, runtime, precision or model from the others by its vectors.
//!
//! `canaries/<artefact>/<first 16 digits of the content's sha256>.json` in the grid directory: one file for each different
//! outcome, whichever runs came to it. What the pixels are is told in `pipeline::canary`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::numbers::Numbers;
use super::{Runtime, list, publish};
use crate::digest;
use crate::error::{Error, Result};

/// The directory of canaries in a grid directory.
pub const CANARIES: &str = "canaries";

/// How far apart the canaries of two sites may be: cosines of two vectors of the same pixels.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Below it their features must not be trained on together.
    pub refuse: f64,
    /// Below it they are told apart with a warning.
    pub warn: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { refuse: 0.999, warn: 0.9999 }
    }
}

/// What a run made of the canary's pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// [`Canary::SCHEMA`].
    pub schema: String,
    /// sha256 of the contract that the run worked under.
    pub contract_sha256: String,
    /// What made it.
    pub runtime: Runtime,
    /// How vectors are stored: `f32-m10`, `f32` or `f16`; those here went through it.
    pub precision: String,
    /// In what precision the model computes, where its card says it.
    pub compute: Option<String>,
    /// What the encoder's card says of differences.
    pub thresholds: Thresholds,
    /// Synthetic tiles that went straight to the encoder, by name: the first vectors.
    pub tiles: Vec<String>,
    /// The synthetic slide.
    pub slide: CanarySlide,
    /// (tiles + coordinates, dim) float32.
    pub vectors: Numbers,
}

/// How the synthetic slide was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanarySlide {
    /// sha256 of the file.
    pub sha256: String,
    /// µm per level-0 pixel that it was given.
    pub mpp: f64,
    /// How tissue was found: the run's method, or `none` where that finds none at this resolution.
    pub tissue: String,
    /// Tiles in its plan.
    pub planned: u64,
    /// Upper left corners in level-0 pixels of those that were embedded: the vectors after those of the tiles.
    pub coords: Vec<[i64; 2]>,
}

impl Canary {
    /// The version of this form and of the tiles.
    pub const SCHEMA: &str = "paraffin-canary/1";

    /// Its file, as it lies on disk, and the file's name.
    fn file(&self) -> Result<(String, Vec<u8>)> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(format!("canary: {e}")))?;
        text.push(b'\n');
        Ok((format!("{}.json", &digest::sha256(&text)[..16]), text))
    }

    /// Keeps it with an artefact of a grid directory, unless the same is there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn keep(&self, grid_dir: &Path, artefact: &str) -> Result<()> {
        let directory = grid_dir.join(CANARIES).join(artefact);
        let (name, text) = self.file()?;
        publish::create_dir_all(&directory)
            .and_then(|()| publish::create_once(&directory.join(name), &text).map(|_| ()))
            .map_err(|e| Error::write("a canary", e))
    }

    /// The canaries of an artefact, in the order of their names. A file that is not what its name says does not count.
    ///
    /// # Errors
    /// The directory cannot be listed; none where there is none.
    pub fn all(grid_dir: &Path, artefact: &str) -> std::io::Result<Vec<Canary>> {
        Ok(Self::files(grid_dir, artefact)?.into_iter().filter_map(|(_, canary)| canary).collect())
    }

    /// The files of canaries of an artefact, relative to the grid directory, and what each holds; `None` where it is not what
    /// its name says.
    ///
    /// # Errors
    /// As [`Canary::all`].
    pub fn files(grid_dir: &Path, artefact: &str) -> std::io::Result<Vec<(String, Option<Canary>)>> {
        let directory = format!("{CANARIES}/{artefact}");
        let names = list(&grid_dir.join(&directory))?.into_iter().filter(|(name, _)| !publish::is_part(name));
        let read = |path: &str, name: &str| {
            let text = std::fs::read(grid_dir.join(path)).ok()?;
            let named = name.len() == 21 && digest::sha256(&text).starts_with(name.strip_suffix(".json")?);
            named.then(|| serde_json::from_slice(&text).ok())?
        };
        let read = |(name, _): (String, bool)| {
            let path = format!("{directory}/{name}");
            let canary = read(&path, &name);
            (path, canary)
        };
        Ok(names.map(read).collect())
    }

    /// The vectors, each of the same length: first the tiles', then the slide's in the order of [`CanarySlide::coords`].
    ///
    /// # Errors
    /// [`Error::Output`] where they do not fit the tiles and coordinates.
    pub fn rows(&self) -> Result<Vec<Vec<f64>>> {
        let values = self.vectors.values()?;
        let wanted = self.tiles.len() + self.slide.coords.len();
        match self.vectors.shape[..] {
            [rows, dim] if rows == wanted && dim > 0 => Ok(values.chunks_exact(dim).map(<[f64]>::to_vec).collect()),
            _ => Err(Error::Output(format!("a canary of {wanted} vectors has the shape {:?}", self.vectors.shape))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::examples;

    pub(crate) fn canary(contract_sha256: &str, values: &[f32]) -> Canary {
        Canary {
            schema: Canary::SCHEMA.into(),
            contract_sha256: contract_sha256.into(),
            runtime: examples::runtime(),
            precision: "f32".into(),
            compute: None,
            thresholds: Thresholds::default(),
            tiles: vec!["noise".into()],
            slide: CanarySlide {
                sha256: "ab".repeat(32),
                mpp: 0.5,
                tissue: "otsu".into(),
                planned: 20,
                coords: vec![[0, 0]],
            },
            vectors: Numbers::of_f32(&[2, values.len() / 2], values),
        }
    }

    #[test]
    fn each_outcome_is_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (canary("a", &[1.0, 0.0, 0.0, 1.0]), canary("a", &[1.0, 0.0, 0.0, 0.5]));
        for canary in [&one, &other, &one] {
            canary.keep(dir.path(), "features_x").unwrap();
        }
        let kept = Canary::all(dir.path(), "features_x").unwrap();
        assert!(kept.len() == 2 && kept.contains(&one) && kept.contains(&other));
        assert!(Canary::all(dir.path(), "features_y").unwrap().is_empty());
        // One that was touched is no witness.
        let (name, text) = other.file().unwrap();
        let path = dir.path().join(CANARIES).join("features_x").join(name);
        std::fs::write(&path, String::from_utf8(text).unwrap().replace("0.5", "0.25")).unwrap();
        assert_eq!(Canary::all(dir.path(), "features_x").unwrap(), std::slice::from_ref(&one));
        assert_eq!(Canary::files(dir.path(), "features_x").unwrap().iter().filter(|(_, c)| c.is_none()).count(), 1);
        assert_eq!(one.rows().unwrap(), [[1.0, 0.0], [0.0, 1.0]]);
        assert!(Canary { tiles: vec![], ..one }.rows().is_err());
    }
}
