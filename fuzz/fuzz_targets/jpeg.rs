//! A JPEG block with any tables, in any colour, promised any size.
//!
//! Input: colour and scale (a byte), width, height, length of the tables (2 bytes each), tables, block.
#![no_main]

use paraffin::codec::{Scale, Target, jpeg};
use paraffin_fuzz::Front;

/// Larger frames only make this target slow.
const MOST_PX: u32 = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut front = Front(bytes);
    let how = front.byte();
    let colour = [jpeg::Colour::Grey, jpeg::Colour::YCbCr, jpeg::Colour::Rgb][usize::from(how & 3) % 3];
    let scale = [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth][usize::from(how >> 2 & 3)];
    let (width, height) = (u32::from(front.short()), u32::from(front.short()));
    let length = front.short();
    let tables = (length > 0).then(|| front.bytes(usize::from(length)));
    let mut stream = Vec::new();
    if jpeg::assemble(tables, front.0, colour, (width, height), &mut stream).is_err()
        || width == 0
        || height == 0
        || width.saturating_mul(height) > MOST_PX
    {
        return;
    }
    let (w, h) = (width.div_ceil(scale.divisor()) as usize, height.div_ceil(scale.divisor()) as usize);
    // Exactly as large as the target says: the address sanitizer sees every byte past it.
    let pitch = w * 3 + 5;
    let mut pixels = vec![0; pitch * (h - 1) + w * 3];
    let mut target = Target { pixels: &mut pixels, pitch, width: w, height: h };
    let _ = jpeg::decode(&mut None, &stream, (width, height), scale, &mut target);
});
