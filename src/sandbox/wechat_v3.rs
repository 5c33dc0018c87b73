//! WeChat Pay's API v3: the row of the v3 scheme that gave it its name.

use super::keygen::account_kind::AccountKind;
use super::keygen::v3_scheme::make;
use super::schedules::WECHAT_SCHEDULE;
use super::v3_scheme::scheme::{Paths, V3Scheme};

pub(crate) static WECHAT_V3: V3Scheme = V3Scheme {
    name: "wechat-v3",
    authorization: "WECHATPAY2-SHA256-RSA2048",
    header_prefix: "wechatpay",
    public_key_prefix: "PUB_KEY_ID_01",
    probe_prefix: "WECHATPAY/SIGNTEST/",
    paths: Paths {
        transactions: "/v3/pay/transactions",
        partner_transactions: "/v3/pay/partner/transactions",
        refunds: "/v3/refund/domestic/refunds",
        certificates: "/v3/certificates",
        trade_bill: "/v3/bill/tradebill",
        fund_flow_bill: "/v3/bill/fundflowbill",
        bill_file: "/v3/billdownload/file",
    },
    qr_link: "weixin://wxpay/bizpayurl?pr=",
    h5_page: "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb",
    has_mchid_in_refunds: false,
    notification_schedule: &WECHAT_SCHEDULE,
    account_kinds: &[AccountKind {
        name: "wechat-v3",
        help: "WeChat Pay, API v3",
        make: |new_account| make(&WECHAT_V3, new_account),
    }],
};
