//! Names and paths in which the providers of the v3 scheme differ.

use std::time::Duration;

use crate::keygen::account_kind::AccountKind;

/// A provider of the v3 scheme: WeChat Pay's API v3 under other names and paths.
pub(crate) struct V3Scheme {
    /// Name, as `provider` in `sandbox.toml` and in a channel file.
    pub(crate) name: &'static str,
    /// Name of the scheme in `Authorization`; also the signature type of the provider's messages.
    pub(crate) authorization: &'static str,
    /// Prefix of the signature headers, in lower case, as in `PREFIX-signature`.
    pub(crate) header_prefix: &'static str,
    /// Prefix of the ids of the provider's public keys.
    pub(crate) public_key_prefix: &'static str,
    /// Prefix of signatures that are wrong on purpose, to test the merchant.
    pub(crate) probe_prefix: &'static str,
    /// Paths of the API.
    pub(crate) paths: Paths,
    /// Link in a QR code, without its last characters.
    pub(crate) qr_link: &'static str,
    /// Page of a mobile browser, without its query.
    pub(crate) h5_page: &'static str,
    /// True if requests about refunds of a direct merchant contain its `mchid`.
    pub(crate) has_mchid_in_refunds: bool,
    /// Waits before each repetition of a notification.
    pub(crate) notification_schedule: &'static [Duration],
    /// Kinds of accounts that `tollgate keygen sandbox` generates.
    pub(crate) account_kinds: &'static [AccountKind],
}

impl V3Scheme {
    /// Returns the name of a signature header, such as `wechatpay-nonce`.
    pub(crate) fn header(&self, name: &str) -> String {
        format!("{}-{name}", self.header_prefix)
    }
}

/// Paths of the API, without host. The base path is a part of each.
pub(crate) struct Paths {
    /// Orders of direct merchants.
    pub(crate) transactions: &'static str,
    /// Orders of service providers that act for a merchant.
    pub(crate) partner_transactions: &'static str,
    /// Refunds.
    pub(crate) refunds: &'static str,
    /// List of the provider's certificates.
    pub(crate) certificates: &'static str,
    /// Bill of trades.
    pub(crate) trade_bill: &'static str,
    /// Bill of fund flows.
    pub(crate) fund_flow_bill: &'static str,
    /// Download of a bill's file.
    pub(crate) bill_file: &'static str,
}

impl Paths {
    /// Returns whether the path equals one of these paths or is below one of them.
    pub(crate) fn contain(&self, path: &str) -> bool {
        let Self { transactions, partner_transactions, refunds, certificates, trade_bill, fund_flow_bill, bill_file } =
            self;
        [transactions, partner_transactions, refunds, certificates, trade_bill, fund_flow_bill, bill_file]
            .into_iter()
            .any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}
