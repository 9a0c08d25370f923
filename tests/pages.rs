//! The report and the viewer in headless Chromium (`scripts/check_pages.py` says what is checked).

mod common;

#[test]
fn the_report_shows_filters_and_sorts() {
    common::script("check_pages.py", &[env!("CARGO_BIN_EXE_paraffin"), "report"], b"");
}

#[test]
fn the_viewer_shows_slides_and_similar_tiles() {
    common::script("check_pages.py", &[env!("CARGO_BIN_EXE_paraffin"), "view"], b"");
}
