{
  description = "A home with claude-safe in the place of claude";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    home-manager = {
      url = "github:nix-community/home-manager/release-26.05";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    claude-safe = {
      # Where your clone of claude-safe is.
      url = "git+file:///home/someone/src/claude-safe";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      nixpkgs,
      home-manager,
      claude-safe,
      ...
    }:
    {
      homeConfigurations.someone = home-manager.lib.homeManagerConfiguration {
        pkgs = import nixpkgs {
          system = "x86_64-linux";
          config.allowUnfreePredicate = package: nixpkgs.lib.getName package == "claude-code";
        };
        modules = [
          claude-safe.homeModules.default
          {
            home = {
              username = "someone";
              homeDirectory = "/home/someone";
              stateVersion = "26.05";
            };
            programs.claude-safe = {
              enable = true;
              settings.CLAUDE_WATCHDOG_THRESHOLD_MB = 8192;
            };
          }
        ];
      };
    };
}
