//! Account of an APIv2 channel.

use std::ops::Deref;

use super::super::wechat_account;
use super::signature::ApiKey;

/// Account ids and the shared API key.
pub(super) struct Account {
    pub(super) ids: wechat_account::Account,
    pub(super) key: ApiKey,
}

impl Deref for Account {
    type Target = wechat_account::Account;

    fn deref(&self) -> &wechat_account::Account {
        &self.ids
    }
}
