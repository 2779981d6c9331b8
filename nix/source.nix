# The files from which guard and wrapper are built, and their version. Nothing else in the repository can
# change a byte of the packages.
{ lib }:
let
  inherit (lib) fileset;
in
{
  inherit ((lib.importTOML ../Cargo.toml).workspace.package) version;

  src = fileset.toSource {
    root = ../.;
    fileset = fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../guard/Cargo.toml
      ../guard/build.rs
      ../guard/src
      # Cargo reads the manifest of every member of the workspace; the tests' sources it doesn't miss.
      ../tests/Cargo.toml
      ../wrapper/Cargo.toml
      ../wrapper/completions
      ../wrapper/doc
      ../wrapper/plugin
      ../wrapper/src
      ./install-check.sh
    ];
  };
}
