# Every package, made from a given nixpkgs. The flake's outputs, the overlay, the modules and the checks all
# take theirs from here. Names nothing unfree: the client comes in as an argument of wrap.nix.
pkgs: rec {
  claude-guard = pkgs.callPackage ./guard.nix { };

  claude-safe-unwrapped = pkgs.callPackage ./package.nix { inherit claude-guard; };

  # The wrapper against musl, for machines without nix. The guard goes into the client's process, so it is
  # the ordinary one.
  claude-safe-static = pkgs.callPackage ./package.nix {
    pname = "claude-safe-static";
    inherit claude-guard;
    inherit (pkgs.pkgsStatic) rustPlatform;
  };

  # Starts the `claude` that is on PATH. `claude-safe.override { claudePackage = pkgs.claude-code; }` takes
  # the place of a given one.
  claude-safe = pkgs.callPackage ./wrap.nix { inherit claude-safe-unwrapped; };
}
