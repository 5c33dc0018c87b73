//! stub
use super::*;
pub(crate) fn build(_settings: &mut Settings<'_>, _state: Option<State>) -> Option<Arc<dyn Filter>> {
    None
}
