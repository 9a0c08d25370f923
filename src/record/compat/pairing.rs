//! Which artefact of one site belongs to which of another.

use std::collections::BTreeSet;

use super::{Finding, Group, Severity, Site};
use crate::error::{Error, Result};
use crate::record::manifest::ArtefactSummary;

/// Kinds of artefacts, those that training is about first.
const KINDS: [&str; 3] = ["features_", "slide_features_", "patches"];

type Key = (String, String);

fn key(artefact: &ArtefactSummary) -> Key {
    (artefact.grid.clone(), artefact.artefact.clone())
}

fn words((grid, artefact): &Key) -> String {
    format!("{grid}/{artefact}")
}

/// Pairs up what all sites have, and says what only some have.
///
/// Of the main kind (features of tiles, if any site has them) there must be something that all have. Sites that have exactly one
/// artefact of that kind each are compared even where grid or encoder are others, so that the fields that differ are named.
pub(super) fn pair<'a>(sites: &'a [Site], wanted: Option<&str>) -> Result<(Vec<Group<'a>>, Vec<Finding>)> {
    let fits = |a: &ArtefactSummary| wanted.is_none_or(|w| w == a.artefact || w == words(&key(a)));
    let of = |site: &'a Site, kind: &str| -> Vec<&'a ArtefactSummary> {
        let artefacts = site.manifest.artefacts.iter();
        artefacts.filter(|a| a.artefact.starts_with(kind) && fits(a)).collect()
    };
    let Some(main) = KINDS.into_iter().find(|kind| sites.iter().any(|s| !of(s, kind).is_empty())) else {
        let there: BTreeSet<String> =
            sites.iter().flat_map(|s| &s.manifest.artefacts).map(|a| words(&key(a))).collect();
        let there = if there.is_empty() { "nothing".into() } else { there.into_iter().collect::<Vec<_>>().join(", ") };
        let what = wanted.map_or("anything to compare".into(), |w| format!("'{w}'"));
        return Err(Error::Usage(format!("no site has {what}; there is {there}")));
    };
    let (mut groups, mut findings) = (Vec::new(), Vec::new());
    // Coordinates are a part of the features' contract, and compared with it.
    for kind in KINDS.into_iter().filter(|kind| *kind == main || *kind == "slide_features_") {
        let all: Vec<(&str, Vec<&ArtefactSummary>)> = sites.iter().map(|s| (&*s.name, of(s, kind))).collect();
        let keys: BTreeSet<Key> = all.iter().flat_map(|(_, list)| list.iter().map(|a| key(a))).collect();
        let (common, partial): (Vec<Key>, Vec<Key>) =
            keys.into_iter().partition(|k| all.iter().all(|(_, list)| list.iter().any(|a| key(a) == *k)));
        for k in &common {
            let members = all.iter().filter_map(|(site, list)| Some((*site, *list.iter().find(|a| key(a) == *k)?)));
            groups.push(Group { name: words(k), members: members.collect() });
        }
        if common.is_empty() && kind == main {
            match sole(&all) {
                Some(group) => groups.push(group),
                None => findings.push(nothing_common(&all, kind)),
            }
            continue;
        }
        for k in partial {
            let have: Vec<String> = all
                .iter()
                .filter(|(_, list)| list.iter().any(|a| key(a) == k))
                .map(|(site, _)| (*site).to_owned())
                .collect();
            let what = format!("not at every site, and not compared: only at {}", have.join(", "));
            let field = "artefact".into();
            findings.push(Finding { severity: Severity::Note, artefact: words(&k), field, sites: have, what });
        }
    }
    Ok((groups, findings))
}

/// The only one of every site, if each has one; by the same name if that leaves one.
fn sole<'a>(all: &[(&'a str, Vec<&'a ArtefactSummary>)]) -> Option<Group<'a>> {
    let (_, first) = all.first()?;
    let names: BTreeSet<&str> = first.iter().map(|a| &*a.artefact).collect();
    let same = names.into_iter().filter_map(|name| {
        let members = all.iter().map(|(site, list)| {
            let mut named = list.iter().filter(|a| a.artefact == name);
            named.next().filter(|_| named.next().is_none()).map(|a| (*site, *a))
        });
        Some(Group { name: name.to_owned(), members: members.collect::<Option<Vec<_>>>()? })
    });
    let mut same: Vec<Group> = same.collect();
    if same.len() == 1 {
        return same.pop();
    }
    let members = all.iter().map(|(site, list)| match list[..] {
        [only] => Some((*site, only)),
        _ => None,
    });
    let members = members.collect::<Option<Vec<_>>>()?;
    let mut names: Vec<&str> = members.iter().map(|(_, a)| &*a.artefact).collect();
    names.dedup();
    Some(Group { name: names.join(" | "), members })
}

fn nothing_common(all: &[(&str, Vec<&ArtefactSummary>)], kind: &str) -> Finding {
    let each = all.iter().map(|(site, list)| {
        let names: Vec<String> = list.iter().map(|a| words(&key(a))).collect();
        format!("{site} has {}", if names.is_empty() { "none".into() } else { names.join(", ") })
    });
    Finding {
        severity: Severity::Refuse,
        artefact: kind.trim_end_matches('_').into(),
        field: "artefact".into(),
        sites: all.iter().map(|(site, _)| (*site).to_owned()).collect(),
        what: format!("there is none that all sites have: {}", each.collect::<Vec<_>>().join("; ")),
    }
}
