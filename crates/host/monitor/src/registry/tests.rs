//! The state folder with real files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::testing::TempDir;
use super::*;

const A: &str = "aaaaaaaaaaa1";
const B: &str = "aaaaaaaaaaa2";

fn registry(dir: &TempDir) -> Registry {
    Registry::at(&dir.path().join("kiln")).unwrap()
}

fn start(registry: &Registry, id: &str, name: &str, remove: bool) -> Claim {
    let mut claim = registry.claim(id, name).unwrap();
    let record = Record {
        id: id.to_owned(),
        name: name.to_owned(),
        created: WallTime::now(),
        remove,
        ..Record::default()
    };
    claim.record(&record).unwrap();
    claim
}

#[test]
fn an_instance_lives_ends_and_is_removed() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    let claim = start(&registry, A, "web", false);
    let running = registry.find("web").unwrap();
    assert_eq!(running.status, Status::Running);
    assert!(matches!(registry.remove(&running), Err(Error::Running(_))));
    let end = End {
        exit_code: 3,
        ..End::default()
    };
    claim.finish(&end).unwrap();
    let ended = registry.find(A).unwrap();
    assert_eq!(ended.status, Status::Exited);
    assert_eq!(ended.end, Some(end));
    registry.remove(&ended).unwrap();
    assert!(matches!(registry.find("web"), Err(Error::NoInstance(_))));
    assert!(registry.list().unwrap().is_empty());
    drop(start(&registry, B, "web", false));
}

#[test]
fn a_lost_supervisor_is_noticed_and_recorded_once() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    drop(start(&registry, A, "web", false));
    for _ in 0..2 {
        let dead = registry.find("web").unwrap();
        assert_eq!(dead.status, Status::Dead);
        assert_eq!(dead.end.unwrap().exit_code, 137);
    }
    let text = std::fs::read_to_string(registry.root().join(A).join(STATE_FILE)).unwrap();
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn the_folder_of_a_lost_supervisors_core_file_goes() {
    for (name, goes) in [
        (format!(".kiln-core-{A}"), true),
        ("mine".to_owned(), false),
    ] {
        let dir = TempDir::new();
        let registry = registry(&dir);
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("core"), "half").unwrap();
        let mut claim = registry.claim(A, "web").unwrap();
        let record = Record {
            id: A.to_owned(),
            name: "web".to_owned(),
            core_folder: Some(folder.display().to_string()),
            ..Record::default()
        };
        claim.record(&record).unwrap();
        assert_eq!(registry.find("web").unwrap().status, Status::Running);
        assert!(folder.exists(), "it is in use");
        drop(claim);
        assert_eq!(registry.find("web").unwrap().status, Status::Dead);
        assert_eq!(folder.exists(), !goes);
    }
}

#[test]
fn a_lost_supervisor_that_wished_it_leaves_nothing() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    drop(start(&registry, A, "web", true));
    assert!(registry.list().unwrap().is_empty());
    assert!(!registry.root().join(A).exists());
    assert!(
        registry
            .root()
            .join(NAMES)
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn names_have_one_owner() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    let _held = start(&registry, A, "web", false);
    let error = registry.claim(B, "web").unwrap_err();
    assert!(matches!(&error, Error::NameInUse { id, .. } if id == A));
    assert!(!registry.root().join(B).exists(), "nothing is left behind");
}

#[test]
fn names_of_instances_that_are_gone_are_free() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    symlink("bbbbbbbbbbbb", registry.root().join(NAMES).join("web")).unwrap();
    drop(start(&registry, A, "web", true));
    drop(start(&registry, B, "web", false));
}

#[test]
fn ids_may_be_shortened_while_they_are_unique() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    let _a = start(&registry, A, "one", false);
    let _b = start(&registry, B, "two", false);
    assert!(matches!(registry.find("aaa"), Err(Error::Ambiguous(_))));
    assert_eq!(registry.find(B).unwrap().record.name, "two");
    assert!(matches!(registry.find("../x"), Err(Error::NoInstance(_))));
    let names: Vec<_> = registry
        .list()
        .unwrap()
        .into_iter()
        .map(|i| i.record.name)
        .collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn an_instance_that_has_not_told_yet_is_left_alone() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    let claim = registry.claim(A, "web").unwrap();
    assert!(registry.list().unwrap().is_empty());
    assert!(registry.claim(B, "web").is_err());
    claim.forget(&registry).unwrap();
    assert!(!registry.root().join(A).exists());
}

#[test]
fn the_folder_must_be_private_and_no_link() {
    let dir = TempDir::new();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Registry::at(&open).unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
    let link = dir.path().join("link");
    symlink("/tmp", &link).unwrap();
    let error = Registry::at(&link).unwrap_err().to_string();
    assert!(error.contains("a link or a file"), "{error}");
}

#[test]
fn free_names_are_not_taken() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    let first = registry.free_name([0; 6]);
    let _held = start(&registry, A, &first, false);
    let second = registry.free_name([0; 6]);
    assert_ne!(first, second);
}

#[test]
fn a_place_that_was_taken_and_never_recorded_is_cleared_away_with_its_name() {
    let dir = TempDir::new();
    let registry = registry(&dir);
    drop(registry.claim(A, "web").unwrap());
    let folder = registry.root().join(A);
    let name = registry.root().join(NAMES).join("web");
    assert!(registry.list().unwrap().is_empty());
    assert!(folder.exists(), "its supervisor may be about to record it");
    let long_ago = std::time::SystemTime::now() - 3 * STARTING;
    let open = std::fs::File::open(&folder).unwrap();
    open.set_modified(long_ago).unwrap();
    drop(open);
    assert!(registry.list().unwrap().is_empty());
    assert!(!folder.exists());
    assert!(name.symlink_metadata().is_err());
}
