//! Where encoders compute.

use std::fmt;
use std::str::FromStr;

/// One place where an encoder computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card by number, through ONNX Runtime's CUDA provider.
    Cuda(u32),
    /// The same through TensorRT, which compiles the model for the card first.
    TensorRt(u32),
}

impl Device {
    /// The card's number, of those that are one.
    #[must_use]
    pub fn card(self) -> Option<u32> {
        match self {
            Device::Cpu => None,
            Device::Cuda(n) | Device::TensorRt(n) => Some(n),
        }
    }

    /// Tiles in a batch where nobody says: on the processor the smallest batch stays in the cache of a single-threaded
    /// session (measured, benches/RESULTS.md).
    #[must_use]
    pub fn default_batch(self) -> usize {
        if self == Device::Cpu { 1 } else { 64 }
    }

    fn kind(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::TensorRt(_) => "tensorrt",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.card() {
            None => f.write_str(self.kind()),
            Some(n) => write!(f, "{}:{n}", self.kind()),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let devices: Devices = text.parse()?;
        match devices.as_slice() {
            [device] => Ok(*device),
            _ => Err(format!("'{text}' names several devices")),
        }
    }
}

/// The devices of a run: the processor, or one or more cards of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// CUDA cards by number.
    ///
    /// # Errors
    /// Words, where there is none or one comes twice.
    pub fn cuda(cards: &[u32]) -> Result<Self, String> {
        Devices::of(cards, Device::Cuda)
    }

    fn of(cards: &[u32], device: impl Fn(u32) -> Device) -> Result<Self, String> {
        if let Some(twice) = cards.iter().enumerate().find_map(|(i, n)| cards[..i].contains(n).then_some(n)) {
            return Err(format!("card {twice} is named twice"));
        }
        if cards.is_empty() {
            Err("no card is named".into())
        } else {
            Ok(Devices(cards.iter().map(|n| device(*n)).collect()))
        }
    }

    /// All of them, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Device] {
        &self.0
    }

    /// Whether this is the processor.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.0 == [Device::Cpu]
    }
}

impl Default for Devices {
    fn default() -> Self {
        Devices(vec![Device::Cpu])
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, device) in self.0.iter().enumerate() {
            match device.card() {
                Some(n) if i > 0 => write!(f, ",{n}")?,
                _ => write!(f, "{device}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, cards) = text.split_once(':').map_or((text, None), |(kind, cards)| (kind, Some(cards)));
        let device: fn(u32) -> Device = match (kind, cards) {
            ("cpu", None) => return Ok(Devices::default()),
            ("cuda", _) => Device::Cuda,
            ("tensorrt", _) => Device::TensorRt,
            _ => {
                return Err(format!(
                    "unknown device '{text}'; one of cpu, cuda, cuda:N, cuda:N,M, tensorrt, tensorrt:N,M"
                ));
            }
        };
        let cards = cards.unwrap_or("0").split(',');
        let cards = cards.map(|n| n.parse().map_err(|_| format!("'{n}' in '{text}' is no card number")));
        Devices::of(&cards.collect::<Result<Vec<u32>, _>>()?, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        assert_eq!("tensorrt".parse(), Ok(Device::TensorRt(0)));
        for wrong in ["gpu", "cuda:x", "cuda:", "cuda:0,1", "cpu:0", "cuda:-1"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
        assert_eq!(Device::Cuda(3).to_string(), "cuda:3");
    }

    #[test]
    fn several_cards_are_read() {
        let devices: Devices = "tensorrt:2,0".parse().expect("two cards");
        assert_eq!(devices.as_slice(), [Device::TensorRt(2), Device::TensorRt(0)]);
        assert_eq!(devices.to_string(), "tensorrt:2,0");
        assert!("cuda:1,1".parse::<Devices>().expect_err("twice").contains("card 1 is named twice"));
        assert!(Devices::cuda(&[]).is_err());
        assert!("cpu".parse::<Devices>().expect("the processor").is_cpu());
    }
}
