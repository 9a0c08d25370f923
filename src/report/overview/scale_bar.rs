//! A scale bar of round length, with a 5x7 bitmap font for its label.

use image::RgbImage;

use super::blend;

/// The longest length of 1, 2 or 5 times a power of ten (µm) that is at most `limit_um`.
fn round_length_um(limit_um: f64) -> f64 {
    let decade = 10f64.powi(limit_um.log10().floor() as i32);
    [5.0, 2.0, 1.0].into_iter().map(|digit| digit * decade).find(|&um| um <= limit_um * (1.0 + 1e-9)).unwrap_or(decade)
}

/// `500 µm`, `2 mm`.
fn length_label(um: f64) -> String {
    let (value, unit) = if um >= 1000.0 { (um / 1000.0, "mm") } else { (um, "µm") };
    let digits = (-value.log10().floor()).clamp(0.0, 3.0) as usize;
    format!("{value:.digits$} {unit}")
}

/// Bottom left, on a pale plate so that it reads on tissue as well.
pub(super) fn draw(picture: &mut RgbImage, um_per_px: f64) {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let zoom = (width.max(height) / 500).clamp(1, 4);
    let um = round_length_um(f64::from(picture.width()) * 0.2 * um_per_px);
    let bar = ((um / um_per_px).round() as i64).max(1);
    let label = length_label(um);
    let text_width = (label.chars().count() as i64 * 6 - 1) * zoom;
    let pad = 5 * zoom;
    let plate_width = bar.max(text_width) + 2 * pad;
    let plate_height = 7 * zoom + 3 * zoom + 3 * zoom + 2 * pad;
    if plate_width + 2 * pad > width || plate_height + 2 * pad > height {
        return;
    }
    let (left, top) = (pad, height - pad - plate_height);
    let mut rectangle = |x: i64, y: i64, w: i64, h: i64, colour: [u8; 3], alpha: f32| {
        for py in y.max(0)..(y + h).min(height) {
            for px in x.max(0)..(x + w).min(width) {
                blend(picture.get_pixel_mut(px as u32, py as u32), colour, alpha);
            }
        }
    };
    rectangle(left, top, plate_width, plate_height, [255; 3], 0.8);
    rectangle(left + (plate_width - bar) / 2, top + plate_height - pad - 3 * zoom, bar, 3 * zoom, [20; 3], 1.0);
    let mut x = left + (plate_width - text_width) / 2;
    for character in label.chars() {
        for (row, bits) in (0i64..).zip(glyph(character)) {
            for column in (0..5i64).filter(|column| bits >> (4 - column) & 1 == 1) {
                rectangle(x + column * zoom, top + pad + row * zoom, zoom, zoom, [20; 3], 1.0);
            }
        }
        x += 6 * zoom;
    }
}

/// 5x7 pixels, a row a byte, the leftmost pixel in bit 4. Anything but digits, point, m and µ is blank.
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
        'm' => [0, 0, 0b11010, 0b10101, 0b10101, 0b10101, 0b10101],
        'µ' => [0, 0, 0b10001, 0b10001, 0b10011, 0b11101, 0b10000],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_round() {
        for (limit, um, label) in [
            (1234.0, 1000.0, "1 mm"),
            (1000.0, 1000.0, "1 mm"),
            (999.0, 500.0, "500 µm"),
            (4900.0, 2000.0, "2 mm"),
            (51_000.0, 50_000.0, "50 mm"),
            (0.3, 0.2, "0.2 µm"),
        ] {
            assert!((round_length_um(limit) - um).abs() < 1e-9, "{limit}");
            assert_eq!(length_label(round_length_um(limit)), label);
        }
    }

    #[test]
    fn every_glyph_of_a_label_is_drawn() {
        assert!("0123456789.mµ".chars().all(|character| glyph(character) != [0; 7]));
    }
}
