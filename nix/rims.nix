# What NixOS and home-manager declare of the options that our modules set, and no more: enough to evaluate the
# modules with any nixpkgs' lib alone. tests/nix/real evaluates them in the real ones.
{ lib }:
let
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption {
      inherit type default;
      description = "Declared by the system around the module.";
    };
  files = option (types.attrsOf (types.submodule { options.source = option types.str ""; })) { };
  common = {
    options.assertions = option (types.listOf types.unspecified) [ ];
  };
in
{
  nixos = {
    imports = [ common ];
    options = {
      environment = {
        systemPackages = option (types.listOf types.package) [ ];
        etc = files;
      };
      services.udev.extraRules = option types.lines "";
      users.groups = option (types.attrsOf types.unspecified) { };
      zramSwap.enable = option types.bool false;
    };
  };

  home = {
    imports = [ common ];
    options = {
      home = {
        homeDirectory = option types.str "/home/someone";
        packages = option (types.listOf types.package) [ ];
        file = files;
      };
      xdg.configFile = files;
    };
  };

  # The part of home-manager's own module with which ours has to live (as of release-26.05).
  claudeCode =
    {
      config,
      pkgs,
      ...
    }:
    let
      cfg = config.programs.claude-code;
    in
    {
      options.programs.claude-code = {
        enable = option types.bool false;
        package = option (types.nullOr types.package) pkgs.claude-code;
        finalPackage = mkOption {
          type = types.package;
          readOnly = true;
          description = "What is installed.";
        };
        configDir = option types.str "${config.home.homeDirectory}/.claude";
      };
      config = lib.mkIf cfg.enable {
        programs.claude-code.finalPackage = lib.mkIf (cfg.package != null) cfg.package;
        home.packages = lib.mkIf (cfg.package != null) [ cfg.finalPackage ];
      };
    };
}
