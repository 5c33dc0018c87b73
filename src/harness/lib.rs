//! Everything around a running gateway that is not the gateway: its process, a merchant, an event receiver, and the two programs
//! made of them, `tollgate demo` and `tollgate chaos`. The end-to-end tests and the benches use the same parts.
//!
//! The harness sees a gateway from outside: HTTP, configuration files, signals. It imports no part of the gateway, because it
//! judges it. Providers are simulated by `tollgate_sandbox`, requests are signed by `tollgate_merchant`.
//!
//! # Map
//! | module | purpose |
//! |---|---|
//! | [`http_client`] | one HTTP/1.1 request on one connection |
//! | [`process`] | the gateway as a child process: start, signals, exit |
//! | [`merchant`] | signed requests, and the numbers under which a provider knows a merchant's orders |
//! | [`event_receiver`] | a merchant's webhook endpoint |
//! | [`rabbitmq`] | a broker process, and a queue with a consumer |
//! | [`shop_page`] | a shop's page that watches its payment |
//! | [`files`] | copies of configuration directories |
//! | [`demo`] | `tollgate demo` |
//! | [`chaos`] | `tollgate chaos` |

pub mod chaos;
pub mod demo;
pub mod event_receiver;
pub mod files;
pub mod http_client;
pub mod merchant;
pub mod process;
pub mod rabbitmq;
pub mod shop_page;

/// Writes one line for people, without its line break.
pub type Printer = fn(std::fmt::Arguments<'_>);
