//! JPEG-LS blocks, lossless and nearly lossless, of 8 bits, through CharLS.
//!
//! CharLS never sees a block as it lies in the file. Each scan is put together anew as a stream of its own, with the size and
//! the number of components that the slide states, so that what is allocated does not depend on the block. Two kinds of
//! streams on which CharLS 2.4.5 leaves its buffers are refused: scans that are interleaved unlike the first (it sizes its
//! output by that one), and coding parameters with another RESET than 64 (it decodes pixels as single components).
//!
//! Reference: ITU-T T.87 annex C (markers), A.1 (what bytes of a scan can be).

use charls::CharLS;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DRI: u8 = 0xdd;
const SOF55: u8 = 0xf7;
const LSE: u8 = 0xf8;
const APP8: u8 = 0xe8;

/// Most that is put before a scan, and behind it.
const HEADERS: usize = 128;

/// One component, or all: a scan as it lies in the block.
struct Scan<'a> {
    /// Which components, by their place in the frame.
    components: Vec<usize>,
    /// NEAR: by how much values may be off.
    near: u8,
    /// ILV: 0 one component, 1 line by line, 2 pixel by pixel.
    interleave: u8,
    /// Segments with the coding parameters in force, if not the default.
    parameters: [Option<&'a [u8]>; 2],
    /// Entropy-coded bytes, restart markers among them.
    data: &'a [u8],
}

/// Decodes one block of `size` px to samples in `out` (cleared first); `true` where its components lie in planes, one after
/// the other. `stream` is a buffer.
///
/// # Errors
/// Says in words what is wrong with the block.
pub fn decode(
    block: &[u8],
    components: u16,
    size: (u32, u32),
    stream: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<bool, String> {
    out.clear();
    let components = usize::from(components);
    let scans = scans(block, components, size)?;
    let plane = size.0 as usize * size.1 as usize;
    if let [scan] = &scans[..] {
        decode_scan(scan, size, plane * components, stream, out)?;
        return Ok(false);
    }
    for component in 0..components {
        let scan = scans.iter().find(|s| s.components == [component]);
        decode_scan(scan.ok_or("JPEG-LS without a scan for each component")?, size, plane, stream, out)?;
    }
    Ok(true)
}

/// Decodes a scan to `bytes` that are added to `out`.
fn decode_scan(
    scan: &Scan,
    (width, height): (u32, u32),
    bytes: usize,
    stream: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let count = scan.components.len() as u8;
    let side =
        |n: u32| u16::try_from(n).map(u16::to_be_bytes).map_err(|_| "a JPEG-LS block of over 65535 px".to_string());
    stream.clear();
    stream.reserve(scan.data.len() + HEADERS);
    stream.extend_from_slice(&[0xff, SOI, 0xff, SOF55, 0, 8 + 3 * count, 8]);
    stream.extend_from_slice(&side(height)?);
    stream.extend_from_slice(&side(width)?);
    stream.push(count);
    (1..=count).for_each(|id| stream.extend_from_slice(&[id, 0x11, 0]));
    scan.parameters.iter().flatten().for_each(|segment| stream.extend_from_slice(segment));
    stream.extend_from_slice(&[0xff, SOS, 0, 6 + 2 * count, count]);
    (1..=count).for_each(|id| stream.extend_from_slice(&[id, 0]));
    stream.extend_from_slice(&[scan.near, scan.interleave, 0]);
    stream.extend_from_slice(scan.data);
    stream.extend_from_slice(&[0xff, EOI]);
    // A decoder of CharLS takes one stream.
    let decoded = CharLS::default().decode(stream).map_err(|e| format!("corrupt JPEG-LS data: {e}"))?;
    if decoded.len() != bytes {
        return Err(format!("JPEG-LS decodes to {} bytes, {bytes} expected", decoded.len()));
    }
    out.extend_from_slice(&decoded);
    Ok(())
}

/// The scans of a block, after its headers are checked: one of all components, or one each.
fn scans(block: &[u8], components: usize, size: (u32, u32)) -> Result<Vec<Scan<'_>>, String> {
    let mut frame: Option<&[u8]> = None;
    let mut parameters = [None; 2];
    let mut scans: Vec<Scan> = Vec::new();
    if block.get(..2) != Some(&[0xff, SOI]) {
        return Err(format!("not a JPEG-LS stream: it starts with {:02x?}", &block[..block.len().min(4)]));
    }
    let mut at = 2;
    loop {
        let Some(&[0xff, marker]) = block.get(at..at + 2) else {
            return Err("JPEG-LS data ends too early, or has no marker where one must be".into());
        };
        if marker == 0xff {
            at += 1;
            continue;
        }
        if marker == EOI {
            break;
        }
        let length = block.get(at + 2..at + 4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let segment = block.get(at..at + 2 + length).filter(|_| length >= 2);
        let segment = segment.ok_or("JPEG-LS headers end too early")?;
        let body = &segment[4..];
        at += segment.len();
        match (marker, body) {
            (SOF55, _) if frame.is_none() => frame = Some(check_frame(body, components, size)?),
            // Whichever thresholds; MAXVAL and RESET other than the default are where CharLS takes the wrong decoder.
            (LSE, [1, max_high, max_low, _, _, _, _, _, _, reset_high, reset_low])
                if matches!([*max_high, *max_low], [0, 0 | 255])
                    && matches!([*reset_high, *reset_low], [0, 0 | 64]) =>
            {
                parameters[0] = Some(segment);
            }
            (LSE, _) => return Err("JPEG-LS with a palette or coding parameters that are not known here".into()),
            (DRI, [_, _] | [_, _, _] | [_, _, _, _]) => parameters[1] = Some(segment),
            (APP8, [b'm', b'r', b'f', b'x', kind]) if *kind != 0 => {
                return Err("JPEG-LS with Hewlett-Packard's colour transform".into());
            }
            (0xe0..=0xef | 0xfe, _) => {}
            (SOS, _) => {
                let frame = frame.ok_or("a JPEG-LS scan before its frame")?;
                let data = scan_data(&block[at..]);
                at += data.len();
                scans.push(scan(body, frame, parameters, data)?);
                if scans.len() > components {
                    return Err("JPEG-LS with more scans than components".into());
                }
            }
            _ => return Err(format!("JPEG-LS with a marker ff{marker:02x} where none may be")),
        }
    }
    match &scans[..] {
        [only] if only.components.len() == components => {}
        several if several.len() == components && several.iter().all(|s| s.components.len() == 1) => {}
        _ => return Err(format!("JPEG-LS with {} scans for {components} components", scans.len())),
    }
    Ok(scans)
}

/// Checks SOF55; returns its components, three bytes each.
fn check_frame(body: &[u8], components: usize, (width, height): (u32, u32)) -> Result<&[u8], String> {
    let Some(&[bits, h1, h0, w1, w0, count]) = body.get(..6) else {
        return Err("JPEG-LS headers end too early".into());
    };
    let [w, h] = [u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])];
    if (u32::from(w), u32::from(h)) != (width, height) {
        return Err(format!("JPEG-LS of {w} x {h} px in a block of {width} x {height} px"));
    }
    if usize::from(count) != components || body.len() != 6 + 3 * components {
        return Err(format!("JPEG-LS with {count} components, {components} expected"));
    }
    if bits != 8 || body[6..].chunks_exact(3).any(|c| c[1] != 0x11) {
        return Err(format!("JPEG-LS of {bits} bits, or with reduced components"));
    }
    Ok(&body[6..])
}

/// Checks SOS. `frame` are the frame's components, three bytes each.
fn scan<'a>(body: &[u8], frame: &[u8], parameters: [Option<&'a [u8]>; 2], data: &'a [u8]) -> Result<Scan<'a>, String> {
    let count = body.first().map_or(0, |n| usize::from(*n));
    let (Some(selectors), Some(&[near, interleave, transform])) =
        (body.get(1..1 + 2 * count), body.get(1 + 2 * count..))
    else {
        return Err("the header of a JPEG-LS scan has a wrong length".into());
    };
    let place = |selector: &[u8]| frame.chunks_exact(3).position(|c| c[0] == selector[0]).filter(|_| selector[1] == 0);
    let components: Option<Vec<usize>> = selectors.chunks_exact(2).map(place).collect();
    let components =
        components.ok_or("a JPEG-LS scan of components that the frame does not have, or with a palette")?;
    let known = match &components[..] {
        [_] => interleave == 0,
        several => several.iter().copied().eq(0..several.len()) && matches!(interleave, 1 | 2),
    };
    if !known || transform != 0 {
        return Err(format!("a JPEG-LS scan of {count} components with interleave mode {interleave}"));
    }
    Ok(Scan { components, near, interleave, parameters, data })
}

/// Entropy-coded bytes up to the next marker that is not a restart marker.
fn scan_data(bytes: &[u8]) -> &[u8] {
    let is_end = |pair: &[u8]| pair[0] == 0xff && pair[1] >= 0x80 && !(0xd0..=0xd7).contains(&pair[1]);
    &bytes[..bytes.windows(2).position(is_end).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: [&[u8]; 3] = [
        include_bytes!("../../testdata/dicom/jpegls_planes/ls.dcm"),
        include_bytes!("../../testdata/dicom/jpegls_lines/ls.dcm"),
        include_bytes!("../../testdata/dicom/jpegls_pixels/ls.dcm"),
    ];
    const SIZE: (u32, u32) = (32, 32);

    /// The first frame of a fixture, 32 x 32 px in three components.
    fn block(interleave: usize) -> Vec<u8> {
        let file = FIXTURES[interleave];
        let place = |bytes: &[u8], of: &[u8]| bytes.windows(of.len()).position(|w| w == of).expect("there");
        let stream = &file[place(file, &[0xff, SOI, 0xff, SOF55])..];
        stream[..place(stream, &[0xff, EOI]) + 2].to_vec()
    }

    fn decoded(block: &[u8], components: u16, size: (u32, u32)) -> Result<(bool, Vec<u8>), String> {
        let mut out = Vec::new();
        decode(block, components, size, &mut Vec::new(), &mut out).map(|planes| (planes, out))
    }

    /// Where the scans' headers are.
    fn scan_headers(block: &[u8]) -> Vec<usize> {
        (0..block.len() - 1).filter(|at| block[*at..at + 2] == [0xff, SOS]).collect()
    }

    #[test]
    fn however_interleaved_the_samples_are_the_same() {
        let (planes, by_plane) = decoded(&block(0), 3, SIZE).expect("decodes");
        assert!(planes);
        let by_pixel: Vec<u8> = (0..1024 * 3).map(|i| by_plane[i % 3 * 1024 + i / 3]).collect();
        for interleave in [1, 2] {
            assert_eq!(decoded(&block(interleave), 3, SIZE), Ok((false, by_pixel.clone())));
        }
    }

    #[test]
    fn the_size_is_what_the_slide_says() {
        let refused = |block: &[u8], components, size| decoded(block, components, size).expect_err("refused");
        assert!(refused(&block(2), 3, (32, 31)).contains("32 x 32 px in a block of 32 x 31 px"));
        assert!(refused(&block(2), 1, SIZE).contains("3 components, 1 expected"));
        let mut large = block(2);
        large[7..11].fill(0xff);
        assert!(refused(&large, 3, SIZE).contains("65535 x 65535 px"));
        // The same by a segment for sizes that SOF55 has no room for.
        let mut large = block(2);
        large.splice(2..2, [0xff, LSE, 0, 12, 4, 4, 0, 1, 0, 0, 0, 1, 0, 0]);
        assert!(refused(&large, 3, SIZE).contains("not known here"));
        // RESET 63, which lets CharLS read past its line.
        let mut reset = block(2);
        let mut parameters = [0xff, LSE, 0, 13, 1, 0, 255, 0, 3, 0, 7, 0, 21, 0, 64];
        reset.splice(2..2, parameters);
        assert_eq!(decoded(&reset, 3, SIZE), decoded(&block(2), 3, SIZE), "the default, stated");
        parameters[14] = 63;
        reset.splice(2..17, parameters);
        assert!(refused(&reset, 3, SIZE).contains("coding parameters"));
        let mut deep = block(2);
        deep[6] = 12;
        assert!(refused(&deep, 3, SIZE).contains("12 bits"));
    }

    #[test]
    fn a_scan_cannot_be_interleaved_unlike_the_others() {
        let planes = block(0);
        let scans = scan_headers(&planes);
        assert_eq!(scans.len(), 3);
        for interleave in [1, 2] {
            let mut changed = planes.clone();
            changed[scans[2] + 8] = interleave;
            assert!(decoded(&changed, 3, SIZE).expect_err("refused").contains("interleave mode"));
            // Of all components, as CharLS would take it for the third plane.
            let mut changed = planes.clone();
            changed.splice(scans[2]..scans[2] + 10, [0xff, SOS, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, interleave, 0]);
            assert!(decoded(&changed, 3, SIZE).expect_err("refused").contains("3 scans for 3 components"));
        }
        let mut twice = planes.clone();
        twice[scans[2] + 5] = 1;
        assert!(decoded(&twice, 3, SIZE).expect_err("refused").contains("a scan for each"));
        let two = [&planes[..scans[2]], &[0xff, EOI]].concat();
        assert!(decoded(&two, 3, SIZE).expect_err("refused").contains("2 scans for 3 components"));
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_or_pixels() {
        let mut seed = 3_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut refused = 0;
        for interleave in 0..3 {
            let block = block(interleave);
            for length in 0..block.len() - 1 {
                assert!(decoded(&block[..length], 3, SIZE).is_err(), "{length} bytes");
            }
            for round in 0..2000 {
                let mut changed = block.clone();
                let at = if round % 2 == 0 { random(60) } else { random(block.len()) };
                changed[at] = random(256) as u8;
                match decoded(&changed, 3, SIZE) {
                    Ok((_, samples)) => assert_eq!(samples.len(), 32 * 32 * 3),
                    Err(why) => {
                        assert!(!why.is_empty());
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}
