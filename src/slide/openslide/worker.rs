//! The child process: the only place where OpenSlide runs.
//!
//! It opens one slide and answers one request at a time. It may abort, hang or run out of its memory at any moment; the
//! parent ([`super::client`]) expects that. It ends when the parent closes the socket or dies, even in the middle of a
//! read: a thread waits on the socket for that. (`PR_SET_PDEATHSIG` would not do: it strikes when the parent's *thread*
//! ends that started the child, and readers' threads come and go.)

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use openslide_rs::errors::OpenSlideError;
use openslide_rs::{Address, OpenSlide, Region as SlideRegion, Size};

use super::identify;
use super::protocol::{self, FailureKind, Info, Region, Reply, Request};
use crate::runtime;

/// OpenSlide 4's interface.
const LIBRARY: &str = "libopenslide.so.1";
/// Address space that the child allows itself, bytes. OpenSlide needs about 0.2 GiB; what asks for more is a bomb.
pub const ADDRESS_SPACE: u64 = 2 << 30;
/// Longest property value that is handed on, bytes.
const VALUE_LIMIT: usize = 256;
/// Most names of each kind that are handed on.
const NAMES_LIMIT: usize = 512;

/// The child's `main`: serves the parent until it closes the socket that is this process's standard input.
///
/// `main.rs` calls this first, before it reads its command line, starts a thread or opens a file, when the first argument
/// is [`super::WORKER_COMMAND`].
#[must_use]
pub fn main() -> ExitCode {
    restrict();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr().map_err(|_| io::Error::other("this command is for paraffin's own use"))?;
    let mut replies = stream.try_clone()?;
    let (sender, requests) = mpsc::channel();
    let reader = move || listen(stream, &sender);
    thread::Builder::new().name("requests".into()).stack_size(256 << 10).spawn(reader)?;

    let greeting = match openslide_sys::sys::load(&runtime::library_candidates(LIBRARY)) {
        Ok(()) => Reply::Hello(OpenSlide::version().unwrap_or_default()),
        Err(why) => {
            Reply::Failed(FailureKind::Library, runtime::library_missing("OpenSlide", LIBRARY, &why).to_string())
        }
    };
    protocol::write_frame(&mut replies, &greeting.encode())?;
    let mut desk =
        Desk { slide: None, pixels: File::from(io::stdout().as_fd().try_clone_to_owned()?), rgb: Vec::new() };
    for request in requests {
        let reply = desk.answer(&request).unwrap_or_else(|(kind, why)| Reply::Failed(kind, why));
        protocol::write_frame(&mut replies, &reply.encode())?;
    }
    Ok(())
}

/// Hands requests on until the parent is gone; then ends the process, whatever OpenSlide is doing.
fn listen(mut stream: UnixStream, requests: &mpsc::Sender<Request>) {
    let mut content = Vec::new();
    while let Ok(true) = protocol::read_frame(&mut stream, protocol::REQUEST_LIMIT, &mut content) {
        let Ok(request) = Request::decode(&content) else { break };
        if requests.send(request).is_err() {
            break;
        }
    }
    exit_now();
}

/// What the child has before it.
struct Desk {
    slide: Option<(OpenSlide, [u8; 3])>,
    /// The memory file.
    pixels: File,
    /// A region on its way there.
    rgb: Vec<u8>,
}

type Failure = (FailureKind, String);

impl Desk {
    fn answer(&mut self, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::Detect(path) => match OpenSlide::detect_vendor(path_of(path)) {
                Ok(vendor) => Ok(Reply::Vendor(vendor)),
                Err(OpenSlideError::UnsupportedFile(_)) => Ok(Reply::Vendor(String::new())),
                Err(e) => Err(failure(e)),
            },
            Request::Open(path) => {
                let path = path_of(path);
                let slide = OpenSlide::new(&path).map_err(|e| refusal(e, &path))?;
                let info = describe(&slide)?;
                self.slide = Some((slide, background(&info)));
                Ok(Reply::Opened(info))
            }
            Request::Region(region) => self.read(*region),
            Request::Profile => self.profile(),
            Request::Identifying => self.identifying(),
        }
    }

    /// For the audit, which looks for these values and shows none.
    fn identifying(&self) -> Result<Reply, Failure> {
        let (slide, _) = self.slide.as_ref().ok_or_else(|| (FailureKind::Error, "no slide is open".to_string()))?;
        let mut fields = Vec::new();
        // The whole reply is bounded.
        let mut left = protocol::REPLY_LIMIT as usize / 2;
        for name in slide.property_names().map_err(failure)? {
            let mut value = slide.property_value(&name).unwrap_or_default();
            if value.trim().is_empty() || !identify::may_identify(&name) {
                continue;
            }
            let end = (0..=value.len().min(VALUE_LIMIT)).rev().find(|at| value.is_char_boundary(*at));
            value.truncate(end.unwrap_or(0));
            let name = identify::report_name(&name);
            left = left.saturating_sub(name.len() + value.len() + 8);
            if left == 0 {
                break;
            }
            fields.push((name, value));
        }
        Ok(Reply::Identifying(fields))
    }

    fn profile(&mut self) -> Result<Reply, Failure> {
        let error = |why: String| (FailureKind::Error, why);
        let (slide, _) = self.slide.as_ref().ok_or_else(|| error("no slide is open".into()))?;
        let profile = slide.icc_profile().map_err(failure)?.unwrap_or_default();
        let bytes = u32::try_from(profile.len()).ok().filter(|bytes| *bytes <= protocol::PROFILE_LIMIT);
        let bytes = bytes.ok_or_else(|| error(format!("an ICC profile of {} bytes", profile.len())))?;
        self.pixels.write_all_at(&profile, 0).map_err(|e| error(format!("cannot hand on the profile: {e}")))?;
        Ok(Reply::Profile(bytes))
    }

    fn read(&mut self, region: Region) -> Result<Reply, Failure> {
        let error = |why: String| (FailureKind::Error, why);
        let (slide, background) = self.slide.as_ref().ok_or_else(|| error("no slide is open".into()))?;
        let Region { level, x_level0, y_level0, width, height } = region;
        if width.max(height) > protocol::SIDE_LIMIT {
            return Err(error("the region is too large".into()));
        }
        let address = Address { x: x_level0, y: y_level0 };
        let region = SlideRegion { address, level, size: Size { w: width, h: height } };
        let bgra = slide.read_region(&region).map_err(failure)?;
        let bgra = bgra.as_chunks::<4>().0;
        if bgra.iter().all(|pixel| pixel[3] == 0) {
            return Ok(Reply::Background(*background));
        }
        self.rgb.resize(bgra.len() * 3, 0);
        flatten(bgra, *background, &mut self.rgb);
        self.pixels.write_all_at(&self.rgb, 0).map_err(|e| error(format!("cannot hand on the pixels: {e}")))?;
        Ok(Reply::Pixels)
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

fn failure(e: OpenSlideError) -> Failure {
    match e {
        OpenSlideError::LibraryError(why) => (FailureKind::Error, why),
        OpenSlideError::MissingFile(_) => (FailureKind::Error, "the file is gone".into()),
        OpenSlideError::UnsupportedFile(_) => (FailureKind::NotASlide, "OpenSlide recognises no slide format".into()),
        other => (FailureKind::Error, other.to_string()),
    }
}

/// OpenSlide refuses some files of a format that it does recognise without saying why; its warning is on stderr.
fn refusal(e: OpenSlideError, path: &Path) -> Failure {
    if let OpenSlideError::UnsupportedFile(_) = e
        && let Ok(vendor) = OpenSlide::detect_vendor(path)
    {
        return (FailureKind::Error, format!("the format is recognised ({vendor}), the file refused"));
    }
    failure(e)
}

fn describe(slide: &OpenSlide) -> Result<Info, Failure> {
    let sizes = slide.all_level_dimensions().iter();
    let levels = sizes.zip(slide.all_level_downsamples()).map(|(size, downsample)| (size.w, size.h, *downsample));
    let mut info = Info { levels: levels.take(NAMES_LIMIT).collect(), ..Info::default() };
    for name in slide.property_names().map_err(failure)? {
        // A value that cannot be had is as good as absent; nothing here depends on one.
        let value = slide.property_value(&name).unwrap_or_default();
        match name.as_str() {
            "openslide.vendor" => info.vendor = value,
            "openslide.icc-size" => info.icc_profile = true,
            allowed if identify::ALLOWED.contains(&allowed) && value.len() <= VALUE_LIMIT => {
                info.properties.push((name, value));
            }
            suspect if !value.trim().is_empty() && identify::may_identify(suspect) => {
                info.identifying.push(identify::report_name(&name));
            }
            _ => {}
        }
    }
    info.identifying.sort();
    info.identifying.dedup();
    info.identifying.truncate(NAMES_LIMIT);
    info.associated = slide.associated_image_names().map_err(failure)?;
    info.associated.truncate(NAMES_LIMIT);
    Ok(info)
}

/// `openslide.background-color`, RRGGBB; white where the slide states none.
fn background(info: &Info) -> [u8; 3] {
    let stated = info.properties.iter().find(|(name, _)| name == "openslide.background-color");
    stated.and_then(|(_, value)| parse_colour(value)).unwrap_or([255; 3])
}

fn parse_colour(hex: &str) -> Option<[u8; 3]> {
    if hex.len() != 6 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let [_, r, g, b] = u32::from_str_radix(hex, 16).ok()?.to_be_bytes();
    Some([r, g, b])
}

/// OpenSlide's premultiplied ARGB words, in memory order BGRA on the little-endian machines paraffin runs on, laid over
/// the background.
fn flatten(bgra: &[[u8; 4]], background: [u8; 3], rgb: &mut [u8]) {
    let opaque = bgra.iter().all(|pixel| pixel[3] == 255);
    for (out, &[b, g, r, a]) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(bgra) {
        *out = [r, g, b];
        if !opaque {
            let rest = 255 - u16::from(a);
            for (channel, under) in out.iter_mut().zip(background) {
                let under = (u16::from(under) * rest + 127) / 255;
                *channel = u8::try_from(u16::from(*channel) + under).unwrap_or(255);
            }
        }
    }
}

/// Limits what this process may take and leave: memory, no core dump (it would hold pixels), no terminal signals (the
/// parent decides when to stop; Ctrl-C goes to the whole process group).
#[allow(unsafe_code, reason = "system calls without a safe wrapper among the dependencies")]
fn restrict() {
    let limit = |resource, value| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: setrlimit reads one valid struct. A refusal leaves the inherited limit, which is no worse than before.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    };
    limit(libc::RLIMIT_AS, ADDRESS_SPACE);
    limit(libc::RLIMIT_CORE, 0);
    #[cfg(target_os = "linux")]
    // SAFETY: PR_SET_DUMPABLE takes one integer. It also keeps core dumps from handlers that ignore RLIMIT_CORE.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: SIG_IGN installs no handler; no other thread runs yet.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Ends the process at once: exit handlers could wait for a thread that hangs inside OpenSlide.
#[allow(unsafe_code, reason = "std has no exit without exit handlers")]
fn exit_now() -> ! {
    // SAFETY: _exit takes an integer and does not return; nothing here is left to be flushed.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_shows_the_background() {
        let over = |bgra: &[[u8; 4]], background| {
            let mut rgb = vec![7; bgra.len() * 3];
            flatten(bgra, background, &mut rgb);
            rgb
        };
        assert_eq!(over(&[[3, 2, 1, 255]], [0; 3]), [1, 2, 3]);
        assert_eq!(over(&[[3, 2, 1, 255], [0; 4]], [9, 8, 7]), [1, 2, 3, 9, 8, 7]);
        // Half transparent: 255 * 127 / 255 of white is added to the premultiplied colour.
        assert_eq!(over(&[[10, 20, 30, 128]], [255; 3]), [157, 147, 137]);
        // Broken premultiplication saturates.
        assert_eq!(over(&[[250, 250, 250, 100]], [255; 3]), [255; 3]);
    }

    #[test]
    fn colours_parse() {
        assert_eq!(parse_colour("FFF7e0"), Some([255, 247, 224]));
        for bad in ["", "FFF", "GG0000", "+fffff", "ffffffff"] {
            assert_eq!(parse_colour(bad), None, "{bad}");
        }
    }
}
