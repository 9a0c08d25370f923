//! JPEG blocks through libjpeg-turbo, as they lie in TIFF-like files.
//!
//! A TIFF's JPEG block is often abbreviated: its quantisation and Huffman tables stand once per level in tag 347, and
//! nothing in the stream says whether its three components are YCbCr or RGB. libjpeg guesses the latter from component
//! ids and markers and is wrong for Aperio's RGB (ids 0, 1, 2, no Adobe marker). So every block is put together anew:
//! an Adobe marker with the colour transform that the TIFF states, the tables, then the block without its own APPn and
//! comment segments.
//!
//! Reference: ITU-T T.81 Annex B (markers), TIFF Technical Note 2 (JPEGTables), Adobe Technical Note 5116 (APP14).

use turbojpeg::raw;

use super::{Scale, Target};

/// What the container says the components are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// One component.
    Grey,
    /// Three components, luma and chroma.
    YCbCr,
    /// Three components, red, green and blue as they are.
    Rgb,
}

impl Colour {
    fn components(self) -> u8 {
        match self {
            Colour::Grey => 1,
            Colour::YCbCr | Colour::Rgb => 3,
        }
    }
}

/// APP14 "Adobe", version 100, no flags; the last byte is the colour transform: 0 none, 1 YCbCr.
const ADOBE: [u8; 15] = [0xff, 0xee, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0];

/// Most scans that a progressive block may have; each costs a pass over the block.
const MAX_SCANS: i32 = 100;

/// Puts a complete stream together in `out` (cleared first) and checks that it holds what the container promises.
///
/// `width` and `height` are the block's sides in pixels. A block may be larger than promised (some writers pad to whole
/// MCUs), never smaller: the caller gets exactly the frame's size back.
///
/// # Errors
/// Says in words what is wrong with the block.
pub fn assemble(
    tables: Option<&[u8]>,
    block: &[u8],
    colour: Colour,
    (width, height): (u32, u32),
    out: &mut Vec<u8>,
) -> Result<(), String> {
    out.clear();
    if block.len() < 4 || block[..2] != [0xff, 0xd8] {
        return Err(format!("not a JPEG stream: it starts with {:02x?}", &block[..block.len().min(2)]));
    }
    out.extend_from_slice(&[0xff, 0xd8]);
    if colour != Colour::Grey {
        out.extend_from_slice(&ADOBE);
        out.extend_from_slice(&[u8::from(colour == Colour::YCbCr)]);
    }
    if let Some(tables) = tables {
        copy_segments(tables, out, None)?;
    }
    copy_segments(block, out, Some((colour, width, height)))?;
    Ok(())
}

/// Copies marker segments after SOI. With `frame`, goes on to the end of the entropy-coded data and checks the frame
/// header; without (a tables stream), stops at EOI.
fn copy_segments(stream: &[u8], out: &mut Vec<u8>, frame: Option<(Colour, u32, u32)>) -> Result<(), String> {
    let truncated = || "JPEG headers end too early".to_string();
    if stream.len() < 4 || stream[..2] != [0xff, 0xd8] {
        return Err("the JPEG tables (tag 347) are no JPEG stream".into());
    }
    let mut at = 2;
    let mut seen_frame = false;
    loop {
        let marker_at = at;
        if *stream.get(at).ok_or_else(truncated)? != 0xff {
            return Err("JPEG headers are corrupt: no marker where one must be".into());
        }
        while *stream.get(at).ok_or_else(truncated)? == 0xff {
            at += 1;
        }
        let marker = stream[at];
        at += 1;
        if marker == 0xd9 {
            return match frame {
                None => Ok(()),
                Some(_) => Err("JPEG stream without an image".into()),
            };
        }
        if marker == 0x01 || (0xd0..=0xd7).contains(&marker) {
            continue;
        }
        let length = usize::from(u16::from_be_bytes([
            *stream.get(at).ok_or_else(truncated)?,
            *stream.get(at + 1).ok_or_else(truncated)?,
        ]));
        let segment = stream.get(at..at + length.max(2)).ok_or_else(truncated)?;
        match marker {
            // APPn and comments: no pixels, at worst a wrong colour transform or somebody's words.
            0xe0..=0xef | 0xfe => {}
            0xda => {
                if !seen_frame {
                    return Err("JPEG scan before its frame header".into());
                }
                out.extend_from_slice(&stream[marker_at..]);
                return Ok(());
            }
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let (colour, width, height) = frame.ok_or("a frame among the JPEG tables")?;
                check_frame(marker, segment, colour, width, height)?;
                seen_frame = true;
                out.extend_from_slice(&stream[marker_at..at + length]);
            }
            _ => out.extend_from_slice(&stream[marker_at..at + length.max(2)]),
        }
        at += length.max(2);
    }
}

/// What a stream's beginning itself says about its three components: by Adobe's marker, or by JFIF's, which knows only
/// YCbCr. `None` where it says nothing.
#[must_use]
pub fn stated_colour(stream: &[u8]) -> Option<Colour> {
    let mut at = 2;
    loop {
        let [0xff, marker, high, low, ref body @ ..] = *stream.get(at..)? else { return None };
        match marker {
            0xe0 if body.starts_with(b"JFIF\0") => return Some(Colour::YCbCr),
            0xee if body.starts_with(b"Adobe") => {
                return match body.get(11)? {
                    0 => Some(Colour::Rgb),
                    1 => Some(Colour::YCbCr),
                    _ => None,
                };
            }
            // Fill bytes and markers without length stand where no writer of these files puts them.
            0xc0..=0xcf | 0xd0..=0xda | 0xff | 0x01 => return None,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
}

fn check_frame(marker: u8, segment: &[u8], colour: Colour, width: u32, height: u32) -> Result<(), String> {
    let [_, _, bits, h1, h0, w1, w0, components, ..] = *segment else {
        return Err("JPEG frame header is too short".into());
    };
    if !matches!(marker, 0xc0..=0xc2) {
        return Err(format!(
            "JPEG of a kind that no scanner writes (SOF{}: lossless, hierarchical or arithmetic)",
            marker & 15
        ));
    }
    if bits != 8 {
        return Err(format!("JPEG with {bits} bits a sample, 8 expected"));
    }
    let (w, h) = (u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0])));
    if (w, h) != (width, height) {
        return Err(format!("JPEG of {w} x {h} px in a block of {width} x {height} px"));
    }
    if components != colour.components() {
        return Err(format!("JPEG with {components} components, {} expected", colour.components()));
    }
    Ok(())
}

/// One thread's libjpeg-turbo decompressor.
///
/// The `turbojpeg` crate's own wrapper reads every header twice, to check the target's size; here [`assemble`] has seen the
/// frame's size already.
pub struct Decompressor {
    handle: raw::tjhandle,
    scale: Scale,
}

// SAFETY: a handle may move between threads; it is never shared.
#[allow(unsafe_code, reason = "foreign handle")]
unsafe impl Send for Decompressor {}

impl Decompressor {
    /// A new decompressor.
    ///
    /// # Errors
    /// The library's words.
    pub fn new() -> Result<Self, String> {
        // SAFETY: no preconditions; null is checked.
        #[allow(unsafe_code, reason = "foreign call")]
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as i32) };
        if handle.is_null() {
            return Err("libjpeg-turbo gives no decompressor".into());
        }
        let new = Decompressor { handle, scale: Scale::Full };
        // SAFETY: the handle is valid.
        #[allow(unsafe_code, reason = "foreign call")]
        let set = unsafe { raw::tj3Set(handle, raw::TJPARAM_TJPARAM_SCANLIMIT as i32, MAX_SCANS) };
        if set == 0 { Ok(new) } else { Err(new.error()) }
    }

    fn error(&self) -> String {
        // SAFETY: the handle is valid; the library returns a terminated string that lives until its next call.
        #[allow(unsafe_code, reason = "foreign call")]
        let words = unsafe { std::ffi::CStr::from_ptr(raw::tj3GetErrorStr(self.handle)) };
        words.to_string_lossy().into_owned()
    }

    /// Decodes a stream that [`assemble`] made for a frame of `width` x `height` px. `target` has the frame's sides divided
    /// by `scale`, rounded up.
    ///
    /// Damage that libjpeg-turbo would paper over with grey (its warnings) is an error here.
    ///
    /// # Errors
    /// The decoder's own words.
    pub fn decode(
        &mut self,
        stream: &[u8],
        (width, height): (u32, u32),
        scale: Scale,
        target: &mut Target,
    ) -> Result<(), String> {
        let divisor = scale.divisor();
        let (width, height) = (width.div_ceil(divisor) as usize, height.div_ceil(divisor) as usize);
        let bytes = height.saturating_sub(1) * target.pitch + width * 3;
        if (target.width, target.height) != (width, height) || target.pitch < width * 3 || target.pixels.len() < bytes {
            return Err(format!("a target of {} x {} px for {width} x {height}", target.width, target.height));
        }
        let pitch = i32::try_from(target.pitch).map_err(|e| e.to_string())?;
        if self.scale != scale {
            let factor = raw::tjscalingfactor { num: 1, denom: divisor as i32 };
            // SAFETY: the handle is valid; 1/1, 1/2, 1/4 and 1/8 are supported factors.
            #[allow(unsafe_code, reason = "foreign call")]
            if unsafe { raw::tj3SetScalingFactor(self.handle, factor) } != 0 {
                return Err(self.error());
            }
            self.scale = scale;
        }
        // SAFETY: the handle is valid and `stream` a readable slice. The library writes the frame's scaled rows, `pitch` bytes
        // apart; `assemble` has checked that the stream's only frame has the size that `bytes` was computed from (a second
        // frame header is an error of the library).
        #[allow(unsafe_code, reason = "foreign call")]
        let result = unsafe {
            raw::tj3Decompress8(
                self.handle,
                stream.as_ptr(),
                stream.len() as raw::size_t,
                target.pixels.as_mut_ptr(),
                pitch,
                raw::TJPF_TJPF_RGB,
            )
        };
        if result == 0 { Ok(()) } else { Err(self.error()) }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        #[allow(unsafe_code, reason = "foreign call")]
        unsafe {
            raw::tj3Destroy(self.handle);
        }
    }
}

/// Decodes with the thread's decompressor, which is made when it is first needed; see [`Decompressor::decode`].
///
/// # Errors
/// As [`Decompressor::decode`].
pub fn decode(
    decompressor: &mut Option<Decompressor>,
    stream: &[u8],
    size: (u32, u32),
    scale: Scale,
    target: &mut Target,
) -> Result<(), String> {
    let decompressor = match decompressor {
        Some(decompressor) => decompressor,
        None => decompressor.insert(Decompressor::new()?),
    };
    decompressor.decode(stream, size, scale, target)
}

#[cfg(test)]
mod tests {
    use turbojpeg::{Image, PixelFormat};

    use super::*;

    fn jpeg(width: usize, height: usize) -> Vec<u8> {
        let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        let image = Image { pixels: &pixels[..], width, pitch: width * 3, height, format: PixelFormat::RGB };
        turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).expect("compresses").to_vec()
    }

    #[test]
    fn a_whole_stream_decodes_as_libjpeg_turbo_does() {
        let stream = jpeg(64, 48);
        let mut assembled = Vec::new();
        assemble(None, &stream, Colour::YCbCr, (64, 48), &mut assembled).expect("assembles");
        let mut pixels = vec![0; 64 * 48 * 3];
        let mut target = Target { pixels: &mut pixels, pitch: 64 * 3, width: 64, height: 48 };
        decode(&mut None, &assembled, (64, 48), Scale::Full, &mut target).expect("decodes");
        let expected = turbojpeg::decompress(&stream, PixelFormat::RGB).expect("decodes");
        assert_eq!(pixels, expected.pixels);
    }

    #[test]
    fn tables_apart_give_the_same_pixels() {
        let stream = jpeg(32, 32);
        // DQT (db) and DHT (c4) segments to the tables stream, the rest to the block.
        let (mut tables, mut block) = (vec![0xff, 0xd8], vec![0xff, 0xd8]);
        let mut at = 2;
        while stream[at + 1] != 0xda {
            let end = at + 2 + usize::from(u16::from_be_bytes([stream[at + 2], stream[at + 3]]));
            let part = if matches!(stream[at + 1], 0xdb | 0xc4) { &mut tables } else { &mut block };
            part.extend_from_slice(&stream[at..end]);
            at = end;
        }
        block.extend_from_slice(&stream[at..]);
        tables.extend_from_slice(&[0xff, 0xd9]);
        let mut assembled = Vec::new();
        assert!(
            assemble(None, &block, Colour::YCbCr, (32, 32), &mut assembled).is_ok(),
            "missing tables are the decoder's to find"
        );
        assemble(Some(&tables), &block, Colour::YCbCr, (32, 32), &mut assembled).expect("assembles");
        let mut pixels = vec![0; 32 * 32 * 3];
        let mut target = Target { pixels: &mut pixels, pitch: 96, width: 32, height: 32 };
        decode(&mut None, &assembled, (32, 32), Scale::Full, &mut target).expect("decodes");
        assert_eq!(pixels, turbojpeg::decompress(&stream, PixelFormat::RGB).expect("decodes").pixels);
    }

    #[test]
    fn wrong_blocks_are_refused_in_words() {
        let stream = jpeg(32, 32);
        let mut out = Vec::new();
        let mut refuse =
            |block: &[u8], colour, size| assemble(None, block, colour, size, &mut out).expect_err("refused");
        assert!(refuse(b"\x89PNG", Colour::YCbCr, (32, 32)).contains("not a JPEG"));
        assert!(refuse(&stream, Colour::YCbCr, (64, 32)).contains("32 x 32 px in a block of 64 x 32"));
        assert!(refuse(&stream, Colour::Grey, (32, 32)).contains("3 components, 1 expected"));
        assert!(refuse(&stream[..40], Colour::YCbCr, (32, 32)).contains("too early"));
        assert!(refuse(&[], Colour::YCbCr, (32, 32)).contains("not a JPEG"));
    }

    #[test]
    fn a_truncated_scan_is_an_error() {
        let stream = jpeg(64, 64);
        let mut assembled = Vec::new();
        assemble(None, &stream[..stream.len() / 2], Colour::YCbCr, (64, 64), &mut assembled)
            .expect("headers are whole");
        let mut pixels = vec![0; 64 * 64 * 3];
        let mut target = Target { pixels: &mut pixels, pitch: 192, width: 64, height: 64 };
        assert!(decode(&mut None, &assembled, (64, 64), Scale::Full, &mut target).is_err());
    }
}
