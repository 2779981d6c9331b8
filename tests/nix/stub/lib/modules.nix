# lib.evalModules: options and definitions of many modules become one configuration. Definitions may be
# conditional (mkIf), several in one (mkMerge) and of different weight (mkOverride).
lib:
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    concatStringsSep
    filter
    isAttrs
    isFunction
    length
    map
    mapAttrs
    ;

  isA = type: value: isAttrs value && (value._type or "") == type;

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOption = attributes: attributes // { _type = "option"; };
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };

  showOption = concatStringsSep ".";

  # A set of definitions without properties around it: they go to its attributes, so that which
  # attributes there are is known before any condition is.
  pushDown =
    value:
    if isA "merge" value then
      concatMap pushDown value.contents
    else if isA "if" value then
      map (mapAttrs (_: mkIf value.condition)) (pushDown value.content)
    else if isA "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  # The definitions whose conditions hold.
  discharge =
    value:
    if isA "merge" value then
      concatMap discharge value.contents
    else if isA "if" value then
      if value.condition then discharge value.content else [ ]
    else
      [ value ];
  priorityOf = value: if isA "override" value then value.priority else 100;
  # Those of them that count. What is outweighed is not looked at.
  strongest =
    definitions:
    let
      all = concatMap discharge definitions;
      best = lib.foldl' lib.min 9999 (map priorityOf all);
    in
    map (value: if isA "override" value then value.content else value) (
      filter (value: priorityOf value == best) all
    );
  isDefined = definitions: strongest definitions != [ ];

  mergeDefinitions =
    loc: type: definitions:
    let
      values = strongest definitions;
      wrong = filter (value: !type.check value) values;
    in
    if values == [ ] then
      throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option."
    else if wrong != [ ] then
      throw "A definition for option `${showOption loc}' is not of type `${type.description}'"
    else
      type.merge loc values;

  # All modules, those that others import included.
  load =
    arguments: module:
    let
      loaded = if isAttrs module || isFunction module then module else import module;
      value = if isFunction loaded then loaded arguments else loaded;
      isLong = value ? options || value ? config;
      known = [
        "_file"
        "imports"
        "options"
        "config"
        "freeformType"
        "key"
      ];
      odd = lib.subtractLists known (attrNames value);
    in
    concatMap (load arguments) (value.imports or [ ])
    ++ [
      {
        options = value.options or { };
        config =
          if !isLong then
            removeAttrs value known
          else if odd != [ ] then
            throw "Module has an unsupported attribute `${lib.head odd}'"
          else
            value.config or { };
        freeform = lib.optional (value ? freeformType) value.freeformType;
      }
    ];

  isOption = isA "option";

  # One tree of options out of those of all modules.
  mergeOptions =
    loc: trees:
    let
      names = concatMap attrNames trees;
      at =
        name:
        let
          here = loc ++ [ name ];
          found = concatMap (tree: lib.optional (tree ? ${name}) tree.${name}) trees;
        in
        if !lib.any isOption found then
          mergeOptions here found
        else if length found > 1 then
          throw "The option `${showOption here}' is already declared"
        else
          lib.head found // { loc = here; };
    in
    lib.genAttrs names at;

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      arguments = {
        inherit lib options config;
      }
      // specialArgs;
      all = concatMap (load arguments) modules;
      options = mergeOptions prefix (map (module: module.options) all);
      freeform = concatLists (map (module: module.freeform) all);
      definitions = concatMap (module: pushDown module.config) all;

      valueOf =
        option: given:
        let
          withDefault = given ++ lib.optional (option ? default) (mkOverride 1500 option.default);
        in
        if (option.readOnly or false) && length (concatMap discharge withDefault) > 1 then
          throw "The option `${showOption option.loc}' is read-only, but it's set multiple times."
        else
          (option.apply or (value: value)) (
            mergeDefinitions option.loc (option.type or lib.types.unspecified) withDefault
          );

      givenAt =
        name: sets: concatMap (set: lib.optional (set ? ${name}) set.${name}) sets;
      tree =
        declared: sets:
        mapAttrs (
          name: option:
          let
            given = givenAt name sets;
          in
          if isOption option then valueOf option given else tree option (concatMap pushDown given)
        ) declared;

      # What is defined, but declared by nobody.
      strangers =
        loc: declared: sets:
        concatMap (
          name:
          let
            here = loc ++ [ name ];
          in
          if !(declared ? ${name}) then
            [ here ]
          else if isOption declared.${name} then
            [ ]
          else
            strangers here declared.${name} (concatMap pushDown (givenAt name sets))
        ) (concatMap attrNames sets);
      unknown = strangers prefix options definitions;

      free =
        if freeform == [ ] then
          { }
        else
          mergeDefinitions prefix (lib.head freeform) (
            [ { } ] ++ map (set: removeAttrs set (attrNames options)) definitions
          );
      config =
        if unknown != [ ] && freeform == [ ] then
          throw "The option `${showOption (lib.head unknown)}' does not exist."
        else
          free // tree options definitions;
    in
    {
      inherit config options;
    };

  # Every option in a tree, with those inside its type, for a reference.
  optionAttrSetToDocList =
    options:
    concatMap (
      name:
      let
        option = options.${name};
        inside = option.type.getSubOptions option.loc;
        rendered = value: if isAttrs value && value ? text then value else literalExpression (builtins.toJSON value);
      in
      if isOption option then
        [
          (
            {
              inherit (option) loc;
              name = showOption option.loc;
              description = option.description or null;
              internal = option.internal or false;
              visible = option.visible or true;
              readOnly = option.readOnly or false;
              type = option.type.description;
            }
            // lib.optionalAttrs (option ? example) { example = rendered option.example; }
            // lib.optionalAttrs (option ? default || option ? defaultText) {
              default = rendered (option.defaultText or option.default);
            }
          )
        ]
        ++ optionAttrSetToDocList inside
      else
        optionAttrSetToDocList option
    ) (attrNames options);
in
{
  inherit
    evalModules
    isDefined
    literalExpression
    mergeDefinitions
    mkIf
    mkMerge
    mkOption
    mkOverride
    optionAttrSetToDocList
    pushDown
    showOption
    ;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
}
