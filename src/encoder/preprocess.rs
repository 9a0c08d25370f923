//! From a tile to the encoder's input: the card's resize rule, then, for float inputs, its normalisation.

use super::card::{Dtype, Input, Layout};
use crate::resample::{Crop, Resampler};

/// Brings a tile (`tile_px` square, RGB) to the input's side with the card's filter; a tile of that side is copied.
///
/// # Errors
/// Words, where sizes and buffers do not fit; a caller's fault.
pub fn fit(resampler: &mut Resampler, tile: &[u8], tile_px: u32, input: &Input, out: &mut [u8]) -> Result<(), String> {
    if tile_px == input.px {
        out.copy_from_slice(tile);
        return Ok(());
    }
    let whole = Crop { left: 0.0, top: 0.0, width: f64::from(tile_px), height: f64::from(tile_px) };
    resampler.square(input.resize, tile, (tile_px, tile_px), whole, out, input.px)
}

/// Turns interleaved 8-bit pictures into the floats of a [`Dtype::Float32`] input, `(pixel / 255 - mean) / std`.
///
/// `pixels`: n, height, width, colour. `out` (cleared first): in the input's layout.
pub fn normalise(pixels: &[u8], input: &Input, out: &mut Vec<f32>) {
    debug_assert_eq!(input.dtype, Dtype::Float32);
    out.clear();
    out.resize(pixels.len(), 0.0);
    let table: [[f32; 256]; 3] =
        std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - input.mean[c]) / input.std[c]));
    let plane = (input.px * input.px) as usize;
    let pictures = pixels.chunks_exact(plane * 3).zip(out.chunks_exact_mut(plane * 3));
    for (picture, out) in pictures {
        for (i, pixel) in picture.chunks_exact(3).enumerate() {
            for c in 0..3 {
                let at = match input.layout {
                    Layout::Nhwc => i * 3 + c,
                    Layout::Nchw => c * plane + i,
                };
                out[at] = table[c][usize::from(pixel[c])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::Filter;

    fn input(layout: Layout) -> Input {
        Input {
            px: 2,
            layout,
            dtype: Dtype::Float32,
            mean: [0.0, 0.5, 1.0],
            std: [1.0, 0.5, 2.0],
            resize: Filter::Bilinear,
            resize_px: None,
        }
    }

    #[test]
    fn normalised_in_either_layout() {
        let pixels = [0, 0, 0, 255, 255, 255, 51, 51, 51, 0, 255, 0];
        let mut out = Vec::new();
        normalise(&pixels, &input(Layout::Nhwc), &mut out);
        assert_eq!(out[..6], [0.0, -1.0, -0.5, 1.0, 1.0, 0.0]);
        normalise(&pixels, &input(Layout::Nchw), &mut out);
        assert_eq!(out[..4], [0.0, 1.0, 0.2, 0.0]);
        assert_eq!(out[4..6], [-1.0, 1.0]);
    }

    #[test]
    fn a_tile_of_the_right_size_is_copied() {
        let tile: Vec<u8> = (0..12).collect();
        let mut out = vec![0; 12];
        fit(&mut Resampler::default(), &tile, 2, &input(Layout::Nhwc), &mut out).expect("fits");
        assert_eq!(out, tile);
        let flat = vec![9; 4 * 4 * 3];
        fit(&mut Resampler::default(), &flat, 4, &input(Layout::Nhwc), &mut out).expect("fits");
        assert_eq!(out, [9; 12]);
    }
}
