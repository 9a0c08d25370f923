//! Any bytes as a slide: recognition, TIFF structure, vendors' metadata, blocks of every level.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paraffin_fuzz::open_and_read("slide.tif", bytes));
