//! How many tiles were kept and dropped, in the colours that they are drawn in.

use image::RgbImage;

use super::plate::{self, PLATE};

/// Top left; nothing where it would take over a third of a side. Entries are colour and words.
pub(super) fn draw(picture: &mut RgbImage, entries: &[([u8; 3], String)]) {
    let zoom = plate::zoom(picture);
    let (pad, line) = (5 * zoom, 11 * zoom);
    let text = entries.iter().map(|(_, words)| plate::text_width(words, zoom)).max().unwrap_or(0);
    let (width, height) = (text + 10 * zoom + 2 * pad, entries.len() as i64 * line - 4 * zoom + 2 * pad);
    if 3 * width > i64::from(picture.width()) || 3 * height > i64::from(picture.height()) {
        return;
    }
    plate::rectangle(picture, [pad, pad, width, height], PLATE, 0.8);
    for (row, (colour, words)) in (0i64..).zip(entries) {
        let (x, y) = (2 * pad, 2 * pad + row * line);
        plate::rectangle(picture, [x, y, 7 * zoom, 7 * zoom], *colour, 1.0);
        plate::text(picture, x + 10 * zoom, y, zoom, words);
    }
}
