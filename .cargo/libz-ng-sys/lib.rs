//! Pingora compresses through `flate2` with its `zlib-ng` backend, whose C sources need cmake to build. Tollgate builds
//! with a C compiler alone, so this crate takes that backend's place: the part of its interface that `flate2` uses, done
//! by `zlib-rs`. It exists because `zlib-rs` declares its allocators as `Option<fn>` where zlib-ng has bare pointers;
//! the two have one layout (a null function pointer is `None`), so the calls below only change the pointer's type.
#![allow(non_camel_case_types, non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

use std::ffi::{c_char, c_int, c_uint, c_void};

pub use libz_rs_sys::{
    Z_BEST_COMPRESSION, Z_BEST_SPEED, Z_BLOCK, Z_BUF_ERROR, Z_DATA_ERROR, Z_DEFAULT_COMPRESSION, Z_DEFAULT_STRATEGY,
    Z_DEFLATED, Z_ERRNO, Z_FILTERED, Z_FINISH, Z_FIXED, Z_FULL_FLUSH, Z_HUFFMAN_ONLY, Z_MEM_ERROR, Z_NEED_DICT,
    Z_NO_COMPRESSION, Z_NO_FLUSH, Z_OK, Z_PARTIAL_FLUSH, Z_RLE, Z_STREAM_END, Z_STREAM_ERROR, Z_SYNC_FLUSH, Z_TREES,
    Z_VERSION_ERROR, internal_state, uInt, uLong, voidpf, zlibVersion,
};

pub type Bytef = u8;
pub type z_size = uLong;
pub type z_checksum = uLong;
pub type alloc_func = unsafe extern "C" fn(voidpf, c_uint, c_uint) -> voidpf;
pub type free_func = unsafe extern "C" fn(voidpf, voidpf);

/// The same fields in the same order as [`libz_rs_sys::z_stream`].
#[repr(C)]
#[derive(Copy, Clone)]
pub struct z_stream {
    pub next_in: *mut Bytef,
    pub avail_in: uInt,
    pub total_in: z_size,
    pub next_out: *mut Bytef,
    pub avail_out: uInt,
    pub total_out: z_size,
    pub msg: *mut c_char,
    pub state: *mut internal_state,
    pub zalloc: alloc_func,
    pub zfree: free_func,
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: z_checksum,
    pub reserved: uLong,
}
pub type z_streamp = *mut z_stream;

const _: () = assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());
const _: () = assert!(std::mem::offset_of!(z_stream, zfree) == std::mem::offset_of!(libz_rs_sys::z_stream, zfree));
const _: () = assert!(std::mem::offset_of!(z_stream, adler) == std::mem::offset_of!(libz_rs_sys::z_stream, adler));

macro_rules! hand_on {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        pub unsafe extern "C" fn $name(stream: z_streamp $(, $argument: $type)*) -> c_int {
            // SAFETY: the caller keeps zlib's rules for `stream`; the two structs have one layout, checked above.
            unsafe { libz_rs_sys::$name(stream.cast() $(, $argument)*) }
        }
    )*};
}

hand_on! {
    deflate(flush: c_int);
    deflateEnd();
    deflateReset();
    deflateParams(level: c_int, strategy: c_int);
    deflateSetDictionary(dictionary: *const Bytef, length: uInt);
    deflateInit2_(level: c_int, method: c_int, bits: c_int, memory: c_int, strategy: c_int, version: *const c_char, size: c_int);
    inflate(flush: c_int);
    inflateEnd();
    inflateReset2(bits: c_int);
    inflateSetDictionary(dictionary: *const Bytef, length: uInt);
    inflateInit2_(bits: c_int, version: *const c_char, size: c_int);
}
