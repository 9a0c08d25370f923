//! A JPEG's segments: those of the picture, a JFIF header, and what else somebody put there.

/// What is told of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Extra<'a> {
    /// `comment`, `APP1` to `APP15`, `APP0` of another kind, or `bytes after the picture`.
    pub what: String,
    /// Where it begins.
    pub at: usize,
    /// What is in it.
    pub content: &'a [u8],
}

/// Everything in a JPEG that is not the picture: comments, application segments, what follows the end.
///
/// # Errors
/// Where it is no JPEG that ends.
pub fn extras(bytes: &[u8]) -> Result<Vec<Extra<'_>>, &'static str> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return Err("no JPEG");
    }
    let mut extras = Vec::new();
    let mut at = 2;
    loop {
        // The next marker; between scans' data no other 0xff stands than those of stuffing and restarts.
        while bytes.get(at) != Some(&0xff) || matches!(bytes.get(at + 1), Some(0 | 0xff | 0xd0..=0xd7)) {
            at += 1;
            if at >= bytes.len() {
                return Err("a JPEG without an end");
            }
        }
        let marker = bytes.get(at + 1).copied().unwrap_or_default();
        if marker == 0xd9 {
            let content = &bytes[at + 2..];
            if !content.is_empty() {
                extras.push(Extra { what: "bytes after the picture".into(), at: at + 2, content });
            }
            return Ok(extras);
        }
        let length = bytes.get(at + 2..at + 4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let Some(content) = (length >= 2).then(|| bytes.get(at + 4..at + 2 + length)).flatten() else {
            return Err("a JPEG segment that does not end");
        };
        let what = match marker {
            0xfe => Some("comment".to_string()),
            0xe0 if length == 16 && content.starts_with(b"JFIF\0") => None,
            0xe0..=0xef => Some(format!("APP{}", marker - 0xe0)),
            _ => None,
        };
        extras.extend(what.map(|what| Extra { what, at, content }));
        at += 2 + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_told() {
        let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 7]));
        let clean = crate::report::overview::encode_jpeg(&picture, 85).expect("encodes");
        assert_eq!(extras(&clean), Ok(vec![]));
        let mut told = clean.clone();
        told.splice(2..2, *b"\xff\xfe\x00\x05Doe");
        told.splice(2..2, *b"\xff\xe1\x00\x06Exif");
        told.extend(b"after");
        let found = extras(&told).expect("a JPEG");
        let found: Vec<(&str, &[u8])> = found.iter().map(|e| (e.what.as_str(), e.content)).collect();
        assert_eq!(found, [("APP1", b"Exif".as_slice()), ("comment", b"Doe"), ("bytes after the picture", b"after")]);
        assert!(extras(b"GIF89a").is_err() && extras(&clean[..clean.len() - 2]).is_err());
        assert!(extras(b"\xff\xd8\xff\xe0\xff").is_err());
    }
}
