#!/usr/bin/env python3
"""Compares debian/copyright with what is linked into the programs.

Every crate that cargo links into the wrapper or the guard has a paragraph `vendor/NAME-*`, every one in std a line
` * NAME, LICENCE, Copyright …` in the first comment, with the licence of its Cargo.toml; there is neither for others;
every licence that is named has its text.
usage: copyright.py linked SOURCE-FOLDER STD-SOURCES >LIST     asks cargo; uses vendor/ where there is one
       copyright.py check FILE LIST                            compares
"""
import os
import pathlib
import re
import subprocess
import sys

def linked(folder, package, *options):
    """Name and licence of every published crate that PACKAGE links on any of our machines."""
    targets = [f"--target={machine}-unknown-linux-{libc}" for machine in ("x86_64", "aarch64") for libc in ("musl", "gnu")]
    lines = subprocess.run(
        ["cargo", *options, "tree", "--locked", "--quiet", "--package", package, *targets, "--edges", "normal", "--prefix", "none",
         "--format", "{p}\t{l}", *(["--no-default-features"] if package == "std" else [])],
        cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "RUSTC_BOOTSTRAP": "1"}).stdout
    found = {}
    for line in filter(None, lines.splitlines()):
        crate, licence = line.removesuffix(" (*)").split("\t")
        if "(/" not in crate:
            found[crate.split()[0]] = licence
    return found


def in_debian_words(licence):
    licence = licence.replace("/", " OR ").replace(" WITH LLVM-exception", "-with-LLVM-exception")
    return frozenset(licence.split(" OR ")) if " AND " not in licence else licence


def list_linked(source, std):
    source, std = pathlib.Path(source).resolve(), pathlib.Path(std).resolve()
    options = []
    if (source / "vendor").is_dir():
        options = ["--offline", "--config", 'source.crates-io.replace-with="vendored"',
                   "--config", f'source.vendored.directory="{source}/vendor"']
    ours = {**linked(source, "claude-safe", *options), **linked(source, "claude-guard", *options)}
    stds = linked(std, "std")
    if "rustix" not in ours or "hashbrown" not in stds:
        sys.exit("what is linked was not understood")
    for whose, crates in ("ours", ours), ("std's", stds):
        for name, licence in sorted(crates.items()):
            print(whose, name, licence, sep="\t")


def compare(whose, told, crates):
    yield from (f"{name} ({crates[name]}) is linked, and not in it" for name in sorted(crates.keys() - told.keys()))
    yield from (f"{name} is in it, and not linked" for name in sorted(told.keys() - crates.keys()))
    yield from (f"{name} ({whose}) is {crates[name]}, not {' or '.join(sorted(told[name]))}"
                for name in sorted(told.keys() & crates.keys()) if told[name] != in_debian_words(crates[name]))


def check(file, crates):
    lines = [line.split("\t") for line in pathlib.Path(crates).read_text().splitlines()]
    text = pathlib.Path(file).read_text()
    paragraphs = [dict(re.findall(r"^([A-Z][A-Za-z-]*): *(.*(?:\n .*)*)", part, re.M)) for part in re.split(r"\n{2,}", text)]
    texts = {p["License"].split("\n")[0] for p in paragraphs if "Files" not in p and "License" in p}
    own = {}
    for p in paragraphs:
        if match := re.fullmatch(r"vendor/(.+)-\*", p.get("Files", "")):
            own[match[1]] = frozenset(p["License"].split(" or "))
            if not p.get("Copyright"):
                sys.exit(f"debian/copyright: {match[1]} has no holder")
    stds = {name: frozenset(licence.split(" or "))
            for name, licence in re.findall(r"^  \* (\S+), (.+), Copyright .+$", paragraphs[0]["Comment"], re.M)}

    faults = [*compare("ours", own, {name: licence for whose, name, licence in lines if whose == "ours"}),
              *compare("std's", stds, {name: licence for whose, name, licence in lines if whose == "std's"})]
    faults += [f"the licence {name} has no text" for p in paragraphs if "Files" in p
               for name in p["License"].split("\n")[0].split(" or ") if name not in texts]
    for fault in faults:
        print(f"debian/copyright: {fault}")
    print(f"{len(lines)} crates are linked")
    sys.exit(1 if faults else 0)


{"linked": list_linked, "check": check}[sys.argv[1]](*sys.argv[2:])
