//! What a brightfield slide shows at low power whatever method looks for tissue: background, pen, dirt; and the methods on top.
//!
//! Steps: 3x3 median → background, cell by cell, made neutral → pen and dirt → the method's pixels → closing, opening → small
//! holes filled, small pieces dropped.

use image::RgbImage;
use serde_json::{Value, json};

use super::background::{self, Background};
use super::choice;
use super::colour::Colour;
use super::dirt::{self, Dirt};
use super::options::{StainOptions, TissueOptions};
use super::otsu::otsu;
use super::{TissueMask, TissueMethod, entropy, fluorescence, focus, morphology, pen};

/// What a slide shows at low power.
pub struct Survey {
    width: usize,
    height: usize,
    mpp: f64,
    luma: Vec<u8>,
    colours: Vec<Colour>,
    background: Background,
    pen: Vec<u8>,
    dirt: Dirt,
    /// Share of dim pixels on a slide that is bright on black.
    dark: Option<f64>,
    /// Whether nothing was scanned.
    blank: bool,
}

/// What a method found, on the raster of the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// Width of the raster in pixels.
    pub width: u32,
    /// Height of the raster in pixels.
    pub height: u32,
    /// 1 tissue, 0 none, row by row.
    pub mask: Vec<u8>,
    /// The method that made it; `auto`'s choice.
    pub method: &'static str,
    /// Why `auto` chose it.
    pub why: Option<String>,
    /// The method's own findings, for the record.
    pub found: Value,
}

impl Segmentation {
    /// The mask over the slide; the downsamples are level-0 pixels per pixel of the segmented picture.
    #[must_use]
    pub fn into_mask(self, downsample_x: f64, downsample_y: f64) -> TissueMask {
        TissueMask::new(self.width, self.height, downsample_x, downsample_y, self.mask)
    }
}

/// Areas of artefacts, µm².
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Artefacts {
    /// Pen with its margin.
    pub pen: f64,
    /// Of that, what probably lies on tissue: the nearest pixel without pen is tissue.
    pub pen_over_tissue: f64,
    /// Dust.
    pub dust: f64,
    /// Coverslip edges.
    pub coverslip_edge: f64,
    /// Bubbles with what they enclose.
    pub bubble: f64,
    /// Never scanned: pure black, and pure white unless that is the slide's only background.
    pub unscanned: f64,
    /// The slide.
    pub slide: f64,
}

/// A slide that is bright on black was given to a brightfield method.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the slide is bright on black ({percent:.0} % of what is not black is dark), as fluorescence is, and --tissue {method} is for \
     brightfield: give --tissue auto, fluorescence, none, or a mask; encoders trained on stained slides say little about it"
)]
pub struct DarkSlide {
    percent: f64,
    method: &'static str,
}

/// Looks at a low-power RGB picture of a whole slide at `mpp` µm/px (near [`TissueOptions::mask_mpp`]; radii and areas
/// follow `mpp`). Deterministic; time is linear in the pixels.
///
/// # Panics
/// If `mpp` is not positive and finite: a bug of the caller.
#[must_use]
pub fn survey(image: &RgbImage, mpp: f64, options: &TissueOptions) -> Survey {
    assert!(mpp.is_finite() && mpp > 0.0, "mask resolution of {mpp} µm/px");
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        let background = Background { colour: None, scanned: Vec::new(), field: None };
        let dirt = Dirt { mask: Vec::new(), dust_pixels: 0, edge_pixels: 0, bubble_pixels: 0 };
        let (luma, colours, pen) = (Vec::new(), Vec::new(), Vec::new());
        return Survey { width, height, mpp, luma, colours, background, pen, dirt, dark: None, blank: true };
    }
    let luma = image.as_raw().chunks_exact(3).map(focus::luma).collect();
    let pixels = smooth(image, mpp, options.median_um);
    let background = background::find(&pixels, width, mpp, &options.background);
    let blank = background.scanned.iter().all(|&scanned| scanned == 0);
    let colours = match blank {
        true => vec![Colour::new([255; 3]); width * height],
        false => background::neutral_colours(&pixels, width, &background),
    };
    let dark = fluorescence::is_dark(&pixels, background.colour.is_some(), &options.fluorescence);
    drop(pixels);
    let (pen, dirt) = if dark.is_some() || blank {
        let none = || vec![0; colours.len()];
        (none(), Dirt { mask: none(), dust_pixels: 0, edge_pixels: 0, bubble_pixels: 0 })
    } else {
        let pen = pen::pen_mask(&colours, &background.scanned, width, mpp, &options.pen);
        let usable = |i: usize| background.scanned[i] != 0 && pen[i] == 0;
        let value = background.colour.unwrap_or([255; 3]).into_iter().fold(0, u8::max);
        let dirt = dirt::find(&colours, usable, width, mpp, value, &options.dirt);
        (pen, dirt)
    };
    Survey { width, height, mpp, luma, colours, background, pen, dirt, dark, blank }
}

fn smooth(image: &RgbImage, mpp: f64, median_um: f64) -> Vec<u8> {
    let passes = ((median_um / mpp - 1.0) / 2.0).round().clamp(0.0, 4.0) as usize;
    let mut pixels = image.as_raw().clone();
    for _ in 0..passes {
        pixels = morphology::median3_rgb(&pixels, image.width() as usize, image.height() as usize);
    }
    pixels
}

impl Survey {
    /// Pen with its margin, row by row: 1 pen, 0 none.
    #[must_use]
    pub fn into_pen(self) -> Vec<u8> {
        self.pen
    }

    /// The background's colour before it was made neutral; `None` where the slide shows none.
    #[must_use]
    pub fn background(&self) -> Option<[u8; 3]> {
        self.background.colour
    }

    /// Whether the slide is bright on black.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.dark.is_some()
    }

    /// Finds tissue. `none`, masks and models are not for this: they are [`TissueMethod::Otsu`] to it.
    ///
    /// # Errors
    /// [`DarkSlide`] where a brightfield method was asked for.
    pub fn segment(&self, method: &TissueMethod, options: &TissueOptions) -> Result<Segmentation, DarkSlide> {
        let refused = |method| match self.dark {
            Some(share) => Err(DarkSlide { percent: 100.0 * share, method }),
            None => Ok(()),
        };
        match method {
            TissueMethod::Fluorescence => Ok(self.glowing(options, None)),
            TissueMethod::Auto => Ok(self.chosen(options)),
            TissueMethod::Entropy => refused("entropy").map(|()| self.textured(options)),
            _ => refused("otsu").map(|()| self.stained(options)),
        }
    }

    fn chosen(&self, options: &TissueOptions) -> Segmentation {
        if let Some(share) = self.dark {
            let why = format!("fluorescence: {:.0} % of what is not black is dark", 100.0 * share);
            return self.glowing(options, Some(why));
        }
        let (stained, textured) = rayon::join(|| self.stained(options), || self.textured(options));
        let choice = choice::choose(&stained.mask, &textured.mask, self.mpp, &options.choice);
        let mut found = if choice.entropy { textured } else { stained };
        found.why = Some(choice.why);
        if let (Value::Object(found), Value::Object(measured)) = (&mut found.found, choice.measured) {
            found.extend(measured);
        }
        found
    }

    /// Saturation over Otsu's threshold.
    fn stained(&self, options: &TissueOptions) -> Segmentation {
        if self.blank {
            return self.segmentation("otsu", vec![0; self.colours.len()], Value::Null);
        }
        let threshold = self.threshold(&options.otsu);
        let mask = self.stained_pixels(threshold, options);
        let mask = self.clean(mask, options.pieces.closing_um, options);
        self.segmentation("otsu", mask, json!({ "saturation": threshold }))
    }

    fn stained_pixels(&self, threshold: u8, options: &TissueOptions) -> Vec<u8> {
        let pixels = self.colours.iter().enumerate();
        pixels.map(|(i, &colour)| u8::from(self.usable(i) && is_stained(colour, threshold, options))).collect()
    }

    /// Whether a pixel can be tissue at all.
    fn usable(&self, i: usize) -> bool {
        self.background.scanned[i] != 0 && self.pen[i] == 0 && self.dirt.mask[i] == 0
    }

    /// Otsu's threshold on saturation, clamped; a slide without background has no second class to split off.
    fn threshold(&self, options: &StainOptions) -> u8 {
        if self.background.colour.is_none() {
            return options.threshold_min;
        }
        let mut histogram = [0u64; 256];
        for (colour, _) in self.colours.iter().zip(&self.background.scanned).filter(|&(_, &scanned)| scanned != 0) {
            histogram[usize::from(colour.saturation)] += 1;
        }
        otsu(&histogram).clamp(options.threshold_min, options.threshold_max.max(options.threshold_min))
    }

    /// Texture, or stain beyond doubt.
    fn textured(&self, options: &TissueOptions) -> Segmentation {
        if self.blank {
            return self.segmentation("entropy", vec![0; self.colours.len()], Value::Null);
        }
        let entropy = &options.entropy;
        // Borders of what is no tissue are texture, too: it is painted over, with a margin, before texture is measured.
        let unusable: Vec<u8> = (0..self.colours.len()).map(|i| u8::from(!self.usable(i))).collect();
        let unusable = morphology::dilate(&unusable, self.width, self.height, 2.0);
        let paint = self.background.colour.map_or_else(|| median(&self.luma), |colour| focus::luma(&colour));
        let luma: Vec<u8> = self
            .luma
            .iter()
            .zip(&unusable)
            .map(|(&luma, &unusable)| if unusable != 0 { paint } else { luma })
            .collect();
        let usable: Vec<u8> = unusable.iter().map(|&unusable| unusable ^ 1).collect();
        let texture = entropy::textured(&luma, &usable, self.width, self.mpp, entropy);
        let mut mask = morphology::erode(&texture.mask, self.width, self.height, entropy.erosion_um / self.mpp);
        let strong = self.stained_pixels(options.otsu.threshold_max, options);
        for (i, set) in mask.iter_mut().enumerate() {
            *set = (*set | strong[i]) & u8::from(self.usable(i));
        }
        let mask = self.clean(mask, entropy.closing_um, options);
        let round = |value: f64| (value * 100.0).round() / 100.0;
        self.segmentation(
            "entropy",
            mask,
            json!({ "entropy_bits": round(texture.threshold), "noise": round(texture.noise) }),
        )
    }

    /// What glows.
    fn glowing(&self, options: &TissueOptions, why: Option<String>) -> Segmentation {
        if self.colours.is_empty() {
            return self.segmentation("fluorescence", Vec::new(), Value::Null);
        }
        let (mask, threshold) = fluorescence::glowing(&self.colours, self.width, self.mpp, &options.fluorescence);
        let pieces = &options.pieces;
        let mut mask = morphology::close(&mask, self.width, self.height, pieces.closing_um / self.mpp);
        mask = morphology::open(&mask, self.width, self.height, pieces.opening_um / self.mpp);
        morphology::fill_holes(&mut mask, self.width, self.pixels(pieces.min_hole_um2));
        morphology::drop_small(&mut mask, self.width, self.pixels(pieces.min_area_um2));
        Segmentation { why, ..self.segmentation("fluorescence", mask, json!({ "value": threshold })) }
    }

    fn segmentation(&self, method: &'static str, mask: Vec<u8>, found: Value) -> Segmentation {
        Segmentation { width: self.width as u32, height: self.height as u32, mask, method, why: None, found }
    }

    fn clean(&self, mask: Vec<u8>, closing_um: f64, options: &TissueOptions) -> Vec<u8> {
        let (width, height, mpp, pieces) = (self.width, self.height, self.mpp, &options.pieces);
        let mut mask = morphology::close(&mask, width, height, closing_um / mpp);
        mask = morphology::open(&mask, width, height, pieces.opening_um / mpp);
        morphology::fill_holes(&mut mask, width, self.pixels(pieces.min_hole_um2));
        mask.iter_mut().zip(&self.pen).for_each(|(set, &pen)| *set &= pen ^ 1);
        mask.iter_mut().zip(&self.background.scanned).for_each(|(set, &scanned)| *set &= scanned);
        morphology::drop_small(&mut mask, width, self.pixels(pieces.min_area_um2));
        mask
    }

    fn pixels(&self, um2: f64) -> u64 {
        (um2 / (self.mpp * self.mpp)).ceil() as u64
    }

    /// The areas of artefacts; `mask` says where tissue is, pixel by pixel, for what pen lies on.
    #[must_use]
    pub fn artefacts(&self, mask: &[u8]) -> Artefacts {
        let um2 = |pixels: u64| pixels as f64 * self.mpp * self.mpp;
        let count = |mask: &[u8]| mask.iter().map(|&set| u64::from(set)).sum::<u64>();
        Artefacts {
            pen: um2(count(&self.pen)),
            pen_over_tissue: um2(pen::over_tissue(&self.pen, mask, self.width)),
            dust: um2(self.dirt.dust_pixels),
            coverslip_edge: um2(self.dirt.edge_pixels),
            bubble: um2(self.dirt.bubble_pixels),
            unscanned: um2((self.colours.len() as u64) - count(&self.background.scanned)),
            slide: um2(self.colours.len() as u64),
        }
    }
}

fn is_stained(colour: Colour, threshold: u8, options: &TissueOptions) -> bool {
    let (otsu, pen) = (&options.otsu, &options.pen);
    let neutral = colour.value < otsu.neutral_value_max && colour.saturation < otsu.neutral_saturation_min;
    let black = colour.value <= pen.black_value_max && colour.chroma <= pen.black_chroma_max;
    colour.saturation >= threshold && !neutral && !black
}

fn median(values: &[u8]) -> u8 {
    let mut sorted = values.to_vec();
    let middle = sorted.len() / 2;
    *sorted.select_nth_unstable(middle).1
}

impl Artefacts {
    /// Why a result with this much tissue (µm²) should be looked at; `None` where nothing is suspicious.
    #[must_use]
    pub fn suspicion(&self, tissue_um2: f64) -> Option<String> {
        let scanned = self.slide - self.unscanned;
        if tissue_um2 == 0.0 && scanned <= 0.0 {
            Some(
                "no tissue found: the low-power picture is pure white or black throughout, nothing was scanned"
                    .to_owned(),
            )
        } else if tissue_um2 == 0.0 {
            Some("no tissue found; if the slide holds any, give --tissue none or a mask".to_owned())
        } else if (tissue_um2 < TISSUE_LITTLE_UM2 && tissue_um2 < CROP_SHARE * scanned)
            || tissue_um2 < TISSUE_LITTLE_SHARE * scanned
        {
            let percent = 100.0 * tissue_um2 / scanned.max(1.0);
            Some(format!(
                "suspiciously little tissue: {:.2} mm², {percent:.1} % of the scanned area; look at its overview",
                tissue_um2 / 1e6
            ))
        } else {
            None
        }
    }

    /// What else the user should know of this slide, without its name.
    #[must_use]
    pub fn warnings(&self, tissue_um2: f64) -> Vec<String> {
        let mut warnings = Vec::new();
        let stained = self.pen + tissue_um2;
        if self.pen > 0.0 && self.pen * 5.0 > stained {
            warnings.push(format!(
                "pen covers {:.0} % of the stained area and was left out; if the stain itself is blue or green, give \
                 --no-pen-guard, --tissue none or a mask",
                100.0 * self.pen / stained
            ));
        }
        if self.pen_over_tissue > PEN_OVER_TISSUE_UM2 {
            warnings.push(format!("about {:.2} mm² of tissue lie under pen", self.pen_over_tissue / 1e6));
        }
        warnings
    }
}

/// Less tissue than this (µm²) is suspicious: a square of half a millimetre.
const TISSUE_LITTLE_UM2: f64 = 250_000.0;
/// Where it covers more than this share of what was scanned, the slide is a crop, and small itself.
const CROP_SHARE: f64 = 0.5;
/// So is a smaller share of the scanned area than this.
const TISSUE_LITTLE_SHARE: f64 = 0.002;
/// More tissue under pen than this (µm²) is told.
const PEN_OVER_TISSUE_UM2: f64 = 250_000.0;
