//! Registry of everything that is plugged in: providers, filters and signature algorithms.
//!
//! A new plugin is added to one of these tables. The parser of payment methods, the configuration schema and the diagnostics
//! read all names from them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Deserialize;
use toml::de::DeValue;

use crate::filter::{FilterSpec, adaptive, breaker, limit, retry};
use crate::payment::Method;
use crate::provider::{ProviderSpec, alipay, sandbox, unionpay, wechat_v2, wechat_v3};
use crate::settings::{Form, Setting, describe};
use crate::signer::{Algorithm, rsa, sm2};

/// Providers that a channel's `provider` may name.
pub const PROVIDERS: &[ProviderSpec] = &[alipay::SPEC, sandbox::SPEC, unionpay::SPEC, wechat_v2::SPEC, wechat_v3::SPEC];

/// Filters that `[[filter]] use = "…"` may name.
pub const FILTERS: &[FilterSpec] = &[
    FilterSpec { name: "limit", build: limit::build },
    FilterSpec { name: "retry", build: retry::build },
    FilterSpec { name: "breaker", build: breaker::build },
    FilterSpec { name: "adaptive", build: adaptive::build },
];

/// Signature algorithms that a channel's `[keys]` may name.
pub const ALGORITHMS: &[Algorithm] = &[
    Algorithm { name: "rsa-sha256", signer: rsa::signer, verifier: rsa::verifier },
    Algorithm { name: "sm2-sm3", signer: sm2::signer, verifier: sm2::verifier },
    Algorithm { name: "rsa-sha1", signer: rsa::sha1::signer, verifier: rsa::sha1::verifier },
];

impl ProviderSpec {
    /// Returns the provider of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|spec| spec.name == name)
    }
}

impl Method {
    /// Returns the method of this name; `None` if no provider serves it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|method| method.as_str() == name)
    }

    /// Returns the methods of all providers. A method that two providers serve appears twice.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_provider =
            |spec: &'static ProviderSpec| spec.methods.iter().map(|name| Self::new(name, spec.scanned.contains(name)));
        PROVIDERS.iter().flat_map(of_provider)
    }

    /// Returns the name of every method once, in alphabetical order.
    fn names() -> BTreeSet<&'static str> {
        Self::all().map(|method| method.as_str()).collect()
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| {
            let known: Vec<_> = Self::names().into_iter().collect();
            serde::de::Error::custom(format!("`{name}` is no method; there are {}", known.join(", ")))
        })
    }
}

impl Setting for Method {
    const EXPECTED: &'static str = "a payment method, as in \"wechat.native\"";
    const EXAMPLE: &'static str = "\"wechat.native\"";
    fn form() -> Form {
        Form::OneOf(Self::names().into_iter().collect())
    }
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().and_then(Self::parse).ok_or_else(|| {
            let known: Vec<_> = Self::all().map(|method| method.as_str()).collect();
            format!("{} (there are {})", describe(value), known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests;
