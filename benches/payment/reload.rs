//! What a reload costs with 10,000 channels and 100,000 routes: all new, one changed, none changed. `-- reload` runs it alone.

use std::time::Instant;

use tollgate::{config, keygen};

const CHANNELS: usize = 10_000;
const ROUTES: usize = 100_000;

pub fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path();
    std::fs::create_dir_all(conf.join("merchants")).unwrap();
    let channels = conf.join("channels");
    let made = keygen::sandbox_channel(&channels, "c0", "127.0.0.1:8443").unwrap();
    let text = std::fs::read_to_string(&made.channel).unwrap();
    for number in 1..CHANNELS {
        std::fs::write(channels.join(format!("c{number}.toml")), &text).unwrap();
    }
    std::fs::write(conf.join("tollgate.toml"), "public_url = \"http://127.0.0.1:8080\"\n").unwrap();
    let route = |number: usize| {
        let channel = number % CHANNELS;
        let floor = number / CHANNELS;
        format!(
            "[[route]]\nmatch = {{ merchant = \"shop\", amount = {{ at_least = {floor} }} }}\nto = [{{ channel = \"c{channel}\" }}]\n"
        )
    };
    std::fs::write(conf.join("routes.toml"), (0..ROUTES).map(route).collect::<String>()).unwrap();
    std::fs::write(conf.join("merchants/shop.toml"), "keys = [{ id = \"k\", secret = \"plain:0123456789abcdef\" }]\n")
        .unwrap();

    let load = |previous: Option<&config::Snapshot>| {
        let started = Instant::now();
        let snapshot = config::file::load(conf, previous).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]));
        (started.elapsed(), snapshot)
    };
    let (first, snapshot) = load(None);
    std::fs::write(channels.join("c7.toml"), text.replace("rate = 600", "rate = 700")).unwrap();
    let (one, snapshot) = load(Some(&snapshot));
    let (none, _) = load(Some(&snapshot));
    println!(
        "\nreload of {CHANNELS} channels and {ROUTES} routes: all new {first:.0?}, one changed {one:.0?}, none changed {none:.0?}   \
         (goal: under 1 s of one core)"
    );
}
