//! A block without loss: every packing, any samples, any size.
//!
//! Input: packing and planes, samples (two bytes), width, height (a byte each), packed bytes.
#![no_main]

use paraffin::codec::Target;
use paraffin::codec::lossless::{Alpha, Packing, Samples, to_rgb, unpack};
use paraffin_fuzz::Front;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut front = Front(bytes);
    let (first, how) = (front.byte(), front.byte());
    let rle = Packing::Rle { planes: 1 + u16::from(how >> 1 & 3) };
    let packings = [Packing::None, Packing::Lzw, Packing::Deflate, Packing::Zstd, rle];
    let packing = packings[usize::from(first & 7) % 5];
    let samples = Samples {
        bits: if how & 1 == 0 { 8 } else { 16 },
        per_pixel: 1 + u16::from(how >> 1 & 3),
        white_is_zero: how & 8 != 0,
        alpha: [Alpha::Ignored, Alpha::Associated, Alpha::Unassociated][usize::from(how >> 4 & 3) % 3],
        predictor: how & 64 != 0,
        big_endian: how & 128 != 0,
        planes: first & 8 != 0 && how & 1 == 0,
        ybr: first & 16 != 0 && how & 1 == 0,
    };
    let (width, height) = (1 + u32::from(front.byte()), 1 + u32::from(front.byte()));
    let mut staging = Vec::new();
    if unpack(packing, front.0, samples.bytes(width, height), &mut staging).is_ok() {
        let (width, height) = (width as usize, height as usize);
        let pitch = width * 3 + 5;
        let mut pixels = vec![0; pitch * (height - 1) + width * 3];
        to_rgb(&mut staging, samples, &mut Target { pixels: &mut pixels, pitch, width, height });
    }
});
