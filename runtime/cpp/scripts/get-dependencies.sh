#!/usr/bin/env bash
# Puts what the C++ runtime is built with into a folder, without root: get-dependencies.sh FOLDER PYTHON
#
#   FOLDER/include  headers of ONNX Runtime, utf8proc, nlohmann/json, doctest, cpp-httplib, libjpeg and libwebp, from Debian's
#                   packages
#   FOLDER/lib      libonnxruntime.so, a link to the library inside PYTHON's installed onnxruntime; libutf8proc.a,
#                   libjpeg.a, libwebp.a, libsharpyuv.a
#
# Headers of an older ONNX Runtime than the library's are fine: its C API keeps every older version. Debian has them
# from release 13 (trixie) on; on Debian 12 they are taken from trixie's package, with apt's own checks of signatures.
# cpp-httplib comes from Debian's source package, with Debian's fixes of security faults: its binary package splits the
# header from a library that is compiled for one release.
set -euo pipefail

say_why() { echo "himar: $*" >&2; exit 1; }

[ $# -eq 2 ] || say_why "use: get-dependencies.sh FOLDER PYTHON"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=$2
by_hand="or install them by hand and configure with -DONNXRUNTIME_ROOT=DIR (see runtime/cpp/README.md)"

for tool in cmake c++ dpkg-source; do
  command -v "$tool" > /dev/null || say_why "$tool is missing; install it (Debian: apt-get install cmake build-essential)."
done
for header in openssl/evp.h png.h; do
  echo "#include <$header>" | c++ -E -x c++ - > /dev/null 2>&1 ||
    say_why "the header $header is missing; install it (Debian: apt-get install libssl-dev libpng-dev)."
done

# The library of the installed wheel, under the names that a linker and a loader look for.
capi=$("$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("onnxruntime")
print("" if spec is None else pathlib.Path(spec.origin).parent / "capi")')
library=$(find "${capi:-/nonexistent}" -name 'libonnxruntime.so.1.*' 2> /dev/null | head -n 1)
[ -n "$library" ] || say_why "$python has no onnxruntime with a libonnxruntime.so; pip install onnxruntime, $by_hand."
mkdir -p "$folder/lib" "$folder/include"
ln -sfn "$library" "$folder/lib/libonnxruntime.so.1"
ln -sfn libonnxruntime.so.1 "$folder/lib/libonnxruntime.so"

wanted=(include/onnxruntime/onnxruntime_cxx_api.h include/nlohmann/json.hpp include/doctest/doctest.h include/httplib.h
  include/utf8proc.h lib/libutf8proc.a)
pictures=(include/jpeglib.h include/jconfig.h lib/libjpeg.a include/webp/encode.h lib/libwebp.a lib/libsharpyuv.a)
have() { for file in "$@"; do [ -f "$folder/$file" ] || return 1; done; }
if have "${wanted[@]}"; then
  have "${pictures[@]}" && exit 0
  say_why() { echo "himar: $* Until then himar-serve writes PNG, and JPEG or WebP where CMake finds their libraries." >&2; exit 0; }
fi

command -v apt-get > /dev/null || say_why "the files ${wanted[*]} come from Debian's packages, and there is no apt-get here; copy them into $folder, $by_hand."
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages"

# Debian's own mirror, as this machine knows it, under the release that has the headers.
repository=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT) $(CREATED_BY)' 2> /dev/null |
  awk '$2 == "Debian" && $3 == "main" && $4 == "Packages" { print $1; exit }')
[ -n "$repository" ] || say_why "apt knows no Debian mirror here; run apt-get update first, $by_hand."
keys=/usr/share/keyrings/debian-archive-keyring.gpg
printf '%s [signed-by=%s] %s trixie main\n' deb "$keys" "$repository" deb-src "$keys" "$repository" > "$apt/sources.list"
options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update || say_why "Debian's package list of trixie cannot be had; go online, $by_hand."
cd "$apt/packages"
packages=(libonnxruntime-dev nlohmann-json3-dev doctest-dev libutf8proc-dev libjpeg62-turbo-dev libwebp-dev libsharpyuv-dev)
apt-get "${options[@]}" download "${packages[@]}" ||
  say_why "Debian's packages ${packages[*]} cannot be had; go online, $by_hand."
apt-get "${options[@]}" source cpp-httplib > "$apt/source.log" 2>&1 ||
  say_why "Debian's source package cpp-httplib cannot be had ($(tail -n 1 "$apt/source.log")); go online, $by_hand."
for package in *.deb; do dpkg-deb --extract "$package" "$apt/unpacked"; done
cp -R "$apt/unpacked/usr/include/." "$folder/include/"
cp cpp-httplib-*/httplib.h "$folder/include/"
find "$apt/unpacked/usr/include" -name jconfig.h -exec cp {} "$folder/include/" \;
for name in utf8proc jpeg webp sharpyuv; do
  find "$apt/unpacked/usr/lib" -name "lib$name.a" -exec cp {} "$folder/lib/" \;
done
for file in "${wanted[@]}" "${pictures[@]}"; do
  [ -f "$folder/$file" ] || say_why "Debian's packages no longer hold $file; $by_hand."
done
