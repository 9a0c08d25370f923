//! Any bytes as an NDPI: its directories with halves of offsets apart, restart markers, frames without sizes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paraffin_fuzz::open_and_read("slide.ndpi", bytes));
