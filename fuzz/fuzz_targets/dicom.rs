//! Any bytes as a DICOM file that is the only one of its series: header, frames by offset, blocks of its level.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paraffin_fuzz::open_and_read("slide.dcm", bytes));
