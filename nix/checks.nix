# What `nix flake check` builds. Each package tries itself when it is built (nix/install-check.sh); here is what
# concerns more than one of them, and the modules.
pkgs:
let
  inherit (pkgs) lib;
  packages = import ./packages.nix pkgs;
  settings = import ./settings.nix { inherit lib; };

  failures = lib.runTests (import ./tests.nix { inherit lib pkgs; });

  # A client for the tests of the package that stands in for one.
  client =
    pkgs.runCommand "claude-code-2.1.329"
      {
        pname = "claude-code";
        version = "2.1.329";
        meta.mainProgram = "claude";
      }
      ''
        mkdir -p $out/bin $out/share/claude-code
        cat > $out/bin/claude <<'EOF'
        #!/bin/sh
        echo "client ''${0##*/} $*"
        EOF
        chmod 755 $out/bin/claude
        echo kept > $out/share/claude-code/file
      '';
  wrapped = packages.claude-safe.override { claudePackage = client; };
  onPath = packages.claude-safe.override { wrapClaude = true; };
  plain = packages.claude-safe.override {
    claudePackage = client;
    wrapClaude = false;
  };

  # As home-manager does for clients that take plugins on their command line.
  scripted = pkgs.symlinkJoin {
    name = "claude-code";
    paths = [ wrapped ];
    postBuild = ''
      mv $out/bin/claude $out/bin/.claude-wrapped
      printf '#!%s -e\nexec -a "$0" "%s" --plugin-dir /p "$@"\n' \
        ${pkgs.runtimeShell} $out/bin/.claude-wrapped > $out/bin/claude
      chmod +x $out/bin/claude
    '';
  };

  # One good value for each kind of variable, as the modules write it.
  sample = {
    number = variable: variable.min;
    path = _: "/var/log/a \"b\" $c.log";
    pathOrNone = _: "";
    program = _: "claude-nightly";
    switch = _: false;
    word = variable: lib.last variable.words;
    sizes = _: [
      160
      "64/8"
    ];
    mechanisms = variable: variable.words;
  };
  everything = settings.text (
    lib.listToAttrs (
      map (variable: lib.nameValuePair variable.name (sample.${variable.kind} variable)) settings.vocabulary
    )
  );
in
packages
// {
  # The modules, evaluated.
  modules =
    if failures == [ ] then
      pkgs.runCommand "modules" { } "touch $out"
    else
      throw ''
        The modules don't give what nix/tests.nix expects:
        ${lib.concatMapStringsSep "\n" (
          f: "${f.name}: expected ${builtins.toJSON f.expected}, got ${builtins.toJSON f.result}"
        ) failures}'';

  # nix/options.md is what the modules say.
  options-reference =
    pkgs.runCommand "options-reference"
      {
        reference = import ./options-doc.nix { inherit lib pkgs; };
        passAsFile = [ "reference" ];
      }
      ''
        diff -u ${./options.md} "$referencePath" || {
          echo 'nix/options.md is not what the modules say. Renew it:' >&2
          echo '  nix eval --raw .#checks.SYSTEM.options-reference.reference > nix/options.md' >&2
          exit 1
        }
        touch $out
      '';

  # The program understands every value that the modules write, and none of them is unknown to it.
  settings =
    pkgs.runCommand "settings"
      {
        inherit everything;
        passAsFile = [ "everything" ];
      }
      ''
        export HOME=$PWD
        set -a
        . "$everythingPath"
        set +a
        ${packages.claude-safe-unwrapped}/bin/claude-safectl config > said 2> complaints || true
        cat said complaints
        if [ -s complaints ]; then exit 1; fi
        test "$(grep -c '(environment)$' said)" = ${toString (lib.length settings.names)}
        touch $out
      '';

  # The package that stands in for a client: whoever types `claude` gets that client under claude-safe.
  stand-in = pkgs.runCommand "stand-in" { } ''
    export HOME=$PWD
    same() { test "$2" = "$3" || { echo "$1: got '$2', wanted '$3'" >&2; exit 1; }; }

    same 'claude' "$(${wrapped}/bin/claude -p x)" 'client claude -p x'
    same 'claude-safe' "$(${wrapped}/bin/claude-safe -p x)" 'client claude -p x'
    same 'the shim folder' "$(${wrapped}/lib/claude-safe/bin/claude a)" 'client claude a'
    same 'switched off' "$(CLAUDE_SAFE_DISABLE=1 ${wrapped}/bin/claude a)" 'client claude a'
    same 'its other files' "$(cat ${wrapped}/share/claude-code/file)" kept
    test -e ${wrapped}/share/man/man1/claude-safe.1.gz || test -e ${wrapped}/share/man/man1/claude-safe.1

    mkdir bin
    printf '#!/bin/sh\necho "another $*"\n' > bin/claude
    chmod 755 bin/claude
    same 'the user names another' "$(CLAUDE_SAFE_BIN=$PWD/bin/claude ${wrapped}/bin/claude a)" 'another a'
    # Its own bin/claude first on PATH, and the named client gone: it must not start itself again.
    same 'no way round' "$(CLAUDE_SAFE_BIN=/gone PATH=${wrapped}/bin:$PWD/bin:$PATH ${wrapped}/bin/claude a)" 'another a'
    ${wrapped}/bin/claude-safectl doctor > doctor || true
    # A module may put a script of its own around the client that it is given, and the script on PATH.
    same 'under home-manager' "$(PATH=${scripted}/bin:$PATH claude a)" 'client claude --plugin-dir /p a'
    same 'no way round that' "$(CLAUDE_SAFE_BIN=/gone PATH=${scripted}/bin:$PWD/bin:$PATH claude a)" 'another --plugin-dir /p a'
    grep -q ${client}/bin/claude doctor

    same 'on PATH' "$(PATH=${onPath}/bin:$PWD/bin:$PATH claude a)" 'another a'

    test ! -e ${plain}/bin/claude
    same 'without wrapClaude' "$(${plain}/bin/claude-safe a)" 'client claude a'
    test ! -e ${packages.claude-safe}/bin/claude
    touch $out
  '';
}
