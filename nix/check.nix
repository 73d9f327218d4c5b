# Evaluates the module in a small NixOS and looks at what blixd would read.
{
  lib,
  pkgs,
  runCommand,
  jq,
  module,
}:

let
  nixos = import "${pkgs.path}/nixos/lib/eval-config.nix" {
    inherit (pkgs.stdenv.hostPlatform) system;
    modules = [
      module
      {
        services.blix = {
          enable = true;
          settings = {
            id = 1;
            cluster = "test";
            overcommit.cpu = 4;
            servers = [
              {
                id = 1;
                name = "n1";
                raft = "/run/blix/raft.sock";
                api = "/run/blix/blix.sock";
              }
            ];
          };
        };
        system.stateVersion = lib.trivial.release;
        boot.isContainer = true;
      }
    ];
  };
  json = nixos.config.environment.etc."blix/blix.json".text;
in
runCommand "blix-module-check" { nativeBuildInputs = [ jq ]; } ''
  echo ${lib.escapeShellArg json} >$out
  jq -e '.id == 1 and .cluster == "test" and .overcommit == {cpu: 4} and (has("stateDir") | not)' $out
''
