//! `clients/typescript`: its statements are those of the contract's page, its types are checked,
//! and its own tests run on a local file and over the remote protocol.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::Ran;
use crate::tidy::{files, read, root};
use books::limits::entitlement::Reason;
use tempfile::TempDir;
use testkit::hrana::HranaServer;
use testkit::needs::{named, tool};

const CLIENT: &str = "clients/typescript";

fn node(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new("node");
    command.current_dir(folder).args(arguments).envs(variables.iter().copied());
    crate::support::output(&mut command).into()
}

#[test]
fn statements_of_the_client_are_those_of_the_page() {
    if tool("node") {
        node(&root().join(CLIENT), &["generate.mjs", "--check"], &[]).ends(0);
    }
}

/// The client's list is that of the page.
#[test]
fn the_page_has_every_reason() {
    let made = read(&root().join(CLIENT).join("src/contract.ts"));
    let list = made.split("export const REASONS = ").nth(1).and_then(|rest| rest.split(" as const").next());
    let listed: BTreeSet<String> = serde_json::from_str(list.unwrap()).unwrap();
    assert_eq!(listed, Reason::ALL.iter().map(|(_, name, _)| (*name).to_owned()).collect());
}

#[test]
fn ci_installs_the_versions_that_the_client_names() {
    let package: serde_json::Value = serde_json::from_str(&read(&root().join(CLIENT).join("package.json"))).unwrap();
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    let ci = read(&root().join(".ci/run"));
    for kind in ["dependencies", "devDependencies"] {
        for (name, version) in package[kind].as_object().unwrap() {
            let pinned = format!(" {name}@{}", version.as_str().unwrap());
            assert!(ci.contains(&pinned), ".ci/run does not install{pinned}");
        }
    }
    assert_eq!(package["dependencies"].as_object().unwrap().len(), 1, "one dependency");
}

/// A copy, because TypeScript looks for packages in the folders above a source.
fn copy(modules: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    let client = root().join(CLIENT);
    for file in [files(&client, ".ts"), files(&client, ".json")].concat() {
        let to = copy.path().join(file.strip_prefix(&client).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::os::unix::fs::symlink(modules, copy.path().join("node_modules")).unwrap();
    copy
}

#[test]
fn the_client_does_what_the_contract_says() {
    let packages = "node_modules with the packages of clients/typescript";
    let Some(modules) = named("METER_TEST_NODE_MODULES", packages) else { return };
    if !tool("node") {
        return;
    }
    let client = copy(&modules);
    for project in ["tsconfig.json", "tsconfig.test.json"] {
        node(client.path(), &["node_modules/typescript/bin/tsc", "--strict", "-p", project], &[]).ends(0);
    }
    let books = TempDir::new().unwrap();
    let server = HranaServer::start(&books.path().join("served.db"));
    for url in [books.path().join("meter.db").display().to_string(), server.url()] {
        let variables = [("METER", env!("CARGO_BIN_EXE_meter")), ("METER_DATABASE__URL", url.as_str())];
        let ran =
            node(client.path(), &["--test", "--test-reporter=tap", "dist/test/client.test.js"], &variables).ends(0);
        ran.says(&["ok 1 - every statement has its function", "# fail 0", "# skipped 0"]);
    }
}
