# What it takes to work on claude-safe: `nix develop`, then `cargo demo` or `cargo suite`.
pkgs:
pkgs.mkShell {
  packages = [
    pkgs.cargo
    pkgs.clippy
    pkgs.rustc
    pkgs.rustfmt
    pkgs.rust-analyzer
    pkgs.shellcheck
  ];
}
