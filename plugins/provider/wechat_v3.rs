//! stub
use super::*;
pub(super) const ROW: Row = Row {
    name: "wechat-v3",
    methods: &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app"],
    secrets: &[],
    algorithms: &["rsa-sha256"],
    publishes_keys: true,
    build,
};
fn build(_settings: &mut Settings<'_>, _secrets: &Secrets) -> Option<Box<dyn Provider>> {
    None
}
