//! Payment products of APIv2.

use crate::error::Error;
use crate::payment::Method;

/// Payment products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    Native,
    Jsapi,
    H5,
    App,
    Codepay,
}

impl Product {
    pub(super) fn of(method: Method) -> Result<Self, Error> {
        match method.as_str() {
            "wechat.native" => Ok(Self::Native),
            "wechat.jsapi" => Ok(Self::Jsapi),
            "wechat.h5" => Ok(Self::H5),
            "wechat.app" => Ok(Self::App),
            "wechat.codepay" => Ok(Self::Codepay),
            other => Err(Error::Unsupported(format!("WeChat Pay's APIv2 has no method `{other}`"))),
        }
    }

    pub(super) fn trade_type(self) -> &'static str {
        match self {
            Self::Native => "NATIVE",
            Self::Jsapi => "JSAPI",
            Self::H5 => "MWEB",
            Self::App => "APP",
            Self::Codepay => "MICROPAY",
        }
    }
}
