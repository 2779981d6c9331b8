//! A process tree to be watched: `watch-target fork MIB | clone MIB | threads N | tree N THREADS |
//! orphan MIB | grow MIB_PER_S MIB`. Says `ready PID...` when it stands, does its next step for
//! each line on stdin (and says `done`), and ends, with every child, when stdin ends.

use std::io::{BufRead, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> usize {
        let word = arguments.get(index).map(String::as_str);
        word.and_then(|word| word.parse().ok()).unwrap_or(1)
    };
    match arguments.first().map(String::as_str) {
        Some("fork") => fork(number(1)),
        Some("clone") => clone_vm(number(1)),
        Some("threads") => threads(number(1)),
        Some("tree") => tree(number(1), number(2)),
        Some("orphan") => orphan(number(1)),
        Some("grow") => grow(number(1), number(2)),
        _ => std::process::exit(2),
    }
}

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{words}");
    let _ = out.flush();
}

/// The next line of stdin; false at its end.
fn next_step() -> bool {
    let mut line = String::new();
    matches!(std::io::stdin().lock().read_line(&mut line), Ok(read) if read > 0)
}

/// Memory of which every page is written.
fn held(mib: usize) -> Vec<u8> {
    let mut memory = vec![0_u8; mib << 20];
    touch(&mut memory, 1);
    memory
}

fn touch(memory: &mut [u8], value: u8) {
    for page in memory.chunks_mut(PAGE) {
        page[0] = value;
    }
    std::hint::black_box(memory);
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "pipe2");
    // SAFETY: pipe2 has just opened both, and nobody else knows them.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
}

/// One byte from a pipe; false at its end.
fn read_byte(end: &OwnedFd) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte of ours, and a descriptor that `end` keeps open.
    let got = unsafe { libc::read(end.as_raw_fd(), (&raw mut byte).cast(), 1) };
    got == 1
}

fn write_byte(end: &OwnedFd) {
    // SAFETY: one byte of ours, and a descriptor that `end` keeps open.
    let put = unsafe { libc::write(end.as_raw_fd(), [1_u8].as_ptr().cast(), 1) };
    assert_eq!(put, 1, "write");
}

/// A child by plain fork, sharing all pages. Each step: the child writes half of them, the lower
/// half first.
fn fork(mib: usize) {
    let mut memory = held(mib);
    let (go, give) = pipe();
    let (answer, reply) = pipe();
    // SAFETY: this program has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(give);
        drop(answer);
        let middle = memory.len() / 2;
        for half in [0..middle, middle..memory.len()] {
            if read_byte(&go) {
                touch(&mut memory[half], 2);
                write_byte(&reply);
            }
        }
        while read_byte(&go) {}
        std::process::exit(0);
    }
    drop(go);
    drop(reply);
    say(&format!("ready {child}"));
    while next_step() {
        write_byte(&give);
        assert!(read_byte(&answer));
        say("done");
    }
    drop(give);
    reap(child);
}

fn reap(child: i32) {
    // SAFETY: `child` is a child of ours that nobody else waits for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

/// A child in the same address space, as posix_spawn has for a moment.
fn clone_vm(mib: usize) {
    let memory = held(mib);
    let (go, give) = pipe();
    extern "C" fn wait(end: *mut libc::c_void) -> libc::c_int {
        let mut byte = 0_u8;
        // SAFETY: one byte of this stack; the number is a descriptor that the parent holds open
        // until this process has ended. Raw calls only: this runs in the parent's memory.
        unsafe {
            libc::read(end as usize as i32, (&raw mut byte).cast(), 1);
        }
        0
    }
    let mut stack = vec![0_u128; 4096];
    // SAFETY: the stack outlives the child, which is waited for below, and is aligned to 16.
    let child = unsafe {
        libc::clone(
            wait,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            go.as_raw_fd() as usize as *mut libc::c_void,
        )
    };
    assert!(child > 0, "clone");
    say(&format!("ready {child}"));
    while next_step() {}
    write_byte(&give);
    reap(child);
    drop((memory, stack));
}

fn parked(count: usize) {
    for _ in 0..count {
        let made = std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
            loop {
                std::thread::park();
            }
        });
        assert!(made.is_ok());
    }
}

fn cat() -> Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("cat")
}

/// `count` threads, of which the last starts a child for each step, in place of the one before:
/// the number of threads stays the same, the threads do not.
fn threads(count: usize) {
    parked(count.saturating_sub(2));
    let mut children: Vec<Child> = Vec::new();
    let mut last: Option<(std::thread::JoinHandle<()>, std::sync::mpsc::Sender<()>)> = None;
    let mut greeting = "ready";
    loop {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        if let Some((thread, stop_last)) = last.take() {
            drop(stop_last);
            let _ = thread.join();
        }
        let thread = std::thread::spawn(move || {
            let _ = tell.send(cat());
            let _ = stopped.recv();
        });
        last = Some((thread, stop));
        let child = told.recv().expect("a child");
        say(&format!("{greeting} {}", child.id()));
        greeting = "done";
        children.push(child);
        if !next_step() {
            break;
        }
    }
    for mut child in children {
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

/// Itself and `count` - 1 children, each of `threads` threads.
fn tree(count: usize, threads: usize) {
    let mut children: Vec<(Child, ChildStdin)> = Vec::new();
    for _ in 1..count {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["tree", "1", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("ready");
        let stdin = child.stdin.take().expect("piped");
        children.push((child, stdin));
    }
    parked(threads.saturating_sub(1));
    say("ready");
    while next_step() {}
    for (mut child, stdin) in children {
        drop(stdin);
        let _ = child.wait();
    }
}

/// A child with a child that holds memory; the first step ends the one in between.
fn orphan(mib: usize) {
    let (go, give) = pipe();
    let (life, alive) = pipe();
    let (answer, reply) = pipe();
    // SAFETY: this program has one thread, before each of the two forks.
    let middle = unsafe { libc::fork() };
    if middle == 0 {
        drop(alive);
        drop(give);
        drop(answer);
        // SAFETY: as above.
        let lower = unsafe { libc::fork() };
        if lower == 0 {
            drop(go);
            let memory = held(mib);
            write_byte(&reply);
            drop(reply);
            while read_byte(&life) {}
            drop(memory);
            std::process::exit(0);
        }
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{lower}");
        drop(reply);
        let _ = out.flush();
        read_byte(&go);
        std::process::exit(0);
    }
    drop(go);
    drop(reply);
    drop(life);
    assert!(read_byte(&answer));
    say(&format!("ready {middle}"));
    next_step();
    drop(give);
    reap(middle);
    say("done");
    while next_step() {}
    drop(alive);
}

/// Waits for a step, then takes memory at a rate, and ends.
fn grow(mib_per_s: usize, mib: usize) {
    say("ready");
    if !next_step() {
        return;
    }
    let mut memory = Vec::new();
    let started = Instant::now();
    while memory.len() < mib {
        let due = started.elapsed().as_secs_f64() * mib_per_s as f64;
        if (memory.len() as f64) < due {
            memory.push(held(1));
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    say("done");
    let _ = std::io::stdin().lock().read(&mut [0]);
}
