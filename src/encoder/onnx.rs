//! Encoders run by ONNX Runtime, whose library is loaded when the first one is needed.
//!
//! The same program runs on the CPU library and on the CUDA one: which devices there are is the library's matter. Its
//! telemetry is switched off.

use std::ffi::CString;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use ort::AsPointer;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{TensorElementType, TensorRef, TensorRefMut};

use super::Encoder;
use super::card::{Architecture, Card, Dtype, Input, Known, Layout, Output, OutputNames, Tile, Weights};
use super::preprocess;
use super::registry::{Available, Model};
use crate::error::{Error, Result};
use crate::resample::Filter;
use crate::runtime;

/// Oldest ONNX Runtime whose interface this program speaks.
const OLDEST_MINOR: u32 = 24;

/// Where an encoder computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card by number.
    Cuda(u32),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", n)) => n.parse().map(Device::Cuda).map_err(|_| format!("'{n}' is no card number")),
            _ => Err(format!("unknown device '{text}'; one of cpu, cuda, cuda:N")),
        }
    }
}

struct Loaded {
    environment: ort::environment::Environment,
    version: String,
    path: std::path::PathBuf,
}

/// Loads ONNX Runtime, once per process.
fn library() -> Result<&'static Loaded> {
    static LIBRARY: OnceLock<Result<Loaded, String>> = OnceLock::new();
    LIBRARY.get_or_init(load).as_ref().map_err(|why| Error::Library(why.clone()))
}

fn load() -> Result<Loaded, String> {
    const STEM: &str = "libonnxruntime.so";
    let mut reasons = Vec::new();
    for path in runtime::library_candidates(STEM) {
        match load_from(&path) {
            Ok(loaded) => return Ok(loaded),
            Err(why) => reasons.push(format!("{}: {why}", path.display())),
        }
    }
    Err(runtime::library_missing("ONNX Runtime", STEM, &reasons.join("; ")).to_string())
}

fn load_from(path: &Path) -> Result<Loaded, String> {
    if path.is_absolute() && !path.is_file() {
        return Err("no such file".into());
    }
    let resolved = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let version = version_in_name(&resolved);
    if let Some(minor) = version.as_deref().and_then(|v| v.split('.').nth(1)?.parse::<u32>().ok())
        && minor < OLDEST_MINOR
    {
        return Err(format!("too old, 1.{OLDEST_MINOR} or newer is needed"));
    }
    // An unfit library makes the binding panic; that is this library's failure, not the program's.
    let environment = std::panic::catch_unwind(|| {
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        builder.with_name("paraffin").with_telemetry(false).build().map_err(|e| e.to_string())
    })
    .unwrap_or_else(|_| Err(format!("it does not offer the interface of version 1.{OLDEST_MINOR}")))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    Ok(Loaded { environment, version: version.unwrap_or_else(|| "unknown".into()), path: resolved })
}

/// `1.31.1` of `libonnxruntime.so.1.31.1`.
fn version_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.split_once(".so.")?.1;
    version.contains('.').then(|| version.to_string())
}

/// The version of ONNX Runtime in use.
///
/// # Errors
/// [`Error::Library`] where it cannot be loaded; says where it was looked for.
pub fn version() -> Result<&'static str> {
    Ok(&library()?.version)
}

/// The file of the library in use.
///
/// # Errors
/// As [`version`].
pub fn path() -> Result<&'static Path> {
    Ok(&library()?.path)
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Encoder(e.to_string())
}

/// How a model computes.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Where.
    pub device: Device,
    /// Threads of one computation; 1 where several tiles are computed side by side.
    pub threads: usize,
    /// Tiles in every batch.
    pub batch: usize,
}

/// An ONNX model that is loaded once; any number of threads compute with it side by side.
pub struct OnnxModel {
    session: Session,
    input: Input,
    input_name: CString,
    output_name: CString,
    dim: usize,
    batch: usize,
}

impl OnnxModel {
    /// Loads a model and checks that the graph is what the card says.
    ///
    /// # Errors
    /// [`Error::Library`] where ONNX Runtime or the device is missing, [`Error::Encoder`] where graph and card differ.
    pub fn open(encoder: &Available, options: SessionOptions) -> Result<Arc<Self>> {
        let mut builder = builder(options)?;
        let session = match &encoder.model {
            Model::Embedded(bytes) => builder.commit_from_memory(bytes),
            Model::File(path) => builder.commit_from_file(path),
        }
        .map_err(|e| device_error(options.device, &e.to_string()))?;
        let card = &encoder.card;
        let [input] = session.inputs() else {
            return Err(Error::Encoder(format!("the graph has {} inputs, one is expected", session.inputs().len())));
        };
        let wanted = match card.input.dtype {
            Dtype::Uint8 => TensorElementType::Uint8,
            Dtype::Float32 => TensorElementType::Float32,
        };
        if input.dtype().tensor_type() != Some(wanted) {
            return Err(Error::Encoder(format!("the graph's input is {}, its card says {wanted}", input.dtype())));
        }
        let px = i64::from(card.input.px);
        let sides = match card.input.layout {
            Layout::Nhwc => [-1, px, px, 3],
            Layout::Nchw => [-1, 3, px, px],
        };
        let shape = input.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
        let fits = shape.len() == 4 && shape.iter().zip(sides).skip(1).all(|(have, want)| *have == -1 || *have == want);
        if !fits {
            return Err(Error::Encoder(format!("the graph's input is {}, its card says {sides:?}", input.dtype())));
        }
        let [name] = card.output.name.as_slice() else {
            return Err(Error::Encoder(format!("several outputs ({})", card.output.name)));
        };
        let output = session.outputs().iter().find(|o| o.name() == name).ok_or_else(|| {
            let names: Vec<_> = session.outputs().iter().map(|o| o.name()).collect();
            Error::Encoder(format!("the graph has no output '{}'; it has {}", card.output.name, names.join(", ")))
        })?;
        let shape = output.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
        let (dim, dtype) = (card.output.dim, output.dtype().tensor_type());
        if shape.len() != 2 || (shape[1] != -1 && shape[1] != dim as i64) || dtype != Some(TensorElementType::Float32) {
            return Err(Error::Encoder(format!(
                "output '{}' is {}, its card says float32 [batch, {dim}]",
                card.output.name,
                output.dtype()
            )));
        }
        Ok(Arc::new(OnnxModel {
            input: card.input.clone(),
            input_name: CString::new(input.name()).map_err(failed)?,
            output_name: CString::new(name.as_str()).map_err(failed)?,
            dim,
            batch: options.batch,
            session,
        }))
    }

    /// An encoder that computes with this model, for one thread.
    #[must_use]
    pub fn encoder(self: &Arc<Self>) -> OnnxEncoder {
        OnnxEncoder { model: self.clone(), floats: Vec::new() }
    }

    /// Computes `n` embeddings into `out`.
    fn run(&self, input: &impl AsPointer<Sys = ort::sys::OrtValue>, n: usize, out: &mut [f32]) -> Result<()> {
        let output = TensorRefMut::from_array_view_mut(([n, self.dim], out)).map_err(failed)?;
        let mut written = output.ptr().cast_mut();
        // SAFETY: the session lives as long as `self`, the two values and the names until after the call. Run may be called
        // by several threads at once (OrtApi::Run; the binding's own `run` asks for a session alone, for the sake of device
        // providers, and a model on a device has one thread here). A given output is written to, not replaced.
        #[allow(unsafe_code, reason = "the binding has no way to share a session between threads")]
        let result = unsafe {
            ort::Error::result_from_status((ort::api().Run)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                [self.input_name.as_ptr()].as_ptr(),
                [input.ptr()].as_ptr(),
                1,
                [self.output_name.as_ptr()].as_ptr(),
                1,
                &mut written,
            ))
        };
        result.map_err(failed)
    }
}

/// One thread's way to an ONNX model.
pub struct OnnxEncoder {
    model: Arc<OnnxModel>,
    floats: Vec<f32>,
}

pub(super) fn builder(options: SessionOptions) -> Result<SessionBuilder> {
    let library = library()?;
    let builder = Session::builder(&library.environment).map_err(failed)?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(failed)?;
    let builder = builder.with_intra_threads(options.threads.max(1)).map_err(failed)?;
    let builder = builder.with_inter_threads(1).map_err(failed)?;
    // Spinning workers would take the cores that decode the next tiles.
    let builder = builder.with_intra_op_spinning(false).map_err(failed)?;
    let builder = builder.with_deterministic_compute(true).map_err(failed)?;
    match options.device {
        Device::Cpu => Ok(builder),
        Device::Cuda(card) => cuda(builder, card),
    }
}

#[cfg(feature = "cuda")]
fn cuda(builder: SessionBuilder, card: u32) -> Result<SessionBuilder> {
    let device = Device::Cuda(card);
    let id = i32::try_from(card).map_err(failed)?;
    // Without error_on_failure the binding computes on the CPU and says nothing.
    let provider = ort::ep::CUDA::default().with_device_id(id).with_tf32(false).build().error_on_failure();
    builder.with_execution_providers([provider]).map_err(|e| device_error(device, &e.to_string()))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: SessionBuilder, card: u32) -> Result<SessionBuilder> {
    Err(device_error(Device::Cuda(card), "this paraffin was built without CUDA (feature 'cuda')"))
}

fn device_error(device: Device, why: &str) -> Error {
    match device {
        Device::Cpu => Error::Encoder(why.to_string()),
        Device::Cuda(_) => Error::Library(format!(
            "--device {device} cannot be used: {why} (it needs the onnxruntime-gpu library, CUDA and cuDNN; 'paraffin doctor' \
             shows which library is loaded; --device cpu works without)"
        )),
    }
}

impl Encoder for OnnxEncoder {
    fn dim(&self) -> usize {
        self.model.dim
    }

    fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()> {
        let model = &*self.model;
        debug_assert_eq!(n, model.batch, "batches have one shape");
        let px = model.input.px as usize;
        let shape = match model.input.layout {
            Layout::Nhwc => [n, px, px, 3],
            Layout::Nchw => [n, 3, px, px],
        };
        out.resize(n * model.dim, 0.0);
        match model.input.dtype {
            Dtype::Uint8 => model.run(&*TensorRef::from_array_view((shape, tiles)).map_err(failed)?, n, out),
            Dtype::Float32 => {
                preprocess::normalise(tiles, &model.input, &mut self.floats);
                let input = TensorRef::from_array_view((shape, &*self.floats)).map_err(failed)?;
                model.run(&*input, n, out)
            }
        }
    }
}

/// A card for an ONNX file that has none, from its graph: a uint8 NHWC or float32 NCHW input and the first output of two
/// axes. Floats are normalised with ImageNet's mean and standard deviation.
///
/// # Errors
/// [`Error::Encoder`] where the graph leaves a choice open; a card must then be given.
pub fn describe(path: &Path) -> Result<Card> {
    let options = SessionOptions { device: Device::Cpu, threads: 1, batch: 1 };
    let session = builder(options)?.commit_from_file(path).map_err(failed)?;
    let needs_card = |what: &str| Error::Encoder(format!("{what}: describe it in a card beside it (same name, .toml)"));
    let [input] = session.inputs() else { return Err(needs_card("the graph has not exactly one input")) };
    let shape = input.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
    let (layout, dtype, px) = match (input.dtype().tensor_type(), &shape[..]) {
        (Some(TensorElementType::Uint8), [_, h, w, 3]) if h == w && *h > 0 => (Layout::Nhwc, Dtype::Uint8, *h),
        (Some(TensorElementType::Float32), [_, 3, h, w]) if h == w && *h > 0 => (Layout::Nchw, Dtype::Float32, *h),
        _ => return Err(needs_card(&format!("the graph's input is {}", input.dtype()))),
    };
    let outputs = session.outputs().iter();
    let (name, dim) = outputs
        .filter_map(|o| match o.dtype().tensor_shape().map(|s| s.to_vec()).as_deref() {
            Some([_, d]) if *d > 0 => Some((o.name().to_string(), *d as usize)),
            _ => None,
        })
        .next()
        .ok_or_else(|| needs_card("no output has the shape [batch, dim]"))?;
    let id: String = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    Ok(Card {
        name: id.clone(),
        id,
        aliases: Vec::new(),
        file: String::new(),
        sha256: String::new(),
        pathology: false,
        note: "no card: described by its graph, ImageNet normalisation assumed for float input".into(),
        license: String::new(),
        commercial_use: Known::default(),
        gated: Known::default(),
        citation: String::new(),
        precision: String::new(),
        verified: String::new(),
        weights: Weights::default(),
        architecture: Architecture::default(),
        input: Input {
            px: px as u32,
            layout,
            dtype,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            resize: Filter::Bilinear,
            resize_px: None,
        },
        tile: Tile { px: px as u32, mpp: 0.5 },
        output: Output { name: OutputNames::One(name), dim, pooling: "as the graph gives it".into(), prefix_tokens: 1 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        assert!("gpu".parse::<Device>().is_err() && "cuda:x".parse::<Device>().is_err());
        assert_eq!(Device::Cuda(3).to_string(), "cuda:3");
    }

    #[test]
    fn versions_stand_in_file_names() {
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so.1.31.1")), Some("1.31.1".into()));
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so")), None);
        assert_eq!(version_in_name(Path::new("/x/libonnxruntime.so.1")), None);
    }
}
