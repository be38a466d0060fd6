//! Where output goes: to a full disk, through links and into pipes; and an environment that is no
//! text.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::support::{Ran, Workspace, ended_with_output, meter};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn ran(command: &mut Command) -> Ran {
    ended_with_output(command.stdin(Stdio::null()).spawn().unwrap()).into()
}

#[test]
fn output_that_is_not_whole_is_a_failure() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    let lines =
        ["customer list", "customer list --csv", "customer list --json", "config show", "schema usage", "--help"];
    for line in lines {
        let mut command = meter(place.folder.path());
        command.args(line.split(' ')).stdout(full()).stderr(Stdio::piped());
        ran(&mut command).ends(1).says(&["standard output cannot be written, so what is there is not whole: "]);
    }
    // nobody reads on
    let mut command = meter(place.folder.path());
    let mut child = command.args(["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended: Ran = ended_with_output(child).into();
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[test]
fn a_log_that_cannot_be_written_stops_no_worker() {
    let place = Workspace::new();
    place.run("enqueue probe name=a").ends(0);
    let mut command = meter(place.folder.path());
    ran(command.args(["work", "--once", "--no-schedule"]).stdout(Stdio::null()).stderr(full())).ends(0);
    place.run("jobs show 1").ends(0).says(&["done"]);
}

#[test]
fn a_page_is_written_through_links_and_into_pipes() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("report --html plain.html").ends(0);
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    // as any file of this user, whatever its umask
    File::create(place.path("any")).unwrap();
    assert_eq!(mode("plain.html"), mode("any"));
    fs::set_permissions(place.path("plain.html"), Permissions::from_mode(0o640)).unwrap();
    symlink("plain.html", place.path("link.html")).unwrap();
    fs::write(place.path("plain.html"), "old").unwrap();
    place.run("report --html link.html").ends(0);
    assert!(fs::symlink_metadata(place.path("link.html")).unwrap().is_symlink());
    assert!(fs::read_to_string(place.path("plain.html")).unwrap().starts_with("<!"));
    assert_eq!(mode("plain.html"), 0o640);

    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    let pipe = place.path("pipe");
    let reader = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
    place.run("report --html pipe").ends(0);
    assert!(reader.join().unwrap().starts_with("<!"));
    // a file that others write to
    let shared = place.path("shared.txt");
    fs::write(&shared, "first\n").unwrap();
    let mut command = meter(place.folder.path());
    let to = File::options().append(true).open(&shared).unwrap();
    ran(command.args(["report", "--html", "/dev/stdout"]).stdout(to).stderr(Stdio::piped())).ends(0);
    assert!(fs::read_to_string(&shared).unwrap().starts_with("first\n<!"));
    let mut command = meter(place.folder.path());
    let to = File::create(place.path("new.txt")).unwrap();
    ran(command.args(["report", "--html", "/dev/stdout"]).stdout(to).stderr(Stdio::piped())).ends(0);
    let page = fs::read_to_string(place.path("new.txt")).unwrap();
    assert!(page.starts_with("<!") && page.trim_end().ends_with("</html>"), "{page}");
    symlink("nowhere/page.html", place.path("nothing.html")).unwrap();
    place
        .run("report --html nothing.html")
        .ends(2)
        .says(&["nothing.html cannot be written: it is a link, and there is no"]);
    place.run("report --html bucket").ends(2).says(&["bucket cannot be written: it is a folder"]);
    symlink("/dev/full", place.path("full.html")).unwrap();
    place.run("report --html full.html").ends(1).says(&["full.html cannot be written"]);
}

#[test]
fn a_variable_that_is_no_text_is_named_without_its_value() {
    let place = Workspace::new();
    let with = |name: &str, line: &str| {
        let mut command = meter(place.folder.path());
        command.args(line.split(' ')).env(name, OsStr::from_bytes(b"sk_test_hidden\xff"));
        ran(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    };
    let refused = with("METER_STRIPE__KEY", "config check").ends(2).says(&["METER_STRIPE__KEY is not UTF-8"]);
    assert!(!format!("{}{}", refused.out, refused.err).contains("hidden"), "{}", refused.err);
    with("SOMETHING", "config check").ends(0);
}

#[test]
fn secrets_in_a_wrong_place_are_not_said_back() {
    let place = Workspace::new();
    let secret = "sk_test_51Hidden";
    let check = |config: String, variables: &[(&str, &str)]| {
        fs::write(place.path("meter.toml"), config).unwrap();
        let refused = place.run_with("config check", variables).ends(2);
        assert!(!format!("{}{}", refused.out, refused.err).contains("Hidden"), "{}", refused.err);
        refused.err
    };
    let export = |location: &str| format!("[[exports]]\nname = \"main\"\nlocation = \"{location}\"\n");
    for location in [format!("s3://AKIA:{secret}@bucket/x"), format!("https://u:{secret}@host/x")] {
        check(export(&location), &[]);
    }
    let stripe = check(format!("[stripe]\nurl = \"https://u:{secret}@host\"\n"), &[]);
    assert!(stripe.contains("stripe.url: it is no address of a server"), "{stripe}");
    let section = check(format!("stripe = \"{secret}\"\n"), &[]);
    assert!(section.contains("a section with keys is expected, and this is a text"), "{section}");
    for name in ["METER_STRIPE", "METER_EXPORTS", "METER_DATABASE", "METER_STRIPE__LIVE"] {
        let said = check(export("bucket"), &[(name, secret)]);
        assert!(said.contains(name) && said.contains("is expected"), "{said}");
    }
    let said = check(export("bucket"), &[("METER_HTTP", "84729384720192")]);
    assert!(!said.contains("8472"), "{said}");
    let said = check(export("bucket"), &[("METER_STRIPE__KEY", &format!("{secret}\n"))]);
    assert!(said.contains("variable METER_STRIPE__KEY: it has a blank or a line end"), "{said}");
}
