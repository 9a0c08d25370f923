//! Random and keyed ids: which slide has which stands in `site-private/ids` alone.
//!
//! ```text
//! ids/<id>.json              the slide's path and fingerprint; the path encrypted where a recipient is given
//! ids/names/<hash>           the id of the slide that has this path (or this id in the slide list)
//! ids/contents/<hash>-<n>    the id of the slide that has this content; n counts copies of it
//! ids/lookup.key             of random ids: the key of these hashes; keyed ids have the site's
//! ```
//!
//! Every file is created once, so that of several workers the first decides, and no file is the table of all. The hashes are
//! keyed, so that a run finds a slide's id without reading its path, and no list of likely names opens them to whoever lacks
//! the key. A slide is found by its path first (its content may have changed), then by its content (it may have moved).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::super::discover::Found;
use super::naming::{IdMode, Naming, SiteKey, random_bytes, written};
use super::{PRIVATE, absolute};
use crate::error::{Error, Result};
use crate::record::publish;
use crate::record::sealed::Kept;

/// Which slide has an id: a file of `site-private/ids`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Hash of the slide's path, or of its id in the slide list.
    name: String,
    pub(super) fingerprint: String,
    pub(super) slide: Kept<Who>,
}

/// A slide by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Where it lay when it got its id.
    pub path: String,
    /// What the slide list called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_id: Option<String>,
}

/// The tables of one OUT.
pub(super) struct Table<'a> {
    directory: PathBuf,
    lookup: SiteKey,
    naming: &'a Naming,
}

/// A slide that looks for its id.
struct Seeker<'a> {
    slide: &'a Found,
    path: PathBuf,
    fingerprint: &'a str,
    /// Hash of its name.
    name: String,
}

fn failed(e: io::Error) -> Error {
    Error::write(format!("{PRIVATE}/ids"), e)
}

impl<'a> Table<'a> {
    /// The tables in `directory`, which are made.
    pub(super) fn open(directory: &Path, naming: &'a Naming) -> Result<Self> {
        for folder in ["names", "contents"] {
            publish::create_dir_all(&directory.join(folder)).map_err(failed)?;
        }
        let lookup = match (naming.mode, &naming.key) {
            (IdMode::Hmac, Some(key)) => SiteKey::new(key.mac("lookup", &[naming.study.as_bytes()])),
            (IdMode::Hmac, None) => return Err(Error::Internal("keyed ids without a key".into())),
            _ => {
                let file = directory.join("lookup.key");
                publish::create_once(&file, &random_bytes::<32>()?).map_err(failed)?;
                let key = std::fs::read(&file).map_err(failed)?.try_into();
                SiteKey::new(key.map_err(|_| Error::Output(format!("{PRIVATE}/ids/lookup.key is damaged")))?)
            }
        };
        Ok(Table { directory: directory.to_path_buf(), lookup, naming })
    }

    /// As [`super::assign`].
    pub(super) fn assign(
        &self,
        slides: &[Found],
        fingerprints: &[String],
        invalidate: &dyn Fn(&str) -> Result<()>,
    ) -> Result<Vec<String>> {
        let seekers: Vec<Seeker> = slides.iter().zip(fingerprints).map(|(s, f)| self.seeker(s, f)).collect();
        let mut taken = HashSet::new();
        let mut ids: Vec<Option<String>> = vec![None; slides.len()];
        // By name for all of them first: a copy must not take the id of the slide that it was copied from.
        for (seeker, id) in seekers.iter().zip(&mut ids) {
            if let Some(known) = self.pointer(&self.name_file(seeker))
                && taken.insert(known.clone())
            {
                self.confirm(&known, seeker, invalidate)?;
                *id = Some(known);
            }
        }
        let mut all = Vec::with_capacity(ids.len());
        for (seeker, id) in seekers.iter().zip(ids) {
            let id = match id {
                Some(id) => id,
                None => self.by_content(seeker, &taken)?,
            };
            taken.insert(id.clone());
            all.push(id);
        }
        Ok(all)
    }

    fn hash(&self, kind: &str, parts: &[&[u8]]) -> String {
        HEXLOWER.encode(&self.lookup.mac(kind, parts)[..16])
    }

    fn seeker<'s>(&self, slide: &'s Found, fingerprint: &'s str) -> Seeker<'s> {
        let path = absolute(&slide.path);
        let name = match &slide.listed_id {
            // A list's id means the slide that the list says, wherever it lies.
            Some(id) => self.hash("listed id", &[id.as_bytes()]),
            None => self.hash("path", &[path.as_os_str().as_encoded_bytes()]),
        };
        Seeker { slide, path, fingerprint, name }
    }

    fn name_file(&self, seeker: &Seeker) -> PathBuf {
        self.directory.join("names").join(&seeker.name)
    }

    fn content_file(&self, seeker: &Seeker, number: usize) -> PathBuf {
        let content = match (&seeker.slide.listed_id, seeker.fingerprint) {
            // The list alone decides. And slides that cannot be read are not one slide.
            (Some(_), _) | (None, "") => self.hash("content of", &[seeker.name.as_bytes()]),
            (None, fingerprint) => self.hash("content", &[fingerprint.as_bytes()]),
        };
        self.directory.join("contents").join(format!("{content}-{number}"))
    }

    fn pointer(&self, file: &Path) -> Option<String> {
        std::fs::read_to_string(file).ok().filter(|id| super::is_made(id))
    }

    fn entry_file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn entry(&self, seeker: &Seeker) -> Result<Vec<u8>> {
        let path = seeker.path.to_string_lossy().into_owned();
        let who = Who { path, listed_id: seeker.slide.listed_id.clone() };
        let entry = Entry {
            name: seeker.name.clone(),
            fingerprint: seeker.fingerprint.to_string(),
            slide: Kept::new(who, self.naming.recipient.as_ref())?,
        };
        serde_json::to_vec_pretty(&entry).map_err(|e| Error::Internal(e.to_string()))
    }

    /// Takes the id that the slide's name has; where its content has changed, what OUT holds no longer counts.
    fn confirm(&self, id: &str, seeker: &Seeker, invalidate: &dyn Fn(&str) -> Result<()>) -> Result<()> {
        let file = self.entry_file(id);
        // One that cannot be read now says nothing of its content, and what is done stays done.
        let is_it = |entry: Entry| entry.fingerprint == seeker.fingerprint || seeker.fingerprint.is_empty();
        if read_entry(&file).is_some_and(is_it) {
            return Ok(());
        }
        invalidate(id)?;
        publish::write_atomic(&file, &self.entry(seeker)?).map_err(failed)?;
        for number in 0.. {
            let content = self.content_file(seeker, number);
            let created = publish::create_once(&content, id.as_bytes()).map_err(failed)?;
            if created || self.pointer(&content).as_deref() == Some(id) {
                break;
            }
        }
        Ok(())
    }

    /// The id that stands for the slide's content and is not `taken`, or a new one.
    fn by_content(&self, seeker: &Seeker, taken: &HashSet<String>) -> Result<String> {
        let mut minted = 0;
        for number in 0.. {
            let content = self.content_file(seeker, number);
            let mut id = self.pointer(&content);
            if id.is_none() {
                let new = self.mint(seeker, minted)?;
                minted += 1;
                if !publish::create_once(&content, new.as_bytes()).map_err(failed)? {
                    id = self.pointer(&content);
                }
                if id.is_none() {
                    // Ours, or one that a power cut left empty.
                    publish::write_atomic(&content, new.as_bytes()).map_err(failed)?;
                    id = Some(new);
                }
            }
            let Some(id) = id.filter(|id| !taken.contains(id)) else { continue };
            let file = self.entry_file(&id);
            if !file.exists() {
                publish::create_once(&file, &self.entry(seeker)?).map_err(failed)?;
            }
            // The id stands for other content: that of another slide of this place, or the slide has changed since.
            let Some(entry) = read_entry(&file).filter(|e| e.fingerprint == seeker.fingerprint) else { continue };
            if entry.name == seeker.name {
                publish::create_once(&self.name_file(seeker), id.as_bytes()).map_err(failed)?;
            }
            return Ok(id);
        }
        Err(Error::Internal("more copies of a slide than numbers".into()))
    }

    /// A new id. A keyed one is of the slide's place, and where that id is another slide's, of all that is known of it.
    fn mint(&self, seeker: &Seeker, attempt: usize) -> Result<String> {
        let Some(key) = self.naming.key.as_ref().filter(|_| self.naming.mode == IdMode::Hmac) else {
            return Ok(written(&random_bytes::<16>()?));
        };
        let study = self.naming.study.as_bytes();
        let canonical = match &seeker.slide.listed_id {
            Some(id) => id.as_bytes(),
            None => seeker.slide.place.as_os_str().as_encoded_bytes(),
        };
        Ok(written(&match attempt {
            0 => key.mac("id", &[study, canonical]),
            n => {
                let path = seeker.path.as_os_str().as_encoded_bytes();
                let fingerprint = seeker.fingerprint.as_bytes();
                key.mac("id", &[study, canonical, path, fingerprint, &(n as u64).to_be_bytes()])
            }
        }))
    }
}

pub(super) fn read_entry(file: &Path) -> Option<Entry> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::naming::NamingRecord;
    use super::super::{assign, is_made, rows};
    use super::*;
    use crate::record::sealed::Identities;
    use crate::slide::mpp::MppOverride;

    struct Site {
        root: tempfile::TempDir,
        naming: Naming,
    }

    impl Site {
        fn new(naming: Naming) -> Self {
            Site { root: tempfile::tempdir().expect("temporary directory"), naming }
        }

        fn keyed(key: u8, study: &str) -> Self {
            let key = Some(SiteKey::new([key; 32]));
            Site::new(Naming { mode: IdMode::Hmac, key, study: study.into(), recipient: None })
        }

        /// A slide with this content.
        fn slide(&self, name: &str, content: &str) -> Found {
            let path = self.root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
            std::fs::write(&path, content).expect("writes");
            let place = Path::new(name).with_extension("");
            Found { path, place, listed_id: None, line: None, mpp: MppOverride::default() }
        }

        fn out(&self) -> PathBuf {
            self.root.path().join("out")
        }

        /// The ids, and which of them were invalidated.
        fn ids(&self, slides: &[Found]) -> (Vec<String>, Vec<String>) {
            let invalid = std::cell::RefCell::new(Vec::new());
            let invalidate = |id: &str| {
                invalid.borrow_mut().push(id.to_string());
                Ok(())
            };
            let ids = assign(&self.out(), slides, &self.naming, &invalidate).expect("assigns");
            assert!(ids.iter().all(|id| is_made(id)), "{ids:?}");
            (ids, invalid.into_inner())
        }
    }

    fn random() -> Naming {
        Naming { mode: IdMode::Random, ..Naming::default() }
    }

    /// What holds for random and keyed ids alike.
    fn keeps_its_promises(site: &Site) {
        let (a, b) = (site.slide("a/x.svs", "1"), site.slide("b/x.svs", "2"));
        let both = site.ids(&[a.clone(), b.clone()]);
        assert_ne!(both.0[0], both.0[1], "one stem in two folders");
        assert!(both.1.is_empty());
        assert_eq!(site.ids(&[a.clone(), b.clone()]), both, "again");
        assert_eq!(site.ids(&[b]).0, [both.0[1].clone()], "alone");
        // Moved: the same content keeps its id.
        let moved = site.slide("elsewhere/y.svs", "1");
        assert_eq!(site.ids(std::slice::from_ref(&moved)), (vec![both.0[0].clone()], vec![]));
        // Both at once are two slides; the first keeps its id, whichever is named first.
        let copies = site.ids(&[moved.clone(), a.clone()]);
        assert_eq!(copies.0[1], both.0[0]);
        assert!(!both.0.contains(&copies.0[0]));
        assert_eq!(site.ids(&[moved, a]), copies, "again");
        // Changed: it keeps its id, and what was made of it no longer counts.
        let changed = site.slide("a/x.svs", "rescanned");
        let told = (vec![both.0[0].clone()], vec![both.0[0].clone()]);
        assert_eq!(site.ids(std::slice::from_ref(&changed)), told);
        assert_eq!(site.ids(&[changed]).1, Vec::<String>::new(), "told once");
        assert_eq!(site.ids(&[site.slide("c/z.svs", "rescanned")]).0, [both.0[0].clone()], "then moved");
        // Its old content elsewhere is another slide now: the copy that got an id of its own has it.
        let old = site.ids(&[site.slide("d/old.svs", "1")]).0;
        assert_eq!(old, [copies.0[0].clone()]);
    }

    #[test]
    fn random_ids_are_kept() {
        keeps_its_promises(&Site::new(random()));
        let naming = || Site::new(random());
        let id = |site: &Site| site.ids(&[site.slide("x.svs", "1")]).0;
        assert_ne!(id(&naming()), id(&naming()), "random");
    }

    #[test]
    fn keyed_ids_are_kept_and_depend_on_key_study_and_place_alone() {
        keeps_its_promises(&Site::keyed(1, ""));
        let id = |site: &Site, name: &str| site.ids(&[site.slide(name, "1")]).0.remove(0);
        let first = id(&Site::keyed(1, "a"), "p/x.svs");
        assert_eq!(first, id(&Site::keyed(1, "a"), "p/x.svs"), "another OUT");
        assert_ne!(first, id(&Site::keyed(2, "a"), "p/x.svs"));
        assert_ne!(first, id(&Site::keyed(1, "b"), "p/x.svs"));
        assert_ne!(first, id(&Site::keyed(1, "a"), "q/x.svs"));
        // HMAC-SHA256 as another tool computes it (scripts/hmac_id.py 0101..01 a p/x).
        assert_eq!(first, "ggxqtaicjodhnz3epwlfx5v5bi");
        // One place in two archives: the second gets another id, and keeps it.
        let site = Site::keyed(1, "a");
        let (one, two) = (site.slide("p/x.svs", "1"), site.slide("more/p/x.svs", "2"));
        let two = Found { place: "p/x".into(), ..two };
        let ids = site.ids(&[one, two.clone()]).0;
        assert_eq!(ids[0], first);
        assert_ne!(ids[1], first);
        assert_eq!(site.ids(&[two]).0, ids[1..]);
    }

    #[test]
    fn a_list_decides_by_its_ids_which_are_replaced_too() {
        let site = Site::new(random());
        let listed = |name: &str, content: &str, id: &str, line| Found {
            listed_id: Some(id.into()),
            line: Some(line),
            ..site.slide(name, content)
        };
        let first = site.ids(&[listed("a.svs", "1", "case-1", 2), listed("b.svs", "1", "case-2", 3)]).0;
        assert_ne!(first[0], first[1]);
        // The list's id means the slide that the list says, wherever it lies and whatever it holds.
        let told = (vec![first[0].clone()], vec![first[0].clone()]);
        assert_eq!(site.ids(&[listed("elsewhere.svs", "2", "case-1", 2)]), told);
        let twice = [listed("a.svs", "1", "case-1", 2), listed("b.svs", "2", "case-1", 7)];
        let error = assign(&site.out(), &twice, &site.naming, &|_| Ok(())).expect_err("refused").to_string();
        assert_eq!(error, "the slide list gives one id to two slides: lines 2 and 7");
        let rows = rows(&site.out(), &Identities::default()).expect("reads");
        assert!(rows.iter().any(|r| r.slide.as_ref().is_some_and(|s| s.listed_id.as_deref() == Some("case-2"))));
    }

    #[test]
    fn slides_that_cannot_be_read_are_not_one_slide() {
        let site = Site::new(random());
        let gone = |name: &str| Found { path: site.root.path().join(name), ..site.slide("x.svs", "1") };
        let (a, b) = (gone("a.svs"), gone("b.svs"));
        let ids = site.ids(&[a.clone(), b]).0;
        assert_ne!(ids[0], ids[1]);
        std::fs::write(&a.path, "now it is there").expect("writes");
        assert_eq!(site.ids(&[a]), (vec![ids[0].clone()], vec![ids[0].clone()]));
    }

    #[test]
    fn of_several_workers_the_first_decides() {
        for naming in [random(), Site::keyed(1, "").naming] {
            let site = Site::new(naming);
            let slides: Vec<Found> = (0..20).map(|n| site.slide(&format!("{n}.svs"), &n.to_string())).collect();
            let runs: Vec<Vec<String>> = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..4)
                    .map(|worker| {
                        let (site, mut slides) = (&site, slides.clone());
                        scope.spawn(move || {
                            slides.rotate_left(worker * 5);
                            let mut ids = assign(&site.out(), &slides, &site.naming, &|_| Ok(())).expect("assigns");
                            ids.rotate_right(worker * 5);
                            ids
                        })
                    })
                    .collect();
                workers.into_iter().map(|w| w.join().expect("ends")).collect()
            });
            assert!(runs.iter().all(|run| *run == runs[0]));
            assert_eq!(rows(&site.out(), &Identities::default()).expect("reads").len(), 20);
        }
    }

    #[test]
    fn sealed_tables_are_used_without_the_identity() {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string().parse().expect("age1...");
        let site = Site::new(Naming { recipient: Some(recipient), ..random() });
        let slide = site.slide("Doe John/x.svs", "1");
        let ids = site.ids(std::slice::from_ref(&slide)).0;
        assert_eq!(site.ids(&[slide]).0, ids);
        let moved = site.slide("Roe Jane/y.svs", "1");
        assert_eq!(site.ids(&[moved]).0, ids);
        let private = site.out().join(PRIVATE);
        let mut files = 0;
        for entry in walkdir::WalkDir::new(&private).into_iter().map(|e| e.expect("readable")) {
            let told = |name: &str| entry.path().to_string_lossy()[private.as_os_str().len()..].contains(name);
            assert!(!told("Doe") && !told("Roe"));
            if entry.file_type().is_file() {
                let bytes = std::fs::read(entry.path()).expect("readable");
                // Whole names: three letters come about by chance in what is encrypted.
                let names = bytes.windows(8).any(|w| w == b"Doe John" || w == b"Roe Jane");
                assert!(!names, "{}", entry.path().display());
                files += 1;
            }
        }
        assert_eq!(files, 5, "ids.json, lookup.key, the entry, its name and its content");
        assert_eq!(rows(&site.out(), &Identities::default()).expect("reads")[0].slide, None);
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), identity.to_string().expose_secret()).expect("writes");
        let opened = rows(&site.out(), &Identities::read(file.path()).expect("reads")).expect("reads");
        let who = opened[0].slide.clone().expect("opened");
        assert!(who.path.ends_with("Doe John/x.svs"));
        assert_eq!(NamingRecord::read(&site.out()).expect("reads").expect("there").mode, IdMode::Random);
    }
}
