# The packages of the stand-in: what the flake asks of nixpkgs, built with the tools of the machine.
{
  system,
  config ? { },
  overlays ? [ ],
}:
let
  lib = import ./lib;

  base =
    pkgs:
    import ./pkgs/build.nix { inherit lib system config; }
    // {
      inherit lib config;
      callPackage = lib.callPackageWith (pkgs // { inherit pkgs; });
      rustPlatform = pkgs.callPackage ./pkgs/rust.nix { };
      # Not musl: the machine's toolchain has none. The same recipe, linked statically against glibc.
      pkgsStatic = pkgs // {
        rustPlatform = pkgs.callPackage ./pkgs/rust.nix { isStatic = true; };
      };

      runtimeShell = "/bin/bash";

      # Unfree, as the real one.
      claude-code = pkgs.stdenv.mkDerivation {
        pname = "claude-code";
        version = "2.1.329";
        buildCommand = ''
          mkdir -p $out/bin
          printf '#!/bin/sh\necho "unfree client $*"\n' > $out/bin/claude
          chmod 755 $out/bin/claude
        '';
        meta = {
          license = lib.licenses.unfree;
          mainProgram = "claude";
        };
      };

      # For the development shell and the formatter: names alone.
      mkShell = arguments: pkgs.runCommand "shell" { inherit (arguments) packages; } "touch $out";
    }
    // lib.genAttrs [
      "cargo"
      "clippy"
      "nixfmt-tree"
      "rust-analyzer"
      "rustc"
      "rustfmt"
      "shellcheck"
    ] (name: pkgs.runCommand name { meta.mainProgram = name; } "mkdir $out");
in
lib.fix (pkgs: lib.foldl' (before: overlay: before // overlay pkgs before) (base pkgs) overlays)
