//! What only holds for guests in virtual machines of Kiln's own: who may make them, and what a host without them says.
//!
//! That guests themselves behave as on the `process` backend is what all other tests say, run with
//! `KILN_TEST_BACKEND=kvm`.

use std::fs;
use std::path::Path;

use kiln_system_tests::host::{find_program, is_root};
use kiln_system_tests::{Outcome, Running, Session, guest, kiln, skip};

const NO_KVM: &str = "there is no /dev/kvm on this machine that can be opened";

fn has_kvm() -> bool {
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// Runs a shell script as root in a mount namespace of its own, where `$1` is the test's folder, `$2` the command, `$3` the probe.
fn in_mount_namespace(session: &Session, script: &str) -> Option<Outcome> {
    let unshare = find_program(&["unshare"]).filter(|_| is_root())?;
    let (kiln, probe) = (kiln(), guest("probe"));
    let dir = session.dir();
    // Where nobody can reach them.
    fs::copy(kiln, dir.join("command")).expect("a copy of the command");
    fs::copy(probe, dir.join("probe.kiln")).expect("a copy of the image");
    let mut command = session.wrapped(
        &unshare,
        ["-m", "--propagation", "private", "sh", "-ec", script, "sh"],
    );
    command
        .arg(dir)
        .arg(dir.join("command"))
        .arg(dir.join("probe.kiln"));
    Some(Running::start(&mut command).finish())
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("a folder for nobody too");
}

#[test]
fn whoever_may_open_the_device_runs_virtual_machines() {
    if !has_kvm() {
        return skip(NO_KVM);
    }
    let session = Session::new();
    open_to_all(session.dir());
    let script = "mknod $1/kvm c 10 232; chown 65534 $1/kvm; chmod 600 $1/kvm; mount --bind $1/kvm /dev/kvm
        export XDG_RUNTIME_DIR=$1
        exec setpriv --reuid 65534 --regid 65534 --clear-groups $2 run --backend kvm --strict $3 hello";
    match in_mount_namespace(&session, script) {
        Some(outcome) => {
            outcome.succeeds().prints("Hello");
        }
        None => skip("needs root and `unshare` to give the device to somebody else"),
    }
}

#[test]
fn who_may_not_is_told_what_to_do() {
    let session = Session::new();
    open_to_all(session.dir());
    let script = "touch $1/kvm; chmod 600 $1/kvm; mknod $1/dev c 10 232; chmod 600 $1/dev
        [ -e /dev/kvm ] || touch /dev/kvm; mount --bind $1/dev /dev/kvm
        export XDG_RUNTIME_DIR=$1
        exec setpriv --reuid 65534 --regid 65534 --clear-groups $2 run --backend kvm $3 hello";
    match in_mount_namespace(&session, script) {
        Some(outcome) => {
            outcome
                .ends_with(125)
                .is_one_line_error()
                .tells("group `kvm`")
                .tells("--backend process");
        }
        None => skip("needs root and `unshare` to take the device away"),
    }
}

#[test]
fn a_host_without_kvm_says_so_and_auto_goes_on() {
    let session = Session::new();
    let script = "mount -t tmpfs none /dev; mknod /dev/null c 1 3; mknod /dev/urandom c 1 9; export XDG_RUNTIME_DIR=$1
        $2 run --backend auto $3 hello
        exec $2 run --backend kvm $3 hello";
    match in_mount_namespace(&session, script) {
        Some(outcome) => {
            outcome
                .ends_with(125)
                .prints("Hello")
                .tells("no /dev/kvm")
                .tells("--backend process");
            assert_eq!(session.leftovers(), [""; 0], "left behind");
        }
        None => skip("needs root and `unshare` to take the device away"),
    }
}

#[test]
fn another_device_in_its_place_is_refused() {
    let session = Session::new();
    let script = "touch /dev/kvm; mount --bind /dev/zero /dev/kvm; export XDG_RUNTIME_DIR=$1
        exec $2 run --backend kvm $3 hello";
    match in_mount_namespace(&session, script) {
        Some(outcome) => {
            outcome.ends_with(125).is_one_line_error().tells("KVM");
        }
        None => skip("needs root and `unshare` to put another device there"),
    }
}

#[test]
fn the_machine_is_listed_among_the_protections() {
    if !has_kvm() {
        return skip(NO_KVM);
    }
    let session = Session::new();
    session
        .run("--backend kvm --name vm", "probe", "hello")
        .succeeds();
    let shown = session.inspect("vm");
    assert_eq!(shown["Config"]["Backend"], "kvm", "{shown:#}");
    let protections = shown["Protections"].as_array().expect("a list");
    assert!(
        protections.iter().any(|p| p["Name"]
            .as_str()
            .is_some_and(|name| name.starts_with("virtual machine"))
            && p["InForce"] == true),
        "{shown:#}"
    );
}
