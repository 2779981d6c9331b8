{
  description = "A machine with claude-safe in the place of claude, for all its users";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    claude-safe = {
      # Where your clone of claude-safe is.
      url = "git+file:///home/someone/src/claude-safe";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    { nixpkgs, claude-safe, ... }:
    {
      nixosConfigurations.machine = nixpkgs.lib.nixosSystem {
        modules = [
          claude-safe.nixosModules.default
          {
            nixpkgs = {
              hostPlatform = "x86_64-linux";
              config.allowUnfreePredicate = package: nixpkgs.lib.getName package == "claude-code";
            };
            programs.claude-safe = {
              enable = true;
              settings.CLAUDE_WATCHDOG_THRESHOLD_MB = 8192;
              # For a machine without swap.
              zram.enable = true;
            };
            system.stateVersion = "26.05";
            # Your own configuration goes here: boot.loader, fileSystems, users.users …
          }
        ];
      };
    };
}
