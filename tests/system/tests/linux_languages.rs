//! One program for each family of languages that servers are written in, as its compiler or interpreter leaves it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::Session;
use kiln_system_tests::artifacts::workspace;
use kiln_system_tests::process::Outcome;
use kiln_system_tests::program::{Program, compiled, installed, source};

/// Runs a program to its end, with the options of `kiln run` first.
fn run(options: &[&str], program: &Path, args: &[&str]) -> Outcome {
    let session = Session::new();
    let mut words = vec!["run".to_owned()];
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(program.display().to_string());
    words.extend(args.iter().map(|&word| word.to_owned()));
    session.start(words).finish_within(Duration::from_mins(2))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn c_static_dynamic_and_at_a_fixed_address() {
    for args in [
        "{source} -O2 -o {out}",
        "{source} -O2 -static -o {out}",
        "{source} -O2 -static-pie -o {out}",
        "{source} -O2 -no-pie -o {out}",
    ] {
        let Some(hello) = compiled("c/hello.c", "gcc", args) else {
            return;
        };
        run(&[], &hello, &["a", "b c"])
            .ends_with(2)
            .prints("hello a b c\n");
    }
    if let Some(hello) = compiled("c/hello.c", "musl-gcc", "{source} -O2 -o {out} ") {
        run(&[], &hello, &[]).ends_with(0).prints("hello\n");
    }
}

#[test]
fn faults_end_a_program_as_on_linux() {
    let Some(faults) = compiled("c/faults.c", "gcc", "{source} -O1 -o {out}") else {
        return;
    };
    run(&[], &faults, &["handled"])
        .ends_with(0)
        .prints("SUCCESS");
    for (how, signal) in [("null", 11), ("abort", 6), ("term", 15), ("divide", 8)] {
        run(&[], &faults, &[how]).ends_with(128 + signal);
    }
}

#[test]
fn cpp_threads_and_exceptions() {
    let Some(program) = compiled("cpp/threads.cpp", "g++", "{source} -O2 -pthread -o {out}") else {
        return;
    };
    run(&[], &program, &[]).ends_with(0).prints("SUCCESS");
}

#[test]
fn python_threads_asyncio_and_sqlite() {
    let Some(python) = installed("python3") else {
        return;
    };
    run(&[], &python, &[&text(&source("python/suite.py"))])
        .ends_with(0)
        .prints("SUCCESS");
}

#[test]
fn python_serves() {
    let Some(python) = installed("python3") else {
        return;
    };
    let program = Program::serve("", 8000, &python, &[&text(&source("python/web.py"))]);
    for path in ["/a", "/b/c"] {
        assert!(program.get(path).starts_with(path));
    }
}

#[test]
fn node_serves_and_computes_in_a_worker() {
    let Some(node) = installed("node") else {
        return;
    };
    let program = Program::serve("", 8000, &node, &[&text(&source("node/server.js"))]);
    assert_eq!(program.get("/x"), "hello /x");
    assert_eq!(program.get("/sum"), "500000500000");
}

#[test]
fn java_serves_while_it_collects() {
    let (Some(java), Some(javac)) = (installed("java"), installed("javac")) else {
        return;
    };
    let classes = workspace().join("target/programs/java");
    let made = Command::new(javac)
        .arg("-d")
        .arg(&classes)
        .arg(source("java/Server.java"))
        .output()
        .expect("javac starts");
    assert!(made.status.success());
    let program = Program::serve(
        "-m 2G",
        8000,
        &java,
        &["-Xmx64m", "-cp", &text(&classes), "Server"],
    );
    for number in 0..100 {
        let path = format!("/{number}");
        assert_eq!(program.get(&path), format!("hello {path} 200"));
    }
}

#[test]
fn go_serves() {
    let Some(server) = compiled("go/server.go", "go", "build -o {out} {source}") else {
        return;
    };
    let program = Program::serve("", 8000, &server, &[]);
    assert_eq!(program.get("/x"), "hello /x");
    for _ in 0..10 {
        assert_eq!(program.get("/sum"), "5050");
    }
}

#[test]
fn ocaml_echoes() {
    let args = "-I +unix -I +threads unix.cmxa threads.cmxa {source} -o {out}";
    // The compiler writes beside its source.
    let folder = workspace().join("target/programs");
    std::fs::create_dir_all(&folder).expect("a folder");
    let copy = folder.join("server.ml");
    std::fs::copy(source("ocaml/server.ml"), &copy).expect("a copy");
    let args = args.replace("{source}", &text(&copy));
    let Some(server) = compiled("ocaml/server.ml", "ocamlopt", &args) else {
        return;
    };
    Program::serve("", 8000, &server, &[]).echoes(20);
}

#[test]
fn haskell_threads() {
    let args = "-threaded -rtsopts -outputdir . {source} -o {out}";
    let Some(program) = compiled("ghc/Server.hs", "ghc", args) else {
        return;
    };
    run(&[], &program, &["+RTS", "-N2"])
        .ends_with(0)
        .prints("SUCCESS");
}

#[test]
fn perl_echoes() {
    let Some(perl) = installed("perl") else {
        return;
    };
    Program::serve("", 8000, &perl, &[&text(&source("perl/server.pl"))]).echoes(20);
}

#[test]
fn ruby_echoes() {
    let Some(ruby) = installed("ruby") else {
        return;
    };
    Program::serve("", 8000, &ruby, &[&text(&source("ruby/server.rb"))]).echoes(20);
}

#[test]
fn lua_runs() {
    let Some(lua) = installed("lua5.4") else {
        return;
    };
    run(&[], &lua, &[&text(&source("lua/suite.lua"))])
        .ends_with(0)
        .prints("SUCCESS");
}

#[test]
fn php_serves() {
    let Some(php) = installed("php") else {
        return;
    };
    let page = source("php/index.php");
    let program = Program::serve("", 8000, &php, &["-S", "0.0.0.0:8000", &text(&page)]);
    assert!(program.get("/x").starts_with("hello /x 5050 "));
}

/// The interpreter's own regression tests, without those that `left-out.txt` names: they start other processes, or want UDP-Lite or
/// the traffic class of received datagrams.
#[test]
fn python_passes_its_own_tests() {
    let Some(python) = installed("python3") else {
        return;
    };
    let tests = Path::new("/usr/lib/python3.11/test");
    if !tests.join("test_epoll.py").is_file() {
        return kiln_system_tests::skip("no tests of Python (Debian: libpython3.11-testsuite)");
    }
    let session = Session::new();
    for name in [
        "test_zlib",
        "test_mmap",
        "test_epoll",
        "test_signal",
        "test_threading",
        "test_ssl",
        "test_socket",
        "test_asyncio",
    ] {
        let words = [
            "run".to_owned(),
            "--memory=2G".to_owned(),
            format!("--include={}", text(tests)),
            text(&python),
            "-m".to_owned(),
            "test".to_owned(),
            "--ignorefile".to_owned(),
            text(&source("python/left-out.txt")),
            name.to_owned(),
        ];
        let ran = session.start(words).finish_within(Duration::from_mins(4));
        ran.ends_with(0).prints("Tests result: SUCCESS");
    }
}

#[test]
fn a_crate_on_tokio_and_axum_is_built_and_run() {
    let session = Session::new();
    let image = session.file("axum.kiln");
    let words = [
        "build",
        "--quiet",
        &text(&source("axum")),
        "-o",
        &text(&image),
    ];
    let built = session.start(words).finish_within(Duration::from_mins(5));
    built.ends_with(0);
    let program = Program::serve_in(session, "", 8000, &image, &[]);
    assert_eq!(program.get("/"), "hello from axum");
    assert_eq!(program.get("/sleep"), "slept");
    assert_eq!(program.get("/thread"), "2997000");
    assert_eq!(program.get("/file"), "true 10000");
}
