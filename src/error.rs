//! What can go wrong, in the words a user needs: what failed, where, why, and what to do next.
//!
//! A message never holds a slide's path or name (they may identify a patient): whoever knows the path adds it last, at
//! the edge. [`Error::kind`] is the short name that the end-of-run table and the site manifest count by.

use std::io;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure that paraffin names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no slide in any format known here.
    #[error("not a slide: {0}")]
    NotASlide(String),
    /// The file claims a known format and breaks its rules.
    #[error("damaged slide: {0}")]
    Damaged(String),
    /// The file is valid, but uses something that no reader here handles.
    #[error("unsupported slide: {0}")]
    Unsupported(String),
    /// The file is valid, and no reader must open it: another one would take it for something that it is not.
    #[error("unsupported slide: {0}")]
    Refused(String),
    /// The physical resolution is missing, implausible or contradictory.
    #[error("{0}")]
    Mpp(String),
    /// One block could not be read or decoded.
    #[error("block at level {level}, column {col}, row {row}: {why}")]
    Block {
        /// Pyramid level, 0 is the finest.
        level: usize,
        /// Block column.
        col: u32,
        /// Block row.
        row: u32,
        /// The reason.
        why: String,
    },
    /// The operating system refused to read the slide.
    #[error("cannot read the slide: {0}")]
    Read(#[source] io::Error),
    /// A library that is loaded at run time is missing or unfit.
    #[error("{0}")]
    Library(String),
    /// A device cannot compute here.
    #[error(
        "--device {device} cannot be used: {why} ('paraffin doctor' tells what is missing; --device cpu works without)"
    )]
    Device {
        /// The device as `--device` names it.
        device: String,
        /// The reason.
        why: String,
    },
    /// The encoder's model or card is unusable.
    #[error("encoder: {0}")]
    Encoder(String),
    /// A card's memory does not do for what was to be computed.
    #[error("encoder: out of memory on the card: {0}")]
    DeviceMemory(String),
    /// The tissue mask could not be made or read.
    #[error("tissue: {0}")]
    Tissue(String),
    /// An output could not be written or published.
    #[error("cannot write {what}: {source}")]
    Write {
        /// The output, relative to OUT.
        what: String,
        /// The operating system's or the HDF5 writer's reason.
        #[source]
        source: io::Error,
    },
    /// An existing output file is not what its record says.
    #[error("damaged output: {0}")]
    Output(String),
    /// OUT, or another site, holds features made under another contract.
    #[error("{0}")]
    Incompatible(String),
    /// Another worker took over the slide: this one showed no sign of life for too long. It does not count as failed.
    #[error("another worker has taken this slide over")]
    LeaseLost,
    /// Words on the command line that make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A signal asked the run to stop.
    #[error("stopped by a signal")]
    Interrupted,
    /// A bug in paraffin, or an environment it cannot work in.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The failure's short name, stable between releases.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Error::NotASlide(_) => "not-a-slide",
            Error::Damaged(_) => "damaged",
            Error::Unsupported(_) | Error::Refused(_) => "unsupported",
            Error::Mpp(_) => "mpp",
            Error::Block { .. } => "block",
            Error::Read(_) => "read",
            Error::Library(_) | Error::Device { .. } => "library",
            Error::Encoder(_) | Error::DeviceMemory(_) => "encoder",
            Error::Tissue(_) => "tissue",
            Error::Write { .. } => "write",
            Error::Output(_) => "output",
            Error::Incompatible(_) => "incompatible",
            Error::LeaseLost => "lease-lost",
            Error::Usage(_) => "usage",
            Error::Interrupted => "interrupted",
            Error::Internal(_) => "internal",
        }
    }

    /// The process's exit code when this error ends the whole run (README, "Exit codes").
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Incompatible(_) => 3,
            Error::Interrupted => 75,
            _ => 1,
        }
    }

    /// Whether OUT has no room left: a full disk or a quota.
    #[must_use]
    pub fn wants_space(&self) -> bool {
        matches!(self, Error::Write { source, .. } if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)))
    }

    /// Whether nothing else can be written to OUT either: no room, read-only, its share gone.
    #[must_use]
    pub fn shuts_out(&self) -> bool {
        let Error::Write { source, .. } = self else { return false };
        self.wants_space()
            || matches!(source.raw_os_error(), Some(libc::EROFS | libc::ESTALE | libc::ENOTCONN | libc::ENODEV))
    }

    /// An output that could not be written; `what` is relative to OUT.
    pub fn write(what: impl Into<String>, source: io::Error) -> Self {
        Error::Write { what: what.into(), source }
    }
}
