//! Interface of a simulated provider. [`super::registry::PROVIDERS`] lists the implementations.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;

use super::account::{Account, AccountFile};
use super::context::SandboxContext;
use super::keygen::account_kind::AccountKind;
use super::response_action::ResponseAction;

/// Future of one request.
pub(crate) type Serving = Pin<Box<dyn Future<Output = ResponseAction> + Send>>;

/// A simulated provider: one row of the table.
pub(crate) trait Provider: Sync {
    /// Name, as `provider` in `sandbox.toml`.
    fn name(&self) -> &'static str;
    /// Returns whether the path belongs to the provider's protocol. The first row that returns true serves a request.
    fn serves(&self, path: &str) -> bool;
    /// Serves one request. `identity` is the serial number of the connection's client certificate.
    fn serve(
        &'static self,
        context: Arc<SandboxContext>,
        identity: Option<String>,
        request: Request<Incoming>,
    ) -> Serving;
    /// Reads an account from its folder.
    fn read_account(&'static self, file: &AccountFile) -> io::Result<Arc<dyn Account>>;
    /// Kinds of accounts that `tollgate keygen sandbox` generates. The first is the provider's default.
    fn account_kinds(&self) -> &'static [AccountKind];
}
