//! Contracts, field by field.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Finding, Group, Severity};
use crate::digest;
use crate::record::contract::canonical;

/// Refuses every field in which contracts differ, and contracts whose hash is not theirs. Returns the hash that all share.
pub(super) fn compare(group: &Group, findings: &mut Vec<Finding>) -> Option<String> {
    for (site, member) in &group.members {
        if digest::sha256(canonical(&member.contract).as_bytes()) != member.contract_sha256 {
            let what = "is not the sha256 of the contract beside it: the manifest was changed by hand".to_owned();
            findings.push(group.finding(Severity::Refuse, "contract_sha256", &[*site], what));
        }
    }
    let contracts: Vec<Option<&Value>> = group.members.iter().map(|(_, m)| Some(&m.contract)).collect();
    let mut fields = Vec::new();
    differing("", &contracts, &mut fields);
    for field in &fields {
        let pointer = format!("/{}", field.replace('.', "/"));
        let (what, sites) = group.by(|m| shown(m.contract.pointer(&pointer)));
        findings.push(group.finding(Severity::Refuse, field, &sites, what));
    }
    let (_, first) = group.members.first()?;
    fields.is_empty().then(|| first.contract_sha256.clone())
}

/// The paths at which values are not all the same, as deep as all of them are objects.
fn differing(path: &str, values: &[Option<&Value>], fields: &mut Vec<String>) {
    let text = |value: &Option<&Value>| value.map(canonical);
    if values.windows(2).all(|two| text(&two[0]) == text(&two[1])) {
        return;
    }
    let objects: Option<Vec<_>> = values.iter().map(|v| v.and_then(Value::as_object)).collect();
    let Some(objects) = objects else {
        fields.push(path.to_owned());
        return;
    };
    let keys: BTreeSet<&String> = objects.iter().flat_map(|o| o.keys()).collect();
    for key in keys {
        let values: Vec<Option<&Value>> = objects.iter().map(|o| o.get(key)).collect();
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        differing(&path, &values, fields);
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "absent".into(),
        Some(Value::Object(_)) => "present".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => canonical(value),
    }
}
