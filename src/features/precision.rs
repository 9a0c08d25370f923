//! How feature values are stored: the kinds, and the rounding behind them.

use std::fmt;
use std::str::FromStr;

/// Storage of a feature value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// float32 whose mantissa is rounded to 10 bits: float16's precision and float32's range, compressed to less than
    /// float16's size, and read as float32 by everything that reads float32.
    #[default]
    F32M10,
    /// float32 as the encoder gave it, uncompressed.
    F32,
    /// IEEE float16, uncompressed. Readers that do not convert (CLAM, TRIDENT, torchmil) fail on it.
    F16,
}

impl Precision {
    /// Every kind, in the order that help texts list them.
    pub const ALL: [Precision; 3] = [Precision::F32M10, Precision::F32, Precision::F16];

    /// The name on the command line and in the contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32M10 => "f32-m10",
            Precision::F32 => "f32",
            Precision::F16 => "f16",
        }
    }

    /// The name that NumPy gives the stored type.
    #[must_use]
    pub fn dtype(self) -> &'static str {
        match self {
            Precision::F32M10 | Precision::F32 => "float32",
            Precision::F16 => "float16",
        }
    }

    /// Bytes of one stored value before compression.
    #[must_use]
    pub fn value_bytes(self) -> usize {
        match self {
            Precision::F32M10 | Precision::F32 => 4,
            Precision::F16 => 2,
        }
    }

    /// What a reader gets of `value`.
    #[must_use]
    pub fn stored(self, value: f32) -> f32 {
        match self {
            Precision::F32M10 => round_mantissa10(value),
            Precision::F32 => value,
            Precision::F16 => half::f16::from_bits(f16_bits(value)).to_f32(),
        }
    }

    /// Appends `values` to `bytes` in little-endian storage form. Returns false if a stored value is not finite, because
    /// it was not or because it is too large for the kind.
    pub(super) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) -> bool {
        let start = bytes.len();
        bytes.resize(start + values.len() * self.value_bytes(), 0);
        let out = &mut bytes[start..];
        let mut finite = true;
        match self {
            Precision::F32M10 => {
                for (out, value) in out.chunks_exact_mut(4).zip(values) {
                    let rounded = round_mantissa10(*value);
                    finite &= rounded.is_finite();
                    out.copy_from_slice(&rounded.to_le_bytes());
                }
            }
            Precision::F32 => {
                for (out, value) in out.chunks_exact_mut(4).zip(values) {
                    finite &= value.is_finite();
                    out.copy_from_slice(&value.to_le_bytes());
                }
            }
            Precision::F16 => {
                for (out, value) in out.chunks_exact_mut(2).zip(values) {
                    let half = f16_bits(*value);
                    finite &= half & 0x7c00 != 0x7c00;
                    out.copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        finite
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Precision::ALL
            .into_iter()
            .find(|p| p.name() == text)
            .ok_or_else(|| format!("unknown precision '{text}'; one of f32-m10, f32, f16"))
    }
}

/// `value` with its mantissa rounded from 23 to 10 bits, to nearest, ties to even (IEEE 754 section 4.3.1).
///
/// The result has at most 2^-11 relative error; in float16's normal range (2^-14 to 65504) it is what float16 would hold.
/// Zeros keep their sign, infinities stay, a NaN stays a (quiet) NaN, subnormals are rounded to multiples of 2^-136, and
/// finite values from 2^128 - 2^116 up become infinite.
#[must_use]
pub fn round_mantissa10(value: f32) -> f32 {
    const DROPPED: u32 = 0x1fff;
    let bits = value.to_bits();
    let rounded = if value.is_nan() {
        (bits | 0x0040_0000) & !DROPPED
    } else {
        // Carries of the mantissa rightly run into the exponent; infinity's mantissa is 0 and stays.
        (bits + 0x0fff + ((bits >> 13) & 1)) & !DROPPED
    };
    f32::from_bits(rounded)
}

/// The bits of the IEEE 754 binary16 nearest to `value`, ties to even.
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 is half way from the largest half, 65504, to the next step.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Below 2^-14 the step is 2^-24, which is float32's own step from 0.5 to 1: adding 0.5 rounds to it.
        let stepped = f32::from_bits(magnitude) + 0.5;
        return sign | (stepped.to_bits() - 0x3f00_0000) as u16;
    }
    let rounded = magnitude + 0x0fff + ((magnitude >> 13) & 1);
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert!("f64".parse::<Precision>().is_err());
    }

    /// Values and results from NumPy 2.4: `x.astype(np.float16)` in its normal range, `np.frexp`/`np.rint` outside it
    /// (mantissa scaled by 2^11, rounded to even, scaled back).
    #[test]
    fn rounding_table() {
        let table: [(u32, u32); 14] = [
            (0x3f80_0000, 0x3f80_0000), // 1
            (0x3f80_0fff, 0x3f80_0000), // just below half a step
            (0x3f80_1000, 0x3f80_0000), // tie, even below
            (0x3f80_1001, 0x3f80_2000), // just above
            (0x3f80_3000, 0x3f80_4000), // tie, even above
            (0x3fff_f000, 0x4000_0000), // carry into the exponent
            (0x4049_0fdb, 0x4049_0000), // pi
            (0xbdcc_cccd, 0xbdcc_c000), // -0.1
            (0x7149_f2ca, 0x714a_0000), // 1e30, outside float16
            (0x0000_0001, 0x0000_0000), // smallest subnormal
            (0x0000_3000, 0x0000_4000), // a subnormal tie
            (0x8000_0000, 0x8000_0000), // -0
            (0x7f7f_ffff, 0x7f80_0000), // largest finite
            (0xff80_0000, 0xff80_0000), // -inf
        ];
        for (input, expected) in table {
            let got = round_mantissa10(f32::from_bits(input)).to_bits();
            assert_eq!(got, expected, "{input:#010x} gave {got:#010x}");
        }
        for nan in [0x7f80_0001, 0x7fc0_0000, 0xffff_ffff] {
            assert!(round_mantissa10(f32::from_bits(nan)).is_nan());
        }
    }

    #[test]
    fn is_float16_in_its_normal_range() {
        // Every half from 2^-14 up, and float32 neighbours around the middle to the next half.
        for half in 0x0400_u32..0x7bff {
            let exact = (half << 13) + 0x3800_0000;
            for near in [exact, exact + 0xfff, exact + 0x1000, exact + 0x1001, exact + 0x1fff] {
                let value = f32::from_bits(near);
                let narrow = u32::from(f16_bits(value));
                assert_eq!(round_mantissa10(value).to_bits(), (narrow << 13) + 0x3800_0000, "{near:#x}");
                assert_eq!(f16_bits(-value), f16_bits(value) | 0x8000);
            }
        }
    }

    /// Results from NumPy 2.4, `np.float32(x).astype(np.float16).view(np.uint16)`.
    #[test]
    fn float16_edges() {
        let table = [
            (0.0, 0),
            (5.960_464_5e-8, 0x0001),
            (2.980_232_2e-8, 0x0000),
            (2.980_233e-8, 0x0001),
            (8.940_697e-8, 0x0002),
            (6.097_555e-5, 0x03ff),
            (6.103_515_6e-5, 0x0400),
            (6.102e-5, 0x0400),
            (65504.0, 0x7bff),
            (65519.99, 0x7bff),
            (65520.0, 0x7c00),
            (f32::INFINITY, 0x7c00),
            (f32::NAN, 0x7e00),
        ];
        for (value, bits) in table {
            assert_eq!(f16_bits(value), bits, "{value}");
        }
    }

    #[test]
    fn encoding_tells_what_does_not_fit() {
        let mut bytes = Vec::new();
        assert!(Precision::F32M10.encode(&[1.0, 1e30], &mut bytes));
        assert!(!Precision::F16.encode(&[1.0, 7e4], &mut bytes));
        assert!(!Precision::F32.encode(&[f32::NAN], &mut bytes));
        assert!(!Precision::F32M10.encode(&[f32::INFINITY, 0.0], &mut bytes));
        assert_eq!(bytes.len(), 8 + 4 + 4 + 8);
    }
}
