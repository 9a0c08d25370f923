//! Quality of a tile in five shares of its area, and the limits beyond which a tile is left out.

use std::str::FromStr;

use image::RgbImage;
use serde::Serialize;

use super::{TissueMask, TissueMethod};

/// The columns of the data set `qc`, in their order. All are shares of a tile's area, 0 to 1, but `blur`, which is the share of its
/// tissue that is out of focus, and NaN where the slide was too coarse to judge.
pub const QC_COLUMNS: [&str; 5] = ["tissue", "blur", "pen", "white", "black"];

/// One tile's quality, in the order of [`QC_COLUMNS`].
pub type TileQc = [f32; 5];

/// What counts as white and black, and how much of what a tile may hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QcOptions {
    /// White: the least channel is at least this (0..=255).
    pub white_value_min: u8,
    /// Black: the greatest channel is at most this.
    pub black_value_max: u8,
    /// The limit for pen where tissue is looked for and none is given.
    pub pen_default: f64,
    /// Limits that were given.
    pub given: QcLimits,
}

impl Default for QcOptions {
    fn default() -> Self {
        Self { white_value_min: 220, black_value_max: 40, pen_default: 0.5, given: QcLimits::default() }
    }
}

impl QcOptions {
    /// The limits that hold with a method: what was given, and for pen the default, unless the user's word on tissue is final
    /// (`none`, a mask).
    #[must_use]
    pub fn limits(&self, method: &TissueMethod) -> QcLimits {
        let looked_for = !matches!(method, TissueMethod::None | TissueMethod::Mask(_));
        QcLimits { pen: self.given.pen.or(looked_for.then_some(self.pen_default)), ..self.given }
    }
}

/// The greatest shares that a tile may have, 0 to 1; a tile with more is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct QcLimits {
    /// Of its tissue, out of focus.
    pub blur: Option<f64>,
    /// Pen.
    pub pen: Option<f64>,
    /// White.
    pub white: Option<f64>,
    /// Black.
    pub black: Option<f64>,
}

impl QcLimits {
    /// The column, by its place in [`QC_COLUMNS`], whose limit a tile exceeds first.
    #[must_use]
    pub fn exceeded(&self, tile: &TileQc) -> Option<usize> {
        [(1, self.blur), (2, self.pen), (3, self.white), (4, self.black)]
            .into_iter()
            // What could not be judged (NaN) exceeds nothing.
            .find(|&(column, limit)| limit.is_some_and(|limit| f64::from(tile[column]) > limit))
            .map(|(column, _)| column)
    }
}

impl FromStr for QcLimits {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let mut limits = QcLimits::default();
        for word in words.split(',') {
            let (name, share) =
                word.split_once('=').ok_or_else(|| format!("'{word}' is not NAME=SHARE, as blur=0.5"))?;
            let value = share.parse().ok().filter(|value| (0.0..=1.0).contains(value));
            let value = value.ok_or_else(|| format!("'{share}' is no share between 0 and 1"))?;
            let limit = match name {
                "blur" => &mut limits.blur,
                "pen" => &mut limits.pen,
                "white" => &mut limits.white,
                "black" => &mut limits.black,
                "tissue" => return Err("the least share of tissue is --min-tissue-fraction".into()),
                _ => return Err(format!("unknown measure '{name}'; one of blur, pen, white, black")),
            };
            if limit.replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(limits)
    }
}

/// Rasters over a slide from which tiles are judged.
pub struct QcMaps<'a> {
    /// Tissue.
    pub tissue: &'a TissueMask,
    /// Tissue out of focus, see [`super::blurred`].
    pub blur: Option<TissueMask>,
    /// Pen with its margin.
    pub pen: TissueMask,
    /// White.
    pub white: TissueMask,
    /// Black.
    pub black: TissueMask,
}

impl<'a> QcMaps<'a> {
    /// Rasters from the picture that tissue was found in, `downsample` level-0 pixels per pixel, and its pen.
    #[must_use]
    pub fn new(
        tissue: &'a TissueMask,
        blur: Option<TissueMask>,
        pen: Vec<u8>,
        picture: &RgbImage,
        downsample: f64,
        options: &QcOptions,
    ) -> Self {
        let (width, height) = picture.dimensions();
        let raster = |data: Vec<u8>| TissueMask::new(width, height, downsample, downsample, data);
        let where_ = |chosen: &dyn Fn(u8, u8) -> bool| {
            let extremes = |p: &[u8]| (p[0].min(p[1]).min(p[2]), p[0].max(p[1]).max(p[2]));
            raster(picture.as_raw().chunks_exact(3).map(|p| u8::from(chosen(extremes(p).0, extremes(p).1))).collect())
        };
        QcMaps {
            tissue,
            blur,
            pen: raster(pen),
            white: where_(&|least, _| least >= options.white_value_min),
            black: where_(&|_, most| most <= options.black_value_max),
        }
    }

    /// The quality of the tile at (x, y), `side` level-0 pixels wide.
    #[must_use]
    pub fn tile(&self, x_level0: f64, y_level0: f64, side: f64) -> TileQc {
        let share = |mask: &TissueMask| mask.fraction(x_level0, y_level0, side, side) as f32;
        let tissue = share(self.tissue);
        let blur = match &self.blur {
            None => f32::NAN,
            Some(_) if tissue == 0.0 => 0.0,
            Some(blur) => (share(blur) / tissue).min(1.0),
        };
        [tissue, blur, share(&self.pen), share(&self.white), share(&self.black)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed_and_misspelt_ones_refused() {
        let limits: QcLimits = "blur=0.5,pen=0".parse().unwrap();
        assert_eq!((limits.blur, limits.pen, limits.white), (Some(0.5), Some(0.0), None));
        for (words, part) in [
            ("blur", "NAME=SHARE"),
            ("blur=2", "between 0 and 1"),
            ("blur=nan", "between 0 and 1"),
            ("ink=0.5", "unknown measure"),
            ("pen=0.1,pen=0.2", "twice"),
            ("tissue=0.5", "--min-tissue-fraction"),
            ("", "NAME=SHARE"),
        ] {
            let why = words.parse::<QcLimits>().unwrap_err();
            assert!(why.contains(part), "{words}: {why}");
        }
    }

    #[test]
    fn a_tile_is_left_out_for_what_exceeds_a_limit() {
        let limits = QcLimits { blur: Some(0.5), black: Some(0.0), ..QcLimits::default() };
        assert_eq!(limits.exceeded(&[1.0, 0.5, 1.0, 1.0, 0.0]), None);
        assert_eq!(limits.exceeded(&[1.0, 0.6, 1.0, 1.0, 0.1]), Some(1));
        assert_eq!(limits.exceeded(&[1.0, f32::NAN, 1.0, 1.0, 0.1]), Some(4));
    }

    #[test]
    fn the_default_for_pen_bows_to_the_users_word() {
        let options = QcOptions::default();
        assert_eq!(options.limits(&TissueMethod::Auto).pen, Some(0.5));
        assert_eq!(options.limits(&TissueMethod::None).pen, None);
        let given = QcOptions { given: "pen=0.1".parse().unwrap(), ..QcOptions::default() };
        assert_eq!(given.limits(&TissueMethod::None).pen, Some(0.1));
    }

    #[test]
    fn tiles_are_measured_in_shares() {
        let picture = RgbImage::from_fn(4, 2, |x, _| image::Rgb([[250; 3], [250; 3], [10; 3], [130; 3]][x as usize]));
        let tissue = TissueMask::new(4, 2, 10.0, 10.0, vec![0, 0, 1, 1, 0, 0, 1, 1]);
        let blur = TissueMask::new(4, 2, 10.0, 10.0, vec![0, 0, 0, 1, 0, 0, 0, 0]);
        let pen = vec![0, 1, 0, 0, 0, 0, 0, 0];
        let maps = QcMaps::new(&tissue, Some(blur), pen, &picture, 10.0, &QcOptions::default());
        assert_eq!(maps.tile(0.0, 0.0, 20.0), [0.0, 0.0, 0.25, 1.0, 0.0]);
        assert_eq!(maps.tile(20.0, 0.0, 20.0), [1.0, 0.25, 0.0, 0.0, 0.5]);
        let maps = QcMaps { blur: None, ..maps };
        assert!(maps.tile(20.0, 0.0, 20.0)[1].is_nan());
    }
}
