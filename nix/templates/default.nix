# Beginnings for `nix flake init -t`.
{
  home-manager = {
    path = ./home-manager;
    description = "home-manager with claude-safe in the place of claude";
  };
  nixos = {
    path = ./nixos;
    description = "NixOS with claude-safe in the place of claude, for all users";
  };
}
