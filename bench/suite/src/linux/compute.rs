//! Programs that hardly call: they should take as long as without Kiln.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::text;
use crate::figures::{Table, count, median, number, ratio};
use crate::setting::Setting;
use crate::{Result, process};

/// At most so many times as long.
const GOAL: f64 = 1.03;

/// Objects, dictionaries, numbers, text: what pyperformance's nbody, json, regex and sort do, in one file.
const PYTHON: &str = r#"
import json, math, random, re
random.seed(1)
def nbody(n):
    bodies = [[random.random() for _ in range(7)] for _ in range(5)]
    for _ in range(n):
        for i, a in enumerate(bodies):
            for b in bodies[:i]:
                d = [a[k] - b[k] for k in range(3)]
                f = 0.01 / (sum(x * x for x in d) + 0.1) ** 1.5
                for k in range(3):
                    a[k + 3] -= d[k] * b[6] * f
                    b[k + 3] += d[k] * a[6] * f
        for a in bodies:
            for k in range(3):
                a[k] += 0.01 * a[k + 3]
nbody(6000)
data = {str(n): [random.random() for _ in range(20)] for n in range(2000)}
for _ in range(6): assert json.loads(json.dumps(data)).keys() == data.keys()
text = " ".join(str(random.random()) for _ in range(50000))
for _ in range(10): assert len(re.findall(r"0\.(\d{3})\d+", text)) > 40000
numbers = [random.random() for _ in range(300000)]
for _ in range(3): sorted(numbers, key=lambda x: -x)
"#;

/// What sqlite's speedtest1 does most: inserts, an index, joins, updates, sorting.
const SQL: &str = "
CREATE TABLE a(n INTEGER PRIMARY KEY, b INTEGER, c TEXT);
WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g WHERE n < 400000) INSERT INTO a SELECT n, n*7919 % 100003, printf('row %d of many', n*31 % 9973) FROM g;
CREATE INDEX i ON a(b);
CREATE INDEX j ON a(c);
SELECT count(*), avg(b) FROM a WHERE b BETWEEN 1000 AND 60000 AND c LIKE '%5%';
UPDATE a SET b = b + 1 WHERE n % 3 = 0;
SELECT count(*) FROM a x JOIN a y ON x.b = y.b WHERE x.n < 100000;
SELECT c, count(*) FROM a GROUP BY c ORDER BY 2 DESC, 1 LIMIT 5;
DELETE FROM a WHERE n % 5 = 0;
";

/// Names the folder into which `pip install --target` has put pyperformance.
const FOLDER: &str = "KILN_BENCH_PYPERFORMANCE";

/// Of its benchmarks those that need nothing but the interpreter, of each kind: numbers, objects, text, data, generators, big integers.
const PYPERFORMANCE: [&str; 12] = [
    "nbody",
    "richards",
    "float",
    "chaos",
    "deltablue",
    "fannkuch",
    "json_dumps",
    "regex_compile",
    "generators",
    "pidigits",
    "hexiom",
    "xml_etree",
];

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let mut table = Table::new(&["seconds", "process", "guest", "ratio", "goal"]);
    let programs = [
        ("python3", vec!["-c", PYTHON]),
        ("sqlite3", vec![":memory:", SQL]),
    ];
    for (name, arguments) in programs {
        let Some(program) = packaged(name) else {
            println!("skipped: {name} is not installed");
            continue;
        };
        let (mut guest, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..setting.pick(7, 3) {
            peer.push(seconds(Command::new(&program).args(&arguments))?);
            let mut run = setting.kiln();
            run.args(["run", "--rm", &text(&program)]).args(&arguments);
            guest.push(seconds(&mut run)?);
        }
        table.row([
            name.to_owned(),
            number(median(&peer)),
            number(median(&guest)),
            number(ratio(&guest, &peer)),
            number(GOAL),
        ]);
    }
    table.print();
    pyperformance(setting)
}

/// pyperformance's own measure: seconds within the interpreter, its start not counted.
fn pyperformance(setting: &Setting) -> Result<()> {
    let (Some(folder), Some(python)) = (std::env::var_os(FOLDER), packaged("python3")) else {
        println!(
            "skipped: {FOLDER} names no folder with pyperformance (pip install --target FOLDER pyperformance)"
        );
        return Ok(());
    };
    let folder = PathBuf::from(folder);
    let mut table = Table::new(&["pyperformance, ms", "process", "guest", "ratio", "goal"]);
    let mut logarithms = Vec::new();
    for name in PYPERFORMANCE {
        let script = format!("pyperformance/data-files/benchmarks/bm_{name}/run_benchmark.py");
        let script = text(&folder.join(script));
        // The worker alone: what starts workers forks.
        let words = [&script, "--worker", "--worker-task=0", "-l1", "-w1", "-n7"];
        let path = format!("PYTHONPATH={}", text(&folder));
        let (mut guest, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..setting.pick(5, 3) {
            let mut process = Command::new("env");
            process.arg(&path).arg(&python).args(words);
            peer.push(mean(&mut process)?);
            let mut run = setting.kiln();
            run.args(["run", "--rm", "--memory", "1G", "-e", &path])
                .args(["--include", &text(&folder), &text(&python)])
                .args(words);
            guest.push(mean(&mut run)?);
        }
        logarithms.push(ratio(&guest, &peer).ln());
        table.row([
            name.to_owned(),
            number(1e3 * median(&peer)),
            number(1e3 * median(&guest)),
            number(ratio(&guest, &peer)),
            String::new(),
        ]);
    }
    let mean = logarithms.iter().sum::<f64>() / count(PYPERFORMANCE.len() as u64);
    let (all, none) = ("all, geometric mean".to_owned(), String::new());
    table.row([all, none.clone(), none, number(mean.exp()), number(GOAL)]);
    table.print();
    Ok(())
}

/// Seconds of `NAME: Mean +- std dev: 110 ms +- 14 ms`.
fn mean(command: &mut Command) -> Result<f64> {
    let said = process::output(command, Duration::from_mins(2))?;
    let words = said.rsplit_once("std dev: ").map(|(_, words)| words);
    let mut words = words.unwrap_or_default().split_whitespace();
    let number = words.next().and_then(|word| word.parse::<f64>().ok());
    let unit = match words.next() {
        Some("sec") => 1.0,
        Some("ms") => 1e-3,
        Some("us") => 1e-6,
        Some("ns") => 1e-9,
        _ => return Err(format!("pyperf says no mean: {said}")),
    };
    let number = number.ok_or_else(|| format!("pyperf says no mean: {said}"))?;
    Ok(number * unit)
}

/// Not a version manager's program: what a package has installed.
fn packaged(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}

fn seconds(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    process::output(command, Duration::from_mins(2))?;
    Ok(start.elapsed().as_secs_f64())
}
