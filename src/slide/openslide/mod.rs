//! placeholder
use super::*;
pub struct OpenSlideReader;
impl OpenSlideReader { pub fn open(_: &Path) -> Result<Self> { Err(Error::Library("none".into())) } }
impl SlideReader for OpenSlideReader {
    fn info(&self) -> &SlideInfo { unimplemented!() }
    fn decode_block(&self, _: BlockAt, _: Scale, _: &mut crate::codec::Scratch, _: &mut [u8], _: usize) -> Result<BlockKind> { unimplemented!() }
}
