# Whole configurations and deliberate mistakes, evaluated and built by tests/nix/run with `-f`.
#   stub   the stand-in for nixpkgs, with its crates
#   tree   a copy of the repository, possibly broken
#   good   the packages of the unbroken repository, for cases in which a compiler has nothing to say
#   readme a folder with the README's own examples: nixos.nix, home-manager.nix
{
  stub,
  tree,
  good ? { },
  readme ? null,
  system ? builtins.currentSystem,
}:
let
  nixpkgs = /. + stub;
  root = /. + tree;
  lib = import (nixpkgs + "/lib");
  allowed = {
    allowUnfreePredicate = package: lib.getName package == "claude-code";
  };
  pkgsWith = config: import nixpkgs { inherit system config; };
  pkgs = pkgsWith { };
  packages = import (root + "/nix/packages.nix") pkgs;
  rims = import (root + "/nix/rims.nix") { inherit lib; };

  # As the real systems do: a failed assertion ends the evaluation with its message.
  asserted =
    config:
    let
      failed = lib.filter (a: !a.assertion) config.assertions;
    in
    if failed == [ ] then
      config
    else
      throw "Failed assertions:\n${lib.concatMapStringsSep "\n" (a: "- ${a.message}") failed}";
  evaluate =
    pkgs: modules:
    asserted
      (lib.evalModules {
        inherit modules;
        specialArgs = { inherit pkgs; };
      }).config;
  nixos =
    pkgs: configuration:
    evaluate pkgs [
      (root + "/nix/nixos.nix")
      rims.nixos
      configuration
    ];
  home =
    pkgs: configuration:
    evaluate pkgs [
      (root + "/nix/home-manager.nix")
      rims.home
      rims.claudeCode
      configuration
    ];

  client =
    version: says:
    pkgs.runCommand "claude-code-${version}"
      {
        pname = "claude-code";
        inherit version;
      }
      ''
        mkdir -p $out/bin
        printf '#!/bin/sh\necho "${says} $*"\n' > $out/bin/claude
        chmod 755 $out/bin/claude
      '';
  first = client "2.1.329" "first";
  second = client "2.1.330" "second";
  # As nixpkgs has it: a program, behind a compiled wrapper. Says whether the guard is in it.
  program =
    pkgs.runCommand "claude-code-2.1.331"
      {
        pname = "claude-code";
        version = "2.1.331";
        nativeBuildInputs = [ pkgs.makeBinaryWrapper ];
        source = ''
          #include <stdio.h>
          #include <string.h>
          int main(int argc, char **argv) {
            char line[4096];
            int guarded = 0;
            FILE *maps = fopen("/proc/self/maps", "r");
            if (!maps) return 1;
            while (fgets(line, sizeof line, maps)) guarded |= strstr(line, "libclaude_guard.so") != NULL;
            printf("%s %s\n", guarded ? "guarded" : "bare", argc > 1 ? argv[1] : "");
            return 0;
          }
        '';
        passAsFile = [ "source" ];
      }
      ''
        mkdir -p $out/bin
        gcc -O1 -x c -o $out/bin/.claude-wrapped "$sourcePath"
        makeWrapper $out/bin/.claude-wrapped $out/bin/claude --set-default DISABLE_AUTOUPDATER 1
      '';
  enabled = settings: {
    programs.claude-safe = {
      enable = true;
      claudePackage = first;
      inherit settings;
    };
  };
  settings = {
    CLAUDE_WATCHDOG_THRESHOLD_MB = 4321;
    CLAUDE_MALLOC_GUARD_LOG = "/var/log/a \"b\" $c.log";
    CLAUDE_SAFE_RECLAIM = [ "pool" ];
    CLAUDE_SAFE_SWEEP = false;
  };
  profile = config: pkgs.buildEnv { name = "home-path"; paths = config.home.packages; };

  # What a system around the modules makes of files: a tree of links, to which links of the user or of /etc lead.
  links =
    name: files:
    pkgs.runCommand name { } (
      lib.concatMapStrings (file: ''
        mkdir -p "$(dirname "$out/${file}")"
        ln -s ${files.${file}.source} "$out/${file}"
      '') (lib.attrNames files)
    );

  # Stand-ins for the systems that the templates and the README's examples are for.
    rim = {
      options = lib.genAttrs [ "nixpkgs" "system" ] (
        _: lib.mkOption { type = lib.types.unspecified; }
      );
    };
    homeRim.options.home = lib.genAttrs [ "username" "stateVersion" ] (
      _: lib.mkOption { type = lib.types.str; }
    );
    stand-in = {
      outPath = nixpkgs;
      lib = lib // {
        nixosSystem =
          { modules }:
          evaluate (pkgsWith allowed) (
            modules
            ++ [
              rims.nixos
              rim
            ]
          );
      };
    };
    claude-safe = {
      nixosModules.default = root + "/nix/nixos.nix";
      homeModules.default = root + "/nix/home-manager.nix";
    };
    home-manager.lib.homeManagerConfiguration =
      { pkgs, modules }:
      evaluate pkgs (
        modules
        ++ [
          rims.home
          homeRim
        ]
      );
in
{
  inherit (packages) claude-guard claude-safe-unwrapped;

  # Configurations that work.
  homeFiles = links "home-manager-files" (home pkgs (enabled settings)).xdg.configFile;
  etc = links "etc" (nixos pkgs (enabled settings)).environment.etc;
  homePath = profile (home pkgs (enabled { }));
  # The client beside it, installed by the user as well: claude is claude-safe all the same.
  homePathWithClient = profile (
    home pkgs {
      imports = [ (enabled { }) ];
      home.packages = [ second ];
    }
  );
  homePathWithModule = profile (
    home pkgs {
      imports = [ (enabled { }) ];
      programs.claude-code.enable = true;
    }
  );
  homePathWithProgram = profile (
    home pkgs {
      programs.claude-safe = {
        enable = true;
        claudePackage = program;
      };
    }
  );
  unfreeAllowed = profile (
    home (pkgsWith allowed) {
      programs.claude-safe.enable = true;
      programs.claude-code.enable = true;
    }
  );
  overlay =
    (import nixpkgs {
      inherit system;
      overlays = [ (final: _prev: import (root + "/nix/packages.nix") final) ];
    }).claude-safe;

  templates =
    let
      outputs =
        name:
        (import (root + "/nix/templates/${name}/flake.nix")).outputs {
          nixpkgs = stand-in;
          inherit claude-safe home-manager;
        };
      machine = (outputs "nixos").nixosConfigurations.machine;
      someone = (outputs "home-manager").homeConfigurations.someone;
    in
    assert machine.zramSwap.enable;
    pkgs.runCommand "templates" { } ''
      grep -x CLAUDE_WATCHDOG_THRESHOLD_MB=8192 ${machine.environment.etc."claude-safe.conf".source}
      grep -x CLAUDE_WATCHDOG_THRESHOLD_MB=8192 ${
        someone.xdg.configFile."claude-safe/claude-safe.conf".source
      }
      test -x ${lib.head machine.environment.systemPackages}/bin/claude
      test -x ${lib.head someone.home.packages}/bin/claude
      touch $out
    '';

  # The README's examples. The second one is a module of a home that has the flake at hand.
  readme =
    let
      example = name: import (/. + "${readme}/${name}");
      machine =
        ((example "nixos.nix").outputs {
          nixpkgs = stand-in;
          inherit claude-safe;
        }).nixosConfigurations.HOST;
      someone = evaluate (pkgsWith allowed) [
        rims.home
        (example "home-manager.nix" { inherit claude-safe; })
      ];
    in
    assert machine.environment.etc == { };
    pkgs.runCommand "readme" { } ''
      grep -x CLAUDE_WATCHDOG_THRESHOLD_MB=8192 ${
        someone.xdg.configFile."claude-safe/claude-safe.conf".source
      }
      test -x ${lib.head machine.environment.systemPackages}/bin/claude
      test -x ${lib.head someone.home.packages}/bin/claude
      touch $out
    '';

  # Mistakes.
  unfreeRefused = profile (home pkgs { programs.claude-safe.enable = true; });
  wrongType = (home pkgs (enabled { CLAUDE_WATCHDOG_INTERVAL = "5"; })).xdg.configFile;
  outOfRange = (nixos pkgs (enabled { CLAUDE_WATCHDOG_INTERVAL = 0; })).environment.etc;
  unknownSetting = (nixos pkgs (enabled { CLAUDE_SAVE_DISABLE = true; })).environment.etc;
  unknownOption =
    (nixos pkgs {
      imports = [ (enabled { }) ];
      programs.claude-safe.wrapClaud = false;
    }).environment.etc;
  twoClaims =
    (home pkgs {
      imports = [ (enabled { }) ];
      programs.claude-code = {
        enable = true;
        package = second;
      };
    }).home.packages;
  twoClients = pkgs.buildEnv {
    name = "two-clients";
    paths = [
      first
      second
    ];
  };

  # The package as the tree has it, around a program and a guard that are there already.
  installed =
    (pkgs.callPackage (root + "/nix/package.nix") {
      claude-guard = builtins.storePath good.guard;
    }).overrideAttrs
      {
        buildPhase = ''
          mkdir -p target/$CARGO_BUILD_TARGET/release
          cp ${builtins.storePath good.program} target/$CARGO_BUILD_TARGET/release/claude-safe
          chmod 755 target/$CARGO_BUILD_TARGET/release/claude-safe
        '';
      };
  fakeProgram = pkgs.writeText "claude-safe" "#!/bin/sh\necho fake\n";

  # Is a build shut in? It must see neither the repository nor a network.
  outside = pkgs.runCommand "outside" { } ''
    if test -e ${builtins.unsafeDiscardStringContext (toString root)}/flake.nix; then
      echo 'the repository is visible' >&2
      exit 1
    fi
    test "$(cut -s -d: -f1 /proc/net/dev | tr -d ' ')" = lo
    touch $out
  '';
}
