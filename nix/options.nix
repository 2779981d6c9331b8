# The options that NixOS and home-manager have in common, and what follows from them alone: the package and
# the checks. Where anything is put is the business of nixos.nix and home-manager.nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
  cfg = config.programs.claude-safe;
  settings = import ./settings.nix { inherit lib; };
  text = settings.text cfg.settings;
in
{
  options.programs.claude-safe = {
    enable = mkOption {
      type = types.bool;
      default = false;
      defaultText = literalExpression "false";
      example = literalExpression "true";
      description = ''
        Whether to put claude-safe in the place of `claude`: it contains the client's leaks, restarts it in
        the same terminal before they take the machine down, and resumes the conversation.
      '';
    };

    package = mkOption {
      type = types.package;
      default = (import ./packages.nix pkgs).claude-safe-unwrapped;
      defaultText = literalExpression "claude-safe-unwrapped of this flake, built with your nixpkgs";
      example = literalExpression "claude-safe.packages.\${pkgs.system}.claude-safe-unwrapped";
      description = ''
        claude-safe itself, without a client.
      '';
    };

    claudePackage = mkOption {
      type = types.nullOr types.package // {
        description = "null, or a package";
      };
      default = pkgs.claude-code;
      defaultText = literalExpression "pkgs.claude-code";
      example = literalExpression "null";
      description = ''
        The client that claude-safe starts; it needs a `bin/claude`. `CLAUDE_SAFE_BIN` in the environment
        still names another one. `null`: the first `claude` on PATH that is not claude-safe, for a client that
        Nix did not install.

        Nixpkgs' `claude-code` is unfree: `nixpkgs.config.allowUnfreePredicate` must let it pass.
      '';
    };

    wrapClaude = mkOption {
      type = types.bool;
      default = true;
      defaultText = literalExpression "true";
      example = literalExpression "false";
      description = ''
        Whether `claude` is claude-safe, so that you type what you always typed. Otherwise only `claude-safe`
        is, and `claude` is left to whoever installs it.
      '';
    };

    finalPackage = mkOption {
      type = types.package;
      readOnly = true;
      default = pkgs.callPackage ./wrap.nix {
        claude-safe-unwrapped = cfg.package;
        inherit (cfg) claudePackage wrapClaude;
      };
      defaultText = literalExpression "claude-safe around the client";
      description = ''
        What is installed: {option}`programs.claude-safe.package` around
        {option}`programs.claude-safe.claudePackage`. It has the client's version and a `bin/claude`, so it can
        stand wherever a module asks for a package of Claude Code.
      '';
    };

    settings = mkOption {
      type = types.submoduleWith {
        modules = [
          {
            # Unknown names come through, to be refused below with the name that was probably meant.
            freeformType = types.attrsOf types.anything;
            inherit (settings) options;
          }
        ];
        shorthandOnlyDefinesConfig = true;
        description = "settings by the names of their variables";
      };
      default = { };
      defaultText = literalExpression "{ }";
      example = literalExpression ''
        {
          CLAUDE_WATCHDOG_THRESHOLD_MB = 8192;
          CLAUDE_SAFE_CONTINUE = "never";
        }
      '';
      description = ''
        What is written to the configuration file, see {manpage}`claude-safe.conf(5)`. What is `null` or left
        out is not written. The environment counts more than the user's file, that more than the system's file, and
        that more than the defaults.
      '';
    };

    configFile = mkOption {
      type = types.nullOr types.str // {
        description = "null, or the path of a file";
      };
      readOnly = true;
      internal = true;
      default = if text == null then null else "${pkgs.writeText "claude-safe.conf" text}";
      defaultText = literalExpression "the settings as a file";
      description = ''
        The settings as a file in the store; `null` when there are none.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      map (message: {
        assertion = false;
        inherit message;
      }) (settings.complaints cfg.settings)
      ++ [
        {
          assertion = cfg.claudePackage == null || (cfg.settings.CLAUDE_SAFE_BIN or null) == null;
          message = ''
            programs.claude-safe.settings.CLAUDE_SAFE_BIN and programs.claude-safe.claudePackage both name the
            client. Set claudePackage to null, or leave CLAUDE_SAFE_BIN out.
          '';
        }
      ];
  };
}
