//! stub
use crate::config::UpstreamSettings;
/// Stub.
pub struct Upstream;
impl Upstream {
    /// Stub.
    pub fn new(_settings: UpstreamSettings) -> Result<Self, String> {
        Ok(Self)
    }
}
