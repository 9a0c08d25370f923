//! How slides are named (`--ids`), and `paraffin ids`: which id is which slide.

use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, Result};
use crate::job::ids;
use crate::job::ids::naming::{IdMode, Naming, SiteKey};
use crate::record::sealed::{Identities, Recipient};

/// How slides are named.
#[derive(Args)]
pub struct IdsArgs {
    /// What names a slide in OUT. With random or hmac nothing outside site-private tells a name: no file, no message
    #[arg(long, value_enum, value_name = "KIND", default_value_t, help_heading = "Ids")]
    pub ids: IdMode,
    /// The site's key for --ids hmac: 32 random bytes or 64 hexadecimal digits, mode 0600
    #[arg(long, value_name = "FILE", env = "PARAFFIN_IDS_KEY_FILE", hide_env_values = true, help_heading = "Ids")]
    pub ids_key_file: Option<PathBuf>,
    /// Study that --ids hmac names slides for: in another study the same slide has another id
    #[arg(long, value_name = "NAME", help_heading = "Ids")]
    pub ids_study: Option<String>,
    /// Encrypt names and paths in site-private for this age recipient; runs go on without its identity
    #[arg(long, value_name = "age1...", help_heading = "Ids")]
    pub ids_recipient: Option<Recipient>,
}

impl IdsArgs {
    /// How slides are named.
    ///
    /// # Errors
    /// [`Error::Usage`] for words that do not fit together, or a key file that will not do.
    pub fn naming(&self) -> Result<Naming> {
        let misfit = |why: &str| Err(Error::Usage(why.into()));
        let key = match (self.ids, &self.ids_key_file) {
            (IdMode::Hmac, Some(file)) => Some(SiteKey::read(file)?),
            (IdMode::Hmac, None) => {
                return misfit(
                    "--ids hmac needs the site's key: --ids-key-file FILE, or PARAFFIN_IDS_KEY_FILE; make one with \
                     (umask 077; head -c 32 /dev/urandom > FILE)",
                );
            }
            // The variable may be set for the whole site; other modes have no use for it.
            _ => None,
        };
        if self.ids_study.is_some() && self.ids != IdMode::Hmac {
            return misfit("--ids-study goes with --ids hmac");
        }
        if self.ids_recipient.is_some() && !self.ids.hides_names() {
            return misfit("--ids-recipient goes with --ids random or hmac: with keep the names of files tell as much");
        }
        let study = self.ids_study.clone().unwrap_or_default();
        Ok(Naming { mode: self.ids, key, study, recipient: self.ids_recipient.clone() })
    }
}

/// `paraffin ids`.
#[derive(Args)]
pub struct TableArgs {
    /// Directory that paraffin wrote
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// age identity that opens names encrypted for --ids-recipient
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Prints the table of ids as CSV: id, path, and the slide list's id where there was one.
///
/// # Errors
/// [`Error::Usage`] where OUT is none or names are encrypted and the identity does not open them, [`Error::Output`].
pub fn run(args: &TableArgs) -> Result<()> {
    let identities = args.identity.as_deref().map(Identities::read).transpose()?.unwrap_or_default();
    let rows = ids::rows(&args.out, &identities)?;
    let sealed = rows.iter().filter(|row| row.slide.is_none()).count();
    if sealed > 0 {
        let advice = if args.identity.is_some() { "this identity is not theirs" } else { "give --identity FILE" };
        return Err(Error::Usage(format!("{sealed} of {} names are encrypted: {advice}", rows.len())));
    }
    let mut table = csv::Writer::from_writer(Vec::new());
    let failed = |e: &dyn std::fmt::Display| Error::Internal(format!("CSV: {e}"));
    table.write_record(["id", "path", "listed_id"]).map_err(|e| failed(&e))?;
    for row in rows {
        let Some(slide) = row.slide else { continue };
        let listed = slide.listed_id.unwrap_or_default();
        table.write_record([&row.id, &slide.path, &listed]).map_err(|e| failed(&e))?;
    }
    let text = table.into_inner().map_err(|e| failed(&e))?;
    out!("{}", String::from_utf8_lossy(&text).trim_end());
    Ok(())
}
