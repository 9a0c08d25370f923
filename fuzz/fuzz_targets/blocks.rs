//! A JPEG2000, WebP or JPEG-LS block, promised any size.
//!
//! Input: coding, colour and scale (a byte), width, height (2 bytes each), block.
#![no_main]

use paraffin::codec::{Scale, Target, jpeg, jpeg2000, jpegls, webp};
use paraffin_fuzz::Front;

/// Larger blocks only make this target slow.
const MOST_PX: u32 = 1 << 18;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut front = Front(bytes);
    let how = front.byte();
    let colour = [jpeg::Colour::Grey, jpeg::Colour::YCbCr, jpeg::Colour::Rgb][usize::from(how >> 1 & 3) % 3];
    let (is_webp, is_jpegls) = (how & 1 == 1, how >> 5 == 1);
    let scale = [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth][usize::from(how >> 3 & 3)];
    let scale = if is_webp || is_jpegls { Scale::Full } else { scale };
    let (width, height) = (u32::from(front.short()), u32::from(front.short()));
    let divisor = scale.divisor();
    if width == 0 || height == 0 || width.saturating_mul(height) > MOST_PX || width % divisor != 0 || height % divisor != 0 {
        return;
    }
    let (w, h) = ((width / divisor) as usize, (height / divisor) as usize);
    let mut pixels = vec![0; w * h * 3];
    let mut target = Target { pixels: &mut pixels, pitch: w * 3, width: w, height: h };
    let (mut stream, mut samples) = (Vec::new(), Vec::new());
    let _ = match is_webp {
        _ if is_jpegls => {
            let components = if colour == jpeg::Colour::Grey { 1 } else { 3 };
            jpegls::decode(front.0, components, (width, height), &mut stream, &mut samples).map(|_| ())
        }
        true => webp::decode(front.0, (width, height), &mut samples, &mut target),
        false => {
            jpeg2000::decode(front.0, colour, (width, height), scale, (&mut stream, &mut samples), &mut target)
        }
    };
});
