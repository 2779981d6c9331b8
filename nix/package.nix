# The program under both its names, with the guard, the manual, the completions, the plugin and the shim
# folder: everything but a client. `rustPlatform` decides whether it is linked against glibc or static.
{
  lib,
  rustPlatform,
  installShellFiles,
  claude-guard,
  pname ? "claude-safe-unwrapped",
}:
let
  source = import ./source.nix { inherit lib; };
in
rustPlatform.buildRustPackage {
  inherit pname;
  inherit (source) version src;
  strictDeps = true;
  nativeBuildInputs = [ installShellFiles ];

  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "-p"
    "claude-safe"
    # The second name is a link to the first, not a second program.
    "--bin"
    "claude-safe"
  ];
  # The same bytes as from a plain `cargo build --release`.
  auditable = false;
  # Would build everything a second time; the repository's own CI runs the tests. What is installed is
  # tried below.
  doCheck = false;

  # The program looks for the guard in ../lib/claude-safe of its own folder. A copy, not a link: with the
  # package alone, everything is there.
  postInstall = ''
    ln -s claude-safe $out/bin/claude-safectl
    install -Dm755 -t $out/lib/claude-safe ${claude-guard}/lib/claude-safe/libclaude_guard.so
    mkdir -p $out/lib/claude-safe/bin
    ln -s ../../../bin/claude-safe $out/lib/claude-safe/bin/claude

    installManPage wrapper/doc/claude-safe.1 wrapper/doc/claude-safectl.1 wrapper/doc/claude-safe.conf.5
    installShellCompletion --cmd claude-safectl \
      --bash wrapper/completions/claude-safectl.bash \
      --zsh wrapper/completions/_claude-safectl \
      --fish wrapper/completions/claude-safectl.fish

    install -Dm644 -t $out/share/doc/claude-safe wrapper/doc/claude-safe.conf
    mkdir -p $out/share/claude-safe
    cp -r wrapper/plugin $out/share/claude-safe/plugin
  '';

  doInstallCheck = true;
  installCheckPhase = ''
    runHook preInstallCheck
    sh nix/install-check.sh guard $out
    sh nix/install-check.sh program $out ${source.version}
    runHook postInstallCheck
  '';

  passthru.guard = claude-guard;

  meta = {
    description = "Drop-in for claude that contains its leaks: watches, restarts in place and resumes the conversation";
    license = lib.licenses.mit;
    mainProgram = "claude-safe";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
