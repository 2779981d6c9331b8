# The guard: the library that is preloaded into the client. A call of cargo of its own: features are unified
# over all that one call builds, and nothing may switch on `std` for it.
{
  lib,
  rustPlatform,
  patchelf,
}:
let
  source = import ./source.nix { inherit lib; };
in
rustPlatform.buildRustPackage {
  pname = "claude-guard";
  inherit (source) version src;
  strictDeps = true;
  nativeBuildInputs = [ patchelf ];

  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "-p"
    "claude-guard"
  ];
  # It would add a symbol to a library that exports what it interposes and nothing else.
  auditable = false;
  # The crate has no tests of its own: tests/ preloads the library into real programs.
  doCheck = false;

  postInstall = ''
    mkdir -p $out/lib/claude-safe
    mv $out/lib/libclaude_guard.so $out/lib/claude-safe/
  '';

  # The libc is the one of the process that it is loaded into, never one of its own choice.
  postFixup = ''
    patchelf --remove-rpath $out/lib/claude-safe/libclaude_guard.so
  '';

  # Preloaded into a program that asks for its line and goes on.
  doInstallCheck = true;
  installCheckPhase = ''
    runHook preInstallCheck
    sh nix/install-check.sh guard $out
    runHook postInstallCheck
  '';

  meta = {
    description = "Library that counts, pools and reports what a preloaded client of claude-safe allocates";
    license = lib.licenses.mit;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
