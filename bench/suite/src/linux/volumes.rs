//! Work on files of a folder of the host: by a guest that has the folder as a volume, and by the same program as a process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{compile, folder, text};
use crate::figures::{Table, median, number, ratio};
use crate::setting::Setting;
use crate::{Result, process};

/// Prints, a line each, a name and how many milliseconds that took. Every part does what it did before with files that are there by then.
const FILES: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static double begin;
static void done(const char *name) { printf("%s %f\n", name, now() - begin); }
enum { MIB = 1 << 20, FILES = 10000 };
int main(int count, char **words) {
    if (chdir(words[1])) return 1;
    char *block = malloc(MIB), name[32];
    memset(block, 'x', MIB);
    begin = now();
    int fd = open("big", O_CREAT | O_TRUNC | O_RDWR, 0644);
    for (int i = 0; i < 64; i++) if (write(fd, block, MIB) != MIB) return 2;
    done("write-64-MiB");
    lseek(fd, 0, SEEK_SET);
    begin = now();
    for (int i = 0; i < 64; i++) if (read(fd, block, MIB) != MIB) return 3;
    done("read-64-MiB");
    begin = now();
    for (int i = 0; i < 16384; i++) if (pread(fd, block, 4096, (off_t)(i * 7919 % 16384) * 4096) != 4096) return 4;
    done("read-16384-pages");
    close(fd);
    fd = open("log", O_CREAT | O_TRUNC | O_WRONLY, 0644);
    begin = now();
    for (int i = 0; i < 100; i++) if (write(fd, block, 4096) != 4096 || fsync(fd)) return 5;
    done("write-fsync-100");
    close(fd);
    mkdir("many", 0755);
    if (chdir("many")) return 6;
    struct stat st;
    if (stat("9999", &st)) for (int i = 0; i < FILES; i++) {
        sprintf(name, "%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    begin = now();
    for (int i = 0; i < FILES; i++) {
        sprintf(name, "%d", i);
        if (stat(name, &st)) return 7;
    }
    done("stat-10000");
    begin = now();
    for (int i = 0; i < FILES; i++) {
        sprintf(name, "%d", i);
        int one = open(name, O_RDONLY);
        if (one < 0 || read(one, block, 4096) < 0 || close(one)) return 9;
    }
    done("open-read-close-10000");
    mkdir("a", 0755); mkdir("a/b", 0755); mkdir("a/b/c", 0755); mkdir("a/b/c/d", 0755);
    begin = now();
    for (int i = 0; i < FILES; i++) if (stat("a/b/c/d", &st)) return 10;
    done("stat-4-deep-10000");
    begin = now();
    DIR *dir = opendir(".");
    int found = 0;
    while (readdir(dir)) found++;
    if (found < FILES) return 8;
    done("list-10000");
    return 0;
}
"#;

/// Modules of Python's own, which import many others; from the folder, where they were copied to, without compiled files beside them.
const IMPORTS: &str = "
import sys, time
sys.path.insert(0, sys.argv[1] + '/lib')
begin = time.monotonic()
import asyncio, email.message, http.server, json, logging.config, sqlite3, unittest.mock, xml.dom.minidom
assert asyncio.__file__.startswith(sys.argv[1])
print('python-imports', (time.monotonic() - begin) * 1e3)
";

/// Transactions that wait for the disk, and reading all rows more often than `SQLite` keeps pages.
const DATABASE: &str = "
import os, sqlite3, sys, time
path = sys.argv[1] + '/db'
if os.path.exists(path): os.remove(path)
db = sqlite3.connect(path, isolation_level=None)
db.execute('create table t(n integer primary key, text)')
begin = time.monotonic()
for n in range(100): db.execute('insert into t(text) values (?)', ('x' * 100,))
print('sqlite-inserts-100', (time.monotonic() - begin) * 1e3)
db.execute('begin')
for n in range(50000): db.execute('insert into t(text) values (?)', ('x' * 100,))
db.execute('commit')
db.execute('pragma cache_size=100')
begin = time.monotonic()
for n in range(3): db.execute(\"select count(*) from t where text like '%y%'\").fetchall()
print('sqlite-select', (time.monotonic() - begin) * 1e3)
";

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let shared = folder()?.join("volume");
    let failed = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(shared.join("lib")).map_err(failed)?;
    let mut table = Table::new(&["milliseconds", "process", "guest", "ratio"]);
    let files = text(&compile("files", FILES, &[])?);
    measure(setting, &mut table, &shared, &[&files])?;
    let python = "/usr/bin/python3";
    if Path::new(python).is_file() {
        copy_modules(&shared)?;
        // Written files would spare the second run its work.
        measure(setting, &mut table, &shared, &[python, "-B", "-c", IMPORTS])?;
        measure(setting, &mut table, &shared, &[python, "-c", DATABASE])?;
    } else {
        println!("skipped: {python} is not installed");
    }
    table.print();
    std::fs::remove_dir_all(&shared).map_err(failed)
}

/// Runs a program that prints names and times, with the folder behind its arguments, and adds its rows.
fn measure(setting: &Setting, table: &mut Table, shared: &Path, words: &[&str]) -> Result<()> {
    let patience = Duration::from_mins(2);
    let (mut host, mut guest) = (Vec::new(), Vec::new());
    for _ in 0..setting.pick(5, 2) {
        let mut plain = Command::new(words[0]);
        plain.args(&words[1..]).arg(shared);
        host.push(times(&process::output(&mut plain, patience)?));
        let mut run = setting.kiln();
        let volume = format!("{}:/data", shared.display());
        run.args(["run", "--rm", "-q", "-v", &volume])
            .args(words)
            .arg("/data");
        guest.push(times(&process::output(&mut run, patience)?));
    }
    let names: Vec<String> = host[0].iter().map(|(name, _)| name.clone()).collect();
    for (index, name) in names.into_iter().enumerate() {
        let of = |all: &[Vec<(String, f64)>]| -> Vec<f64> {
            all.iter()
                .filter_map(|run| run.get(index))
                .map(|(_, time)| *time)
                .collect()
        };
        let (guest, host) = (of(&guest), of(&host));
        table.row([
            name.replace('-', " "),
            number(median(&host)),
            number(median(&guest)),
            number(ratio(&guest, &host)),
        ]);
    }
    Ok(())
}

fn times(text: &str) -> Vec<(String, f64)> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(name, time)| Some((name.to_owned(), time.trim().parse().ok()?)))
        .collect()
}

/// Python's modules, without compiled files.
fn copy_modules(shared: &Path) -> Result<()> {
    let copy = "import os, shutil, sys
shutil.copytree(os.path.dirname(os.__file__), sys.argv[1] + '/lib', dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', 'test', 'dist-packages', 'lib-dynload', 'config-*'))";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", copy]).arg(shared);
    process::output(&mut command, Duration::from_mins(1)).map(drop)
}
