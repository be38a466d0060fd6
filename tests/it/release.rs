//! Releases: the workflows and scripts of CI, and what `.ci/release` packs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::needs::python;

use crate::cli_status::beside;
use crate::support::{Ran, output};
use crate::tidy::{files, read, root};

fn workflows() -> Vec<PathBuf> {
    files(&root().join(".github/workflows"), ".yml")
}

/// Runs a program in the repository.
fn run(program: &Path, arguments: &[&Path]) -> Ran {
    output(Command::new(program).current_dir(root()).args(arguments)).into()
}

#[test]
fn workflows_and_scripts_are_sound() {
    let Some(python) = python() else { return };
    let (actionlint, shellcheck) = (beside(&python, "actionlint"), beside(&python, "shellcheck"));
    let workflows = workflows();
    let mut arguments = vec![Path::new("-no-color"), Path::new("-shellcheck"), &shellcheck];
    arguments.extend(workflows.iter().map(PathBuf::as_path));
    run(&actionlint, &arguments).ends(0);
    let mut scripts = vec![root().join("deploy/meterctl")];
    for entry in std::fs::read_dir(root().join(".ci")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && std::fs::read(&path).unwrap().starts_with(b"#!") {
            scripts.push(path);
        }
    }
    assert!(scripts.len() > 4, "{scripts:?}");
    run(&shellcheck, &scripts.iter().map(PathBuf::as_path).collect::<Vec<_>>()).ends(0);
}

/// The images `rust:…` that a text names.
fn toolchains(text: &str) -> BTreeSet<&str> {
    let end = |c: char| !c.is_ascii_alphanumeric() && !".-".contains(c);
    text.split("rust:").skip(1).map(|rest| rest.split(end).next().unwrap()).filter(|tag| !tag.is_empty()).collect()
}

#[test]
fn everything_is_built_with_the_toolchain_of_the_dockerfile() {
    let dockerfile = read(&root().join("Dockerfile"));
    let version = dockerfile.lines().find_map(|line| line.strip_prefix("ARG RUST=")).unwrap();
    let slim = format!("{version}-slim-bookworm");
    let ours = [slim.clone(), format!("{version}-bookworm")];
    assert!(dockerfile.contains("FROM rust:${RUST}-slim-bookworm AS "), "{dockerfile}");
    let mut named = BTreeSet::new();
    for path in [workflows(), vec![root().join("docs/deployment.md")]].concat() {
        let text = read(&path);
        for tag in toolchains(&text) {
            assert!(ours.iter().any(|our| our == tag), "{} builds with rust:{tag}, not {ours:?}", path.display());
            named.insert((path.file_name().unwrap().to_owned(), tag.to_owned()));
        }
    }
    for (file, tag) in [("ci.yml", &ours[1]), ("release.yml", &slim), ("deployment.md", &slim)] {
        assert!(named.contains(&(file.into(), tag.clone())), "{file} does not name rust:{tag}: {named:?}");
    }
}

#[test]
fn workflows_have_few_rights_and_pinned_actions() {
    let mut actions = 0;
    for path in workflows() {
        let text = read(&path);
        assert!(text.contains("\npermissions:"), "{}: no `permissions` for all jobs", path.display());
        assert!(!text.contains("write-all"), "{}", path.display());
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")) {
            let pin = line.split_once('@').and_then(|(_, pin)| pin.split_once(" # v")).map(|(commit, _)| commit);
            let is_commit = pin.is_some_and(|pin| pin.len() == 40 && pin.chars().all(|c| c.is_ascii_hexdigit()));
            assert!(is_commit, "{}: `{line}` is not `action@COMMIT # vVERSION`", path.display());
            actions += 1;
        }
    }
    assert!(actions > 5, "only {actions} actions were found");
    let ci = read(&root().join(".github/workflows/ci.yml"));
    assert!(ci.contains("bash .ci/run"), "ci.yml does not run .ci/run");
    let release = read(&root().join(".github/workflows/release.yml"));
    assert!(release.contains(".ci/release --tag"), "release.yml does not run .ci/release");
}

fn pack(binary: &Path, out: &Path) -> Ran {
    run(&root().join(".ci/release"), &[Path::new("--binary"), binary, Path::new("--out"), out])
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_release_is_whole_runs_and_is_the_same_each_time() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    // a program that is shipped has no symbols either, and is packed sooner
    let binary = at("meter");
    let strip = [Path::new("-o"), &binary, Path::new(env!("CARGO_BIN_EXE_meter"))];
    run(Path::new("strip"), &strip).ends(0);
    pack(&binary, &at("first")).ends(0);
    pack(&binary, &at("second")).ends(0);

    let version = env!("CARGO_PKG_VERSION");
    let packed = names(&at("first"));
    let start = format!("meter-{version}-");
    let archive = packed.iter().find(|name| name.starts_with(&start)).unwrap_or_else(|| panic!("{packed:?}"));
    assert_eq!(packed, BTreeSet::from([archive.clone(), "SHA256SUMS".to_owned()]));
    for name in &packed {
        let [first, second] = ["first", "second"].map(|run| std::fs::read(at(run).join(name)).unwrap());
        assert!(first == second, "{name} is another one the second time");
    }
    let check = |program: &str, arguments: &[&str]| -> Ran {
        output(Command::new(program).current_dir(at("first")).args(arguments)).into()
    };
    check("sha256sum", &["--check", "--strict", "SHA256SUMS"]).ends(0);
    check("tar", &["-xzf", archive]).ends(0);

    let name = archive.strip_suffix(".tar.gz").unwrap();
    let unpacked = at("first").join(name);
    let said = run(&unpacked.join("meter"), &[Path::new("--version")]).ends(0).out;
    assert_eq!(said.trim(), format!("meter {version}"));
    for file in ["completions/meter.bash", "completions/_meter", "completions/meter.fish", "man/meter.1"] {
        assert!(read(&unpacked.join(file)).len() > 500, "{file} is nearly empty");
    }
    assert!(names(&unpacked.join("man")).len() > 30, "{:?}", names(&unpacked.join("man")));
    for file in names(&unpacked.join("deploy")) {
        assert_eq!(read(&unpacked.join("deploy").join(&file)), read(&root().join("deploy").join(&file)), "{file}");
    }

    // the names in docs/deployment.md
    let docs = read(&root().join("docs/deployment.md"));
    let target = name.strip_prefix(&start).unwrap();
    assert!(docs.contains(&format!("`{target}`")), "docs/deployment.md does not name `{target}`");
    for what in ["meter-VERSION-TARGET.tar.gz", "meter-VERSION-TARGET.cdx.json", "SHA256SUMS"] {
        assert!(docs.contains(&format!("`{what}`")), "docs/deployment.md does not name `{what}`");
        assert!(read(&root().join(".ci/release")).contains(what), ".ci/release does not name {what}");
    }
    for part in names(&unpacked) {
        let whole = unpacked.join(&part);
        let part = if whole.is_dir() { format!("`{part}/`") } else { format!("`{part}`") };
        assert!(docs.contains(&part), "docs/deployment.md does not name {part} of the archive");
    }
}

#[test]
fn a_release_that_would_have_a_wrong_name_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let out = folder.path().join("out");
    pack(Path::new("/bin/true"), &out).ends(2).says(&["Cargo.toml has meter"]);
    let release = root().join(".ci/release");
    let tag = [Path::new("--out"), &out, Path::new("--tag"), Path::new("v9999.0.0")];
    run(&release, &tag).ends(2).says(&["the tag is v9999.0.0, and Cargo.toml has the version"]);
    run(&release, &[Path::new("--sign"), Path::new("x")]).ends(2).says(&["there is no option --sign", "usage:"]);
    assert!(!out.exists(), "something was written");
}
