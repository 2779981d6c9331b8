# The reference of all options, made from the modules themselves. nix/options.md is its outcome; a check
# compares the two.
{ lib, pkgs }:
let
  rims = import ./rims.nix { inherit lib; };

  optionsOf =
    module: rim:
    let
      evaluated = lib.evalModules {
        modules = [
          module
          rim
        ];
        specialArgs = { inherit pkgs; };
      };
      all = lib.optionAttrSetToDocList evaluated.options.programs.claude-safe;
    in
    lib.filter (
      option: option.visible != false && !option.internal && !lib.elem "_module" option.loc
    ) all;

  nixos = optionsOf ./nixos.nix rims.nixos;
  home = optionsOf ./home-manager.nix rims.home;
  nameOf = option: option.name;
  isIn = list: option: lib.elem option.name (map nameOf list);

  # Roles such as {option}`…` are for the manuals of NixOS; in plain Markdown the quotes are enough.
  plain = lib.replaceStrings [ "{option}`" "{manpage}`" ] [ "`" "`" ];

  entry = option: ''
    ### `${option.name}`

    ${lib.removeSuffix "\n" (plain option.description)}

    - Type: ${option.type}
    - Default: `${option.default.text}`
    ${lib.optionalString (option ? example) ''
      - Example:

        ```nix
      ${indented option.example.text}
        ```
    ''}'';
  indented =
    text:
    lib.concatMapStringsSep "\n" (line: if line == "" then "" else "  ${line}") (
      lib.splitString "\n" (lib.removeSuffix "\n" text)
    );

  section = title: options: "## ${title}\n\n" + lib.concatMapStringsSep "\n" entry options;
in
''
  # Options of the Nix modules

  Made from the modules by `nix/options-doc.nix`; the flake's check `options-reference` compares it.

  ${section "NixOS and home-manager" (lib.filter (isIn home) nixos)}
  ${section "NixOS only" (lib.filter (option: !isIn home option) nixos)}
  ${section "home-manager only" (lib.filter (option: !isIn nixos option) home)}''
