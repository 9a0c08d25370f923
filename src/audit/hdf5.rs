//! An HDF5 file's objects and attributes, against the list of those that may be there.

use std::path::Path;

use rust_hdf5::{H5Dataset, H5File};

use super::allowed;

/// What is told of a file.
pub enum Seen<'a> {
    /// An object, link or attribute that the list does not know, or of another kind than the list means.
    Unknown(&'a str),
    /// A text, and where it stands: an attribute's (`coords@name`), or the name of something unknown.
    Text(&'a str, &'a str),
}

/// Object header messages that name people or times: a comment, times of modification.
const TELLING: [(u8, &str); 3] = [(0x0d, "a comment"), (0x0e, "a time"), (0x12, "a time")];

/// Reads the structure of a file; `tell` hears of it.
///
/// # Errors
/// Why it cannot be read.
pub fn walk(path: &Path, list: &[&str], tell: &mut dyn FnMut(Seen)) -> Result<(), String> {
    let file = H5File::options().no_locking().open(path).map_err(plain)?;
    if file.userblock_size() > 0 {
        tell(Seen::Unknown("a user block before the HDF5 file"));
    }
    let root = file.root_group();
    for name in file.attr_names().map_err(plain)? {
        let text = file.attr_string(&name).ok();
        attribute(list, "", &name, text, tell);
    }
    header(&file, "/", tell);
    for name in root.link_names().map_err(plain)? {
        if !allowed::hdf5_allows(list, &name) {
            tell(Seen::Text("the name of an object", &name));
            tell(Seen::Unknown("an object"));
            continue;
        }
        // A link elsewhere, or a group in its place, is none that paraffin writes.
        let Ok(dataset) = file.dataset(&name) else {
            tell(Seen::Unknown("an object of another kind than a dataset"));
            continue;
        };
        if root.link_class(&name).is_ok_and(|class| !matches!(class, rust_hdf5::LinkClass::Hard)) {
            tell(Seen::Unknown("a link to another place"));
        }
        if !is_numeric(&dataset) {
            tell(Seen::Unknown("a dataset that holds no numbers"));
        }
        for attr in dataset.attr_names().map_err(plain)? {
            let text = dataset.attr(&attr).and_then(|a| a.read_string()).ok();
            attribute(list, &name, &attr, text, tell);
        }
        header(&file, &name, tell);
    }
    Ok(())
}

fn attribute(list: &[&str], object: &str, name: &str, text: Option<String>, tell: &mut dyn FnMut(Seen)) {
    let item = format!("{object}@{name}");
    let known = allowed::hdf5_allows(list, &item);
    let place = if known { item.as_str() } else { "an attribute" };
    if !known {
        tell(Seen::Text("the name of an attribute", name));
        tell(Seen::Unknown("an attribute"));
    }
    if let Some(text) = text {
        tell(Seen::Text(place, &text));
    }
}

fn header(file: &H5File, object: &str, tell: &mut dyn FnMut(Seen)) {
    for (message, _) in file.object_message_flags(object).unwrap_or_default() {
        if let Some((_, what)) = TELLING.iter().find(|(number, _)| *number == message) {
            tell(Seen::Unknown(what));
        }
    }
}

fn is_numeric(dataset: &H5Dataset) -> bool {
    use rust_hdf5::DatatypeMessage::{FixedPoint, FloatingPoint};
    matches!(dataset.datatype(), Ok(FixedPoint { .. } | FloatingPoint { .. }))
}

/// The reader's words without anything quoted, which may be a name in the file.
fn plain(error: rust_hdf5::Hdf5Error) -> String {
    let text = error.to_string();
    let first = text.split(['\'', '"', '`', '/']).next().unwrap_or_default().trim().to_string();
    if first.is_empty() { "it cannot be read as HDF5".into() } else { first }
}
