//! The table of simulated providers. A new provider is one row here.

use super::alipay::Alipay;
use super::provider::Provider;
use super::unionpay::Unionpay;
use super::wechat_v2::WechatV2;
use super::wechat_v3::WECHAT_V3;

/// Every simulated provider. The first row also answers requests for paths that no row serves.
pub(crate) static PROVIDERS: [&dyn Provider; 4] = [&WECHAT_V3, &WechatV2, &Alipay, &Unionpay];

/// Returns the provider that serves this path.
pub(crate) fn provider_of_path(path: &str) -> &'static dyn Provider {
    PROVIDERS.into_iter().find(|provider| provider.serves(path)).unwrap_or(PROVIDERS[0])
}
