//! An independent JSON Schema validator reads configuration files with the gateway's schemas.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use serde_json::{Value, json};
use tollgate_sandbox::keygen::{SandboxProvider, sandbox_channel_of};

use super::run_sdk;

async fn verdicts(files: Vec<(&'static str, String)>) -> Vec<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let written =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).args(["schema", "--dir"]).arg(dir.path()).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let schema = |name: &str| -> Value {
        let text = std::fs::read(dir.path().join(format!("{name}.schema.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let files: Vec<_> = files.into_iter().map(|(name, text)| json!({"schema": schema(name), "text": text})).collect();
    serde_json::from_value(run_sdk("schema.py", "files", json!({"files": files})).await).unwrap()
}

fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)).unwrap()
}

fn channels() -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let made = SandboxProvider::value_variants().iter().enumerate().map(|(count, provider)| {
        let made = sandbox_channel_of(*provider, dir.path(), &format!("c{count}"), "127.0.0.1:1").unwrap();
        std::fs::read_to_string(made.channel).unwrap()
    });
    made.collect()
}

const ROUTES: &str = r#"
double_payment = "flag"
[[route]]
match = { merchant = "shop", method = "alipay.qr", currency = "CNY", amount = { at_least = 1, below = 9 }, time = { from = "22:00", to = "06:00", zone = "Asia/Shanghai", days = ["sat"] }, metadata = { tier = "gold" } }
to = [{ channel = "a", weight = 9 }, { channel = "b" }]
fallback = ["c"]
"#;

#[tokio::test]
async fn json_schema_accepts_valid_configuration() {
    let mut files = vec![
        ("tollgate", example("tollgate.toml")),
        (
            "tollgate",
            "public_url = \"https://a.example\"\nledger = { kind = \"postgres\", url = \"env:URL\" }".to_owned(),
        ),
        ("merchant", example("merchants/shop.toml")),
        ("routes", example("routes.toml")),
        ("routes", ROUTES.to_owned()),
        ("channel", example("channels/wechat-sandbox.toml.example")),
    ];
    let maintenance = "[[maintenance]]\nfrom = 2026-12-01T02:00:00+08:00\nto = \"2026-12-01T03:00:00+08:00\"\n";
    files.extend(channels().into_iter().map(|text| ("channel", format!("{text}\n{maintenance}"))));
    let count = files.len();
    for (index, errors) in verdicts(files.clone()).await.into_iter().enumerate() {
        assert!(errors.is_empty(), "{errors:#?} in\n{}", files[index].1);
    }
    assert!(count >= 12, "{count}");
}

#[tokio::test]
async fn json_schema_rejects_invalid_configuration_and_names_the_key() {
    let unionpay = || channels().into_iter().find(|text| text.contains("\"unionpay\"")).unwrap();
    let process = "public_url = \"https://a.example\"\n";
    let files = [
        ("tollgate", process.replace("public_url", "public_ulr"), "public_ulr"),
        ("tollgate", format!("{process}server = {{ drian = \"1s\" }}"), "drian"),
        ("tollgate", format!("{process}server = {{ shutdown_timeout = 5 }}"), "server.shutdown_timeout"),
        ("tollgate", format!("{process}ledger = {{ kind = \"postgres\" }}"), "ledger"),
        ("tollgate", format!("{process}ledger = {{ kind = \"oracle\" }}"), "ledger"),
        ("merchant", example("merchants/shop.toml").replace("rate =", "ratee ="), "ratee"),
        ("merchant", example("merchants/shop.toml").replace("\"plain:for", "\"for"), "secret"),
        ("routes", ROUTES.replace("below", "beloww"), "beloww"),
        ("routes", ROUTES.replace("\"sat\"", "\"someday\""), "someday"),
        ("channel", unionpay().replace("merId", "mchid"), "mchid"),
        ("channel", unionpay().replace("provider = \"unionpay\"", "provider = \"alipay\""), "account"),
        ("channel", unionpay().replace("sleep_window", "sleep_windw"), "filter.2"),
        ("channel", unionpay().replace("total = \"5s\"", "total = \"5 seconds\""), "timeouts.total"),
    ];
    let asked = files.iter().map(|(name, text, _)| (*name, text.clone())).collect();
    for ((_, text, named), errors) in files.iter().zip(verdicts(asked).await) {
        assert!(errors.iter().any(|error| error.contains(named)), "{named} is not reported: {errors:#?} in\n{text}");
    }
}
