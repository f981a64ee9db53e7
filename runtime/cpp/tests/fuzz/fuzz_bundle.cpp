// Any folder as a bundle: it is opened, or refused by a BundleError, and nothing outside of it and of the blobs of its cache
// is read.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bundle/bundle.h"
#include "bundle/sha256.h"
#include "error.h"
#include "folder.h"
#include "open_guard.h"
#include "run_corpus.h"

using namespace himar::core;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    check_guard();
    sha256("");  // libcrypto reads its configuration at its first use
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Folder folder({reinterpret_cast<const char*>(data), size});
    const Guard guard({folder.path(), folder.blobs()});
    try {
        const Bundle bundle = Bundle::open(folder.path());
        for (const auto& [name, component] : bundle.manifest().components) {
            require_inside(bundle.path(component.file).string());
            require_inside(bundle.path(component.engine_file).string());
        }
        require_inside(bundle.path(bundle.manifest().selftest).string());
        ++inputs_read;
    } catch (const BundleError&) {
    }
    return 0;
}
