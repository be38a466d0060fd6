//! The dashboards and rules against a real Prometheus that scrapes a real worker on the demo's
//! books: every panel's query has an answer, every rule is well, and `promtool` finds nothing to
//! say.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::served::{Served, billed_month, demo, free_port, request};
use serde_json::Value;
use tempfile::TempDir;
use testkit::needs::tool;

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

/// Runs `promtool`; what it says is in the failure.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let folder = dashboards().join("prometheus");
    let mut child = Command::new("promtool")
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = crate::support::ended_with_output(child);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
}

/// A Prometheus, which does not outlive its test.
struct Prometheus {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    /// With the project's own configuration and rules, but for the address of the worker and a
    /// faster pace.
    fn start(worker: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let own = dashboards().join("prometheus");
        std::fs::create_dir(folder.path().join("rules")).unwrap();
        for entry in std::fs::read_dir(own.join("rules")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join("rules").join(path.file_name().unwrap())).unwrap();
        }
        let config = std::fs::read_to_string(own.join("prometheus.yml")).unwrap();
        assert!(config.contains("127.0.0.1:9464") && config.contains("15s"), "{config}");
        let config = config.replace("127.0.0.1:9464", &format!("127.0.0.1:{worker}")).replace("15s", "1s");
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, port, _folder: folder }
    }

    fn api(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&request(self.port, "GET", &format!("/api/v1/{path}"), &[], "")?.body).ok()
    }

    /// What a query comes to.
    #[track_caller]
    fn query(&self, text: &str) -> Vec<Value> {
        let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.api(&format!("query?query={encoded}")).unwrap_or_else(|| panic!("no answer to {text}"));
        assert_eq!(answer["status"], "success", "{text}: {answer}");
        match answer["data"]["resultType"].as_str() {
            Some("vector") => answer["data"]["result"].as_array().unwrap().clone(),
            _ => vec![answer["data"]["result"].clone()],
        }
    }

    #[track_caller]
    fn until(&self, query: &str) {
        let start = Instant::now();
        while self.api("query?query=1").is_none_or(|a| a["status"] != "success") || self.query(query).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(90), "Prometheus has nothing for {query}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Every panel with a query, rows opened.
fn panels(of: &Value) -> Vec<Value> {
    let list = of["panels"].as_array().cloned().unwrap_or_default();
    list.into_iter().flat_map(|p| if p["type"] == "row" { panels(&p) } else { vec![p] }).collect()
}

/// As Grafana would fill in its variables.
fn filled(query: &str) -> String {
    query
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$__interval", "1m")
        .replace("$meter", ".*")
}

/// `meter_…` and `meter:…` names of an expression.
fn names(query: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = query.split(|c| !is_name(c));
    words.filter(|w| w.starts_with("meter_") || w.starts_with("meter:")).map(str::to_owned).collect()
}

#[test]
fn rules_are_sound_and_fire_when_they_should() {
    if !tool("promtool") {
        return;
    }
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "rules/recording.yml", "rules/alerts.yml"], "");
    promtool(&["test", "rules", "tests/alerts_test.yml", "tests/alerts_days_test.yml"], "");

    // each alert has a case in which it fires and one in which it does not
    let read = |name: &str| std::fs::read_to_string(dashboards().join("prometheus").join(name)).unwrap();
    let tests = read("tests/alerts_test.yml") + &read("tests/alerts_days_test.yml");
    let rules = read("rules/alerts.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    for alert in alerts {
        let wanted = format!("alertname: {alert}");
        let cases: Vec<&str> =
            tests.split("- eval_time:").filter(|case| case.lines().any(|l| l.trim() == wanted)).collect();
        let fires = |case: &&&str| case.contains("exp_labels");
        let (firing, quiet) = (cases.iter().filter(fires).count(), cases.iter().filter(|c| !fires(c)).count());
        assert!(firing > 0 && quiet > 0, "{alert}: {firing} case(s) in which it fires, {quiet} in which it does not");
    }
}

#[test]
fn every_panel_and_every_rule_has_data_of_a_living_worker() {
    if !tool("prometheus") || !tool("promtool") {
        return;
    }
    let (_folder, kept) = demo();
    let worker = Served::start(&kept, "", &[]);
    let scrape = worker.until_settled();
    promtool(&["check", "metrics"], &scrape.body);
    let prometheus = Prometheus::start(worker.port);
    // two scrapes for rates, and an evaluation of the recording rules after them
    prometheus.until("count_over_time(up{job=\"meter\"}[1m]) > 4 and on () up{job=\"meter\"} == 1");
    prometheus.until("meter:usage_month_forecast_units");
    prometheus.until("meter:job_success_age_seconds");

    let (mut asked, mut empty) = (0, vec![]);
    for entry in std::fs::read_dir(dashboards()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let found = panels(&board);
        assert!(found.len() > 5, "{} has few panels", path.display());
        for panel in found {
            let title =
                format!("{}: {}", board["title"].as_str().unwrap(), panel["title"].as_str().unwrap_or_default());
            assert!(!panel["title"].as_str().unwrap_or_default().is_empty(), "{title} has no title");
            assert!(panel["description"].as_str().is_some_and(|d| d.len() > 20), "{title} does not say what to do");
            if panel["type"] == "text" {
                continue;
            }
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
            for target in panel["targets"].as_array().unwrap() {
                let query = filled(target["expr"].as_str().unwrap());
                assert!(!query.contains('$'), "{title} has a variable that this test does not know: {query}");
                asked += 1;
                let result = prometheus.query(&query);
                if result.is_empty() || result.iter().any(|r| r["value"][1] == "NaN") {
                    empty.push(format!("{title}: {query} -> {result:?}"));
                }
            }
        }
    }
    assert!(empty.is_empty(), "{} of {asked} queries have no data:\n{}", empty.len(), empty.join("\n"));
    assert!(asked > 60, "only {asked} queries");
    let forecast = prometheus.query("meter:usage_month_forecast_units{meter=\"chime_minutes\"}");
    let forecast: f64 = forecast[0]["value"][1].as_str().unwrap().parse().unwrap();
    let is_this_month = billed_month(&kept.join("meter.db")) == jiff::Timestamp::now().strftime("%Y-%m").to_string();
    assert!(forecast > 0.0 || !is_this_month, "{forecast}");

    let rules = prometheus.api("rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 20, "{rules:?}");
    for rule in rules {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        assert_eq!(rule["health"], "ok", "{rule}");
        // an alert that is silent has no data itself; what it looks at has
        for metric in names(query) {
            assert!(!prometheus.query(&metric).is_empty(), "{name} looks at {metric}, which there is not");
        }
        assert_ne!(rule["state"], "firing", "{rule}");
        let summary = &rule["annotations"]["summary"];
        assert!(rule["type"] == "recording" || summary.is_string(), "{name} has no summary");
    }
    drop(prometheus);
    assert_eq!(worker.stop(), 0);
}
