//! Boundaries between the crates: what each of them must never depend on, directly or through another crate.
//!
//! `cargo tree` lists the dependencies of a crate without its dev-dependencies. The test belongs to `tollgate-plugins`, because
//! that crate builds fast.

#![allow(clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;

/// Boundary of one crate of the workspace.
struct Boundary {
    package: &'static str,
    /// Crates that must not be among the dependencies. A name that ends in `*` stands for all that begin so.
    forbidden: &'static [&'static str],
}

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        package: "tollgate-plugins",
        forbidden: &["tokio", "pingora*", "hyper", "rustls", "fjall", "prometheus", "tollgate*"],
    },
    Boundary {
        package: "tollgate-config",
        forbidden: &["tokio", "pingora*", "hyper", "prometheus", "fjall", "tollgate-ledger", "tollgate-gateway"],
    },
    Boundary {
        package: "tollgate-gateway",
        // Kafka and its C library are in a feature; there is one TLS library.
        forbidden: &[
            "tollgate",
            "tollgate-harness",
            "tollgate-merchant",
            "tollgate-sandbox",
            "rdkafka*",
            "openssl",
            "openssl-sys",
            "native-tls",
        ],
    },
    Boundary { package: "tollgate-sandbox", forbidden: &["tollgate*", "pingora*", "fjall"] },
    Boundary { package: "tollgate-merchant", forbidden: &["tollgate*", "tokio", "pingora*", "hyper"] },
    Boundary {
        package: "tollgate-harness",
        forbidden: &["tollgate-config", "tollgate-ledger", "tollgate-plugins", "pingora*"],
    },
    Boundary {
        package: "tollgate-ledger",
        forbidden: &["pingora*", "hyper", "prometheus", "tollgate-config", "tollgate-gateway", "tollgate-sandbox"],
    },
];

fn cargo(arguments: &[&str]) -> Result<String, String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).args(["--offline", "--manifest-path", manifest]).output();
    let output = output.map_err(|error| format!("cargo cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Returns the names of the crates of the workspace.
fn packages() -> BTreeSet<String> {
    let tree = cargo(&["tree", "--workspace", "--depth", "0", "--prefix", "none", "--format", "{p}"]);
    names(&tree.unwrap_or_else(|error| panic!("{error}")))
}

/// Returns the names of all dependencies of a crate, without the crate itself.
fn dependencies(package: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let mut dependencies = names(&tree.unwrap_or_else(|error| panic!("{error}")));
    assert!(dependencies.remove(package), "{package} is not the root of its own tree: {dependencies:?}");
    dependencies
}

fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn is_forbidden(name: &str, forbidden: &[&str]) -> bool {
    forbidden.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

#[test]
fn no_crate_depends_on_a_crate_that_its_boundary_forbids() {
    let packages = packages();
    let mut violations = Vec::new();
    for Boundary { package, forbidden } in BOUNDARIES {
        assert!(packages.contains(*package), "the workspace has no crate `{package}`: {packages:?}");
        let dependencies = dependencies(package);
        assert!(!dependencies.is_empty(), "{package}: cargo tree lists no dependency");
        let found = dependencies.iter().filter(|name| is_forbidden(name, forbidden));
        violations.extend(found.map(|name| format!("{package} depends on {name}")));
    }
    assert!(violations.is_empty(), "{violations:#?} (`cargo tree -p CRATE -e normal -i DEPENDENCY` shows the way)");
}

#[test]
fn forbidden_pattern_covers_a_name_or_a_family_of_names() {
    assert!(is_forbidden("tokio", &["tokio"]) && !is_forbidden("tokio-util", &["tokio"]));
    assert!(is_forbidden("pingora-core", &["pingora*"]) && !is_forbidden("hyper", &["pingora*"]));
}
