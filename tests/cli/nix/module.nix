# Evaluates nix/module.nix with a stand-in for nixpkgs' lib: options yield their defaults, types
# check nothing. Enough to see what /etc/blix/blix.json and the assertions become.
{ settings }:

let
  inherit (builtins) mapAttrs listToAttrs filter attrNames elem isAttrs all;

  type = _: { };
  lib = {
    types = {
      nullOr = type;
      listOf = type;
      strMatching = type;
      submodule = type: type;
      str = { };
      path = { };
      lines = { };
      number = { };
      package = { };
      ints = {
        positive = { };
        unsigned = { };
      };
    };
    mkOption = option: { _option = true; } // option;
    mkEnableOption = _: lib.mkOption { default = false; };
    mkIf = condition: value: if condition then value else { };
    mapAttrs = mapAttrs;
    filterAttrs =
      keep: set:
      listToAttrs (
        map (name: {
          inherit name;
          value = set.${name};
        }) (filter (name: keep name set.${name}) (attrNames set))
      );
  };

  # An option tree and what a user wrote, merged; a key without an option is an error, as in NixOS.
  merge =
    path: options: given:
    assert isAttrs given;
    assert all (
      key: elem key (attrNames options) || throw "The option `${path}${key}' does not exist."
    ) (attrNames given);
    mapAttrs (
      key: option:
      if option.type.options or null != null then
        merge "${path}${key}." option.type.options (given.${key} or { })
      else
        given.${key} or option.default
    ) options;

  self.packages.test.blix = "/blix";
  module = import ../../../nix/module.nix self {
    inherit lib config;
    pkgs = {
      stdenv.hostPlatform.system = "test";
      iproute2 = "iproute2";
      util-linux = "util-linux";
    };
  };
  options = module.options.services.blix;
  config = {
    nix.package = "nix";
    environment.etc = module.config.environment.etc;
    services.blix = {
      enable = true;
      package = options.package.default;
      settings = merge "services.blix.settings." options.settings.type.options settings;
    };
  };
in
{
  json = module.config.environment.etc."blix/blix.json".text;
  failed = map (a: a.message) (filter (a: !a.assertion) module.config.assertions);
}
