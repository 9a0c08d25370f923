//! Any text as the description of an Aperio slide of one grey pixel block, and of the thumbnail and label beside it.
#![no_main]

/// A classic little-endian TIFF of two pages; `text` is the description of both.
fn slide(text: &[u8]) -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    // The texts and the block stand behind both directories: 8 + (2 + 12 n + 4) of each.
    let (tiled, stripped) = (10u16, 3u16);
    let data = 8 + (6 + 12 * u32::from(tiled)) + (6 + 12 * u32::from(stripped));
    let mut description = b"Aperio".to_vec();
    description.extend_from_slice(text);
    description.push(0);
    while description.len() < 8 {
        description.push(0);
    }
    let length = description.len() as u32;
    let block = data + length;
    let mut directory = |entries: &[(u16, u16, u32, u32)], last: bool| {
        file.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(count.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        let next = if last { 0 } else { file.len() as u32 + 4 };
        file.extend(next.to_le_bytes());
    };
    directory(
        &[
            (256, 3, 1, 16),
            (257, 3, 1, 16),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (270, 2, length, data),
            (322, 3, 1, 16),
            (323, 3, 1, 16),
            (324, 4, 1, block),
            (325, 4, 1, 256),
        ],
        false,
    );
    directory(&[(256, 3, 1, 16), (257, 3, 1, 16), (270, 2, length, data)], true);
    file.extend(description);
    file.extend([128; 256]);
    file
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| paraffin_fuzz::open_and_read("slide.svs", &slide(text)));
