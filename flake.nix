{
  description = "blix: Linux hosts that run microvm.nix become one VM cluster";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: rec {
        blix = pkgs.callPackage ./nix/package.nix { src = self; };
        default = blix;
      });

      nixosModules.default = import ./nix/module.nix self;

      devShells = each (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { blix = self.packages.${pkgs.stdenv.hostPlatform.system}.blix; };
      });

      checks = each (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.blix;
        module = pkgs.callPackage ./nix/check.nix { module = self.nixosModules.default; };
      });
    };
}
