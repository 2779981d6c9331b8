# lib.fileset: named files below a root, and nothing else. A name that is not there is an error.
lib:
let
  there =
    path:
    if builtins.pathExists path then
      path
    else
      throw "lib.fileset.unions: ${toString path} is a path that does not exist";
in
{
  unions = paths: map there paths;

  toSource =
    { root, fileset }:
    let
      chosen = map toString fileset;
      isWithin = folder: path: path == folder || lib.hasPrefix "${folder}/" path;
    in
    {
      outPath = builtins.path {
        name = "source";
        path = root;
        filter =
          path: type:
          # What was chosen, what is below it, and the folders that lead there.
          lib.any (file: isWithin file path || (type == "directory" && isWithin path file)) chosen;
      };
    };
}
