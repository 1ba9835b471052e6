//! git: a repository that lives in the mount, and clones of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{run, sized, soon, step};
use crate::common::tree::digest;
use crate::common::{Team, wait_for};

/// git in `dir`, whatever the machine's configuration says.
fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=Alice", "-c", "user.email=alice@example.org"]);
    command.args(["-c", "init.defaultBranch=main", "-c", "safe.directory=*", "-c", "gc.auto=0"]);
    run(command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").args(args))
}

fn grow(repository: &Path, files: usize, round: usize) {
    for n in 0..files {
        let dir = repository.join(format!("part-{:02}/sub-{}", n % 50, n % 7));
        fs::create_dir_all(&dir).unwrap();
        let text: String =
            (0..20).map(|line| format!("line {line} of file {n}, round {}\n", round * (n % 3))).collect();
        fs::write(dir.join(format!("file-{n}.txt")), text).unwrap();
    }
}

fn clean(repository: &Path) {
    assert_eq!(git(repository, &["status", "--porcelain"]), "", "{}", repository.display());
}

#[test]
fn a_repository_lives_in_a_mount() {
    let files = sized(150, 10_000);
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let repository = alice.join("project");
    fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "--quiet"]);
    step("writing the files", || grow(&repository, files, 0));
    step("add and commit", || {
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "--quiet", "-m", "first"]);
    });
    for round in 1..4 {
        grow(&repository, files / 4, round);
        step("commit -a", || git(&repository, &["commit", "--quiet", "-a", "-m", &format!("round {round}")]));
    }
    step("status", || clean(&repository));
    step("worktree add", || git(&repository, &["worktree", "add", "--quiet", "../tree", "-b", "side", "HEAD~2"]));
    let tree = alice.join("tree");
    fs::write(tree.join("side.txt"), "on the side\n").unwrap();
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "--quiet", "-m", "side"]);
    git(&repository, &["merge", "--quiet", "-m", "both", "side"]);
    assert_eq!(fs::read_to_string(repository.join("side.txt")).unwrap(), "on the side\n");
    step("gc --aggressive", || git(&repository, &["gc", "--quiet", "--aggressive", "--prune=now"]));
    step("fsck", || git(&repository, &["fsck", "--full", "--strict"]));
    let clone = alice.join("clone");
    step("clone within the mount", || git(&alice, &["clone", "--quiet", "project", "clone"]));
    clean(&clone);
    step("clone with hard links, fetch, switch", || {
        git(&clone, &["fetch", "--quiet", "origin", "side"]);
        git(&clone, &["checkout", "--quiet", "-b", "other", "HEAD~1"]);
        git(&clone, &["checkout", "--quiet", "main"]);
    });
    let outside = team.dir.path().join("outside");
    step("clone out of the mount", || git(&alice, &["clone", "--quiet", "project", outside.to_str().unwrap()]));
    git(&tree, &["checkout", "--quiet", "--detach"]);
    git(&repository, &["worktree", "remove", "--force", "../tree"]);
    clean(&repository);

    team.alice.ok(&["sync", "--wait", "--timeout", "600"]);
    let theirs = bob.join("project");
    step("arriving at the other member's", || {
        wait_for("the repository at Bob's", soon(), || bob.join("clone/.git/HEAD").exists());
        wait_for("the same tree at Bob's", soon(), || digest(&alice) == digest(&bob));
    });
    step("fsck at the other member's", || git(&theirs, &["fsck", "--full", "--strict"]));
    // Inode numbers and change times are Bob's own: git looks at the files again and finds them unchanged.
    clean(&theirs);
    fs::write(theirs.join("from-bob.txt"), "Bob\n").unwrap();
    git(&theirs, &["add", "."]);
    git(&theirs, &["commit", "--quiet", "-m", "from Bob"]);
    team.bob.sync();
    wait_for("Bob's commit at Alice's", soon(), || {
        repository.join("from-bob.txt").exists() && digest(&repository) == digest(&theirs)
    });
    git(&repository, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&repository, &["log", "-1", "--format=%s"]), "from Bob\n");
    clean(&repository);
}
