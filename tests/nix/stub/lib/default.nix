# The part of nixpkgs' lib that the flake uses. Same names, same meaning.
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    genList
    hasAttr
    head
    isFunction
    isList
    isString
    length
    listToAttrs
    map
    replaceStrings
    stringLength
    substring
    ;

  lib = {
    inherit (builtins)
      any
      all
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      elemAt
      filter
      foldl'
      genList
      head
      isAttrs
      isBool
      isFunction
      isInt
      isList
      isString
      length
      listToAttrs
      mapAttrs
      replaceStrings
      sort
      stringLength
      tail
      ;

    # Attribute sets and lists.
    nameValuePair = name: value: { inherit name value; };
    genAttrs = names: make: listToAttrs (map (name: lib.nameValuePair name (make name)) names);
    getAttrs = names: set: lib.genAttrs names (name: set.${name});
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    toList = value: if isList value then value else [ value ];
    last = list: elemAt list (length list - 1);
    subtractLists = without: filter (item: !(elem item without));
    max = a: b: if a > b then a else b;
    min = a: b: if a < b then a else b;
    fix =
      f:
      let
        result = f result;
      in
      result;

    # Strings.
    concatStrings = concatStringsSep "";
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    concatMapStringsSep =
      separator: f: list:
      concatStringsSep separator (map f list);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      let
        rest = stringLength text - stringLength suffix;
      in
      rest >= 0 && substring rest (-1) text == suffix;
    hasInfix = infix: text: length (builtins.split (lib.escapeRegex infix) text) > 1;
    removePrefix =
      prefix: text:
      if lib.hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
    removeSuffix =
      suffix: text:
      if lib.hasSuffix suffix text then
        substring 0 (stringLength text - stringLength suffix) text
      else
        text;
    stringToCharacters = text: genList (at: substring at 1 text) (stringLength text);
    escape =
      characters: text: replaceStrings characters (map (character: "\\${character}") characters) text;
    escapeRegex = lib.escape (lib.stringToCharacters "\\[{()^$?*+|.");
    splitString =
      separator: text: filter isString (builtins.split (lib.escapeRegex separator) text);
    toUpper = replaceStrings (lib.stringToCharacters "abcdefghijklmnopqrstuvwxyz") (
      lib.stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    );
    # Row by row: what it takes to get from the beginning of `a` to each beginning of `b`.
    levenshtein =
      a: b:
      let
        letters = lib.stringToCharacters b;
        first = genList (at: at) (stringLength b + 1);
        next =
          row: letter:
          foldl' (
            done: at:
            let
              change = elemAt row at + (if elemAt letters at == letter then 0 else 1);
              least = lib.min change (lib.min (lib.last done + 1) (elemAt row (at + 1) + 1));
            in
            builtins.deepSeq least (done ++ [ least ])
          ) [ (head row + 1) ] (genList (at: at) (length letters));
      in
      lib.last (foldl' next first (lib.stringToCharacters a));

    importJSON = file: builtins.fromJSON (builtins.readFile file);
    importTOML = file: builtins.fromTOML (builtins.readFile file);

    # Packages.
    getName = package: package.pname or (builtins.parseDrvName package.name).name;
    getVersion = package: package.version or (builtins.parseDrvName package.name).version;
    licenses = {
      mit = {
        spdxId = "MIT";
        free = true;
      };
      unfree = {
        shortName = "unfree";
        free = false;
      };
    };
    makeOverridable =
      f: arguments:
      f arguments
      // {
        override =
          changes:
          lib.makeOverridable f (
            arguments // (if isFunction changes then changes arguments else changes)
          );
      };
    callPackageWith =
      scope: package: arguments:
      let
        f = if isFunction package then package else import package;
        wanted = builtins.functionArgs f;
        missing = filter (name: !wanted.${name} && !hasAttr name scope && !hasAttr name arguments) (
          attrNames wanted
        );
      in
      if missing != [ ] then
        throw "evaluation aborted: nobody gives ${concatStringsSep ", " missing} to a package"
      else
        lib.makeOverridable f (builtins.intersectAttrs wanted scope // arguments);

    # Tests: those that give something else than expected.
    runTests =
      tests:
      concatMap (
        name:
        let
          test = tests.${name};
        in
        if lib.hasPrefix "test" name && test.expr != test.expected then
          [
            {
              inherit name;
              inherit (test) expected;
              result = test.expr;
            }
          ]
        else
          [ ]
      ) (attrNames tests);

    # Files.
    fileset = import ./fileset.nix lib;

    # Modules.
    types = import ./types.nix lib;
    inherit (import ./modules.nix lib)
      evalModules
      mkDefault
      mkForce
      mkIf
      mkMerge
      mkOption
      mkOverride
      literalExpression
      optionAttrSetToDocList
      showOption
      mergeDefinitions
      ;
  };
in
lib
