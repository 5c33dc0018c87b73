//! stub
use super::*;
#[derive(Clone)] pub struct ReloadHandle;
pub struct Report; impl std::fmt::Display for Report { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
impl ReloadHandle { pub async fn reload(&self) -> Result<Report, Vec<String>> { Err(vec![]) } }
pub struct Reloader;
impl Reloader { pub fn new(_: PathBuf, _: Current) -> Self { Self } pub fn handle(&self) -> ReloadHandle { ReloadHandle } pub async fn run(self, _: tokio::sync::watch::Receiver<bool>) {} }
pub fn load_first(_: &std::path::Path) -> Result<Current, Vec<String>> { Err(vec![]) }
