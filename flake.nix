# Wires nix/ to the names that flakes have. Holds no logic.
#
# Linux only: the wrapper stands on pidfd, signalfd, cgroups and /proc, and doesn't build on Darwin yet.
{
  description = "claude-safe: a drop-in for claude that contains its leaks, restarts in place and resumes";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      eachSystem =
        make:
        nixpkgs.lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = eachSystem (
        pkgs:
        let
          packages = import ./nix/packages.nix pkgs;
        in
        packages // { default = packages.claude-safe; }
      );

      apps = eachSystem (pkgs: import ./nix/apps.nix self.packages.${pkgs.stdenv.hostPlatform.system});

      overlays.default = final: _prev: import ./nix/packages.nix final;

      nixosModules.default = ./nix/nixos.nix;
      homeModules.default = ./nix/home-manager.nix;
      # The name that home-manager used before.
      homeManagerModules = self.homeModules;

      checks = eachSystem (pkgs: import ./nix/checks.nix pkgs);

      devShells = eachSystem (pkgs: {
        default = import ./nix/shell.nix pkgs;
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);

      templates = import ./nix/templates;
    };
}
