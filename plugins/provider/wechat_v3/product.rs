//! Payment products of APIv3.

use crate::payment::Method;

/// Payment products, which differ in path, required payer data and answer. `wechat.codepay` is in [`super::codepay`].
#[derive(Clone, Copy)]
pub(super) enum Product {
    Native,
    Jsapi,
    H5,
    App,
}

impl Product {
    pub(super) fn of(method: Method) -> Option<Self> {
        match method.as_str() {
            "wechat.native" => Some(Self::Native),
            "wechat.jsapi" => Some(Self::Jsapi),
            "wechat.h5" => Some(Self::H5),
            "wechat.app" => Some(Self::App),
            _ => None,
        }
    }
}
