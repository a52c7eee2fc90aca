//! The dashboard and the rules: what they ask for, and whether they are well formed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// An expression, and the labels that the texts beside it show.
pub(crate) struct Asked {
    pub(crate) by: String,
    pub(crate) expression: String,
    pub(crate) shown: Vec<String>,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Everything that both files ask Prometheus for.
pub(crate) fn asked() -> Vec<Asked> {
    let mut asked = of_dashboard();
    asked.extend(of_alerts());
    asked
}

/// What stands between two texts, wherever it does.
fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    let parts = text.split(open).skip(1);
    parts.filter_map(|part| Some(part.split_once(close)?.0.trim().to_owned())).collect()
}

fn of_dashboard() -> Vec<Asked> {
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboard.json")).unwrap();
    let mut asked = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let shown = between(target["legendFormat"].as_str().unwrap(), "{{", "}}");
            let expression = target["expr"].as_str().unwrap().to_owned();
            asked.push(Asked { by: format!("panel {title:?}"), expression, shown });
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // label_values(metric, label): as an expression, and what is shown of it.
        if let Some(query) = variable["query"]["query"].as_str() {
            let (expression, label) = query.rsplit_once(", ").unwrap();
            let expression = expression.strip_prefix("label_values(").unwrap().to_owned();
            let shown = vec![label.strip_suffix(')').unwrap().to_owned()];
            asked.push(Asked { by: format!("variable {}", variable["name"]), expression, shown });
        }
    }
    asked
}

fn rules() -> Vec<Yaml> {
    let rules = YamlLoader::load_from_str(&read("prometheus/alerts.yml")).unwrap();
    let groups = rules[0]["groups"].as_vec().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_vec().unwrap().clone()).collect()
}

fn of_alerts() -> Vec<Asked> {
    let asked = rules().into_iter().map(|rule| {
        let text = |key: &str| rule["annotations"][key].as_str().unwrap().to_owned();
        let shown = between(&format!("{}{}", text("summary"), text("description")), "$labels.", "}}");
        let by = format!("alert {}", rule["alert"].as_str().unwrap());
        Asked { by, expression: rule["expr"].as_str().unwrap().to_owned(), shown }
    });
    asked.collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_look_at() {
    let rules = rules();
    assert!(rules.len() >= 6);
    for rule in rules {
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{rule:?}");
        for key in ["summary", "description"] {
            assert!(rule["annotations"][key].as_str().is_some_and(|text| !text.is_empty()), "{rule:?}");
        }
    }
}

#[test]
fn prometheus_reads_the_rules_and_they_fire_where_they_should() {
    let run = |arguments: &[&str]| Command::new("promtool").args(arguments).current_dir(path("prometheus")).output();
    for arguments in [
        &["check", "rules", "alerts.yml"][..],
        &["check", "config", "prometheus.yml"],
        &["test", "rules", "alerts_test.yml"],
    ] {
        match run(arguments) {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
            }
            Err(_) => println!("left out: there is no promtool on PATH"),
        }
    }
}
