//! WebP blocks (TIFF compression 50001), lossy and lossless, through `image-webp`: safe Rust, where libwebp would be twice
//! as fast for a coding that few slides have.
//!
//! Reference: RFC 9649.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::Target;
use super::lossless::{Alpha, over_white};

/// Decodes one image of `size` px to RGB, transparent pixels over white; `samples` is a buffer.
///
/// # Errors
/// Says in words what is wrong with the block.
pub fn decode(block: &[u8], size: (u32, u32), samples: &mut Vec<u8>, target: &mut Target) -> Result<(), String> {
    let words = |e: image_webp::DecodingError| format!("corrupt WebP data: {e}");
    let mut decoder = WebPDecoder::new(Cursor::new(block)).map_err(words)?;
    if decoder.dimensions() != size || decoder.is_animated() {
        let ((w, h), (width, height)) = (decoder.dimensions(), size);
        return Err(format!("WebP of {w} x {h} px in a block of {width} x {height} px"));
    }
    let per_pixel = if decoder.has_alpha() { 4 } else { 3 };
    let bytes = size.0 as usize * size.1 as usize * per_pixel;
    if decoder.output_buffer_size() != Some(bytes) {
        return Err("WebP with an unexpected kind of pixels".into());
    }
    decoder.set_memory_limit(bytes.saturating_mul(4));
    samples.resize(bytes, 0);
    decoder.read_image(samples).map_err(words)?;
    let rows = samples.chunks_exact(size.0 as usize * per_pixel);
    for (y, row) in rows.enumerate().take(target.height) {
        let out = target.row(y);
        if per_pixel == 3 {
            out.copy_from_slice(row);
            continue;
        }
        for (pixel, rgb) in row.chunks_exact(4).zip(out.chunks_exact_mut(3)) {
            rgb.copy_from_slice(&over_white([pixel[0], pixel[1], pixel[2]], pixel[3], Alpha::Unassociated));
        }
    }
    Ok(())
}
