//! Tests of `lease`.

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn join(out: &Path, timeout: Duration) -> Leases {
    Leases::join(out, "grid", "features_x", timeout, WorkerState::default).expect("joins")
}

fn lease(out: &Path, id: &str) -> PathBuf {
    out.join(format!("site-private/leases/grid/features_x/{id}.lease"))
}

/// Every file below OUT.
fn left(out: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(out).into_iter().map(|e| e.expect("readable"));
    walk.filter(|e| e.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// A worker of another host that shows no sign of life, with a lease.
fn stranger(out: &Path, id: &str, timeout_seconds: f64) -> String {
    let name = format!("{}-1-{}", "0123456789abcdef", "fedcba9876543210");
    let state = WorkerState { lease_timeout_seconds: timeout_seconds, ..WorkerState::default() };
    fs::write(out.join("site-private/workers").join(&name), state.to_bytes()).expect("writes");
    fs::write(lease(out, id), format!("{name}\n")).expect("writes");
    name
}

#[test]
fn of_many_workers_one_gets_a_slide_and_nothing_is_left() {
    let out = tempfile::tempdir().expect("temporary directory");
    let workers: Vec<Leases> = (0..8).map(|_| join(out.path(), LONG)).collect();
    assert!(!workers[0].others_at_start() && workers[7].others_at_start());
    let barrier = std::sync::Barrier::new(8);
    for id in (0..20).map(|i| format!("s{i}")) {
        let got: Vec<bool> = std::thread::scope(|scope| {
            let acquire = |w| {
                let (barrier, id) = (&barrier, &id);
                scope.spawn(move || {
                    barrier.wait();
                    Leases::acquire(w, id).expect("writable")
                })
            };
            let threads: Vec<_> = workers.iter().map(acquire).collect();
            threads.into_iter().map(|t| t.join().expect("runs")).collect()
        });
        assert_eq!(got.iter().filter(|g| **g).count(), 1, "{id}");
        for (worker, got) in workers.iter().zip(got) {
            assert_eq!(worker.check(&id).is_ok(), got);
            worker.release(&id);
        }
        assert!(!lease(out.path(), &id).exists());
    }
    assert!(workers[0].acquire("a").expect("writable"));
    let mut last = Vec::new();
    for worker in workers {
        last.push(worker.leave().expect("leaves"));
    }
    assert_eq!(last, [false, false, false, false, false, false, false, true]);
    assert_eq!(left(out.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_living_keep_their_slides() {
    let out = tempfile::tempdir().expect("temporary directory");
    // The observer's own timeout does not matter: the holder stated its own, and beats six times in it.
    let (holder, observer) = (join(out.path(), LONG), join(out.path(), Duration::ZERO));
    assert!(holder.acquire("a").expect("writable"));
    for _ in 0..20 {
        assert!(!observer.wake("a").expect("looks"));
        std::thread::sleep(Duration::from_millis(5));
    }
    holder.check("a").expect("kept");
    holder.release("a");
    assert!(observer.wake("a").expect("looks"));
}

#[test]
fn a_silent_worker_is_taken_over_by_one_and_cannot_publish() {
    let out = tempfile::tempdir().expect("temporary directory");
    let observers: Vec<Leases> = (0..4).map(|_| join(out.path(), LONG)).collect();
    let name = stranger(out.path(), "a", 0.05);
    stranger(out.path(), "b", 0.05);
    assert!(!observers[0].wake("a").expect("looks"), "one look tells nothing");
    std::thread::sleep(Duration::from_millis(60));
    // Each sign of life starts the time anew.
    let state = WorkerState { beat: 1, lease_timeout_seconds: 0.05, ..WorkerState::default() };
    fs::write(out.path().join("site-private/workers").join(&name), state.to_bytes()).expect("writes");
    assert!(!observers[0].wake("a").expect("looks"));
    let got: Vec<bool> = std::thread::scope(|scope| {
        let take = |o: &'_ Leases| {
            while !o.wake("a").expect("looks") && names(&lease(out.path(), "a"), &name) {
                std::thread::sleep(Duration::from_millis(2));
            }
            o.acquire("a").expect("writable")
        };
        let threads: Vec<_> = observers.iter().map(|o| scope.spawn(move || take(o))).collect();
        threads.into_iter().map(|t| t.join().expect("runs")).collect()
    });
    assert_eq!(got.iter().filter(|g| **g).count(), 1, "{got:?}");
    assert!(!lease(out.path(), "b").exists(), "all of its leases were taken");
    drop(observers);
    assert_eq!(left(out.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_worker_whose_lease_was_taken_notices_and_leaves_the_new_one_alone() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (stopped, taker) = (join(out.path(), LONG), join(out.path(), LONG));
    assert!(stopped.acquire("a").expect("writable"));
    bury(taker.private(), &stopped.name).expect("taken");
    assert!(matches!(stopped.check("a"), Err(Error::LeaseLost)));
    assert!(taker.acquire("a").expect("writable"));
    assert!(matches!(stopped.check("a"), Err(Error::LeaseLost)));
    stopped.release("a");
    drop(stopped);
    taker.check("a").expect("still there");
}

#[test]
fn a_new_lease_that_is_taken_by_mistake_is_put_back() {
    let out = tempfile::tempdir().expect("temporary directory");
    let holder = join(out.path(), LONG);
    assert!(holder.acquire("a").expect("writable"));
    // The judged worker's lease was there at the look, and the holder's at the rename.
    let judged = "0123456789abcdef-1-fedcba9876543210";
    for take in [take_away, rename_away] {
        take(&holder.directory, "a", judged).expect("leaves it");
        holder.check("a").expect("as it was");
        assert_eq!(fs::read_dir(&holder.directory).expect("readable").count(), 1);
    }
    holder.release("a");
}

#[test]
fn the_dead_of_this_host_are_seen_at_once() {
    let out = tempfile::tempdir().expect("temporary directory");
    let mut child = std::process::Command::new("true").spawn().expect("starts");
    let token = publish::process_token();
    let mut fields: Vec<String> = token.split('-').map(str::to_owned).collect();
    fields[1] = child.id().to_string();
    let dead = fields.join("-");
    child.wait().expect("ends");
    drop(join(out.path(), LONG));
    fs::write(out.path().join("site-private/workers").join(&dead), b"{}").expect("writes");
    fs::write(lease(out.path(), "a"), format!("{dead}\n")).expect("writes");
    let worker = join(out.path(), LONG);
    assert!(!worker.others_at_start());
    assert!(worker.acquire("a").expect("writable"));
}

#[test]
fn time_in_which_the_observer_did_not_look_does_not_count() {
    let start = Instant::now();
    let mut watched = Watched { content: vec![1], looked: start, unchanged: Duration::ZERO };
    let minute = Duration::from_secs(60);
    assert_eq!(watched.look(vec![1], start + 60 * minute), LONGEST_STEP);
    assert_eq!(watched.look(vec![1], start + 60 * minute + LONGEST_STEP / 2), LONGEST_STEP * 3 / 2);
    assert_eq!(watched.look(vec![2], start + 61 * minute), Duration::ZERO);
}
