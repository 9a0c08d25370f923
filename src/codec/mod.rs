//! Compressed block in, interleaved 8-bit RGB out. Nothing here knows of files, levels or slides.
//!
//! A thread owns one [`Scratch`]: decoders and buffers that live from block to block, so that decoding allocates nothing
//! once the buffers have grown to the largest block.

pub mod jpeg;
pub mod jpeg2000;
pub mod jpegls;
pub mod lossless;
pub mod webp;

/// How a level's blocks are compressed, as far as anyone who does not decode them needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Baseline or progressive JPEG; can be decoded at 1/2, 1/4 and 1/8 of its size.
    Jpeg,
    /// JPEG2000; its own resolution levels give 1/2, 1/4 and 1/8.
    Jpeg2000,
    /// JPEG-LS, lossless or nearly so.
    JpegLs,
    /// Uncompressed.
    Raw,
    /// TIFF LZW.
    Lzw,
    /// Deflate (zlib).
    Deflate,
    /// Zstandard.
    Zstd,
    /// DICOM RLE.
    Rle,
    /// Put together from stored blocks that lie anywhere; at full size only.
    Composed,
    /// WebP.
    Webp,
    /// Cut out of a picture that is decoded whole.
    Flat,
    /// Decoded by OpenSlide; what lies in the file is not known here.
    OpenSlide,
}

impl Coding {
    /// The name that `info` and the records print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Coding::Jpeg => "jpeg",
            Coding::Jpeg2000 => "jpeg2000",
            Coding::JpegLs => "jpeg-ls",
            Coding::Raw => "raw",
            Coding::Lzw => "lzw",
            Coding::Deflate => "deflate",
            Coding::Zstd => "zstd",
            Coding::Rle => "rle",
            Coding::Composed => "composed",
            Coding::Webp => "webp",
            Coding::Flat => "flat",
            Coding::OpenSlide => "openslide",
        }
    }

    /// Whether the decoder itself can produce a block at a reduced size, cheaper than decoding and averaging it.
    #[must_use]
    pub fn scales(self) -> bool {
        matches!(self, Coding::Jpeg | Coding::Jpeg2000)
    }
}

/// By how much a block is reduced while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scale {
    /// Every pixel.
    Full = 1,
    /// 1/2 in each direction.
    Half = 2,
    /// 1/4 in each direction.
    Quarter = 4,
    /// 1/8 in each direction.
    Eighth = 8,
}

impl Scale {
    /// The divisor: 1, 2, 4 or 8.
    #[must_use]
    pub fn divisor(self) -> u32 {
        self as u32
    }

    /// The scale with this divisor.
    #[must_use]
    pub fn from_divisor(divisor: u32) -> Option<Self> {
        match divisor {
            1 => Some(Scale::Full),
            2 => Some(Scale::Half),
            4 => Some(Scale::Quarter),
            8 => Some(Scale::Eighth),
            _ => None,
        }
    }
}

/// One thread's decoders and buffers.
#[derive(Default)]
pub struct Scratch {
    /// libjpeg-turbo's handle, made at the first JPEG block.
    pub(crate) jpeg: Option<jpeg::Decompressor>,
    /// The block as it lies in the file.
    pub(crate) compressed: Vec<u8>,
    /// A complete JPEG stream, or the samples before conversion to RGB.
    pub(crate) staging: Vec<u8>,
    /// Decoded samples of codings that leave the colours to us.
    pub(crate) samples: Vec<u8>,
}

/// Where a decoder puts its pixels: `height` rows of `width` RGB pixels, `pitch` bytes apart.
pub struct Target<'a> {
    /// First byte of the first row.
    pub pixels: &'a mut [u8],
    /// Bytes from one row to the next.
    pub pitch: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Target<'_> {
    /// The bytes of row `y`.
    pub fn row(&mut self, y: usize) -> &mut [u8] {
        &mut self.pixels[y * self.pitch..y * self.pitch + self.width * 3]
    }

    /// Paints everything white, the background of a slide.
    pub fn fill_white(&mut self) {
        for y in 0..self.height {
            self.row(y).fill(255);
        }
    }
}

/// How a block lies in the file, with all that is needed to decode it.
pub enum BlockCoding {
    /// A JPEG stream; its `tables` may stand apart.
    Jpeg {
        /// Tables that the stream lacks.
        tables: Option<Vec<u8>>,
        /// What its components are.
        colour: jpeg::Colour,
    },
    /// A JPEG2000 codestream.
    Jpeg2000 {
        /// What its components are.
        colour: jpeg::Colour,
    },
    /// A JPEG-LS stream.
    JpegLs {
        /// What the samples mean; in planes or not as the stream says.
        samples: lossless::Samples,
    },
    /// A WebP image.
    Webp,
    /// Samples, packed without loss or not at all.
    Packed {
        /// The packing.
        packing: lossless::Packing,
        /// What the samples mean.
        samples: lossless::Samples,
    },
}

impl BlockCoding {
    /// What it is called.
    #[must_use]
    pub fn kind(&self) -> Coding {
        match self {
            BlockCoding::Jpeg { .. } => Coding::Jpeg,
            BlockCoding::Jpeg2000 { .. } => Coding::Jpeg2000,
            BlockCoding::JpegLs { .. } => Coding::JpegLs,
            BlockCoding::Webp => Coding::Webp,
            BlockCoding::Packed { packing, .. } => packing.kind(),
        }
    }

    /// Decodes the block of `size` pixels that lies in `scratch.compressed` to interleaved 8-bit RGB, reduced by `scale`.
    ///
    /// # Errors
    /// Says in words what is wrong with the block.
    pub fn decode(
        &self,
        scratch: &mut Scratch,
        size: (u32, u32),
        scale: Scale,
        target: &mut Target,
    ) -> Result<(), String> {
        let Scratch { jpeg, compressed, staging, samples: decoded } = scratch;
        match self {
            BlockCoding::Jpeg { tables, colour } => {
                jpeg::assemble(tables.as_deref(), compressed, *colour, size, staging)?;
                jpeg::decode(jpeg, staging, size, scale, target)
            }
            BlockCoding::Jpeg2000 { colour } => {
                jpeg2000::decode(compressed, *colour, size, scale, (staging, decoded), target)
            }
            BlockCoding::JpegLs { samples } => {
                let planes = jpegls::decode(compressed, samples.per_pixel, size, decoded, staging)?;
                lossless::to_rgb(staging, lossless::Samples { planes, ..*samples }, target);
                Ok(())
            }
            BlockCoding::Webp => webp::decode(compressed, size, decoded, target),
            BlockCoding::Packed { packing, samples } => {
                debug_assert_eq!(scale, Scale::Full, "lossless codings have no reduced size");
                lossless::unpack(*packing, compressed, samples.bytes(size.0, size.1), staging)?;
                lossless::to_rgb(staging, *samples, target);
                Ok(())
            }
        }
    }
}
