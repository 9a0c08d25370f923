//! A pixel's colour in OpenCV's integer HSV terms, except that hue is in degrees.

/// `255 / value` in 12-bit fixed point, rounded: the table of OpenCV's RGB2HSV.
const RECIPROCAL: [u32; 256] = {
    let mut table = [0; 256];
    let mut value = 1;
    while value < 256 {
        table[value] = (((255 << 12) + value / 2) / value) as u32;
        value += 1;
    }
    table
};

/// Colour of one pixel: saturation 0..=255, value 0..=255 and chroma (largest less smallest channel).
#[derive(Clone, Copy)]
pub(super) struct Colour {
    pub(super) rgb: [u8; 3],
    pub(super) saturation: u8,
    pub(super) value: u8,
    pub(super) chroma: u8,
}

impl Colour {
    pub(super) fn new(rgb: [u8; 3]) -> Self {
        let value = rgb[0].max(rgb[1]).max(rgb[2]);
        let chroma = value - rgb[0].min(rgb[1]).min(rgb[2]);
        let saturation = ((u32::from(chroma) * RECIPROCAL[usize::from(value)] + (1 << 11)) >> 12) as u8;
        Self { rgb, saturation, value, chroma }
    }

    /// Hue in degrees, 0..360 (0 for grey).
    pub(super) fn hue(self) -> f32 {
        if self.chroma == 0 {
            return 0.0;
        }
        let [r, g, b] = self.rgb.map(f32::from);
        let chroma = f32::from(self.chroma);
        let sixth = if self.value == self.rgb[0] {
            (g - b) / chroma + if g < b { 6.0 } else { 0.0 }
        } else if self.value == self.rgb[1] {
            (b - r) / chroma + 2.0
        } else {
            (r - g) / chroma + 4.0
        };
        sixth * 60.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_opencv() {
        // cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV): H is half of the degrees, rounded.
        for (rgb, [half_hue, saturation, value]) in [
            ([255, 255, 255], [0, 0, 255]),
            ([0, 0, 0], [0, 0, 0]),
            ([255, 0, 0], [0, 255, 255]),
            ([0, 0, 255], [120, 255, 255]),
            ([200, 80, 150], [163, 153, 200]),
            ([120, 70, 40], [11, 170, 120]),
            ([59, 159, 104], [74, 160, 159]),
        ] {
            let colour = Colour::new(rgb);
            assert_eq!([colour.saturation, colour.value], [saturation, value], "{rgb:?}");
            assert_eq!((colour.hue() / 2.0).round() as u8, half_hue, "{rgb:?}");
        }
        for value in 0..=255u8 {
            for low in 0..=value {
                let exact = if value == 0 { 0.0 } else { 255.0 * f64::from(value - low) / f64::from(value) };
                let got = f64::from(Colour::new([value, low, low]).saturation);
                assert!((got - exact).abs() <= 0.54 && (0.0..360.0).contains(&Colour::new([value, 0, low]).hue()));
            }
        }
    }
}
