# claude-safe for one user, under home-manager: the package, ~/.config/claude-safe/claude-safe.conf, the plugin.
#
# With home-manager's own programs.claude-code both would install a bin/claude. So that module's package becomes
# ours by default, and it alone installs it; a package that the user chose there is not touched, but refused as
# long as both claim the name.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
  cfg = config.programs.claude-safe;

  hasClaudeCode = options.programs ? claude-code;
  claudeCode = config.programs.claude-code;
  # Does programs.claude-code install a bin/claude?
  isInstalledThere = hasClaudeCode && claudeCode.enable && claudeCode.package != null;
  # And is it claude-safe around a client?
  isOursThere = (claudeCode.package.claudeSafe.claudePackage or null) != null;

  configDir =
    if hasClaudeCode && claudeCode.enable then
      claudeCode.configDir
    else
      "${config.home.homeDirectory}/.claude";
in
{
  imports = [ ./options.nix ];

  options.programs.claude-safe.plugin.enable = mkOption {
    type = types.bool;
    default = false;
    defaultText = literalExpression "false";
    example = literalExpression "true";
    description = ''
      Whether to link the plugin of claude-safe into the client's `skills/` folder, where clients from 2.1.157 on
      find it in every session. It tells claude-safe which conversation a session holds. For sessions that
      claude-safe starts it does that by itself where the client doesn't.
    '';
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        home.packages = lib.mkIf (!(cfg.wrapClaude && isInstalledThere)) [ cfg.finalPackage ];

        xdg.configFile = lib.mkIf (cfg.configFile != null) {
          "claude-safe/claude-safe.conf".source = cfg.configFile;
        };

        home.file = lib.mkIf cfg.plugin.enable {
          # The package without a client: there the files are files, not links.
          "${configDir}/skills/claude-safe".source = "${cfg.package}/share/claude-safe/plugin";
        };

        assertions = [
          {
            assertion = cfg.wrapClaude && isInstalledThere -> isOursThere;
            message = ''
              programs.claude-code and programs.claude-safe both install bin/claude. Give the client to claude-safe
              (programs.claude-safe.claudePackage) and leave programs.claude-code.package alone, or set it to
              config.programs.claude-safe.finalPackage; set it to null for a client that Nix did not install; or
              set programs.claude-safe.wrapClaude = false to keep the plain claude.
            '';
          }
        ];
      }
      (lib.optionalAttrs hasClaudeCode {
        programs.claude-code.package = lib.mkIf cfg.wrapClaude (lib.mkDefault cfg.finalPackage);
      })
    ]
  );
}
