//! Account of an APIv2 channel.

use std::ops::Deref;

use super::super::merchant_account;
use super::signature::ApiKey;

/// Account ids and the shared API key.
pub(super) struct Account {
    pub(super) ids: merchant_account::Account,
    pub(super) key: ApiKey,
}

impl Deref for Account {
    type Target = merchant_account::Account;

    fn deref(&self) -> &merchant_account::Account {
        &self.ids
    }
}
