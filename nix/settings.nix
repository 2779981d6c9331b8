# The settings of the modules: a type for every variable of nix/vocabulary.json, which the program's own
# tables write, and the text of a configuration file. Knows no module system but its types.
{ lib }:
let
  inherit (lib) types;

  vocabulary = lib.importJSON ./vocabulary.json;
  names = map (variable: variable.name) vocabulary;

  size = "[0-9]+(/8)?";

  # What a value may be, by the kind of its variable. Lists are written with commas.
  typeOf =
    variable:
    {
      number = types.ints.between variable.min variable.max;
      path = types.strMatching "/.*";
      pathOrNone = types.strMatching "(/.*)?";
      program = types.strMatching "/.*|[^/]+";
      switch = types.bool;
      word = types.enum variable.words;
      sizes = types.oneOf [
        (types.ints.between variable.min variable.max)
        (types.strMatching "auto|${size}(,${size})*")
        (types.nonEmptyListOf (types.either (types.ints.between variable.min variable.max) (types.strMatching size)))
      ];
      mechanisms = types.oneOf [
        (types.enum [
          "auto"
          "off"
        ])
        (types.nonEmptyListOf (types.enum variable.words))
      ];
    }
    .${variable.kind};

  # The same for people; also what the module system says of a value that is none.
  described =
    variable:
    let
      words =
        separator: lib.concatMapStringsSep separator (word: ''"${word}"'') (variable.words or [ ]);
    in
    {
      switch = "a boolean";
      sizes = "${variable.expects}; or a list of them";
      mechanisms = ''"auto", "off", or a list of ${words ", "}'';
      word = words " or ";
    }
    .${variable.kind} or variable.expects;

  examples = {
    number = variable: if variable.unit == "MiB" then "8192" else "20";
    path = _: ''"/var/log/claude_malloc_guard.log"'';
    pathOrNone = _: ''""'';
    program = _: ''"/opt/claude/bin/claude"'';
    switch = _: "false";
    word = variable: ''"${lib.last variable.words}"'';
    sizes = _: "[ 160 64 ]";
    mechanisms = variable: ''[ "${lib.head variable.words}" "pool" ]'';
  };

  capital =
    text: lib.toUpper (builtins.substring 0 1 text) + builtins.substring 1 (lib.stringLength text) text;

  optionOf =
    variable:
    lib.mkOption {
      type = types.nullOr (typeOf variable) // {
        description = "null, or ${described variable}";
      };
      default = null;
      defaultText = lib.literalExpression "null";
      example = lib.literalExpression (examples.${variable.kind} variable);
      description = ''
        ${capital variable.help}. When nobody sets it: ${variable.default}.
      '';
    };

  plain =
    value:
    if builtins.isBool value then
      (if value then "on" else "off")
    else if builtins.isList value then
      lib.concatMapStringsSep "," toString value
    else
      toString value;

  # As the program reads it: within "…" a backslash stands before these four, and before nothing else.
  quoted =
    text:
    if builtins.match "[A-Za-z0-9_./,:+@%-]*" text != null then
      text
    else
      ''"${
        lib.escape [
          "\\"
          "\""
          "$"
          "`"
        ] text
      }"'';

  # The known name that an unknown one was probably meant to be: as the program does, nothing that is
  # further off than a third of the name.
  nearest =
    name:
    let
      far = known: lib.levenshtein (lib.toUpper name) known;
      byDistance = lib.sort (a: b: far a < far b) names;
      best = lib.head byDistance;
    in
    if far best * 3 <= lib.stringLength best then "did you mean ${best}?" else "nix/options.md has them all.";
in
{
  inherit vocabulary names;

  options = lib.listToAttrs (
    map (variable: lib.nameValuePair variable.name (optionOf variable)) vocabulary
  );

  # Names that are none of ours, one sentence for each.
  complaints =
    settings:
    map (
      name: "programs.claude-safe.settings.${name} is not a variable of claude-safe; ${nearest name}"
    ) (lib.subtractLists names (lib.attrNames settings));

  # The text of a claude-safe.conf(5) with what is set; null when nothing is.
  text =
    settings:
    let
      isSet = name: (settings.${name} or null) != null;
      line = name: "${name}=${quoted (plain settings.${name})}\n";
    in
    if lib.any isSet names then
      "# Made from programs.claude-safe.settings; see claude-safe.conf(5).\n"
      + lib.concatMapStrings line (lib.filter isSet names)
    else
      null;
}
