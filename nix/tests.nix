# What the modules give for which configuration, and what they leave alone. In the form of lib.runTests;
# pure evaluation, with a stand-in for the client: nothing unfree is looked at.
{ lib, pkgs }:
let
  rims = import ./rims.nix { inherit lib; };
  packages = import ./packages.nix pkgs;

  client = pkgs.runCommand "claude-code-2.1.329" {
    pname = "claude-code";
    version = "2.1.329";
  } "mkdir $out";
  otherClient = pkgs.runCommand "claude-code-2.1.110" {
    pname = "claude-code";
    version = "2.1.110";
  } "mkdir $out";

  evaluate =
    modules:
    (lib.evalModules {
      inherit modules;
      specialArgs = {
        # A nixpkgs whose unfree client must not be touched unless a test asks for it.
        pkgs = pkgs // {
          claude-code = throw "the unfree client was evaluated";
        };
      };
    }).config;
  nixos = configuration: evaluate ([ ./nixos.nix rims.nixos ] ++ lib.toList configuration);
  home = configuration: evaluate ([ ./home-manager.nix rims.home ] ++ lib.toList configuration);
  homeWithClaudeCode = configuration: home ([ rims.claudeCode ] ++ lib.toList configuration);

  on = {
    programs.claude-safe = {
      enable = true;
      claudePackage = client;
    };
  };
  with' = settings: [
    on
    { programs.claude-safe.settings = settings; }
  ];
  namesOf = map lib.getName;
  objections = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  objects = pattern: config: lib.any (text: lib.hasInfix pattern text) (objections config);
  fails = value: !(builtins.tryEval (builtins.deepSeq value true)).success;
  textOf = settings: (import ./settings.nix { inherit lib; }).text settings;
  settingsOf = settings: (nixos (with' settings)).programs.claude-safe.settings;

  everything = {
    CLAUDE_MALLOC_GUARD_LIB = "";
    CLAUDE_MALLOC_GUARD_LOG = "/var/log/a \"b\" $c.log";
    CLAUDE_MALLOC_GUARD_SIZES = [
      160
      "64/8"
    ];
    CLAUDE_MALLOC_GUARD_THRESHOLD_MB = 0;
    CLAUDE_SAFE_CONTAIN = "off";
    CLAUDE_SAFE_CONTINUE = "never";
    CLAUDE_SAFE_FLEET_MAX_MB = 16384;
    CLAUDE_SAFE_OUTPUT_MAX_MB = 2048;
    CLAUDE_SAFE_OUTPUT_WARN_MB = 0;
    CLAUDE_SAFE_PTY_WARN = 7;
    CLAUDE_SAFE_RECLAIM = [
      "pageout"
      "pool"
    ];
    CLAUDE_SAFE_SWEEP = false;
    CLAUDE_WATCHDOG_INTERVAL = 5;
    CLAUDE_WATCHDOG_THRESHOLD_MB = 4096;
  };
in
{
  # Not enabled: as if it were not there.
  testNixosOffLeavesNothing = {
    expr =
      let
        config = nixos { };
      in
      {
        inherit (config.environment) systemPackages etc;
        inherit (config.users) groups;
        rules = config.services.udev.extraRules;
        zram = config.zramSwap.enable;
        inherit (config) assertions;
      };
    expected = {
      systemPackages = [ ];
      etc = { };
      groups = { };
      rules = "";
      zram = false;
      assertions = [ ];
    };
  };
  testHomeOffLeavesNothing = {
    expr =
      let
        config = homeWithClaudeCode { };
      in
      {
        inherit (config.home) packages file;
        inherit (config.xdg) configFile;
        inherit (config) assertions;
      };
    expected = {
      packages = [ ];
      file = { };
      configFile = { };
      assertions = [ ];
    };
  };
  testHomeOffLeavesClaudeCodeAlone = {
    expr = namesOf (homeWithClaudeCode {
      programs.claude-code = {
        enable = true;
        package = client;
      };
    }).home.packages;
    expected = [ "claude-code" ];
  };

  # Enabled: the package, and nothing that was not asked for.
  testNixosOn = {
    expr =
      let
        config = nixos on;
      in
      {
        installed = namesOf config.environment.systemPackages;
        inherit (config.environment) etc;
        inherit (config.users) groups;
        rules = config.services.udev.extraRules;
        zram = config.zramSwap.enable;
        objections = objections config;
      };
    expected = {
      installed = [ "claude-code" ];
      etc = { };
      groups = { };
      rules = "";
      zram = false;
      objections = [ ];
    };
  };
  testHomeOn = {
    expr =
      let
        config = home on;
      in
      {
        installed = namesOf config.home.packages;
        inherit (config.home) file;
        inherit (config.xdg) configFile;
        objections = objections config;
      };
    expected = {
      installed = [ "claude-code" ];
      file = { };
      configFile = { };
      objections = [ ];
    };
  };
  testRootsGiftsAreGivenWhenAskedFor = {
    expr =
      let
        config = nixos [
          on
          {
            programs.claude-safe = {
              zram.enable = true;
              userfaultfd = {
                enable = true;
                group = "leakers";
              };
            };
          }
        ];
      in
      {
        inherit (config.users) groups;
        rules = config.services.udev.extraRules;
        zram = config.zramSwap.enable;
      };
    expected = {
      groups.leakers = { };
      rules = ''
        SUBSYSTEM=="misc", KERNEL=="userfaultfd", GROUP="leakers", MODE="0660"
      '';
      zram = true;
    };
  };

  # The package that stands in for the client.
  testFinalPackageKeepsWhatTheClientIsKnownBy = {
    expr =
      let
        final = (home on).programs.claude-safe.finalPackage;
      in
      {
        inherit (final) name pname version;
        inherit (final.meta) mainProgram priority;
        client = final.claudeSafe.claudePackage.version;
        safe = final.unwrapped == packages.claude-safe-unwrapped;
      };
    expected = {
      name = "claude-code-2.1.329";
      pname = "claude-code";
      version = "2.1.329";
      mainProgram = "claude";
      priority = 4;
      client = "2.1.329";
      safe = true;
    };
  };
  testWithoutWrapClaudeItIsAProgramOfItsOwn = {
    expr =
      let
        final =
          (home [
            on
            { programs.claude-safe.wrapClaude = false; }
          ]).programs.claude-safe.finalPackage;
      in
      {
        inherit (final) pname version;
        inherit (final.meta) mainProgram;
        hasPriority = final.meta ? priority;
      };
    expected = {
      pname = "claude-safe";
      inherit (packages.claude-safe-unwrapped) version;
      mainProgram = "claude-safe";
      hasPriority = false;
    };
  };
  testOwnPackageIsTaken = {
    expr =
      (home [
        on
        {
          programs.claude-safe.package = packages.claude-safe-unwrapped // {
            mark = "own";
          };
        }
      ]).programs.claude-safe.finalPackage.unwrapped.mark;
    expected = "own";
  };

  # Nothing unfree.
  testNoUnfreeForAClientThatNixDidNotInstall = {
    expr =
      namesOf
        (nixos {
          programs.claude-safe = {
            enable = true;
            claudePackage = null;
          };
        }).environment.systemPackages;
    expected = [ "claude-safe" ];
  };
  testTheUnfreeClientIsTheDefault = {
    expr = fails (nixos { programs.claude-safe.enable = true; }).environment.systemPackages;
    expected = true;
  };

  # Beside home-manager's own module.
  testBothEnabledInstallOnePackage = {
    expr =
      let
        config = homeWithClaudeCode [
          on
          { programs.claude-code.enable = true; }
        ];
      in
      {
        installed = map (package: package.version) config.home.packages;
        isOurs = config.programs.claude-code.finalPackage ? claudeSafe;
        objections = objections config;
      };
    expected = {
      installed = [ "2.1.329" ];
      isOurs = true;
      objections = [ ];
    };
  };
  testFinalPackageMayBeNamedByHand = {
    expr =
      let
        config = homeWithClaudeCode [
          on
          (
            { config, ... }:
            {
              programs.claude-code = {
                enable = true;
                package = config.programs.claude-safe.finalPackage;
              };
            }
          )
        ];
      in
      {
        installed = map (package: package.version) config.home.packages;
        objections = objections config;
      };
    expected = {
      installed = [ "2.1.329" ];
      objections = [ ];
    };
  };
  testTwoClaimsOnOneNameAreRefused = {
    expr = objects "both install bin/claude" (homeWithClaudeCode [
      on
      {
        programs.claude-code = {
          enable = true;
          package = otherClient;
        };
      }
    ]);
    expected = true;
  };
  testWithoutWrapClaudeBothAreInstalled = {
    expr =
      let
        config = homeWithClaudeCode [
          on
          {
            programs.claude-safe.wrapClaude = false;
            programs.claude-code = {
              enable = true;
              package = otherClient;
            };
          }
        ];
      in
      {
        installed = lib.sort (a: b: a < b) (namesOf config.home.packages);
        plain = config.programs.claude-code.finalPackage == otherClient;
        objections = objections config;
      };
    expected = {
      installed = [
        "claude-code"
        "claude-safe"
      ];
      plain = true;
      objections = [ ];
    };
  };
  testAModuleThatInstallsNoClientLeavesItToUs = {
    expr = namesOf (homeWithClaudeCode [
      on
      {
        programs.claude-code = {
          enable = true;
          package = null;
        };
      }
    ]).home.packages;
    expected = [ "claude-code" ];
  };
  testThePluginGoesWhereTheClientLooks = {
    expr =
      let
        links =
          more:
          lib.attrNames
            (homeWithClaudeCode [
              on
              { programs.claude-safe.plugin.enable = true; }
              more
            ]).home.file;
      in
      [
        (links { })
        (links {
          programs.claude-code = {
            enable = true;
            configDir = "/home/someone/cc";
          };
        })
      ];
    expected = [
      [ "/home/someone/.claude/skills/claude-safe" ]
      [ "/home/someone/cc/skills/claude-safe" ]
    ];
  };

  # Settings.
  testEverySettingHasAnOption = {
    expr = lib.attrNames (removeAttrs (settingsOf { }) [ "_module" ]);
    expected = lib.sort (a: b: a < b) (
      map (variable: variable.name) (lib.importJSON ./vocabulary.json)
    );
  };
  testTheFileIsWrittenAsTheProgramReadsIt = {
    expr = textOf (settingsOf everything);
    expected = ''
      # Made from programs.claude-safe.settings; see claude-safe.conf(5).
      CLAUDE_MALLOC_GUARD_LIB=
      CLAUDE_MALLOC_GUARD_THRESHOLD_MB=0
      CLAUDE_MALLOC_GUARD_SIZES=160,64/8
      CLAUDE_MALLOC_GUARD_LOG="/var/log/a \"b\" \$c.log"
      CLAUDE_WATCHDOG_THRESHOLD_MB=4096
      CLAUDE_WATCHDOG_INTERVAL=5
      CLAUDE_SAFE_RECLAIM=pageout,pool
      CLAUDE_SAFE_CONTAIN=off
      CLAUDE_SAFE_FLEET_MAX_MB=16384
      CLAUDE_SAFE_CONTINUE=never
      CLAUDE_SAFE_SWEEP=off
      CLAUDE_SAFE_OUTPUT_WARN_MB=0
      CLAUDE_SAFE_OUTPUT_MAX_MB=2048
      CLAUDE_SAFE_PTY_WARN=7
    '';
  };
  testBothSystemsHaveTheSameFile = {
    expr =
      (nixos (with' everything)).environment.etc."claude-safe.conf".source
      == (home (with' everything)).xdg.configFile."claude-safe/claude-safe.conf".source;
    expected = true;
  };
  testUnknownNamesAreRefusedWithTheOneThatWasMeant = {
    expr = objections (nixos (with' {
      CLAUDE_WATCHDOG_INTERVALL = 5;
      EDITOR = "vi";
    }));
    expected = [
      "programs.claude-safe.settings.CLAUDE_WATCHDOG_INTERVALL is not a variable of claude-safe; did you mean CLAUDE_WATCHDOG_INTERVAL?"
      "programs.claude-safe.settings.EDITOR is not a variable of claude-safe; nix/options.md has them all."
    ];
  };
  testTwoNamesForTheClientAreRefused = {
    expr = objects "both name the" (nixos (with' { CLAUDE_SAFE_BIN = "/opt/claude"; }));
    expected = true;
  };
  testBadValuesAreRefused = {
    expr =
      lib.filter
        (
          bad:
          !fails (lib.getAttrs (lib.attrNames bad) (settingsOf bad))
        )
        [
          { CLAUDE_WATCHDOG_INTERVAL = 0; }
          { CLAUDE_WATCHDOG_INTERVAL = 86401; }
          { CLAUDE_WATCHDOG_INTERVAL = "5"; }
          { CLAUDE_MALLOC_GUARD_LOG = "relative.log"; }
          { CLAUDE_MALLOC_GUARD_LIB = "guard.so"; }
          { CLAUDE_MALLOC_GUARD_SIZES = 2000; }
          { CLAUDE_MALLOC_GUARD_SIZES = "160;64"; }
          { CLAUDE_MALLOC_GUARD_SIZES = [ ]; }
          { CLAUDE_SAFE_RECLAIM = "sometimes"; }
          { CLAUDE_SAFE_RECLAIM = [ "auto" ]; }
          { CLAUDE_SAFE_CONTINUE = "always"; }
          { CLAUDE_SAFE_SWEEP = "on"; }
          { CLAUDE_SAFE_BIN = "bin/claude"; }
        ];
    expected = [ ];
  };
  testGoodValuesPass = {
    expr = map (good: lib.head (map (name: (settingsOf good).${name}) (lib.attrNames good))) [
      { CLAUDE_MALLOC_GUARD_SIZES = "auto"; }
      { CLAUDE_MALLOC_GUARD_SIZES = 64; }
      { CLAUDE_MALLOC_GUARD_SIZES = "160,64/8"; }
      { CLAUDE_SAFE_RECLAIM = "off"; }
      { CLAUDE_SAFE_BIN = "claude-nightly"; }
      { CLAUDE_SAFE_SWEEP = true; }
    ];
    expected = [
      "auto"
      64
      "160,64/8"
      "off"
      "claude-nightly"
      true
    ];
  };
}
