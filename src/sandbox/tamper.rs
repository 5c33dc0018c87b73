//! Scripted defects of notifications.

use serde::{Deserialize, Serialize};

/// Reason why a provider other than WeChat Pay APIv2 cannot send with another sign type.
pub(super) const ONE_SIGN_TYPE: &str = "only WeChat Pay APIv2 has two sign types";

/// Scripted defect of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tamper {
    /// The body was changed after signing.
    Body,
    /// The signature belongs to other bytes.
    Signature,
    /// Signed correctly, ten minutes ago.
    Stale,
    /// Signed with a key of an unknown id.
    Serial,
    /// The provider's self-test: a signature that begins with `WECHATPAY/SIGNTEST/`.
    Signtest,
    /// Signed correctly with the same key, but with the other `sign_type` of APIv2.
    SignType,
    /// Signed correctly, with another amount.
    Amount,
    /// Signed correctly, with another mchid, app_id or merId.
    Account,
}
