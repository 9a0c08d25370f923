//! Words on pale plates, so that they read on tissue as well: rectangles and a 5x7 bitmap font.

use image::RgbImage;

use super::blend;

/// Colour of words and bars.
pub(super) const INK: [u8; 3] = [20; 3];
/// Colour of what they stand on.
pub(super) const PLATE: [u8; 3] = [255; 3];

/// Picture pixels per pixel of the font, by the picture's size.
pub(super) fn zoom(picture: &RgbImage) -> i64 {
    (i64::from(picture.width().max(picture.height())) / 500).clamp(1, 4)
}

/// Width in pixels of a line of text.
pub(super) fn text_width(text: &str, zoom: i64) -> i64 {
    (text.chars().count() as i64 * 6 - 1) * zoom
}

/// Fills `[x, y, width, height]`, cut at the picture's edges.
pub(super) fn rectangle(picture: &mut RgbImage, [x, y, w, h]: [i64; 4], colour: [u8; 3], alpha: f32) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    for py in y.max(0)..(y + h).min(height) {
        for px in x.max(0)..(x + w).min(width) {
            blend(picture.get_pixel_mut(px as u32, py as u32), colour, alpha);
        }
    }
}

/// Writes a line whose upper left corner is at (`x`, `y`).
pub(in crate::report) fn text(picture: &mut RgbImage, mut x: i64, y: i64, zoom: i64, text: &str) {
    for character in text.chars() {
        for (row, bits) in (0i64..).zip(glyph(character)) {
            for column in (0..5i64).filter(|column| bits >> (4 - column) & 1 == 1) {
                rectangle(picture, [x + column * zoom, y + row * zoom, zoom, zoom], INK, 1.0);
            }
        }
        x += 6 * zoom;
    }
}

/// 5x7 pixels, a row a byte, the leftmost pixel in bit 4. Anything but the letters that labels have is blank.
fn glyph(character: char) -> [u8; 7] {
    match character {
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111],
        '3' => [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        '.' => [0, 0, 0, 0, 0, 0b01100, 0b01100],
        '-' => [0, 0, 0, 0b11111, 0, 0, 0],
        '%' => [0b11000, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b00011],
        'm' => [0, 0, 0b11010, 0b10101, 0b10101, 0b10101, 0b10101],
        'µ' => [0, 0, 0b10001, 0b10001, 0b10011, 0b11101, 0b10000],
        'd' => [0b00001, 0b00001, 0b01101, 0b10011, 0b10001, 0b10011, 0b01101],
        'e' => [0, 0, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110],
        'k' => [0b10000, 0b10000, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010],
        'o' => [0, 0, 0b01110, 0b10001, 0b10001, 0b10001, 0b01110],
        'p' => [0, 0, 0b11110, 0b10001, 0b11110, 0b10000, 0b10000],
        'r' => [0, 0, 0b10110, 0b11001, 0b10000, 0b10000, 0b10000],
        't' => [0b01000, 0b01000, 0b11100, 0b01000, 0b01000, 0b01001, 0b00110],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_glyph_of_a_label_is_drawn() {
        assert!("0123456789.-%mµkeptdropped".chars().all(|character| glyph(character) != [0; 7]));
    }
}
