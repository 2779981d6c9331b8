# claude-safe around a client. With `claudePackage`, that client is what it starts, unless the user names
# another one by CLAUDE_SAFE_BIN; without, the first `claude` on PATH that is not claude-safe.
# With `wrapClaude`, the package has a `bin/claude` and stands in for the client's own: same version, same
# main program, the client's other files, and a priority above it, so that the two may be installed together.
{
  lib,
  symlinkJoin,
  makeBinaryWrapper,
  claude-safe-unwrapped,
  claudePackage ? null,
  wrapClaude ? claudePackage != null,
}:
let
  standsIn = wrapClaude && claudePackage != null;
  model = if standsIn then claudePackage else claude-safe-unwrapped;
  version = lib.getVersion model;
  pname = if standsIn then lib.getName claudePackage else "claude-safe";

  # `.NAME-wrapped` beside NAME is how claude-safe itself looks through nixpkgs' wrappers: a bin/claude on
  # PATH must show that it is claude-safe again.
  start = name: file: ''
    rm -f $out/bin/${name}
    ln -s ${claude-safe-unwrapped}/bin/${file} $out/bin/.${name}-wrapped
    makeWrapper $out/bin/.${name}-wrapped $out/bin/${name} \
      --argv0 ${file} \
      --set-default CLAUDE_SAFE_BIN ${claudePackage}/bin/claude
  '';
in
symlinkJoin {
  name = "${pname}-${version}";
  inherit pname version;

  paths = lib.optional standsIn claudePackage ++ [ claude-safe-unwrapped ];
  # A compiled wrapper: a shell would cost as much time as all of claude-safe's start.
  nativeBuildInputs = [ makeBinaryWrapper ];

  postBuild =
    lib.optionalString standsIn ''
      rm -f $out/bin/claude $out/bin/.claude-wrapped*
    ''
    + (
      if claudePackage != null then
        ''
          test -x ${claudePackage}/bin/claude
        ''
        + start "claude-safe" "claude-safe"
        + start "claude-safectl" "claude-safectl"
        + lib.optionalString wrapClaude (start "claude" "claude-safe")
        # The shim folder leads to the same client.
        + ''
          ln -sf ../../../bin/claude-safe $out/lib/claude-safe/bin/claude
        ''
      else
        lib.optionalString wrapClaude ''
          ln -s claude-safe $out/bin/claude
        ''
    );

  passthru = {
    unwrapped = claude-safe-unwrapped;
    # Marks what the modules may put in the place of a client; null: the one on PATH.
    claudeSafe = {
      inherit claudePackage wrapClaude;
    };
  };

  meta = {
    inherit (claude-safe-unwrapped.meta) description license platforms;
    mainProgram = if wrapClaude then "claude" else "claude-safe";
  }
  // lib.optionalAttrs wrapClaude {
    # A lower number wins where two packages have the same file; 5 is what a package has by itself.
    priority = (model.meta.priority or 5) - 1;
  };
}
