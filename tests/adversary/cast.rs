//! The cast: a real `kegd`, and members whose clients are real and whose servers lie.

use std::fs;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use kegfs::format::Role;
use kegfs::sync::{Event, Folder, SyncError};

use crate::liar::{Liar, Lie};
use crate::sync_support::*;

/// A member with a server of its own to be lied to by.
pub struct Actor {
    pub person: Person,
    pub folder: Arc<Folder>,
    pub liar: Liar,
    heard: Arc<Mutex<Vec<Event>>>,
}

impl Deref for Actor {
    type Target = Person;

    fn deref(&self) -> &Person {
        &self.person
    }
}

fn listen(person: &Person) -> Arc<Mutex<Vec<Event>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&heard);
    person.session().on_event(move |event| tell.lock().unwrap().push(event.clone()));
    heard
}

/// A person behind a liar who is not a member of anything yet.
pub struct Guest {
    pub person: Person,
    pub liar: Liar,
    heard: Arc<Mutex<Vec<Event>>>,
}

impl Guest {
    pub fn join(kegd: &Kegd, name: &str) -> Self {
        let liar = Liar::before(kegd.address);
        let person = Person::join_at(&liar.url, &kegd.invite, name);
        let heard = listen(&person);
        Self { person, liar, heard }
    }

    pub fn with(self, folder: Arc<Folder>) -> Actor {
        Actor { person: self.person, folder, liar: self.liar, heard: self.heard }
    }

    pub fn events(&self) -> Vec<Event> {
        self.heard.lock().unwrap().clone()
    }
}

impl Actor {
    pub fn events(&self) -> Vec<Event> {
        self.heard.lock().unwrap().clone()
    }

    pub fn heard(&self, what: impl Fn(&Event) -> bool) -> bool {
        self.events().iter().any(what)
    }

    /// Locks and unlocks, as a restart of the client.
    pub fn restart(&mut self) {
        self.person.unlock();
        self.heard = listen(&self.person);
        self.folder = self.person.folder("acme");
    }

    /// Asks the server until it has an answer that is final.
    pub fn look(&self) -> Result<(), SyncError> {
        self.folder.catch_up_blocking(PATIENCE)
    }

    /// FRZ: refused, read-only, the proof kept, the user told in plain words, and the view as it was. Returns the words.
    pub fn must_freeze(&self) -> String {
        let before = (tree(&self.folder), self.folder.replica.mark());
        eventually("the folder freezes", || {
            let _ = self.look();
            self.folder.frozen().is_some()
        });
        self.is_frozen(before.0, before.1)
    }

    fn is_frozen(&self, tree_before: std::collections::BTreeMap<String, Vec<u8>>, mark: kegfs::format::Head) -> String {
        let why = self.folder.frozen().expect("frozen");
        assert!(matches!(self.look(), Err(SyncError::Frozen(_))), "it stays so");
        assert_eq!(self.folder.status().frozen.as_deref(), Some(why.as_str()), "status tells");
        assert!(why.starts_with("the ") && why.len() > 30 && !why.contains(['{', '}']), "not plain words: {why}");
        assert!(!self.folder.writable(), "read-only");
        let mut proofs = Vec::new();
        for event in self.events() {
            if let Event::Misbehaviour { db, what, evidence } = event {
                assert_eq!(db, self.folder.id());
                assert_eq!(what, why);
                proofs.push(evidence);
            }
        }
        let [proof] = proofs.as_slice() else { panic!("one event with its proof, not {proofs:?}") };
        assert!(self.folder.evidence().unwrap().iter().any(|kept| kept.path == *proof), "kept, and found again");
        let proof = fs::read(proof).unwrap();
        // The verified head as it is signed for in the chain; what was offered is looked for by who knows it.
        let verified = self.folder.replica.mark();
        assert!(contains(&proof, &verified.chain.0), "the verified head is in the proof");
        assert!(verified.seq >= mark.seq, "the mark never goes back");
        assert_eq!(tree(&self.folder), tree_before, "what is shown is what was verified");
        why
    }

    /// The proof that was kept.
    pub fn proof(&self) -> Vec<u8> {
        let proofs = self.folder.evidence().unwrap();
        assert_eq!(proofs.len(), 1);
        fs::read(&proofs[0].path).unwrap()
    }

    /// REJ of an entry: the log goes on, the entry does nothing, everybody who looks is told why.
    pub fn must_ignore(&self, seq: u64, why: &str) {
        let before = tree(&self.folder);
        eventually("the entry is seen and ignored", || {
            let _ = self.look();
            self.heard(|event| matches!(event, Event::EntryIgnored { seq: at, .. } if *at == seq))
        });
        let reasons: Vec<_> = self
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::EntryIgnored { seq: at, reason, .. } if at == seq => Some(reason),
                _ => None,
            })
            .collect();
        assert!(reasons.len() == 1 && reasons[0].contains(why), "{reasons:?}");
        assert_eq!(self.folder.frozen(), None, "nobody is proven guilty");
        assert_eq!(tree(&self.folder), before);
    }
}

pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|part| part == needle)
}

/// Alice owns the folder `acme`, Bob edits it; each has a server of their own to be lied to by.
pub struct Team {
    pub alice: Actor,
    pub bob: Actor,
    // Dropped last.
    pub kegd: Kegd,
}

impl Team {
    pub fn new() -> Self {
        let kegd = Kegd::start();
        let (alice, bob) = (Guest::join(&kegd, "alice"), Guest::join(&kegd, "bob"));
        let ours = alice.person.session().create_folder("acme").unwrap();
        alice.person.session().add_member(&ours, bob.person.id, Role::Editor).unwrap();
        let theirs = bob.person.folder("acme");
        let team = Self { alice: alice.with(ours), bob: bob.with(theirs), kegd };
        write(&team.alice.folder, "plan.txt", b"meet at noon");
        team.settle();
        team
    }

    /// One more member, added by Alice.
    pub fn third(&self, name: &str, role: Role) -> Actor {
        let guest = Guest::join(&self.kegd, name);
        self.alice.session().add_member(&self.alice.folder, guest.person.id, role).unwrap();
        let folder = guest.person.folder("acme");
        eventually("the newcomer has all there is", || folder.replica.mark() == self.alice.folder.replica.mark());
        guest.with(folder)
    }

    /// Both have everything that either has.
    pub fn settle(&self) {
        for _ in 0..2 {
            for actor in [&self.alice, &self.bob] {
                if actor.folder.writable() {
                    actor.folder.wait_uploaded_blocking(PATIENCE).unwrap();
                }
                actor.look().unwrap();
            }
        }
        self.bob.look().unwrap();
        self.alice.look().unwrap();
        assert_eq!(self.alice.folder.replica.mark(), self.bob.folder.replica.mark());
    }

    /// Length of the log that Alice has verified.
    pub fn head(&self) -> u64 {
        self.alice.folder.replica.mark().seq
    }

    /// Everybody is lied to.
    pub fn lie(&self, lie: impl Fn() -> Box<dyn Lie>) {
        struct Boxed(Box<dyn Lie>);
        impl Lie for Boxed {
            fn log(
                &self,
                db: kegfs::format::DbId,
                truth: Vec<kegfs::format::SignedEntry>,
            ) -> Vec<kegfs::format::SignedEntry> {
                self.0.log(db, truth)
            }
        }
        for actor in [&self.alice, &self.bob] {
            actor.liar.tell(Boxed(lie()));
        }
    }
}
