//! The colours of a scanner brought to sRGB by the slide's ICC profile.
//!
//! Little CMS does the arithmetic, in the version that is built in, with the perceptual intent: what Pillow's
//! `ImageCms.profileToProfile` does unless it is told otherwise, and equal to it in every value (`tests/icc.rs`). `moxcms`,
//! in Rust and two to three times as fast, is within 2 of 255 of it for matrix profiles, but up to 19 off for those with a
//! table, which scanners write.
//!
//! Reference: ICC.1:2022; Little CMS 2.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use lcms2::{ColorSpaceSignature, DisallowCache, Flags, Intent, PixelFormat, Profile, ThreadContext, Transform};

/// What is done with the colour profile of a slide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IccMode {
    /// Nothing: tiles have the scanner's colours, as in the pipelines that foundation models were trained with.
    #[default]
    Off,
    /// Tiles are brought to sRGB, at the resolution of the level that they are read from.
    Srgb,
}

impl IccMode {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            IccMode::Off => "off",
            IccMode::Srgb => "srgb",
        }
    }

    /// The rule in contracts: all that pixels depend on.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            IccMode::Off => "off",
            IccMode::Srgb => "srgb: perceptual, before resampling; slides without a profile as they are",
        }
    }
}

impl fmt::Display for IccMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IccMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [IccMode::Off, IccMode::Srgb]
            .into_iter()
            .find(|m| m.name() == text)
            .ok_or_else(|| format!("unknown treatment of colours '{text}'; one of off, srgb"))
    }
}

/// Brings 8-bit RGB from a profile's colours to sRGB. Any number of threads may use it at once.
pub struct ToSrgb {
    transform: Transform<[u8; 3], [u8; 3], ThreadContext, DisallowCache>,
    /// The transform points into it: it goes last. Nobody else uses it.
    _context: Mutex<ThreadContext>,
}

impl ToSrgb {
    /// Reads a profile. Costs 3 ms for one of matrix and curves and 45 ms for one with a table.
    ///
    /// # Errors
    /// Says in words why the profile is of no use.
    pub fn new(profile: &[u8]) -> Result<Self, String> {
        let context = ThreadContext::new();
        let from = Profile::new_icc_context(&context, profile).map_err(|_| "it is damaged".to_string())?;
        if from.color_space() != ColorSpaceSignature::RgbData {
            return Err("it is not one of RGB colours".into());
        }
        let to = Profile::new_srgb_context(&context);
        let transform = Transform::new_flags_context(
            &context,
            &from,
            PixelFormat::RGB_8,
            &to,
            PixelFormat::RGB_8,
            Intent::Perceptual,
            Flags::NO_CACHE,
        );
        let transform = transform.map_err(|_| "it is damaged, or lacks what leads to sRGB".to_string())?;
        drop((from, to));
        Ok(ToSrgb { transform, _context: Mutex::new(context) })
    }

    /// Transforms interleaved RGB in place.
    pub fn apply(&self, rgb: &mut [u8]) {
        self.transform.transform_in_place(rgb.as_chunks_mut::<3>().0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srgb_stays_what_it_is() {
        let srgb = Profile::new_srgb().icc().expect("a profile");
        let transform = ToSrgb::new(&srgb).expect("reads");
        let mut rgb: Vec<u8> = (0..=255).flat_map(|v: u8| [v, v.wrapping_mul(7), 255 - v]).collect();
        let before = rgb.clone();
        transform.apply(&mut rgb);
        let largest = rgb.iter().zip(&before).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(largest <= Some(1), "{largest:?}");
    }

    #[test]
    fn damaged_and_foreign_profiles_are_refused() {
        let srgb = Profile::new_srgb().icc().expect("a profile");
        for broken in [&b""[..], b"no profile", &srgb[..200], &vec![0xff; 4096]] {
            assert!(ToSrgb::new(broken).is_err());
        }
        let white = lcms2::CIExyY { x: 0.3457, y: 0.3585, Y: 1.0 };
        let grey = Profile::new_gray(&white, &lcms2::ToneCurve::new(2.2)).expect("a profile");
        let why = ToSrgb::new(&grey.icc().expect("a profile")).err();
        assert_eq!(why.as_deref(), Some("it is not one of RGB colours"));
    }
}
