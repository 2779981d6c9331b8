# stdenv.mkDerivation and the small builders on top of it. Builders run /bin/bash of the machine in Nix's
# sandbox, without network.
{
  lib,
  system,
  config,
}:
let
  isAllowed =
    package:
    (package.meta.license.free or true)
    || (config.allowUnfree or false)
    || (config.allowUnfreePredicate or (_: false)) package;

  mkDerivation =
    arguments:
    let
      built = derivation (
        removeAttrs arguments [
          "env"
          "meta"
          "passthru"
        ]
        // arguments.env or { }
        // {
          inherit name system;
          builder = "/bin/bash";
          args = [
            "-e"
            ./setup.sh
          ];
          __ignoreNulls = true;
        }
      );
      name = arguments.name or "${arguments.pname}-${arguments.version}";
      guarded =
        value:
        if isAllowed package then
          value
        else
          throw "Package ‘${name}’ has an unfree license (‘unfree’), refusing to evaluate.";
      package =
        arguments
        // built
        // arguments.passthru or { }
        // {
          inherit name;
          meta = arguments.meta or { };
          outPath = guarded built.outPath;
          drvPath = guarded built.drvPath;
          overrideAttrs =
            changes: mkDerivation (arguments // (if lib.isFunction changes then changes arguments else changes));
        };
    in
    package;

  runCommand =
    name: attributes: script:
    mkDerivation (
      attributes
      // {
        inherit name;
        buildCommand = script;
      }
    );

  hook = name: file: runCommand name { } "install -D ${file} $out/nix-support/setup-hook";
in
{
  stdenv = {
    inherit mkDerivation;
    hostPlatform = {
      inherit system;
    };
  };
  inherit runCommand;

  writeText =
    name: text:
    runCommand name {
      inherit text;
      passAsFile = [ "text" ];
    } ''install -m444 "$textPath" $out'';

  symlinkJoin =
    {
      name,
      paths,
      postBuild ? "",
      ...
    }@arguments:
    runCommand name (
      removeAttrs arguments [
        "name"
        "postBuild"
      ]
    ) ''
      mkdir -p $out
      for path in $paths; do linkTree "$path" $out; done
      ${postBuild}
    '';

  # Several packages as one tree of links. Where two have the same file, the lower number of
  # meta.priority wins; with the same number that is an error.
  buildEnv =
    { name, paths }:
    runCommand name {
      entries = lib.concatMapStringsSep "\n" (
        path: "${toString (path.meta.priority or 5)} ${path}"
      ) paths;
      passAsFile = [ "entries" ];
    } ''
      mkdir -p $out
      sort -n "$entriesPath" | uniq > sorted
      while read -r priority path; do
        (cd "$path" && find . ! -type d) | while read -r file; do
          if [ -e "$out/$file" ] || [ -L "$out/$file" ]; then
            before=$(cat "taken/$file")
            if [ "$before" = "$priority" ] && ! cmp -s "$out/$file" "$path/$file"; then
              echo "two given paths contain a conflicting subpath: $(readlink "$out/$file") and $path/$file" >&2
              exit 1
            fi
          else
            mkdir -p "$(dirname "$out/$file")" "$(dirname "taken/$file")"
            ln -s "$path/$file" "$out/$file"
            echo "$priority" > "taken/$file"
          fi
        done
      done < sorted
    '';

  makeBinaryWrapper = hook "make-binary-wrapper" ./make-binary-wrapper.sh;
  installShellFiles = hook "install-shell-files" ./install-shell-files.sh;

  # The real program; tests/nix/run lays it here, with the libraries that it needs.
  patchelf = runCommand "patchelf" { } ''
    mkdir -p $out/bin $out/lib
    cp ${../patchelf}/* $out/lib/
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' \
      $out/lib/ld-linux-*.so.* $out/lib $out/lib/patchelf > $out/bin/patchelf
    chmod 755 $out/bin/patchelf $out/lib/*
  '';
}
