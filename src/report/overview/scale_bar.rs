//! A scale bar of round length.

use image::RgbImage;

use super::plate::{self, INK, PLATE};

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
    let zoom = plate::zoom(picture);
    let um = round_length_um(f64::from(picture.width()) * 0.2 * um_per_px);
    let bar = ((um / um_per_px).round() as i64).max(1);
    let label = length_label(um);
    let text_width = plate::text_width(&label, zoom);
    let pad = 5 * zoom;
    let plate_width = bar.max(text_width) + 2 * pad;
    let plate_height = 7 * zoom + 3 * zoom + 3 * zoom + 2 * pad;
    if plate_width + 2 * pad > width || plate_height + 2 * pad > height {
        return;
    }
    let (left, top) = (pad, height - pad - plate_height);
    plate::rectangle(picture, [left, top, plate_width, plate_height], PLATE, 0.8);
    let bar_top = top + plate_height - pad - 3 * zoom;
    plate::rectangle(picture, [left + (plate_width - bar) / 2, bar_top, bar, 3 * zoom], INK, 1.0);
    plate::text(picture, left + (plate_width - text_width) / 2, top + pad, zoom, &label);
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
}
