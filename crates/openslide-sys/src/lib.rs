//! A drop-in for the `openslide-sys` crate that loads OpenSlide when it is first needed.
//!
//! The upstream crate links against OpenSlide at build time, so a program built with it cannot start where the library
//! is missing. Here [`load`] opens it by path and reports what is missing as an error; the functions keep their C names
//! and signatures (openslide.h of OpenSlide 4.0), so `openslide-rs` compiles unchanged.
#![allow(non_camel_case_types)]
#![allow(clippy::missing_safety_doc, reason = "the safety rules are those of openslide.h, function by function")]

pub mod sys {
    use std::ffi::{c_char, c_void};
    use std::path::Path;
    use std::sync::OnceLock;

    #[repr(C)]
    #[derive(Debug)]
    pub struct _openslide {
        _private: [u8; 0],
    }
    #[repr(C)]
    #[derive(Debug)]
    pub struct _openslide_cache {
        _private: [u8; 0],
    }
    pub type openslide_t = _openslide;
    pub type openslide_cache_t = _openslide_cache;

    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();

    /// Opens OpenSlide from the first of `candidates` that loads, once per process.
    ///
    /// # Errors
    /// Says for each candidate why it could not be loaded.
    pub fn load<P: AsRef<Path>>(candidates: &[P]) -> Result<(), String> {
        if LIBRARY.get().is_some() {
            return Ok(());
        }
        let mut reasons = Vec::new();
        for candidate in candidates {
            let path = candidate.as_ref();
            // SAFETY: OpenSlide's initialisers have no preconditions; a file that is not a library is refused by the loader.
            match unsafe { libloading::Library::new(path) } {
                Ok(library) => {
                    let _ = LIBRARY.set(library);
                    return Ok(());
                }
                Err(e) => reasons.push(format!("{}: {e}", path.display())),
            }
        }
        Err(reasons.join("; "))
    }

    fn library() -> &'static libloading::Library {
        LIBRARY.get().expect("openslide_sys::sys::load succeeds before any OpenSlide function is called")
    }

    macro_rules! functions { ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => { $(
        pub unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            static SYMBOL: OnceLock<unsafe extern "C" fn($($ty),*) $(-> $ret)?> = OnceLock::new();
            // SAFETY: the signature is the one openslide.h declares for this name.
            let f = SYMBOL.get_or_init(|| unsafe {
                *library().get(concat!(stringify!($name), "\0").as_bytes())
                    .unwrap_or_else(|e| panic!("OpenSlide lacks {}: {e}", stringify!($name)))
            });
            // SAFETY: the caller keeps the C function's contract.
            unsafe { f($($arg),*) }
        }
    )* } }

    functions! {
        openslide_detect_vendor(filename: *const c_char) -> *const c_char;
        openslide_open(filename: *const c_char) -> *mut openslide_t;
        openslide_get_level_count(osr: *mut openslide_t) -> i32;
        openslide_get_level0_dimensions(osr: *mut openslide_t, w: *mut i64, h: *mut i64);
        openslide_get_level_dimensions(osr: *mut openslide_t, level: i32, w: *mut i64, h: *mut i64);
        openslide_get_level_downsample(osr: *mut openslide_t, level: i32) -> f64;
        openslide_get_best_level_for_downsample(osr: *mut openslide_t, downsample: f64) -> i32;
        openslide_read_region(osr: *mut openslide_t, dest: *mut u32, x: i64, y: i64, level: i32, w: i64, h: i64);
        openslide_get_icc_profile_size(osr: *mut openslide_t) -> i64;
        openslide_read_icc_profile(osr: *mut openslide_t, dest: *mut c_void);
        openslide_close(osr: *mut openslide_t);
        openslide_get_error(osr: *mut openslide_t) -> *const c_char;
        openslide_get_property_names(osr: *mut openslide_t) -> *const *const c_char;
        openslide_get_property_value(osr: *mut openslide_t, name: *const c_char) -> *const c_char;
        openslide_get_associated_image_names(osr: *mut openslide_t) -> *const *const c_char;
        openslide_get_associated_image_dimensions(osr: *mut openslide_t, name: *const c_char, w: *mut i64, h: *mut i64);
        openslide_read_associated_image(osr: *mut openslide_t, name: *const c_char, dest: *mut u32);
        openslide_get_associated_image_icc_profile_size(osr: *mut openslide_t, name: *const c_char) -> i64;
        openslide_read_associated_image_icc_profile(osr: *mut openslide_t, name: *const c_char, dest: *mut c_void);
        openslide_cache_create(capacity: usize) -> *mut openslide_cache_t;
        openslide_set_cache(osr: *mut openslide_t, cache: *mut openslide_cache_t);
        openslide_cache_release(cache: *mut openslide_cache_t);
        openslide_get_version() -> *const c_char;
    }
}
