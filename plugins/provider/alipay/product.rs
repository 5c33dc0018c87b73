//! Payment products of Alipay.

use crate::error::Error;
use crate::payment::Method;

/// Payment products, each with its own interface or parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    Qr,
    Barcode,
    Page,
    Wap,
    App,
    Jsapi,
}

impl Product {
    pub(super) fn of(method: Method) -> Result<Self, Error> {
        match method.as_str() {
            "alipay.qr" => Ok(Self::Qr),
            "alipay.barcode" => Ok(Self::Barcode),
            "alipay.page" => Ok(Self::Page),
            "alipay.wap" => Ok(Self::Wap),
            "alipay.app" => Ok(Self::App),
            "alipay.jsapi" => Ok(Self::Jsapi),
            _ => Err(Error::Unsupported(format!(
                "`{method}` is not a payment method of Alipay: choose another `method`"
            ))),
        }
    }
}
