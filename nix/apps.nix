# `nix run`: claude-safe with the claude that is on PATH, and its control plane.
packages:
let
  app = package: name: {
    type = "app";
    program = "${package}/bin/${name}";
    meta = { inherit (package.meta) description; };
  };
in
rec {
  claude-safe = app packages.claude-safe "claude-safe";
  claude-safectl = app packages.claude-safe "claude-safectl";
  default = claude-safe;
}
