# rustPlatform.buildRustPackage with the cargo of the machine, offline: the crates are those of Cargo.lock, each
# checked against its checksum there, laid into ../crates by tests/nix/run.
{
  lib,
  stdenv,
  runCommand,
  isStatic ? false,
}:
let
  target =
    {
      x86_64-linux = "x86_64-unknown-linux-gnu";
      aarch64-linux = "aarch64-unknown-linux-gnu";
    }
    .${stdenv.hostPlatform.system};

  vendor =
    lockFile:
    let
      locked = lib.filter (package: package ? checksum) (lib.importTOML lockFile).package;
      crate = package: {
        name = "${package.name}-${package.version}";
        inherit (package) checksum;
        file = builtins.path {
          name = "${package.name}-${package.version}.crate";
          path = ../crates + "/${package.name}-${package.version}.crate";
          recursive = false;
          sha256 = package.checksum;
        };
      };
    in
    runCommand "cargo-vendor-dir"
      {
        crates = lib.concatMapStrings (c: "${c.name} ${c.checksum} ${c.file}\n") (map crate locked);
        passAsFile = [ "crates" ];
      }
      ''
        mkdir $out
        while read -r name checksum file; do
          tar -xzf "$file" -C $out
          printf '{"files":{},"package":"%s"}\n' "$checksum" > "$out/$name/.cargo-checksum.json"
        done < "$cratesPath"
      '';
in
{
  buildRustPackage =
    { cargoLock, ... }@arguments:
    stdenv.mkDerivation (
      removeAttrs arguments [ "cargoLock" ]
      // {
        cargoDeps = vendor cargoLock.lockFile;
        env = {
          CARGO_BUILD_TARGET = target;
        }
        // lib.optionalAttrs isStatic { RUSTFLAGS = "-Ctarget-feature=+crt-static"; }
        // arguments.env or { };

        configurePhase = ''
          # The lock of the source must be the one whose crates are there.
          cmp Cargo.lock ${cargoLock.lockFile}
          export CARGO_HOME=$PWD/../cargo
          mkdir -p $CARGO_HOME
          printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "%s"\n' \
            $cargoDeps > $CARGO_HOME/config.toml
        '';
        buildPhase =
          arguments.buildPhase or ''
            runHook preBuild
            cargo build --release --offline --locked $cargoBuildFlags
            runHook postBuild
          '';
        # Programs to bin, libraries to lib.
        installPhase =
          arguments.installPhase or ''
            mkdir -p $out/bin $out/lib
            for file in target/$CARGO_BUILD_TARGET/release/*; do
              case $file in
              *.so) install -m755 "$file" $out/lib/ ;;
              *.rlib | *.d) ;;
              *) if [ -f "$file" ] && [ -x "$file" ]; then install -m755 "$file" $out/bin/; fi ;;
              esac
            done
            rmdir --ignore-fail-on-non-empty $out/bin $out/lib
          '';
      }
    );
}
