//! Waits of the providers before each repetition of a notification.

use std::time::Duration;

/// Waits of WeChat Pay before each repetition of a notification.
pub const WECHAT_SCHEDULE: [Duration; 15] = [
    Duration::from_secs(15),
    Duration::from_secs(15),
    Duration::from_secs(30),
    minutes(3),
    minutes(10),
    minutes(20),
    minutes(30),
    minutes(30),
    minutes(30),
    minutes(60),
    minutes(180),
    minutes(180),
    minutes(180),
    minutes(360),
    minutes(360),
];

/// Waits of Alipay before each repetition of a notification.
pub const ALIPAY_SCHEDULE: [Duration; 7] =
    [minutes(4), minutes(10), minutes(10), minutes(60), minutes(120), minutes(360), minutes(900)];

/// Waits of UnionPay before each repetition of a notification.
pub const UNIONPAY_SCHEDULE: [Duration; 4] = [minutes(1), minutes(2), minutes(4), minutes(5)];

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}
