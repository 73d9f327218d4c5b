# blix and everything that `make install` places. raft-cowsql is the fork that Debian calls libraft.
{
  lib,
  stdenv,
  src,
  pkg-config,
  scdoc,
  bash,
  raft-cowsql,
  libuv,
  cjson,
  libmicrohttpd,
  curl,
  gnutls,
  xxHash,
  libsodium,
  util-linux,
  uthash,
  jansson,
  glibc,
  cmocka,
}:

stdenv.mkDerivation {
  pname = "blix";
  version = "0.1.0";
  inherit src;

  nativeBuildInputs = [
    pkg-config
    scdoc
  ];
  buildInputs = [
    raft-cowsql
    libuv
    cjson
    libmicrohttpd
    (curl.override {
      gnutlsSupport = true;
      opensslSupport = false;
      inherit gnutls;
    })
    xxHash
    libsodium
    gnutls
    util-linux # libsmartcols
    uthash
    # blix-agent is static
    (jansson.overrideAttrs { cmakeFlags = [ "-DJANSSON_BUILD_SHARED_LIBS=OFF" ]; })
    glibc.static
    bash
  ];
  checkInputs = [ cmocka ];

  makeFlags = [
    "MODE=release"
    "PREFIX=${placeholder "out"}"
  ];
  enableParallelBuilding = true;
  doCheck = true;
  checkTarget = "unit";
  postPatch = "patchShebangs scripts";

  meta = {
    description = "Linux hosts that run microvm.nix become one VM cluster";
    license = lib.licenses.mit;
    platforms = [ "x86_64-linux" ];
    mainProgram = "blix";
  };
}
