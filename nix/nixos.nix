# claude-safe for all users of a NixOS machine: the package, /etc/claude-safe.conf, and what only root can
# give: swap in compressed memory, and access to userfaultfd. Both are offered, neither is taken.
#
# systemd-oomd is left as the machine has it. Nothing here sets a MemoryHigh: its throttling counts as pressure
# on the whole user manager, and oomd then ends innocent neighbours. The slice of the sessions is the program's own
# affair: it asks the user's manager for it.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) literalExpression mkOption types;
  cfg = config.programs.claude-safe;
in
{
  imports = [ ./options.nix ];

  options.programs.claude-safe = {
    zram.enable = mkOption {
      type = types.bool;
      default = false;
      defaultText = literalExpression "false";
      example = literalExpression "true";
      description = ''
        Whether to give the machine swap in compressed memory ({option}`zramSwap.enable`), for machines without
        any swap: the kernel can take pages that a client never touches again only where there is swap.
      '';
    };

    userfaultfd = {
      enable = mkOption {
        type = types.bool;
        default = false;
        defaultText = literalExpression "false";
        example = literalExpression "true";
        description = ''
          Whether the members of {option}`programs.claude-safe.userfaultfd.group` may open `/dev/userfaultfd`
          (Linux 6.1 and later). The guard needs it to give back memory without swap. It lets a process hold up
          the kernel's own access to its memory, which attacks on the kernel profit from: add only users whom
          you would trust with that. No `sysctl` is changed.
        '';
      };

      group = mkOption {
        type = types.strMatching "[a-z_][a-z0-9_-]{0,30}" // {
          description = "the name of a group";
        };
        default = "userfaultfd";
        defaultText = literalExpression ''"userfaultfd"'';
        example = literalExpression ''"wheel"'';
        description = ''
          The group that may open `/dev/userfaultfd`; it is created. Users are added with
          `users.users.NAME.extraGroups`.
        '';
      };
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.finalPackage ];

    environment.etc = lib.mkIf (cfg.configFile != null) {
      "claude-safe.conf".source = cfg.configFile;
    };

    zramSwap = lib.mkIf cfg.zram.enable { enable = true; };

    users.groups = lib.mkIf cfg.userfaultfd.enable { ${cfg.userfaultfd.group} = { }; };
    services.udev.extraRules = lib.mkIf cfg.userfaultfd.enable ''
      SUBSYSTEM=="misc", KERNEL=="userfaultfd", GROUP="${cfg.userfaultfd.group}", MODE="0660"
    '';
  };
}
