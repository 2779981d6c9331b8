# Types of options: what may be given, and how several definitions become one value.
lib:
let
  inherit (builtins)
    attrNames
    concatMap
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    map
    match
    typeOf
    ;
  modules = import ./modules.nix lib;
  inherit (modules) showOption mergeDefinitions;

  mkType =
    type:
    {
      merge = one;
      getSubOptions = _: { };
    }
    // type;

  # One value, or several that are the same.
  one =
    loc: values:
    if lib.all (value: value == lib.head values) values then
      lib.head values
    else
      throw "The option `${showOption loc}' has conflicting definition values";

  isPackage = value: isAttrs value && (value.type or "") == "derivation";
  quoted = value: ''"${toString value}"'';

  types = {
    unspecified = mkType {
      description = "unspecified value";
      check = _: true;
      merge =
        loc: values:
        if lib.all isAttrs values then
          lib.foldl' (a: b: a // b) { } values
        else if lib.all isList values then
          lib.concatLists values
        else
          one loc values;
    };
    anything = types.unspecified // {
      description = "anything";
    };
    bool = mkType {
      description = "boolean";
      check = isBool;
    };
    str = mkType {
      description = "string";
      check = isString;
    };
    lines = mkType {
      description = "strings concatenated with \"\\n\"";
      check = isString;
      merge = _: lib.concatStringsSep "\n";
    };
    package = mkType {
      description = "package";
      check = isPackage;
      merge =
        loc: values:
        if length values == 1 || lib.all (p: p.outPath == (lib.head values).outPath) values then
          lib.head values
        else
          throw "The option `${showOption loc}' has conflicting definition values";
    };
    ints.between =
      lowest: highest:
      mkType {
        description = "integer between ${toString lowest} and ${toString highest} (both inclusive)";
        check = value: isInt value && value >= lowest && value <= highest;
      };
    enum =
      words:
      mkType {
        description = "one of ${lib.concatMapStringsSep ", " quoted words}";
        check = value: lib.elem value words;
      };
    strMatching =
      pattern:
      mkType {
        description = "string matching the pattern ${pattern}";
        check = value: isString value && match pattern value != null;
      };
    nullOr =
      inner:
      mkType {
        description = "null or ${inner.description}";
        check = value: value == null || inner.check value;
        merge =
          loc: values:
          if lib.all (value: value == null) values then
            null
          else if lib.any (value: value == null) values then
            throw "The option `${showOption loc}' is defined both null and not null"
          else
            inner.merge loc values;
        inherit (inner) getSubOptions;
      };
    either =
      a: b:
      mkType {
        description = "${a.description} or ${b.description}";
        check = value: a.check value || b.check value;
        merge =
          loc: values:
          if lib.all a.check values then
            a.merge loc values
          else if lib.all b.check values then
            b.merge loc values
          else
            one loc values;
      };
    oneOf = list: lib.foldl' types.either (lib.head list) (builtins.tail list);
    listOf =
      inner:
      mkType {
        description = "list of ${inner.description}";
        check = isList;
        merge =
          loc: values:
          map (value: mergeDefinitions loc inner [ value ]) (lib.concatLists values);
      };
    nonEmptyListOf =
      inner:
      types.listOf inner
      // {
        description = "non-empty list of ${inner.description}";
        check = value: isList value && value != [ ];
      };
    attrsOf =
      inner:
      mkType {
        description = "attribute set of ${inner.description}";
        check = isAttrs;
        merge =
          loc: values:
          let
            sets = concatMap modules.pushDown values;
            names = concatMap attrNames sets;
            definitionsOf = name: concatMap (set: lib.optional (set ? ${name}) set.${name}) sets;
            defined = lib.filter (name: modules.isDefined (definitionsOf name)) names;
          in
          lib.genAttrs defined (name: mergeDefinitions (loc ++ [ name ]) inner (definitionsOf name));
        getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "<name>" ]);
      };
    submodule = module: types.submoduleWith { modules = lib.toList module; };
    submoduleWith =
      {
        modules,
        description ? "submodule",
        shorthandOnlyDefinesConfig ? true,
      }:
      let
        evaluate =
          prefix: values:
          lib.evalModules {
            inherit prefix;
            modules = modules ++ map (value: { config = value; }) values;
          };
      in
      assert shorthandOnlyDefinesConfig;
      mkType {
        inherit description;
        check = value: isAttrs value || typeOf value == "lambda";
        merge = loc: values: (evaluate loc values).config;
        getSubOptions = prefix: (evaluate prefix [ ]).options;
      };
  };
in
types
