//! The shop's page in a browser: headless Chromium from Debian, driven by `playwright-core` from npm.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use tollgate_harness::merchant::MerchantKey;
use tollgate_harness::shop_page::{Shop, ShopPage};

use crate::harness::{SHOP, TEST_TIMEOUT, World};
use crate::sdk_conformance::installed;

/// A browser that shows a page.
struct Browser {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Browser {
    /// Opens a page. `how` is `click` if the browser presses the button that pays.
    async fn open(url: String, how: &'static str) -> Self {
        let start = move || {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/from-debian");
            let found = Command::new(script).args(["chromium", "chromium"]).output().unwrap();
            let said = String::from_utf8_lossy(&found.stderr);
            assert!(found.status.success(), "Chromium could not be installed from Debian: {said}");
            let program = String::from_utf8(found.stdout).unwrap();
            (installed(), program.trim().to_owned())
        };
        let (directory, program) = tokio::task::spawn_blocking(start).await.unwrap();
        let mut node = tokio::process::Command::new("node");
        node.arg(directory.join("shop_page.mjs")).args([url.as_str(), &program, how]);
        let mut process = node.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { lines, _process: process }
    }

    /// Waits until the page says this.
    async fn until(&mut self, text: &str) {
        let line = timeout(TEST_TIMEOUT, self.lines.next_line()).await;
        assert_eq!(line.unwrap_or_else(|_| panic!("the page does not say {text}")).unwrap().as_deref(), Some(text));
    }
}

async fn open_page(world: &World) -> ShopPage {
    let shop = Shop {
        merchant: "shop".to_owned(),
        key: MerchantKey::fixed(SHOP.key, SHOP.secret),
        gateway: world.gateway.listen,
        sandbox: world.sandbox.control_address(),
    };
    ShopPage::open(shop, "page").await.unwrap()
}

#[tokio::test]
async fn page_in_a_browser_turns_to_paid_by_itself() {
    let world = World::new().await;
    let page = open_page(&world).await;
    let mut browser = Browser::open(page.url(), "click").await;
    browser.until("waiting").await;
    browser.until("paid").await;
}

#[tokio::test]
async fn page_in_a_browser_turns_to_paid_after_the_gateway_was_killed_and_restarted() {
    let mut world = World::new().await;
    let page = open_page(&world).await;
    let mut browser = Browser::open(page.url(), "wait").await;
    browser.until("waiting").await;
    world.until_metric("tollgate_streams{kind=\"sse\"} 1").await;
    world.gateway.kill();
    world.start().await;
    world.pay("page-1").await;
    browser.until("paid").await;
}
