//! The physical resolution of a slide, µm per pixel (mpp), with its source: what the slide states is judged, never guessed.
//!
//! Order of trust: the user, the slide list, the vendor's property, TIFF resolution tags, OME or DICOM metadata, and
//! only where the user allows it the objective power (nominally 10 µm/px divided by the magnification).

use std::fmt;

use serde::Serialize;

use super::StatedMpp;
use crate::error::{Error, Result};

/// Where an mpp comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MppSource {
    /// `--mpp`.
    User,
    /// The `mpp` column of the slide list.
    SlideList,
    /// The scanner vendor's own property.
    Vendor,
    /// The TIFF tags XResolution, YResolution, ResolutionUnit.
    TiffResolution,
    /// OME-XML or DICOM metadata.
    OmeDicom,
    /// 10 divided by the objective power; only with `--allow-objective-mpp`.
    ObjectivePower,
}

impl MppSource {
    /// The name in records and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MppSource::User => "user",
            MppSource::SlideList => "slide-list",
            MppSource::Vendor => "vendor",
            MppSource::TiffResolution => "tiff-resolution",
            MppSource::OmeDicom => "ome-dicom",
            MppSource::ObjectivePower => "objective-power",
        }
    }
}

impl fmt::Display for MppSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A resolution that was found plausible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mpp {
    /// µm per level-0 pixel, horizontally.
    pub x: f64,
    /// µm per level-0 pixel, vertically.
    pub y: f64,
    /// Where it comes from.
    pub source: MppSource,
}

impl Mpp {
    /// The mean of both directions, which tiles are cut by.
    #[must_use]
    pub fn mean(&self) -> f64 {
        (self.x + self.y) / 2.0
    }
}

/// What the user says about a slide's resolution.
#[derive(Clone, Copy, Debug, Default)]
pub struct MppOverride {
    /// µm per pixel, and whether it came from `--mpp` or the slide list.
    pub given: Option<(f64, MppSource)>,
    /// Whether the objective power may stand in for a missing resolution.
    pub allow_objective: bool,
}

/// Finest plausible resolution, µm per pixel.
pub const MPP_MIN: f64 = 0.05;
/// Coarsest plausible resolution, µm per pixel.
pub const MPP_MAX: f64 = 10.0;
/// Largest relative difference between x and y.
const MAX_ANISOTROPY: f64 = 0.10;
/// Largest relative difference to 10 / objective power.
const MAX_OBJECTIVE_DISAGREEMENT: f64 = 0.40;

const ADVICE: &str = "give the true value with --mpp 0.25 or an 'mpp' column in the slide list";

/// Judges what is known and returns the resolution to work with.
///
/// The most trusted statement counts; if it is implausible that is an error, never a reason to try the next one.
///
/// # Errors
/// [`Error::Mpp`], with what was found, where, and how to override it.
pub fn resolve(stated: &[StatedMpp], objective_power: Option<f64>, user: MppOverride) -> Result<Mpp> {
    if let Some((value, source)) = user.given {
        if !in_range(value) {
            return Err(Error::Mpp(format!(
                "{value} µm per pixel ({source}) is outside {MPP_MIN} to {MPP_MAX}: correct it"
            )));
        }
        return Ok(Mpp { x: value, y: value, source });
    }
    let power = objective_power.filter(|p| p.is_finite() && *p > 0.0);
    let Some(first) = stated.iter().min_by_key(|s| s.source as u8) else {
        return match power {
            Some(power) if user.allow_objective => {
                let value = 10.0 / power;
                if !in_range(value) {
                    return Err(Error::Mpp(format!(
                        "objective power {power} would mean {value} µm per pixel: {ADVICE}"
                    )));
                }
                Ok(Mpp { x: value, y: value, source: MppSource::ObjectivePower })
            }
            Some(power) => Err(Error::Mpp(format!(
                "no microns-per-pixel in this slide, only objective power {power}: {ADVICE}, or accept {} with \
                 --allow-objective-mpp",
                10.0 / power
            ))),
            None => Err(Error::Mpp(format!("no microns-per-pixel in this slide: {ADVICE}"))),
        };
    };
    let StatedMpp { x, y, source } = *first;
    if !in_range(x) || !in_range(y) {
        return Err(Error::Mpp(format!(
            "implausible microns-per-pixel {x} x {y} (from {source}; {MPP_MIN} to {MPP_MAX} is possible): {ADVICE}"
        )));
    }
    if (x - y).abs() > MAX_ANISOTROPY * x.min(y) {
        return Err(Error::Mpp(format!(
            "microns-per-pixel differ between x and y by over 10 %: {x} x {y} (from {source}): {ADVICE}"
        )));
    }
    if let Some(power) = power {
        let nominal = 10.0 / power;
        if ((x + y) / 2.0 / nominal - 1.0).abs() > MAX_OBJECTIVE_DISAGREEMENT {
            return Err(Error::Mpp(format!(
                "microns-per-pixel {x} (from {source}) contradict objective power {power} (nominally {nominal}) by over \
                 40 %: {ADVICE}"
            )));
        }
    }
    Ok(Mpp { x, y, source })
}

fn in_range(value: f64) -> bool {
    (MPP_MIN..=MPP_MAX).contains(&value)
}

/// A number as scanners write it: surrounding blanks and a decimal comma are accepted, nothing else.
#[must_use]
pub fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let number: f64 = text.parse().ok().or_else(|| text.replacen(',', ".", 1).parse().ok())?;
    // Rust reads "nan" and "inf"; they are passed on for the judgement above to name.
    text.starts_with(|c: char| c.is_ascii_digit() || "+-.,nNiI".contains(c)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDOR: StatedMpp = StatedMpp { x: 0.25, y: 0.25, source: MppSource::Vendor };

    fn words(stated: &[StatedMpp], power: Option<f64>) -> String {
        resolve(stated, power, MppOverride::default()).expect_err("refused").to_string()
    }

    #[test]
    fn the_most_trusted_statement_counts() {
        let tags = StatedMpp { x: 0.5, y: 0.5, source: MppSource::TiffResolution };
        let got = resolve(&[tags, VENDOR], Some(40.0), MppOverride::default()).expect("plausible");
        assert_eq!(got, Mpp { x: 0.25, y: 0.25, source: MppSource::Vendor });
        let user = MppOverride { given: Some((0.3, MppSource::User)), allow_objective: false };
        assert_eq!(resolve(&[VENDOR], None, user).expect("plausible").source, MppSource::User);
        let user = MppOverride { given: Some((0.0, MppSource::SlideList)), allow_objective: false };
        assert!(resolve(&[VENDOR], None, user).expect_err("refused").to_string().contains("slide-list"));
    }

    #[test]
    fn implausible_statements_are_errors_that_tell_how_to_override() {
        for bad in [0.0, -0.25, f64::NAN, f64::INFINITY, 0.004_99, 352.0] {
            let message = words(&[StatedMpp { x: bad, ..VENDOR }], None);
            assert!(message.contains("implausible") && message.contains("--mpp"), "{message}");
        }
        assert!(words(&[StatedMpp { x: 0.3, ..VENDOR }], None).contains("x and y"));
        assert!(words(&[VENDOR], Some(20.0)).contains("contradict objective power 20"));
        assert!(resolve(&[VENDOR], Some(0.0), MppOverride::default()).is_ok(), "power 0 says nothing");
    }

    #[test]
    fn objective_power_only_when_allowed() {
        assert!(words(&[], None).contains("no microns-per-pixel in this slide"));
        assert!(words(&[], Some(40.0)).contains("--allow-objective-mpp"));
        let allow = MppOverride { given: None, allow_objective: true };
        let got = resolve(&[], Some(40.0), allow).expect("allowed");
        assert_eq!((got.x, got.source), (0.25, MppSource::ObjectivePower));
    }

    #[test]
    fn numbers_as_scanners_write_them() {
        assert_eq!(parse_number(" 0.2525 "), Some(0.2525));
        assert_eq!(parse_number("0,2525"), Some(0.2525));
        assert_eq!(parse_number("0.25 um"), None);
        assert_eq!(parse_number(""), None);
        assert!(parse_number("nan").is_some_and(f64::is_nan));
    }
}
