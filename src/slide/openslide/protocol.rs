//! What paraffin and its OpenSlide process say to each other, over one Unix stream socket (the child's stdin).
//!
//! Pixels do not go that way, which would cost a fifth of the time: the child writes them to the start of a memory file
//! that both hold open (the child's stdout), then replies.
//!
//! A frame is a little-endian `u32` length, then that many bytes: a tag and its fields. Strings are a `u32` length and
//! bytes. The child speaks first ([`Reply::Hello`], or [`Reply::Failed`] when the library is missing); then each request
//! gets one reply. Closing the socket ends the child. Both ends are the same executable, so there is one version.

use std::io::{self, Read, Write};

/// First field of the greeting: tells paraffin's own child from any other program.
pub const MAGIC: &[u8; 8] = b"pfOpenS1";
/// Longest request: a path and a little more.
pub const REQUEST_LIMIT: u32 = 64 << 10;
/// Longest side of a region, in pixels.
pub const SIDE_LIMIT: u32 = 2048;
/// Longest reply: names and properties.
pub const REPLY_LIMIT: u32 = 1 << 20;

/// Longest colour profile that is handed out.
pub const PROFILE_LIMIT: u32 = 10 << 20;

/// What the parent asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Which vendor's format is this? Answered by [`Reply::Vendor`].
    Detect(Vec<u8>),
    /// Open this slide for all that follows. Answered by [`Reply::Opened`].
    Open(Vec<u8>),
    /// Read a region. Answered by [`Reply::Pixels`] or [`Reply::Background`].
    Region(Region),
    /// Hand out the colour profile. Answered by [`Reply::Profile`].
    Profile,
    /// Hand out what may identify, for the audit. Answered by [`Reply::Identifying`].
    Identifying,
}

/// A region as OpenSlide addresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// OpenSlide's level.
    pub level: u32,
    /// Left edge in level-0 pixels.
    pub x_level0: u32,
    /// Top edge in level-0 pixels.
    pub y_level0: u32,
    /// Width in the level's pixels, at most [`SIDE_LIMIT`].
    pub width: u32,
    /// Height in the level's pixels, at most [`SIDE_LIMIT`].
    pub height: u32,
}

/// What the child answers. Nothing in it has been checked yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The library is loaded; its version.
    Hello(String),
    /// The vendor's name, empty where no format was recognised.
    Vendor(String),
    /// The slide is open.
    Opened(Info),
    /// The region over the slide's background colour, interleaved 8-bit RGB without padding, is in the memory file.
    Pixels,
    /// The region holds no pixel at all; the background colour.
    Background([u8; 3]),
    /// The colour profile, of so many bytes, is in the memory file; 0 where there is none.
    Profile(u32),
    /// Names and values of properties that may identify.
    Identifying(Vec<(String, String)>),
    /// The request failed; the child is of no further use.
    Failed(FailureKind, String),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// OpenSlide recognises no format in this file.
    NotASlide,
    /// OpenSlide reports an error.
    Error,
    /// OpenSlide itself is missing.
    Library,
}

/// What OpenSlide says about a slide, raw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// Vendor name.
    pub vendor: String,
    /// Width, height and downsample of each level.
    pub levels: Vec<(u32, u32, f64)>,
    /// Properties from the allow-list, name and value.
    pub properties: Vec<(String, String)>,
    /// Names of properties that may identify the slide or the patient and have a value.
    pub identifying: Vec<String>,
    /// Names of associated images.
    pub associated: Vec<String>,
    /// Whether there is an ICC profile.
    pub icc_profile: bool,
}

impl Request {
    /// The request as a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Frame::new(match self {
            Request::Detect(_) => b'd',
            Request::Open(_) => b'o',
            Request::Region(_) => b'r',
            Request::Profile => b'i',
            Request::Identifying => b'v',
        });
        match self {
            Request::Profile | Request::Identifying => {}
            Request::Detect(path) | Request::Open(path) => frame.bytes(path),
            Request::Region(r) => {
                for value in [r.level, r.x_level0, r.y_level0, r.width, r.height] {
                    frame.u32(value);
                }
            }
        }
        frame.finish()
    }

    /// A request from a frame's content.
    ///
    /// # Errors
    /// `InvalidData` where it is none.
    pub fn decode(content: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(content);
        let request = match fields.u8()? {
            b'd' => Request::Detect(fields.bytes()?.to_vec()),
            b'o' => Request::Open(fields.bytes()?.to_vec()),
            b'r' => Request::Region(Region {
                level: fields.u32()?,
                x_level0: fields.u32()?,
                y_level0: fields.u32()?,
                width: fields.u32()?,
                height: fields.u32()?,
            }),
            b'i' => Request::Profile,
            b'v' => Request::Identifying,
            _ => return Err(nonsense()),
        };
        fields.end()?;
        Ok(request)
    }
}

impl Reply {
    /// The reply as a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame;
        match self {
            Reply::Hello(version) => {
                frame = Frame::new(b'H');
                frame.bytes(MAGIC);
                frame.bytes(version.as_bytes());
            }
            Reply::Vendor(vendor) => {
                frame = Frame::new(b'V');
                frame.bytes(vendor.as_bytes());
            }
            Reply::Opened(info) => {
                frame = Frame::new(b'O');
                info.encode(&mut frame);
            }
            Reply::Pixels => frame = Frame::new(b'P'),
            Reply::Background(colour) => {
                frame = Frame::new(b'B');
                frame.bytes(colour);
            }
            Reply::Profile(bytes) => {
                frame = Frame::new(b'I');
                frame.u32(*bytes);
            }
            Reply::Identifying(fields) => {
                frame = Frame::new(b'W');
                frame.pairs(fields);
            }
            Reply::Failed(kind, message) => {
                frame = Frame::new(b'F');
                frame.u32(match kind {
                    FailureKind::NotASlide => 0,
                    FailureKind::Error => 1,
                    FailureKind::Library => 2,
                });
                frame.bytes(message.as_bytes());
            }
        }
        frame.finish()
    }

    /// A reply from a frame's content.
    ///
    /// # Errors
    /// `InvalidData` where it is none.
    pub fn decode(content: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(content);
        let reply = match fields.u8()? {
            b'H' => {
                if fields.bytes()? != MAGIC {
                    return Err(nonsense());
                }
                Reply::Hello(fields.text()?)
            }
            b'V' => Reply::Vendor(fields.text()?),
            b'O' => Reply::Opened(Info::decode(&mut fields)?),
            b'P' => Reply::Pixels,
            b'B' => Reply::Background(fields.bytes()?.try_into().map_err(|_| nonsense())?),
            b'I' => Reply::Profile(fields.u32()?),
            b'W' => Reply::Identifying(fields.list(|f| Ok((f.text()?, f.text()?)))?),
            b'F' => {
                let kind = match fields.u32()? {
                    0 => FailureKind::NotASlide,
                    1 => FailureKind::Error,
                    2 => FailureKind::Library,
                    _ => return Err(nonsense()),
                };
                Reply::Failed(kind, fields.text()?)
            }
            _ => return Err(nonsense()),
        };
        fields.end()?;
        Ok(reply)
    }
}

impl Info {
    fn encode(&self, frame: &mut Frame) {
        frame.bytes(self.vendor.as_bytes());
        frame.count(self.levels.len());
        for (width, height, downsample) in &self.levels {
            frame.u32(*width);
            frame.u32(*height);
            frame.0.extend(downsample.to_le_bytes());
        }
        frame.pairs(&self.properties);
        for names in [&self.identifying, &self.associated] {
            frame.count(names.len());
            names.iter().for_each(|name| frame.bytes(name.as_bytes()));
        }
        frame.0.push(u8::from(self.icc_profile));
    }

    fn decode(fields: &mut Fields) -> io::Result<Self> {
        Ok(Info {
            vendor: fields.text()?,
            levels: fields.list(|f| Ok((f.u32()?, f.u32()?, f64::from_le_bytes(f.array()?))))?,
            properties: fields.list(|f| Ok((f.text()?, f.text()?)))?,
            identifying: fields.list(Fields::text)?,
            associated: fields.list(Fields::text)?,
            icc_profile: fields.u8()? != 0,
        })
    }
}

/// Reads one frame's content into `content`; `Ok(false)` at the stream's end.
///
/// # Errors
/// `InvalidData` where the length is 0 or over `limit`; else what `stream` reports.
pub fn read_frame(stream: &mut impl Read, limit: u32, content: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length == 0 || length > limit {
        return Err(nonsense());
    }
    content.resize(length as usize, 0);
    stream.read_exact(content)?;
    Ok(true)
}

/// Writes a frame that `encode` made.
///
/// # Errors
/// What `stream` reports.
pub fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    stream.write_all(frame)?;
    stream.flush()
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a message of the OpenSlide process")
}

/// A frame under construction; its first four bytes become the length.
struct Frame(Vec<u8>);

impl Frame {
    fn new(tag: u8) -> Self {
        Frame(vec![0, 0, 0, 0, tag])
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn pairs(&mut self, pairs: &[(String, String)]) {
        self.count(pairs.len());
        for (name, value) in pairs {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("lists and strings of a frame are far shorter than 4 GiB"));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).expect("a frame is far shorter than 4 GiB");
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// The rest of a frame that is being decoded.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(nonsense)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| nonsense())
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let count = self.u32()? as usize;
        self.take(count)
    }

    fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = self.u32()?;
        (0..count).map(|_| item(self)).collect()
    }

    fn end(&self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(nonsense()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        Info {
            vendor: "mirax".into(),
            levels: vec![(100, 50, 1.0), (25, 12, 4.083_333)],
            properties: vec![("openslide.mpp-x".into(), "0.25".into())],
            identifying: vec!["mirax.GENERAL.SLIDE_ID".into()],
            associated: vec!["label".into(), "macro".into()],
            icc_profile: true,
        }
    }

    #[test]
    fn messages_come_back_as_sent() {
        let region = Region { level: 3, x_level0: 1 << 30, y_level0: 7, width: 512, height: 1 };
        for request in [Request::Detect(b"/a\xff".to_vec()), Request::Open(vec![]), Request::Region(region)] {
            assert_eq!(Request::decode(&request.encode()[4..]).unwrap(), request);
        }
        for reply in [
            Reply::Hello("4.0.1".into()),
            Reply::Vendor(String::new()),
            Reply::Opened(info()),
            Reply::Pixels,
            Reply::Background([9, 8, 7]),
            Reply::Identifying(vec![("aperio.User".into(), "x".into())]),
            Reply::Failed(FailureKind::Library, "gone".into()),
        ] {
            assert_eq!(Reply::decode(&reply.encode()[4..]).unwrap(), reply);
        }
    }

    #[test]
    fn no_content_panics_or_allocates_without_bound() {
        let frame = Reply::Opened(info()).encode();
        for cut in 0..frame.len() - 4 {
            assert!(Reply::decode(&frame[4..4 + cut]).is_err(), "cut at {cut}");
        }
        for at in 4..frame.len() {
            let mut bent = frame.clone();
            bent[at] = 0xff;
            let _ = Reply::decode(&bent[4..]);
        }
        let mut content = Vec::new();
        assert!(read_frame(&mut &[0xff, 0xff, 0xff, 0xff, 0][..], REPLY_LIMIT, &mut content).is_err());
        assert!(!read_frame(&mut &[][..], REPLY_LIMIT, &mut content).unwrap());
    }
}
