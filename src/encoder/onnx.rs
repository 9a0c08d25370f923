//! Encoders run by ONNX Runtime.
//!
//! The same program runs on the CPU library and on the CUDA one: which devices there are is the library's matter.

use std::ffi::CString;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{DynTensor, Tensor, TensorElementType, TensorRef, TensorRefMut};

use super::Encoder;
use super::card::{Dtype, Input, Layout};
use super::device::Device;
use super::library::{library, preload_cuda};
use super::outputs::Outputs;
use super::registry::{Available, Model};
use super::{onnx_file, preprocess};
use crate::error::{Error, Result};

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
    device: Device,
    input: Input,
    input_name: CString,
    outputs: Outputs,
    batch: usize,
}

impl OnnxModel {
    /// Loads a model and checks that the graph is what the card says.
    ///
    /// # Errors
    /// [`Error::Library`] where ONNX Runtime or the device is missing, [`Error::Encoder`] where graph and card differ,
    /// [`Error::DeviceMemory`] where the card's memory does not hold the model.
    pub fn open(encoder: &Available, options: SessionOptions) -> Result<Arc<Self>> {
        let mut builder = builder(options)?;
        let session = match &encoder.model {
            Model::Embedded(bytes) => builder.commit_from_memory(bytes),
            Model::File(path) => commit_file(builder, path),
        }
        .map_err(|e| match run_error(options.device, &e) {
            Error::Encoder(why) => device_error(options.device, &why),
            memory => memory,
        })?;
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
        if shape[0] != -1 && shape[0] != options.batch as i64 {
            return Err(Error::Encoder(format!(
                "the graph takes batches of {} tiles only: --batch-size {}",
                shape[0], shape[0]
            )));
        }
        let outputs = Outputs::find(session.outputs(), &card.output)?;
        Ok(Arc::new(OnnxModel {
            device: options.device,
            input: card.input.clone(),
            input_name: CString::new(input.name()).map_err(failed)?,
            outputs,
            batch: options.batch,
            session,
        }))
    }

    /// An encoder that computes with this model, for one thread.
    #[must_use]
    pub fn encoder(self: &Arc<Self>) -> OnnxEncoder {
        OnnxEncoder { model: self.clone(), floats: Vec::new(), pinned: self.pinned() }
    }

    fn shape(&self, n: usize) -> [usize; 4] {
        let px = self.input.px as usize;
        match self.input.layout {
            Layout::Nhwc => [n, px, px, 3],
            Layout::Nchw => [n, 3, px, px],
        }
    }

    /// Memory that a card's copies read without a detour, for whole batches of bytes; `None` where the runtime has none,
    /// which costs time only.
    fn pinned(&self) -> Option<Tensor<u8>> {
        if self.device == Device::Cpu || self.input.dtype != Dtype::Uint8 {
            return None;
        }
        let kind =
            MemoryInfo::new(AllocationDevice::CUDA_PINNED, 0, AllocatorType::Device, MemoryType::CPUInput).ok()?;
        let allocator = Allocator::new(&self.session, kind).ok()?;
        Tensor::new(&allocator, self.shape(self.batch)).ok()
    }

    /// Computes `n` embeddings into `out`.
    fn run(&self, input: &impl AsPointer<Sys = ort::sys::OrtValue>, n: usize, out: &mut [f32]) -> Result<()> {
        if self.outputs.is_direct() {
            let output = TensorRefMut::from_array_view_mut(([n, self.outputs.dim()], out)).map_err(failed)?;
            // A given output is written to, not replaced.
            return self.call(input, &mut [output.ptr().cast_mut()]);
        }
        let mut made = vec![null_mut(); self.outputs.names().count()];
        let result = self.call(input, &mut made);
        let allocator = Allocator::default();
        // Taken over first, also after a failure, so that none is lost.
        let made: Option<Vec<DynTensor>> = made
            .into_iter()
            .map(|value| {
                let value = NonNull::new(value)?;
                // SAFETY: the runtime made this value for us alone; outputs that nothing is bound to are tensors (the graph's
                // outputs were looked at) in the processor's memory.
                #[allow(unsafe_code, reason = "the call that made them is not the binding's")]
                Some(unsafe { DynTensor::from_ptr(value, Some(&allocator)) })
            })
            .collect();
        result?;
        let made = made.ok_or_else(|| Error::Encoder("the runtime gave no output".into()))?;
        self.outputs.combine(&made, n, out)
    }

    fn call(
        &self,
        input: &impl AsPointer<Sys = ort::sys::OrtValue>,
        outputs: &mut [*mut ort::sys::OrtValue],
    ) -> Result<()> {
        let names: Vec<_> = self.outputs.names().map(|name| name.as_ptr()).collect();
        debug_assert_eq!(names.len(), outputs.len());
        // SAFETY: the session lives as long as `self`, the values and the names until after the call. Run may be called by
        // several threads at once (OrtApi::Run; the binding's own `run` asks for a session alone, for the sake of providers
        // that cannot: CUDA's and TensorRT's can, as long as no CUDA graph is recorded, and none is).
        #[allow(unsafe_code, reason = "the binding has no way to share a session between threads")]
        let result = unsafe {
            ort::Error::result_from_status((ort::api().Run)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                [self.input_name.as_ptr()].as_ptr(),
                [input.ptr()].as_ptr(),
                1,
                names.as_ptr(),
                names.len(),
                outputs.as_mut_ptr(),
            ))
        };
        result.map_err(|e| run_error(self.device, &e))
    }
}

/// Tells a card that is full from all other failures.
fn run_error(device: Device, error: &ort::Error) -> Error {
    let why = error.to_string();
    let full = ["out of memory", "Failed to allocate memory", "ALLOC_FAILED", "BFCArena"];
    match device {
        Device::Cuda(_) | Device::TensorRt(_) if full.iter().any(|sign| why.contains(sign)) => Error::DeviceMemory(why),
        _ => Error::Encoder(why),
    }
}

/// One thread's way to an ONNX model.
pub struct OnnxEncoder {
    model: Arc<OnnxModel>,
    floats: Vec<f32>,
    pinned: Option<Tensor<u8>>,
}

/// Loads a model's file.
pub(super) fn commit_file(mut builder: SessionBuilder, path: &Path) -> ort::Result<Session> {
    // ONNX Runtime 1.31 crashes while it lays out some float16 graphs anew for convolutions on processors, an optimisation that
    // is float32's: a transposition before a product is enough.
    if onnx_file::facts(path).is_ok_and(|facts| facts.half) {
        builder = builder.with_disabled_optimizers("NchwcTransformer")?;
    }
    builder.commit_from_file(path)
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
        Device::Cuda(_) | Device::TensorRt(_) => on_card(builder, options),
    }
}

#[cfg(feature = "cuda")]
fn on_card(builder: SessionBuilder, options: SessionOptions) -> Result<SessionBuilder> {
    use ort::ep::cuda::ConvAlgorithmSearch;
    use ort::ep::{ArenaExtendStrategy, CUDA, TensorRT};

    preload_cuda();
    let device = options.device;
    let id = i32::try_from(device.card().unwrap_or(0)).map_err(failed)?;
    // Algorithms by rule and not by timing: which one is fastest changes from run to run, and with it the last bits. Memory
    // grows by what is asked for, not by doubling. Without error_on_failure the binding computes on the CPU and says nothing.
    let cuda = CUDA::default()
        .with_device_id(id)
        .with_tf32(false)
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .build()
        .error_on_failure();
    let mut providers = vec![cuda];
    if let Device::TensorRt(_) = device {
        let cache = crate::runtime::data_dir().map(|data| data.join("tensorrt"));
        let cache =
            cache.ok_or_else(|| Error::Library("HOME is not set: TensorRT has no place for its engines".into()))?;
        std::fs::create_dir_all(&cache).map_err(|e| Error::write(cache.display().to_string(), e))?;
        let cache = cache.display();
        let engines = TensorRT::default()
            .with_device_id(id)
            .with_engine_cache(true)
            .with_engine_cache_path(&cache)
            .with_timing_cache(true)
            .with_timing_cache_path(&cache);
        // What TensorRT cannot do goes to CUDA.
        providers.insert(0, engines.build().error_on_failure());
    }
    builder.with_execution_providers(providers).map_err(|e| device_error(device, &e.to_string()))
}

#[cfg(not(feature = "cuda"))]
fn on_card(_: SessionBuilder, options: SessionOptions) -> Result<SessionBuilder> {
    Err(device_error(options.device, "this paraffin was built without CUDA (feature 'cuda')"))
}

fn device_error(device: Device, why: &str) -> Error {
    let why = why.trim().to_string();
    match device {
        Device::Cpu => Error::Encoder(why),
        Device::Cuda(_) | Device::TensorRt(_) => Error::Device { device: device.to_string(), why },
    }
}

impl Encoder for OnnxEncoder {
    fn dim(&self) -> usize {
        self.model.outputs.dim()
    }

    fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()> {
        let model = &*self.model;
        let shape = model.shape(n);
        out.resize(n * model.outputs.dim(), 0.0);
        match (model.input.dtype, &mut self.pinned) {
            (Dtype::Uint8, Some(pinned)) if n == model.batch => {
                let (_, pixels) = pinned.try_extract_tensor_mut::<u8>().map_err(failed)?;
                pixels.copy_from_slice(tiles);
                model.run(&*pinned, n, out)
            }
            (Dtype::Uint8, _) => model.run(&*TensorRef::from_array_view((shape, tiles)).map_err(failed)?, n, out),
            (Dtype::Float32, _) => {
                preprocess::normalise(tiles, &model.input, &mut self.floats);
                let input = TensorRef::from_array_view((shape, &*self.floats)).map_err(failed)?;
                model.run(&*input, n, out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_card_is_told_from_other_failures() {
        let error = |why: &str| ort::Error::new(why.to_string());
        let full = "CUDA failure 2: out of memory ; GPU=0";
        assert!(matches!(run_error(Device::Cuda(0), &error(full)), Error::DeviceMemory(_)));
        assert!(matches!(run_error(Device::Cpu, &error(full)), Error::Encoder(_)));
        let other = error("Non-zero status code returned while running Add node");
        assert!(matches!(run_error(Device::TensorRt(1), &other), Error::Encoder(_)));
    }
}
