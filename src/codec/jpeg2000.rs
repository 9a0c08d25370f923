//! JPEG2000 blocks: codestreams as Aperio (33003, 33005), TIFF writers (34712) and DICOM store them.
//!
//! The decoder is `hayro-jpeg2000`: safe Rust, 1.3 times as fast as openjpeg on 256 px blocks and within 1 of its values
//! (0.04 % of them differ). Its strict mode makes an error of what others decode to grey. Before it sees a block, the
//! header is checked here: sizes, components and tiles are bounded. The codestream is then wrapped as JP2 with a plain
//! colour space, or the decoder would guess that components of different sizes are YCbCr and convert them in its own way.
//!
//! Reduced sizes come from the codestream's own resolution levels; where it has too few, pixels are averaged.
//!
//! Reference: ITU-T T.800 Annex A (markers), Annex I (JP2 boxes); ITU-T T.871 (YCbCr to RGB).

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use super::jpeg::Colour;
use super::{Scale, Target};

/// Most tiles in one codestream; scanners write one.
const MAX_TILES: u64 = 1024;

const SOC: u8 = 0x4f;
const SIZ: u8 = 0x51;
const COD: u8 = 0x52;
const SOT: u8 = 0x90;
const EOC: [u8; 2] = [0xff, 0xd9];

/// Decodes one codestream of `size` px into `target`, which has that size divided by `scale`. `stream` and `samples` are
/// buffers.
///
/// # Errors
/// Says in words what is wrong with the block.
pub fn decode(
    block: &[u8],
    colour: Colour,
    size: (u32, u32),
    scale: Scale,
    (stream, samples): (&mut Vec<u8>, &mut Vec<u8>),
    target: &mut Target,
) -> Result<(), String> {
    let components = if colour == Colour::Grey { 1 } else { 3 };
    wrap(block, components, size, stream)?;
    let divisor = scale.divisor();
    let settings = DecodeSettings {
        resolve_palette_indices: false,
        strict: true,
        target_resolution: (scale != Scale::Full).then_some((size.0 / divisor, size.1 / divisor)),
    };
    let words = |e: hayro_jpeg2000::DecodeError| format!("corrupt JPEG2000 data: {e}");
    let image = Image::new(stream, &settings).map_err(words)?;
    let (width, height) = (image.width(), image.height());
    // A power of two that the codestream's levels allow, at most the divisor.
    let reduced = size.0.div_ceil(width.max(1)).max(1);
    let fits = |full: u32, reduced_side: u32| full.div_ceil(reduced) == reduced_side;
    if !reduced.is_power_of_two() || reduced > divisor || !fits(size.0, width) || !fits(size.1, height) {
        return Err(format!(
            "JPEG2000 decodes to {width} x {height} px where {} x {} px are 1/{divisor}",
            size.0, size.1
        ));
    }
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(words)?;
    let pixels = width as usize * height as usize;
    let planes = decoded.components();
    if planes.len() != components || planes.iter().any(|p| p.samples().len() != pixels) {
        return Err(format!("JPEG2000 decodes to {} components, {components} expected", planes.len()));
    }
    samples.resize(pixels * components, 0);
    decoded.store_u8_into(samples);
    store(samples, width as usize, (divisor / reduced) as usize, colour, target);
    Ok(())
}

/// Checks the main header and puts the codestream into `out` (cleared first) as a JP2 file with grey or RGB components.
fn wrap(block: &[u8], components: usize, (width, height): (u32, u32), out: &mut Vec<u8>) -> Result<(), String> {
    out.clear();
    let short = || "JPEG2000 headers end too early".to_string();
    if block.get(..4) != Some(&[0xff, SOC, 0xff, SIZ]) {
        return Err(format!("not a JPEG2000 codestream: it starts with {:02x?}", &block[..block.len().min(4)]));
    }
    let u16_at = |at: usize| block.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
    let u32_at = |at: usize| block.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let siz = |n: usize| u32_at(8 + 4 * n).ok_or_else(short);
    let (w, h, left, top) = (siz(0)?, siz(1)?, siz(2)?, siz(3)?);
    let (tile_w, tile_h, tiles_left, tiles_top) = (siz(4)?, siz(5)?, siz(6)?, siz(7)?);
    if (w, h) != (width, height) || (left, top, tiles_left, tiles_top) != (0, 0, 0, 0) {
        return Err(format!("JPEG2000 of {w} x {h} px from ({left}, {top}) in a block of {width} x {height} px"));
    }
    if tile_w == 0 || tile_h == 0 || u64::from(w.div_ceil(tile_w)) * u64::from(h.div_ceil(tile_h)) > MAX_TILES {
        return Err(format!("JPEG2000 in tiles of {tile_w} x {tile_h} px in a block of {width} x {height} px"));
    }
    let count = u16_at(40).ok_or_else(short)? as usize;
    if count != components {
        return Err(format!("JPEG2000 with {count} components, {components} expected"));
    }
    for component in block.get(42..42 + 3 * components).ok_or_else(short)?.chunks_exact(3) {
        if component[0] != 7 {
            return Err("JPEG2000 with components other than unsigned 8 bits".into());
        }
        if component[1..].iter().any(|step| !matches!(step, 1 | 2 | 4)) {
            return Err(format!("JPEG2000 component reduced by {} x {}", component[1], component[2]));
        }
    }
    let first_tile = main_header_end(block)?;
    let space: u8 = if components == 1 { 17 } else { 16 };
    let bytes = |n: u32| n.to_be_bytes();
    out.extend_from_slice(b"\0\0\0\x0cjP  \r\n\x87\n");
    out.extend_from_slice(b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 ");
    out.extend_from_slice(b"\0\0\0\x2djp2h\0\0\0\x16ihdr");
    out.extend_from_slice(&bytes(h));
    out.extend_from_slice(&bytes(w));
    out.extend_from_slice(&[0, components as u8, 7, 7, 0, 0]);
    out.extend_from_slice(&[0, 0, 0, 15, b'c', b'o', b'l', b'r', 1, 0, 0, 0, 0, 0, space]);
    // A box of length 0 goes to the end.
    out.extend_from_slice(b"\0\0\0\0jp2c");
    let stream_at = out.len();
    // Some writers fill up to whole words behind the end marker, some leave it out; missing data is still found missing.
    let filled = block.iter().rev().take(8).take_while(|b| **b == 0).count();
    let body = &block[..block.len() - filled];
    let whole = if body.ends_with(&EOC) { &body[..body.len() - 2] } else { block };
    out.extend_from_slice(whole);
    // A tile-part of length 0 goes to the end as well, which only its true length tells apart from a cut.
    let length_at = first_tile + 6;
    if u32_at(length_at) == Some(0) {
        let length = u32::try_from(whole.len().saturating_sub(first_tile)).map_err(|e| e.to_string())?;
        out.get_mut(stream_at + length_at..stream_at + length_at + 4)
            .ok_or_else(short)?
            .copy_from_slice(&bytes(length));
    }
    out.extend_from_slice(&EOC);
    Ok(())
}

/// Where the first tile-part begins.
fn main_header_end(block: &[u8]) -> Result<usize, String> {
    let mut at = 2;
    let mut coded = false;
    loop {
        let Some(&[ff, marker, l1, l0]) = block.get(at..at + 4) else {
            return Err("JPEG2000 headers end too early".into());
        };
        match (ff, marker) {
            (0xff, SOT) if coded => return Ok(at),
            (0xff, 0x30..=0x3f) => at += 2,
            (0xff, 0x4f..=0x7f) => {
                coded |= marker == COD;
                at += 2 + usize::from(u16::from_be_bytes([l1, l0])).max(2);
            }
            _ => return Err("JPEG2000 headers are corrupt: no marker where one must be".into()),
        }
    }
}

/// Averages squares of `side` pixels and turns them into RGB. `samples` are interleaved, `width` pixels a row.
fn store(samples: &[u8], width: usize, side: usize, colour: Colour, target: &mut Target) {
    let per_pixel = if colour == Colour::Grey { 1 } else { 3 };
    for y in 0..target.height {
        let out = target.row(y);
        if side == 1 && colour == Colour::Rgb {
            let row = &samples[y * width * 3..];
            out.copy_from_slice(&row[..out.len()]);
            continue;
        }
        for (x, rgb) in out.chunks_exact_mut(3).enumerate() {
            let mut pixel = [0; 3];
            for (c, value) in pixel.iter_mut().enumerate().take(per_pixel) {
                let mut sum = 0;
                for line in y * side..(y + 1) * side {
                    let from = (line * width + x * side) * per_pixel + c;
                    sum += samples[from..].iter().step_by(per_pixel).take(side).map(|v| u32::from(*v)).sum::<u32>();
                }
                let area = (side * side) as u32;
                *value = ((sum + area / 2) / area) as u8;
            }
            rgb.copy_from_slice(&match colour {
                Colour::Grey => [pixel[0]; 3],
                Colour::Rgb => pixel,
                Colour::YCbCr => ycbcr_to_rgb(pixel),
            });
        }
    }
}

/// In libjpeg's 16-bit fixed point, which OpenSlide uses here too.
fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|v| v.clamp(0, 255) as u8)
}
