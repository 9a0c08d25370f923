//! Any bytes as a slide's ICC profile.
#![no_main]

use paraffin::icc::ToSrgb;

libfuzzer_sys::fuzz_target!(|profile: &[u8]| {
    if let Ok(transform) = ToSrgb::new(profile) {
        let mut rgb: Vec<u8> = (0..=255).flat_map(|v: u8| [v, v.wrapping_mul(7), 255 - v]).collect();
        transform.apply(&mut rgb);
    }
});
