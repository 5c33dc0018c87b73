//! Parts that `tollgate demo` and `tollgate chaos` share: the gateway as a child process, and a plain HTTP client.

pub(crate) mod http_client;
pub(crate) mod process;
