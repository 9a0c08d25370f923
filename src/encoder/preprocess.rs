//! From a tile to the encoder's input: the card's resize and crop, then, for float inputs, its normalisation.

use super::card::{Dtype, Input, Layout};
use crate::resample::Resampler;

/// Brings a tile (`tile_px` square, RGB) to the input: resized to [`Input::resized_px`] with the card's filter, of which the
/// centre of [`Input::px`] is kept. That is torchvision's `Resize` and `CenterCrop` on pictures, bit for bit: a tile that has
/// the resized side is not resampled, and a remainder of half a pixel goes to the even side.
///
/// # Errors
/// Words, where sizes and buffers do not fit; a caller's fault.
pub fn fit(resampler: &mut Resampler, tile: &[u8], tile_px: u32, input: &Input, out: &mut [u8]) -> Result<(), String> {
    let (px, resized) = (input.px as usize, input.resized_px());
    let spare = resized.checked_sub(input.px).ok_or_else(|| format!("{px} px out of {resized}"))?;
    let margin = (f64::from(spare) / 2.0).round_ties_even() as u32;
    if tile_px != resized {
        return resampler.cut(input.resize, tile, tile_px, resized, margin..margin + input.px, out);
    }
    let (side, margin) = (tile_px as usize, margin as usize);
    if tile.len() != side * side * 3 || out.len() != px * px * 3 {
        return Err(format!("{} bytes of {side} px, {} for {px}", tile.len(), out.len()));
    }
    for (line, out) in tile.chunks_exact(side * 3).skip(margin).zip(out.chunks_exact_mut(px * 3)) {
        out.copy_from_slice(&line[margin * 3..(margin + px) * 3]);
    }
    Ok(())
}

/// Whether a tile of this side is the input as it is.
#[must_use]
pub fn fits_already(tile_px: u32, input: &Input) -> bool {
    tile_px == input.px && input.resized_px() == input.px
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
    use crate::resample::{Crop, Filter};

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

    /// The bytes of resizing all of the tile and cutting out the centre; what torchvision gives is compared in tests/parity.rs.
    #[test]
    fn cutting_out_while_resizing_changes_no_byte() {
        let mut state = 9u32;
        for (tile_px, resized, px) in
            [(40, 53, 40), (96, 53, 48), (32, 37, 32), (64, 32, 31), (48, 48, 45), (33, 70, 20)]
        {
            let tile: Vec<u8> = (0..tile_px * tile_px * 3)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let (resized_side, side) = (resized as usize, px as usize);
            for resize in Filter::ALL {
                let input = Input { px, resize, resize_px: Some(resized), ..input(Layout::Nhwc) };
                let mut resampler = Resampler::default();
                let mut all = vec![0; resized_side * resized_side * 3];
                let whole = Crop { left: 0.0, top: 0.0, width: f64::from(tile_px), height: f64::from(tile_px) };
                resampler.square(resize, &tile, (tile_px, tile_px), whole, &mut all, resized).expect("fits");
                let margin = (f64::from(resized - px) / 2.0).round_ties_even() as usize;
                let lines = all.chunks_exact(resized_side * 3).skip(margin).take(side);
                let expected: Vec<u8> = lines.flat_map(|l| l[margin * 3..(margin + side) * 3].to_vec()).collect();
                let mut out = vec![0; side * side * 3];
                fit(&mut resampler, &tile, tile_px, &input, &mut out).expect("fits");
                assert!(out == expected, "{resize} {tile_px} to {resized}, {px} of it");
            }
        }
    }
}
