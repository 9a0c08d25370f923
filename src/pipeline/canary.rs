//! The canary: pixels that are the same everywhere, through everything that a run's own slides go through.
//!
//! Three synthetic tiles go straight to the encoder, at its own input's size: they tell of model, precision, runtime and device.
//! A synthetic slide (`canary.tif`, made by `scripts/make_canary.py`) is opened, searched for tissue, planned and read with the
//! run's settings, and some of its tiles are embedded: they tell of decoder, resampler and tissue search too. The slide is given
//! a resolution by which the run's target asks for a reduction by 1.5, so that every block is decoded and resampled;
//! with `--decode scaled` by 4.5, of which the decoder does a half.
//!
//! It costs less than ten tiles, writes nothing, and counts nowhere. One thread does it all, so the number of threads has no part
//! in it.

use super::prepare::{PlannedSlide, PrepareOptions, SlideSpec, plan};
use super::read::TileReader;
use crate::digest;
use crate::encoder::Encoder;
use crate::encoder::card::Input;
use crate::error::{Error, Result};
use crate::features::Precision;
use crate::record::canary::CanarySlide;
use crate::record::numbers::Numbers;
use crate::slide::Slide;
use crate::slide::mpp::{MPP_MAX, MPP_MIN, MppOverride, MppSource};
use crate::tiling::DecodeMode;
use crate::tissue::TissueMethod;

/// The synthetic slide.
static SLIDE: &[u8] = include_bytes!("canary.tif");

/// Names of the synthetic tiles.
const TILES: [&str; 3] = ["noise", "ramps", "texture"];

/// Tiles of the slide that are embedded, at most.
const FROM_SLIDE: usize = 4;

/// What became of the canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Names of the synthetic tiles: the first vectors.
    pub tiles: Vec<String>,
    /// How the slide was read.
    pub slide: CanarySlide,
    /// (tiles + coordinates, dim) float32, as they would be stored.
    pub vectors: Numbers,
}

/// What the canary goes through.
pub struct Through<'a> {
    /// The run's settings.
    pub options: &'a PrepareOptions,
    /// What the encoder takes.
    pub input: &'a Input,
    /// Tiles in a batch.
    pub batch: usize,
    /// How features are stored.
    pub precision: Precision,
}

/// Opens the synthetic slide.
///
/// # Errors
/// None, but for a fault of the build.
pub fn slide() -> Result<Slide> {
    Slide::of_bytes(SLIDE)
}

/// Sends the canary through. `open` gives its slide, [`slide`] but for tests of other decoders.
///
/// # Errors
/// What would fail with any slide: the encoder, or a value that cannot be stored.
pub fn observe(open: &dyn Fn() -> Result<Slide>, through: &Through, encoder: &mut dyn Encoder) -> Result<Observed> {
    let Through { options, input, batch, precision } = *through;
    let (planned, tissue) = planned(open, options)?;
    let picture = input.px as usize * input.px as usize * 3;
    let rows = chosen(&planned);
    let mut pixels = Vec::with_capacity((TILES.len() + rows.len()) * picture);
    TILES.iter().for_each(|name| synthetic(name, input.px as usize, &mut pixels));
    let mut reader = TileReader::default();
    for row in &rows {
        let start = pixels.len();
        pixels.resize(start + picture, 0);
        let read = reader.read_input(&planned, *row, options.tiling.resample, input, &mut pixels[start..]);
        read.map_err(|e| Error::Internal(format!("the canary slide cannot be read: {e}")))?;
    }
    let (count, dim) = (TILES.len() + rows.len(), encoder.dim());
    let mut vectors = Vec::with_capacity(count * dim);
    for pixels in pixels.chunks(batch * picture) {
        // Batches have one shape, as those of slides.
        let filled = pixels.len() / picture;
        let mut padded = pixels.to_vec();
        padded.resize(batch * picture, 0);
        let mut values = Vec::new();
        encoder.embed(&padded, batch, &mut values)?;
        vectors.extend(values[..filled * dim].iter().map(|v| precision.stored(*v)));
    }
    if !vectors.iter().all(|v| v.is_finite()) {
        return Err(Error::Encoder(format!(
            "its values for synthetic tiles are not finite, or too large for {precision}"
        )));
    }
    Ok(Observed {
        tiles: TILES.map(String::from).to_vec(),
        slide: CanarySlide {
            sha256: digest::sha256(SLIDE),
            mpp: planned.mpp.mean(),
            tissue,
            planned: planned.tiles.len() as u64,
            coords: rows.iter().map(|row| planned.tiles[*row]).collect(),
        },
        vectors: Numbers::of_f32(&[count, dim], &vectors),
    })
}

/// The slide with its plan, and how tissue was found. A plan without tiles tells nothing, so where the run's method finds no
/// tissue (an area of some hundred µm, at an odd resolution), is not for such a slide, or is a picture of another one, all of it counts.
fn planned(open: &dyn Fn() -> Result<Slide>, options: &PrepareOptions) -> Result<(PlannedSlide, String)> {
    let reduction = match options.tiling.decode {
        DecodeMode::Exact => 1.5,
        DecodeMode::Scaled => 4.5,
    };
    let mpp = (options.tiling.target_mpp / reduction).clamp(MPP_MIN, MPP_MAX);
    let given = MppOverride { given: Some((mpp, MppSource::User)), allow_objective: false };
    let spec = SlideSpec { path: "canary".into(), id: "canary".into(), mpp: given };
    if !matches!(options.tissue, TissueMethod::Mask(_))
        && let Ok(planned) = plan(&spec, open()?, options)
        && !planned.tiles.is_empty()
    {
        return Ok((planned, options.tissue.name().into()));
    }
    let options = PrepareOptions { tissue: TissueMethod::None, ..options.clone() };
    Ok((plan(&spec, open()?, &options)?, options.tissue.name().into()))
}

/// Up to [`FROM_SLIDE`] tiles, by their place in the plan: those nearest to the slide's centre, where there is tissue, and
/// which stay the same when another mask adds a tile at its edge.
fn chosen(planned: &PlannedSlide) -> Vec<usize> {
    let (level0, side) = (planned.slide.level0(), i64::from(planned.plan.tile_size_level0));
    let apart = |row: &usize| {
        let [x, y] = planned.tiles[*row];
        let (x, y) = (2 * x + side - i64::from(level0.width), 2 * y + side - i64::from(level0.height));
        (x * x + y * y, *row)
    };
    let mut rows: Vec<usize> = (0..planned.tiles.len()).collect();
    rows.sort_unstable_by_key(apart);
    rows.truncate(FROM_SLIDE);
    rows.sort_unstable();
    rows
}

/// Appends a synthetic tile, interleaved RGB. Whole-number arithmetic: the same bytes on every machine.
fn synthetic(name: &str, px: usize, out: &mut Vec<u8>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as usize
    };
    match name {
        "noise" => out.extend((0..px * px * 3).map(|_| random() as u8)),
        // Red from left to right, green from top to bottom, blue along the diagonal the other way.
        "ramps" => out.extend((0..px * px).flat_map(|i| {
            let (x, y) = (i % px, i / px);
            [x * 255 / px, y * 255 / px, 255 - (x + y) * 255 / (2 * px)].map(|v| v as u8)
        })),
        // Noise on a lattice of 16 px with straight lines between, from paper white over eosin to haematoxylin.
        _ => {
            const CELL: usize = 16;
            let side = px / CELL + 2;
            let lattice: Vec<usize> = (0..side * side).map(|_| random()).collect();
            out.extend((0..px * px).flat_map(|i| {
                let (column, row) = (i % px / CELL, i / px / CELL);
                let (right, down) = (i % px % CELL, i / px % CELL);
                let at = |r: usize, c: usize| lattice[(row + r) * side + column + c];
                let line = |r: usize| at(r, 0) * (CELL - right) + at(r, 1) * right;
                let level = (line(0) * (CELL - down) + line(1) * down) / (CELL * CELL);
                let (from, to, share) = if level < 128 {
                    ([242, 240, 243], [226, 140, 190], 2 * level)
                } else {
                    ([226, 140, 190], [90, 60, 140], 2 * (level - 128))
                };
                [0, 1, 2].map(|c| ((from[c] * (256 - share) + to[c] * share) / 256) as u8)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::card::{Dtype, Layout};
    use crate::icc::IccMode;
    use crate::resample::Filter;
    use crate::tiling::TilingOptions;
    use crate::tissue::TissueOptions;

    /// An encoder whose embedding is the mean colour, and something of where it lies.
    struct Means;

    impl Encoder for Means {
        fn dim(&self) -> usize {
            6
        }

        fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()> {
            for tile in tiles.chunks_exact(tiles.len() / n) {
                for half in tile.chunks_exact(tile.len() / 2) {
                    let sum = |c: usize| half.iter().skip(c).step_by(3).map(|v| f64::from(*v)).sum::<f64>();
                    out.extend([0, 1, 2].map(|c| (sum(c) / (half.len() / 3) as f64) as f32));
                }
            }
            Ok(())
        }
    }

    fn options(tiling: TilingOptions) -> PrepareOptions {
        PrepareOptions {
            tiling,
            tissue: TissueMethod::Otsu,
            model: None,
            find: TissueOptions::default(),
            icc: IccMode::Off,
            allow_failed_tiles: 0,
        }
    }

    fn input() -> Input {
        Input {
            px: 64,
            layout: Layout::Nhwc,
            dtype: Dtype::Uint8,
            mean: [0.0; 3],
            std: [1.0; 3],
            resize: Filter::Bilinear,
            resize_px: None,
        }
    }

    fn observed(options: &PrepareOptions, batch: usize) -> Observed {
        let through = Through { options, input: &input(), batch, precision: Precision::F32 };
        observe(&slide, &through, &mut Means).unwrap()
    }

    #[test]
    fn any_settings_give_a_few_tiles() {
        for (target_mpp, tile_px, tissue) in [
            (0.5, 224, "otsu"),
            (0.25, 224, "otsu"),
            (0.5, 1024, "otsu"),
            (0.2277, 333, "otsu"),
            (100.0, 64, "otsu"),
            (0.05, 64, "none"),
        ] {
            let tiling = TilingOptions { target_mpp, tile_px, ..TilingOptions::default() };
            let got = observed(&options(tiling), 1).slide;
            assert!((1..=FROM_SLIDE).contains(&got.coords.len()), "{target_mpp} {tile_px}: {got:?}");
            assert!(got.planned > 1 && got.tissue == tissue, "{target_mpp} {tile_px}: {got:?}");
        }
        let tiling = TilingOptions { min_tissue_fraction: 1.0, overlap_px: 100, ..TilingOptions::default() };
        assert_eq!(observed(&options(tiling), 1).slide.coords.len(), FROM_SLIDE);
        let mask = PrepareOptions { tissue: TissueMethod::Mask("of another.png".into()), ..options(tiling) };
        assert_eq!(observed(&mask, 1).slide.tissue, "none");
    }

    #[test]
    fn every_block_is_decoded_and_resampled() {
        for (decode, divisor) in [(DecodeMode::Exact, 1), (DecodeMode::Scaled, 2)] {
            let tiling = TilingOptions { decode, tile_px: 224, ..TilingOptions::default() };
            let (planned, tissue) = planned(&slide, &options(tiling)).unwrap();
            assert!(!planned.plan.is_direct() && planned.plan.scale.divisor() == divisor && tissue == "otsu");
            assert!(planned.tiles.len() >= FROM_SLIDE, "{}", planned.tiles.len());
        }
    }

    #[test]
    fn batches_make_no_difference_and_settings_do() {
        let plain = options(TilingOptions { tile_px: 96, ..TilingOptions::default() });
        let one = observed(&plain, 1);
        assert_eq!(one.vectors.shape, [7, 6]);
        assert_eq!(observed(&plain, 5), one);
        assert_eq!(observed(&plain, 64), one);
        let filter = |resample| options(TilingOptions { resample, ..plain.tiling });
        assert_ne!(observed(&filter(Filter::Lanczos), 1).vectors, one.vectors);
        let srgb = PrepareOptions { icc: IccMode::Srgb, ..plain.clone() };
        assert_ne!(observed(&srgb, 1).vectors, one.vectors, "it carries a profile");
    }

    #[test]
    fn synthetic_tiles_are_pictures_of_their_own() {
        for px in [8, 100, 224] {
            let made = TILES.map(|name| {
                let mut out = Vec::new();
                synthetic(name, px, &mut out);
                assert_eq!(out.len(), px * px * 3);
                out
            });
            assert!(made[0] != made[1] && made[1] != made[2]);
        }
        // Other pixels would make the canaries of two versions differ. From scripts/make_canary.py --tiles 32.
        let mut out = Vec::new();
        TILES.iter().for_each(|name| synthetic(name, 32, &mut out));
        assert_eq!(digest::sha256(&out)[..16], *"8d28261beae30837");
    }
}
