# A stand-in for nixpkgs, of its shape and in our own words, for machines that can't have the real one.
# tests/nix/run puts it in the place of the flake's input. What it can't prove is in ../README.md.
{
  description = "nixpkgs-shaped stand-in for the tests of claude-safe's flake";

  outputs = _: {
    lib = import ./lib;
    legacyPackages = (import ./lib).genAttrs [
      "x86_64-linux"
      "aarch64-linux"
    ] (system: import ./. { inherit system; });
  };
}
