//! Vendors' metadata: any text where OME, Philips, Leica, Ventana and Trestle keep theirs, in an otherwise sound slide.
//!
//! Input: the vendor (a byte), its text.
#![no_main]

use paraffin_fuzz::Front;

const IMAGE_DESCRIPTION: u16 = 270;
const XMP: u16 = 700;

/// A slide of each vendor, the page that holds its metadata, and the tag.
const VENDORS: &[(&[u8], usize, u16)] = &[
    (include_bytes!("../../testdata/multi/ome_deflate.ome.tif"), 0, IMAGE_DESCRIPTION),
    (include_bytes!("../../testdata/multi/philips_padded.tiff"), 0, IMAGE_DESCRIPTION),
    (include_bytes!("../../testdata/placed/scn_areas.scn"), 0, IMAGE_DESCRIPTION),
    (include_bytes!("../../testdata/placed/bif_overlap.bif"), 0, XMP),
    (include_bytes!("../../testdata/placed/bif_overlap.bif"), 2, XMP),
    (include_bytes!("../../testdata/placed/trestle.tif"), 0, IMAGE_DESCRIPTION),
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut front = Front(bytes);
    let (slide, page, tag) = VENDORS[usize::from(front.byte()) % VENDORS.len()];
    if let Some(changed) = paraffin_fuzz::with_text(slide, page, tag, front.0) {
        paraffin_fuzz::open_and_read("slide.tif", &changed);
    }
});
