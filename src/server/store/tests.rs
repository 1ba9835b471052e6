//! What every log store promises, on both.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const DB: DbId = DbId([1; 32]);
const ALICE: AccountId = AccountId([0xa; 32]);
const BOB: AccountId = AccountId([0xb; 32]);
const LAPTOP: DeviceId = DeviceId([0x1a; 32]);

fn on_every_store(check: impl Fn(&dyn LogStore)) {
    let dir = tempfile::tempdir().unwrap();
    check(&SqliteStore::open(&dir.path().join("log.db")).unwrap());
    check(&MemoryStore::default());
}

fn at(seq: u64) -> Head {
    Head { seq, chain: ChainHash([seq as u8; 32]) }
}

fn entry(seq: u64, len: usize) -> Write {
    Write::Entry { db: DB, head: at(seq), hash: EntryHash([0x40 + seq as u8; 32]), bytes: vec![seq as u8; len] }
}

fn member(account: AccountId, role: Role) -> Write {
    Write::Member { db: DB, account, row: Some(MemberRow { role, expires_ms: None }) }
}

fn done(store: &dyn LogStore, job: Job) {
    store.commit(&[job]).unwrap().remove(0).unwrap();
}

#[test]
fn a_job_that_does_not_fit_changes_nothing_and_the_others_stand() {
    on_every_store(|store| {
        let results = store
            .commit(&[
                vec![entry(1, 3), member(ALICE, Role::Owner)],
                vec![member(BOB, Role::Viewer), entry(3, 3)],
                vec![Write::ExpectEntry { db: DB, hash: EntryHash([0x42; 32]) }],
                vec![entry(2, 3)],
                vec![entry(2, 3)],
                vec![Write::ExpectEntry { db: DB, hash: EntryHash([0x42; 32]) }],
            ])
            .unwrap();
        let stood: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(stood, [true, false, false, true, false, true]);
        assert_eq!(store.head(&DB).unwrap(), Some(at(2)));
        assert!(store.member(&DB, &BOB).unwrap().is_none());
        assert_eq!(store.member(&DB, &ALICE).unwrap().unwrap().role, Role::Owner);
        assert_eq!(store.chain_at(&DB, 2).unwrap(), Some(at(2).chain));
        assert_eq!((store.chain_at(&DB, 0).unwrap(), store.chain_at(&DB, 3).unwrap()), (None, None));
        assert_eq!(store.seq_of(&DB, &EntryHash([0x42; 32])).unwrap(), Some(2));
        assert_eq!(store.seq_of(&DbId([9; 32]), &EntryHash([0x42; 32])).unwrap(), None);
    });
}

#[test]
fn a_former_member_is_remembered_with_the_newest_removal() {
    on_every_store(|store| {
        assert_eq!(store.former(&DB, &BOB).unwrap(), None);
        done(store, vec![entry(1, 3), Write::Former { db: DB, account: BOB, seq: 1 }]);
        done(store, vec![entry(2, 3), Write::Former { db: DB, account: BOB, seq: 2 }]);
        assert_eq!(store.former(&DB, &BOB).unwrap(), Some(2));
        assert_eq!((store.former(&DB, &ALICE).unwrap(), store.former(&DbId([9; 32]), &BOB).unwrap()), (None, None));
    });
}

#[test]
fn a_store_of_the_first_layout_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.db");
    {
        let old = rusqlite::Connection::open(&path).unwrap();
        drop(SqliteStore::open(&path).unwrap());
        let older = "DROP TABLE waste; DROP TABLE former; DROP TABLE lock_holder; DROP TABLE redemption; DROP INDEX invite_account;
            ALTER TABLE invite DROP COLUMN account; ALTER TABLE invite DROP COLUMN ends_ms;
            ALTER TABLE invite DROP COLUMN db; ALTER TABLE invite DROP COLUMN key; PRAGMA user_version=1;";
        old.execute_batch(older).unwrap();
    }
    let store = SqliteStore::open(&path).unwrap();
    done(&store, vec![entry(1, 3), Write::Former { db: DB, account: BOB, seq: 1 }]);
    assert_eq!(store.former(&DB, &BOB).unwrap(), Some(1));
}

#[test]
fn entries_come_in_order_within_the_bytes_asked_for_but_at_least_one() {
    on_every_store(|store| {
        (1..=4).for_each(|seq| done(store, vec![entry(seq, 10)]));
        let lens = |after, max| store.entries(&DB, after, max).unwrap().iter().map(|e| e[0]).collect::<Vec<_>>();
        assert_eq!(lens(0, 1000), [1, 2, 3, 4]);
        assert_eq!(lens(1, 20), [2, 3]);
        assert_eq!(lens(1, 29), [2, 3]);
        assert_eq!(lens(2, 1), [3]);
        assert!(lens(4, 1000).is_empty() && lens(u64::MAX, 1000).is_empty());
    });
}

#[test]
fn account_logs_grow_by_one_and_revoked_devices_have_no_key_and_no_session() {
    on_every_store(|store| {
        let append = |seq| Write::AccountEntry { account: ALICE, head: at(seq), bytes: vec![seq as u8] };
        done(store, vec![append(1), Write::AddDevice { account: ALICE, device: LAPTOP, sign: [7; 32] }]);
        assert!(store.commit(&[vec![append(1)]]).unwrap().remove(0).is_err());
        assert!(store.commit(&[vec![append(3)]]).unwrap().remove(0).is_err());
        done(store, vec![append(2)]);
        assert_eq!(store.account_head(&ALICE).unwrap(), Some(at(2)));
        assert_eq!(store.account_entries(&ALICE, 0, 1).unwrap(), [vec![1]]);
        assert_eq!(store.account_entries(&ALICE, 1, 9).unwrap(), [vec![2]]);
        assert_eq!(store.device_key(&ALICE, &LAPTOP).unwrap(), Some([7; 32]));
        assert_eq!(store.device_key(&BOB, &LAPTOP).unwrap(), None);

        let session = Session { account: ALICE, device: LAPTOP, expires_ms: 100 };
        let add = |hash, session| vec![Write::AddSession { hash, session }];
        done(store, add([1; 32], session));
        done(store, add([2; 32], Session { expires_ms: 200, ..session }));
        assert!(store.commit(&[add([3; 32], Session { account: BOB, ..session })]).unwrap().remove(0).is_err());
        done(store, vec![Write::ForgetSessions { before_ms: 150 }]);
        assert_eq!(store.session(&[1; 32]).unwrap(), None);
        assert_eq!(store.session(&[2; 32]).unwrap().unwrap().device, LAPTOP);
        // Somebody else who names the same device revokes nothing here.
        let theirs = Write::AddDevice { account: BOB, device: LAPTOP, sign: [8; 32] };
        done(store, vec![theirs, Write::RevokeDevice { account: BOB, device: LAPTOP }]);
        assert!(store.session(&[2; 32]).unwrap().is_some());
        assert_eq!(store.device_key(&ALICE, &LAPTOP).unwrap(), Some([7; 32]));
        done(store, vec![Write::RevokeDevice { account: ALICE, device: LAPTOP }]);
        assert_eq!(store.session(&[2; 32]).unwrap(), None);
        assert_eq!(store.device_key(&ALICE, &LAPTOP).unwrap(), None);
        assert!(store.commit(&[add([4; 32], session)]).unwrap().remove(0).is_err());
    });
}

#[test]
fn an_invite_is_good_for_its_uses_and_no_more() {
    on_every_store(|store| {
        assert!(!store.has_invites().unwrap());
        done(store, vec![Write::AddInvite { hash: [5; 32], uses: 2 }]);
        let spend = |hash| store.commit(&[vec![Write::SpendInvite { hash, now_ms: 0 }]]).unwrap().remove(0).is_ok();
        assert_eq!([spend([5; 32]), spend([6; 32]), spend([5; 32]), spend([5; 32])], [true, false, true, false]);
        assert!(store.has_invites().unwrap());
    });
}

#[test]
fn members_boxes_and_standing_are_found_again() {
    on_every_store(|store| {
        let key_box = |account| KeyBox { account, generation: 3, sealed: vec![account.0[0]; 5] };
        let boxes = vec![(key_box(ALICE), [1; 32]), (key_box(BOB), [2; 32])];
        let guest = MemberRow { role: Role::GuestEditor, expires_ms: Some(50) };
        done(
            store,
            vec![
                entry(1, 1),
                Write::Boxes { db: DB, seq: 1, boxes },
                member(ALICE, Role::Admin),
                Write::Member { db: DB, account: BOB, row: Some(guest) },
                Write::Standing { db: DB, bytes: vec![8] },
                Write::Standing { db: DB, bytes: vec![9] },
                Write::Author {
                    db: DB,
                    device: LAPTOP,
                    last: AuthorState { counter: 4, previous: EntryHash([4; 32]) },
                },
            ],
        );
        let found = store.member_box(&DB, 1, &BOB).unwrap().unwrap();
        assert_eq!((found.key_box, found.index), (key_box(BOB), 1));
        assert!(store.member_box(&DB, 2, &BOB).unwrap().is_none());
        assert_eq!(store.leaves(&DB, 1).unwrap(), [[1; 32], [2; 32]]);
        assert_eq!(store.dbs_of(&BOB).unwrap(), [(DB, 1, guest)]);
        assert_eq!(store.members(&DB).unwrap().len(), 2);
        assert!(guest.holds(49) && !guest.holds(50));
        assert_eq!(store.standing(&DB).unwrap().unwrap(), [9]);
        assert_eq!(store.authors(&DB).unwrap()[&LAPTOP].counter, 4);
        done(store, vec![Write::Member { db: DB, account: BOB, row: None }]);
        assert!(store.dbs_of(&BOB).unwrap().is_empty() && store.member(&DB, &BOB).unwrap().is_none());
    });
}

#[test]
fn usage_counts_each_blob_once_for_who_pays_now() {
    on_every_store(|store| {
        let blob = |n: u8| Write::Blob { db: DB, blob: BlobRef { id: BlobId([n; 32]), size_bytes: 100 } };
        done(store, vec![entry(1, 1), Write::Payer { db: DB, account: ALICE }, blob(1), blob(2), blob(1)]);
        done(store, vec![Write::Release { db: DB, blob: BlobId([1; 32]), seq: 1, due_ms: 5 }]);
        assert_eq!((store.usage(&ALICE).unwrap(), store.usage(&BOB).unwrap()), (200, 0));
        done(store, vec![Write::Payer { db: DB, account: BOB }]);
        assert_eq!((store.usage(&ALICE).unwrap(), store.usage(&BOB).unwrap()), (0, 200));
        assert_eq!(store.payer(&DB).unwrap(), Some(BOB));
    });
}

#[test]
fn what_is_released_or_never_referred_to_is_waste_until_an_entry_refers_to_it_or_it_is_gone() {
    on_every_store(|store| {
        let id = |n: u8| BlobId([n; 32]);
        let of = |n: u8| BlobRef { id: id(n), size_bytes: 100 };
        let blob = |n: u8| Write::Blob { db: DB, blob: of(n) };
        let upload = |n: u8, due_ms| Write::Upload { db: DB, blob: of(n), due_ms };
        let release = |n: u8, due_ms| Write::Release { db: DB, blob: id(n), seq: 1, due_ms };
        let discard = |n: u8, due_ms| Write::Discard { db: DB, blob: id(n), due_ms };
        let found = |now_ms| {
            store.waste(now_ms, 9).unwrap().iter().map(|waste| (waste.blob.0[0], waste.due_ms)).collect::<Vec<_>>()
        };
        done(store, vec![entry(1, 1), Write::Payer { db: DB, account: ALICE }]);
        done(store, vec![upload(1, 30), upload(2, 20), blob(2), blob(3), upload(3, 5), release(9, 5)]);
        assert_eq!((found(29), found(30)), (vec![], vec![(1, 30)]), "what an entry refers to is none");
        done(store, vec![release(2, 25), release(3, 50)]);
        assert_eq!((found(24), found(99)), (vec![], vec![(2, 25), (1, 30), (3, 50)]));
        assert_eq!(store.waste(99, 1).unwrap().len(), 1);
        let waste = Waste { db: DB, blob: id(3), due_ms: 50, size_bytes: 100 };
        assert_eq!((store.waste_of(&DB, &id(3)).unwrap(), store.waste_of(&DB, &id(4)).unwrap()), (Some(waste), None));
        assert_eq!(store.next_waste_ms().unwrap(), Some(25));
        let postpone = |due_ms, until_ms| Write::Postpone { db: DB, blob: id(2), due_ms, until_ms };
        done(store, vec![postpone(24, 99)]);
        assert_eq!(store.next_waste_ms().unwrap(), Some(25), "that was another one");
        done(store, vec![postpone(25, 60)]);
        assert_eq!(found(99), [(1, 30), (3, 50), (2, 60)]);
        done(store, vec![postpone(60, 25)]);
        assert_eq!(store.unknown_blobs(&DB, &[id(1), id(7), id(3)]).unwrap(), [id(7)]);
        // Sent again it is waste as before; an entry that adds it again ends that.
        done(store, vec![upload(2, 90), blob(3)]);
        assert_eq!(found(99), [(2, 25), (1, 30)]);
        let results = store.commit(&[vec![discard(3, 50)], vec![discard(2, 26)], vec![discard(2, 25)]]).unwrap();
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(store.usage(&ALICE).unwrap(), 200, "its room is given back");
        done(store, vec![upload(2, 70)]);
        assert_eq!(found(99), [(1, 30), (2, 70)], "and it can come again");
    });
}

#[test]
fn a_store_of_the_layout_before_waste_is_taken_over_and_nothing_of_it_is_waste() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.db");
    let blob = Write::Blob { db: DB, blob: BlobRef { id: BlobId([1; 32]), size_bytes: 100 } };
    {
        let old = SqliteStore::open(&path).unwrap();
        done(&old, vec![entry(1, 3), Write::Payer { db: DB, account: ALICE }, blob]);
        let older = "DROP TABLE waste; PRAGMA user_version=4;";
        rusqlite::Connection::open(&path).unwrap().execute_batch(older).unwrap();
    }
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!((store.usage(&ALICE).unwrap(), store.next_waste_ms().unwrap()), (100, None));
    done(&store, vec![Write::Release { db: DB, blob: BlobId([1; 32]), seq: 1, due_ms: 5 }]);
    assert_eq!(store.next_waste_ms().unwrap(), Some(5));
}

#[test]
fn what_was_committed_is_there_after_opening_again_and_newer_layouts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.db");
    done(&SqliteStore::open(&path).unwrap(), vec![entry(1, 1)]);
    assert_eq!(SqliteStore::open(&path).unwrap().head(&DB).unwrap(), Some(at(1)));
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=99").unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::Newer { found: 99, .. })));
}

#[test]
fn devices_that_may_hold_locks_are_remembered_until_their_time_is_over() {
    on_every_store(|store| {
        let holder =
            |account, until_ms, now_ms| vec![Write::LockHolder { db: DB, account, device: LAPTOP, until_ms, now_ms }];
        done(store, holder(ALICE, 100, 0));
        done(store, holder(BOB, 200, 0));
        done(store, holder(ALICE, 150, 50));
        assert_eq!(store.lock_holders(&DB, 100).unwrap(), [(ALICE, LAPTOP), (BOB, LAPTOP)]);
        assert_eq!(store.lock_holders(&DB, 150).unwrap(), [(BOB, LAPTOP)]);
        assert_eq!(store.lock_holders(&DbId([9; 32]), 0).unwrap(), []);
        done(store, holder(BOB, 400, 300));
        assert_eq!(store.lock_holders(&DB, 0).unwrap(), [(BOB, LAPTOP)], "what ended is forgotten");
    });
}

#[test]
fn an_admission_ends_with_its_invite_its_time_and_its_use_and_is_bounded() {
    on_every_store(|store| {
        let key = InviteKey([7; 32]);
        let add = |n: u8, key, now_ms| {
            let job =
                vec![Write::AddAdmission { hash: [n; 32], account: ALICE, db: DB, key, ends_ms: 100, most: 2, now_ms }];
            store.commit(&[job]).unwrap().remove(0).is_ok()
        };
        let spend = |n: u8, now_ms| {
            store.commit(&[vec![Write::SpendInvite { hash: [n; 32], now_ms }]]).unwrap().remove(0).is_ok()
        };
        assert!(add(1, key, 0) && add(2, InviteKey([8; 32]), 0));
        assert!(!add(3, key, 0) && add(2, InviteKey([8; 32]), 0), "two at once; the same again");
        assert!(!spend(1, 101), "too late");
        done(store, vec![entry(1, 3), Write::CloseInvite { db: DbId([9; 32]), key }]);
        assert!(spend(1, 100), "another folder's invite of the same key closes nothing here");
        assert!(!spend(1, 100), "used");
        assert!(add(4, key, 50), "a used one makes room");
        done(store, vec![Write::CloseInvite { db: DB, key }]);
        assert!(!spend(4, 60), "closed");
        assert!(spend(2, 60), "the other is not");
    });
}

#[test]
fn by_one_invite_one_account_waits_until_it_is_closed() {
    on_every_store(|store| {
        let key = InviteKey([7; 32]);
        let add = |bytes: &[u8]| {
            let job = vec![Write::AddRedemption { db: DB, key, bytes: bytes.to_vec() }];
            store.commit(&[job]).unwrap().remove(0).is_ok()
        };
        assert!(add(b"carol") && add(b"carol") && !add(b"dave"));
        assert_eq!(store.redemptions(&DB).unwrap(), [b"carol".to_vec()]);
        assert!(store.redemptions(&DbId([9; 32])).unwrap().is_empty());
        done(store, vec![Write::CloseInvite { db: DB, key }]);
        assert!(store.redemptions(&DB).unwrap().is_empty() && add(b"dave"));
    });
}
